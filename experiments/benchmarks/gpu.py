"""What a GPU is asked for, in one call that ends within --budget seconds.

python experiments/benchmarks/gpu.py --json=gpu.json
python experiments/benchmarks/gpu.py --sizes=qwen3_0.6b --budget=300

For each size of Qwen3, at random weights and in a process of its own that has
its share of the time: the peaks of matrix products and of bandwidth, sampling
of one wave of prompts, the log-probabilities of a rollout batch, an update, a
whole iteration, an update by the other attention. --json is written after each
of these; what would not end in time is left out and named, what fails says how.
Shapes: experiments/benchmarks/gpu.flags; flags after it win.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

import gpu_programs  # noqa: E402
from absl import app, flags  # noqa: E402

from awpo_jax.config import experiment as config_lib  # noqa: E402

FLAGS = flags.FLAGS
config_lib.define_flags()
flags.DEFINE_string('json', 'gpu.json', 'File to which the result is written.')
flags.DEFINE_float('budget', 570.0, 'Seconds for the whole benchmark.')
flags.DEFINE_list(
  'sizes', None, 'Model sizes to measure, keys of SIZES; all if not set.'
)
flags.DEFINE_float(
  'until', None, 'For a child process: value of `time.time` at which it ends.'
)
flags.DEFINE_string(
  'figures', None, 'For a child process: file for its JSON lines.'
)
# What 80 GB hold: float32 masters and moments of 4B parameters are 60 GiB, so
# the largest has parameters of bfloat16 and trains adapters.
SIZES: dict[str, list[str]] = {
  'qwen3_0.6b': [],
  'qwen3_1.7b': [],
  'qwen3_4b': [
    '--param_dtype=bfloat16',
    '--lora_rank=32',
    '--lora_alpha=64',
  ],
}
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_REPEATS = 3


def measure_all(
  sizes: list[str], budget: float, file: pathlib.Path, arguments: list[str]
) -> dict[str, Any]:
  """The figures of all sizes; the file is written whenever there is one more.

  Args:
    sizes: of `SIZES`.
    budget: seconds; a size has an equal share of what is left.
    file: for the result.
    arguments: of the command line, for the children.
  """
  begun = time.time()
  result: dict[str, Any] = {'command': sys.argv, 'sizes': {}}
  for index, size in enumerate(sizes):
    until = time.time() + (begun + budget - time.time()) / (len(sizes) - index)
    figures = result['sizes'].setdefault(size, {})
    for figure in _child(size, until, file, arguments):
      figures |= figure
      result['seconds'] = time.time() - begun
      unfinished = file.with_suffix('.tmp')
      unfinished.write_text(json.dumps(result, indent=2) + '\n')
      unfinished.rename(file)
  return result


def _child(
  size: str, until: float, file: pathlib.Path, arguments: list[str]
) -> Iterator[dict[str, Any]]:
  """Figures of one size as they come; kills its process at `until`."""
  lines = file.with_suffix(f'.{size}.jsonl')
  lines.write_text('')
  command = [
    sys.executable,
    __file__,
    '--flagfile=experiments/benchmarks/gpu.flags',
    f'--model=experiments/models/{size}.json',
    *SIZES[size],
    *arguments,
    f'--until={until}',
    f'--figures={lines.absolute()}',
  ]
  environment = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.95', **os.environ}
  environment['PYTHONPATH'] = str(_ROOT)
  with subprocess.Popen(command, cwd=_ROOT, env=environment) as process:
    done = 0
    while True:
      ended = process.poll() is not None
      if not ended and time.time() > until:
        process.kill()
        process.wait()
        yield {'killed': 'its time was over'}
        ended = True
      text = lines.read_text()
      whole = text.split('\n')[:-1]
      for line in whole[done:]:
        yield json.loads(line)
      done = len(whole)
      if ended:
        break
      time.sleep(0.2)
    if process.returncode > 0:
      yield {'exit_code': process.returncode}
  lines.unlink()


class Child:
  """One size: its programs, and what is measured of them in turn."""

  def __init__(
    self, config: config_lib.Config, until: float, file: pathlib.Path
  ) -> None:
    self.config, self.until, self.file = config, until, file
    self.peaks: dict[str, Any] = {}
    self.bench: Any = None
    self.took: dict[str, float] = {}

  def run(self) -> None:
    """All parts; one that fails or is left out does not stop the others."""
    self.part('peaks', self._peaks)
    self.part('programs', self._compile)
    if self.bench is None:
      return
    self.part('sample', lambda: self.bench.sampled(_REPEATS))
    self.part('prepare', self.bench.prepared)
    if 'prepare' in self.took:
      self.part('update', lambda: self.bench.updated(_REPEATS))
    if {'sample', 'update'} <= set(self.took):
      self.part('iteration', self.bench.iterated, self.bench.expected())
      other = 'parts' if self.bench.model.attention != 'parts' else 'xla'
      self.part(
        'other_attention',
        lambda: self.bench.with_attention(other, _REPEATS),
        1.2 * self.took['programs'] + 5 * self.bench.seconds['update'],
      )

  def part(
    self, name: str, call: Callable[[], dict[str, Any]], needs: float = 0.0
  ) -> None:
    """Appends the figures of a part, or why there are none."""
    left = self.until - time.time()
    if needs > left:
      self._write(name, {'left_out': f'{needs:.0f} s, {left:.0f} s are left'})
      return
    begun = time.time()
    try:
      figures = call()
      self.took[name] = time.time() - begun
    except Exception as error:  # Memory, a kernel: whatever, the rest goes on.
      figures = {'error': f'{type(error).__name__}: {error}'[:2000]}
    self._write(name, figures | {'took_seconds': time.time() - begun})

  def _peaks(self) -> dict[str, Any]:
    self.peaks = gpu_programs.peaks(self.config)
    return self.peaks

  def _compile(self) -> dict[str, Any]:
    """Programs with the kernel that was asked for, or with the parts."""
    try:
      self.bench = gpu_programs.Bench(self.config, self.peaks)
      failed = {}
    except Exception as error:
      if self.config.model.attention == 'parts':
        raise
      failed = {'kernel_error': f'{type(error).__name__}: {error}'[:2000]}
      parts = dataclasses.replace(self.config.model, attention='parts')
      config = dataclasses.replace(self.config, model=parts)
      self.bench = gpu_programs.Bench(config, self.peaks)
    return failed | self.bench.compiled()

  def _write(self, name: str, figures: dict[str, Any]) -> None:
    with self.file.open('a') as file:
      file.write(json.dumps({name: figures}) + '\n')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  if FLAGS.figures:
    config = config_lib.from_flags(FLAGS)
    Child(config, FLAGS.until, pathlib.Path(FLAGS.figures)).run()
    return
  sizes = FLAGS.sizes or list(SIZES)
  unknown = set(sizes) - set(SIZES)
  if unknown:
    sys.exit(f'--sizes={",".join(sizes)}: some of {", ".join(SIZES)}.')
  given = [x.split('=', 1) for x in sys.argv[1:]]
  if any(len(x) == 1 for x in given):
    raise app.UsageError('flags are written --name=value here.')
  own = ('--json', '--budget', '--sizes')
  passed = ['='.join(x) for x in given if x[0] not in own]
  result = measure_all(sizes, FLAGS.budget, pathlib.Path(FLAGS.json), passed)
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  app.run(main)
