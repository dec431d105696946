"""Measures this project beside PyTorch: the same weights on the same tokens.

python experiments/benchmarks/beside_torch.py --model=FOLDER \\
  --torch_python=OTHER/bin/python --json=beside.json

--model is a Hugging Face folder, for example of SmolLM2:
python experiments/convert.py --from=smollm2 --to=FOLDER

Everything is float32, on all cores. Each case runs in a process of its own,
this project's and then PyTorch's (`beside_cases.py` has the cases), so peak
memory and the start are its own. What --json already has is not measured again.
Prints a table for Markdown, which is kept beside --json.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import beside_cases
import counts
import numpy as np
import tokenizers
from absl import app, flags

from awpo_jax.config import flags as flags_lib
from awpo_jax.models import config as model_config
from awpo_jax.reporting import files

flags.DEFINE_string('model', None, 'Hugging Face folder of both sides.')
flags.DEFINE_string(
  'torch_python',
  None,
  'Python with torch and transformers, and with peft for LoRA. Without it only '
  'this project is measured.',
)
flags.DEFINE_string('json', None, 'File of the results, old ones among them.')
flags.DEFINE_list(
  'cases', list(beside_cases.CASES), 'Cases that are measured, in this order.'
)
flags.DEFINE_integer(
  'repeats',
  3,
  'Timed calls after the first one, of which the median counts; a call of over '
  'a minute is not repeated.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'timeout', 1200, 'Seconds that a process may take.', lower_bound=1
)
flags.DEFINE_bool('tiny', False, 'Whether all sizes are tiny, as in a test.')

_HERE = pathlib.Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
_BOTH = 'ours', 'theirs'
_HEADER = (
  '',
  'ms a token, here',
  'PyTorch',
  'PyTorch / here',
  'share of the matmul peak, here',
  'PyTorch',
  'peak GiB, here',
  'PyTorch',
  'start, s, here',
  'PyTorch',
  'matmul GFLOP/s, here',
  'PyTorch',
)


def text_tokens(folder: pathlib.Path, vocab: int) -> np.ndarray:
  """i32[...]: the pages of docs/ in the folder's tokens, or random ones."""
  file = folder / 'tokenizer.json'
  if not file.exists():
    return np.random.default_rng(0).integers(0, vocab, 2**14, np.int32)
  pages = [x.read_text() for x in sorted(_ROOT.glob('docs/*.md'))]
  tokenizer = tokenizers.Tokenizer.from_file(str(file))
  ids = tokenizer.encode('\n'.join(pages), add_special_tokens=False).ids
  return np.array(ids, np.int32)


def tokens(case: beside_cases.Case) -> int:
  """That a call handles: those read, decoded, or read and trained on.

  A prompt counts once for all answers to it.
  """
  prompts, answers = beside_cases.lengths(case)
  if case.part == 'read':
    return int(prompts.sum())
  if case.part == 'decode':
    return int(answers.sum())
  if case.part == 'long':
    return int(prompts[0] + answers[0, 0])
  return int(prompts.sum() + answers.sum())


def work(case: beside_cases.Case, model: model_config.DecoderConfig) -> float:
  """Operations that a call asks for, by `counts.forward`.

  Prompts are read once, a causal mask is counted at half, and the answers to a
  prompt have their mean length. With adapters the base has no gradient.
  """
  prompts, answers = beside_cases.lengths(case)
  if case.part == 'read':
    # Of all tokens but the last no logits are needed.
    prompts = prompts - 1
  if case.part == 'long':
    prompts, answers = prompts[:1], answers[:1]
  total = sum(
    counts.forward(
      model,
      prompts=1,
      samples=case.samples,
      prompt=int(prompt),
      response=float(own.mean()),
      causal=True,
    )
    for prompt, own in zip(prompts, answers, strict=True)
  )
  passes = 1
  if case.part in ('sft', 'rl'):
    passes = 2 if case.theirs == 'lora' else 3
  return passes * total


def sides(case: beside_cases.Case, python: str | None) -> Iterator[str]:
  """The sides that measure a case: `ours`, `theirs`."""
  if case.ours is not None:
    yield 'ours'
  if case.theirs is not None and python:
    yield 'theirs'


class Results:
  """What is known, in a file.

  Attributes:
    known: case -> side -> figures.
  """

  def __init__(self, file: pathlib.Path, setting: dict[str, Any]) -> None:
    """Reads the file.

    Raises:
      ValueError: it holds results of another model or of other sizes.
    """
    self._file, self._setting = file, setting
    self.known: dict[str, dict[str, Any]] = {}
    if file.exists():
      stored = json.loads(file.read_text())
      if stored['setting'] != setting:
        raise ValueError(
          f'--json={file} has results of {stored["setting"]}, not of '
          f'{setting}: name another file.'
        )
      self.known = stored['results']

  def add(self, name: str, side: str, figures: beside_cases.Figures) -> None:
    self.known.setdefault(name, {})[side] = figures
    whole = {'setting': self._setting, 'results': self.known}
    files.write_whole(self._file, json.dumps(whole, indent=2) + '\n')

  def beside(self, name: str) -> pathlib.Path:
    """A file next to that of the results."""
    return self._file.with_name(f'{self._file.stem}_{name}')


def start(side: str, python: str, job: dict[str, Any], timeout: int) -> Any:
  """Runs a side's process; its figures, or the last line of its error."""
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder, 'out.json')
    job = job | {'out': str(out), 'begun': time.time()}
    command = [python, str(_HERE / f'beside_{side}.py'), json.dumps(job)]
    # The other side has packages of its own, and no start is from a cache.
    root = str(_ROOT) if side == 'ours' else ''
    environment = os.environ | {'PYTHONPATH': root, 'JAX_PLATFORMS': 'cpu'}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    try:
      done = subprocess.run(
        command,
        check=False,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
      )
    except subprocess.TimeoutExpired:
      return f'it took over {timeout} s (--timeout)'
    if done.returncode == 0 and out.exists():
      return json.loads(out.read_text())
    said = done.stderr.strip().split('\n')
    return f'exit code {done.returncode}: {said[-1]}'


def measure(results: Results, values: flags.FlagValues) -> bool:
  """Measures what is missing; whether all of it could be."""
  folder, complete = pathlib.Path(values.model).resolve(), True
  vocab = model_config.load_config(folder).vocab_size
  stream = results.beside('tokens.npy')
  if not stream.exists():
    np.save(stream, text_tokens(folder, vocab))
  for name in values.cases:
    case = sized(name, tiny=values.tiny)
    for side in sides(case, values.torch_python):
      if side in results.known.get(name, {}):
        continue
      job = {
        'case': dataclasses.asdict(case),
        'model': str(folder),
        'stream': str(stream.resolve()),
        'repeats': values.repeats,
        'logprobs': str(results.beside(f'{name}_{side}.npz').resolve()),
      }
      python = sys.executable if side == 'ours' else values.torch_python
      made = start(side, python, job, values.timeout)
      if isinstance(made, str):
        complete = False
        print(f'{name}, {side}: {made}', file=sys.stderr, flush=True)
        continue
      results.add(name, side, made)
      took = statistics.median(made['seconds'])
      print(f'{name}, {side}: {took:.3f} s a call', flush=True)
  return complete


def sized(name: str, *, tiny: bool) -> beside_cases.Case:
  """A case by its name.

  Raises:
    ValueError: there is none.
  """
  if name not in beside_cases.CASES:
    known = ', '.join(beside_cases.CASES)
    raise ValueError(f'--cases={name}: there is none, only {known}.')
  case = beside_cases.CASES[name]
  return case.tiny() if tiny else case


def table(results: Results, model: Any, *, tiny: bool) -> str:
  """All that is known, in Markdown."""
  lines = [_HEADER, ('---',) * len(_HEADER)]
  for name, known in results.known.items():
    case = sized(name, tiny=tiny)
    lines.append(_row(name, known, work(case, model), tokens(case)))
    if case.part == 'decode':
      lines.append(_decoded(f'{name}, prompts apart', case, known, model))
    if any('packed_seconds' in x for x in known.values()):
      packed = {
        side: x | {'seconds': x.get('packed_seconds', x['seconds'])}
        for side, x in known.items()
      }
      lines.append(
        _row(f'{name}, packed', packed, work(case, model), tokens(case))
      )
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _decoded(name, case, known, model) -> tuple[str, ...]:
  """What is left when reading the prompts and few tokens are taken off."""
  first = dataclasses.replace(case, response=beside_cases.SHORT)
  spans = {
    side: x
    | {
      'seconds': [
        statistics.median(x['seconds']) - statistics.median(x['short_seconds'])
      ]
    }
    for side, x in known.items()
  }
  asked = work(case, model) - work(first, model)
  return _row(name, spans, asked, tokens(case) - tokens(first))


def _row(name: str, known: Any, asked: float, count: int) -> tuple[str, ...]:
  """A line of the table; `asked` operations and `count` tokens a call."""
  columns = []
  for kind in ('time', 'share', 'peak_gib', 'start_seconds', 'matmul_gflops'):
    for side in ('ours', 'theirs'):
      columns.append(_number(kind, known.get(side), asked, count))
  ratio = ''
  if len(known) == 2:
    ours, theirs = (statistics.median(known[x]['seconds']) for x in _BOTH)
    ratio = f'{theirs / ours:.2f}'
  return (name, *columns[:2], ratio, *columns[2:])


def _number(kind: str, x: Any, asked: float, count: int) -> str:
  if x is None:
    return ''
  took = statistics.median(x['seconds'])
  if kind == 'time':
    return f'{1e3 * took / count:.3g}'
  if kind == 'share':
    return f'{asked / (took * x["matmul_gflops"] * 1e9):.0%}'
  return f'{x[kind]:.0f}' if kind == 'matmul_gflops' else f'{x[kind]:.1f}'


def agreement(results: Results) -> Iterator[str]:
  """How far both sides compute the same: first losses, and long rows."""
  for name, known in results.known.items():
    losses = [known[x].get('loss') for x in _BOTH if x in known]
    if name.startswith('sft') and len(losses) == 2:
      yield f'{name}: first losses {losses[0]:.6f} and {losses[1]:.6f}'
  ours, theirs = (results.beside(f'long_{x}.npz') for x in _BOTH)
  if ours.exists() and theirs.exists():
    wanted = np.load(theirs)['logprobs']
    for name, got in np.load(ours).items():
      gap = np.abs(got - wanted).max()
      yield (
        f'long, {name}: {len(wanted)} log-probabilities differ by at most '
        f'{gap:.2g}'
      )


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  values = flags.FLAGS
  for name in ('model', 'json'):
    if not values[name].value:
      sys.exit(f'Set --{name}.')
  setting = {
    'model': pathlib.Path(values.model).resolve().name,
    'tiny': values.tiny,
    'repeats': values.repeats,
  }
  try:
    for name in values.cases:
      sized(name, tiny=values.tiny)
    results = Results(pathlib.Path(values.json), setting)
    complete = measure(results, values)
    model = model_config.load_config(pathlib.Path(values.model))
  except (OSError, ValueError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  text = '\n'.join(
    [table(results, model, tiny=values.tiny), '', *agreement(results)]
  )
  results.beside('table.md').write_text(text + '\n')
  print(text)
  sys.exit(not complete)


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
