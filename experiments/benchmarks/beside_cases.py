"""What `beside_torch.py` measures: the cases, their tokens, and the clock.

Neither JAX nor PyTorch is imported here: both sides use this file.
"""

import dataclasses
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Figures = dict[str, Any]
# Decoded too, so that reading the prompts can be told apart.
SHORT = 2
PACK_BLOCK = 64  # A group starts with a block of so many columns.
LORA_RANK, LORA_ALPHA = 16, 32
LEARNING_RATE, MAX_GRAD_NORM = 1e-5, 1.0
_LONGEST = 60.0


@dataclasses.dataclass(frozen=True)
class Case:
  """One measurement, of either side in a process of its own.

  Attributes:
    part: `read`, `decode`, `sft`, `rl` or `long`.
    prompts: P.
    prompt: columns of a prompt.
    samples: G.
    response: columns of an answer; tokens that are decoded.
    micro: prompts of a microbatch of an update.
    lengths: `full`; `real`, drawn evenly between 40% and 88% of the columns of
      a prompt and 36% and 90% of those of an answer (the rows of
      `experiments/smollm2.flags` are longer, so padding is less of them);
      `long`, one long row before short ones.
    ours: further flags of this project; None: PyTorch alone.
    theirs: '', `static`, `checkpointing` or `lora`; None: this project alone.
  """

  part: str
  prompts: int
  prompt: int
  samples: int = 1
  response: int = 1
  micro: int = 1
  lengths: str = 'full'
  ours: tuple[str, ...] | None = ()
  theirs: str | None = ''

  def tiny(self) -> 'Case':
    """The same of a size for tests."""
    prompt, response = (32, 160) if self.part == 'long' else (24, 10)
    return dataclasses.replace(
      self,
      prompts=min(self.prompts, 4),
      prompt=prompt,
      samples=min(self.samples, 2),
      response=response if self.response > 1 else 1,
    )


_SFT = Case('sft', 8, 512, response=112, micro=2)
_RL = Case('rl', 4, 512, samples=8, response=112)
_DECODE = Case('decode', 1, 384, response=64)
_LORA = (f'--lora_rank={LORA_RANK}', f'--lora_alpha={LORA_ALPHA}')
_with = dataclasses.replace
CASES = {
  'read': Case('read', 8, 512),
  'decode_1': _DECODE,
  'decode_8': _with(_DECODE, prompts=8),
  'decode_64': _with(_DECODE, prompts=64),
  'decode_64_static': _with(_DECODE, prompts=64, ours=None, theirs='static'),
  'decode_8x8': _with(_DECODE, prompts=8, samples=8),
  'sft': _SFT,
  'sft_lora': _with(_SFT, ours=_LORA, theirs='lora'),
  'sft_blocks': _with(_SFT, ours=('--remat=blocks',), theirs='checkpointing'),
  'sft_loop': _with(_SFT, ours=('--remat=loop',), theirs=None),
  'sft_real': _with(_SFT, lengths='real'),
  'sft_real_packed': _with(
    _SFT, lengths='real', ours=('--pack_tokens=1280',), theirs=None
  ),
  'rl': _RL,
  'rl_lora': _with(_RL, ours=_LORA, theirs='lora'),
  'rl_real': _with(_RL, lengths='real'),
  'rl_real_packed': _with(
    _RL, lengths='real', ours=('--pack_tokens=2048',), theirs=None
  ),
  'long': Case('long', 3, 512, response=4096, lengths='long'),
}


def lengths(case: Case) -> tuple[np.ndarray, np.ndarray]:
  """Tokens of prompts i[P] and of answers i[P, G]."""
  rng, (p, g) = np.random.default_rng(0), (case.prompts, case.samples)
  prompts, answers = np.full(p, case.prompt), np.full((p, g), case.response)
  if case.lengths == 'real':  # 204 to 450 tokens, and 40 to 100.
    low, high = int(0.4 * case.prompt), int(0.88 * case.prompt)
    prompts = rng.integers(low, high + 1, p)
    low, high = int(0.36 * case.response), int(0.9 * case.response)
    answers = rng.integers(low, high + 1, (p, g))
  if case.lengths == 'long':  # 500 and 4,000 tokens first.
    prompts[0], prompts[1:] = case.prompt * 125 // 128, case.prompt // 2
    answers[0], answers[1:] = case.response * 125 // 128, case.response // 16
  return prompts, answers


def batch(case: Case, stream: np.ndarray) -> dict[str, np.ndarray]:
  """Prompts padded on the left, answers on the right, cut from one stream.

  The first answer to a prompt is what follows it in the stream.

  Args:
    case: gives the lengths.
    stream: i[...], tokens of a text; begun anew where it is too short.

  Returns:
    `prompts` i32[P, Sp], `answers` i32[P, G, Sc], their masks `prompt_mask`
    and `mask`, and `advantages` f32[P, G], drawn from a normal distribution.
  """
  counts, own = lengths(case)
  groups, total = (case.prompts, case.samples), int(counts.sum() + own.sum())
  tokens = iter(np.resize(stream, total))
  prompt_mask = np.arange(case.prompt)[::-1] < counts[:, None]
  mask = np.arange(case.response) < own[..., None]
  prompts = np.zeros(prompt_mask.shape, np.int32)
  answers = np.zeros(mask.shape, np.int32)
  for p in range(case.prompts):
    prompts[p, prompt_mask[p]] = [next(tokens) for _ in range(counts[p])]
    for g in range(case.samples):
      answers[p, g, mask[p, g]] = [next(tokens) for _ in range(own[p, g])]
  advantages = np.random.default_rng(1).normal(size=groups)
  return {
    'prompts': prompts,
    'prompt_mask': prompt_mask,
    'answers': answers,
    'mask': mask,
    'advantages': advantages.astype(np.float32),
  }


def repeated(call: Callable[[], Any], repeats: int) -> list[float]:
  """Seconds of each call; no further one after a call of over a minute."""
  times: list[float] = []
  while len(times) < repeats and (not times or times[-1] <= _LONGEST):
    begun = time.perf_counter()
    call()
    times.append(time.perf_counter() - begun)
  return times


def figures(
  call: Callable[[], Any], matmul: Callable[[], Any], size: int, job: Figures
) -> Figures:
  """What every case measures; the first call warms up.

  Args:
    call: waits for its result.
    matmul: a product of two square float32 matrices, waited for.
    size: their rows.
    job: of `beside_torch.py`.

  Returns:
    `start_seconds` from the start of the process to the end of the first call,
    `matmul_gflops` just before the others, `seconds` of each of those.
  """
  call()
  started = time.time() - job['begun']
  matmul()
  rate = 2e-9 * size**3 / min(repeated(matmul, 10))
  return {
    'start_seconds': started,
    'matmul_gflops': rate,
    'seconds': repeated(call, job['repeats']),
  }


def run(measure: Callable[[Case, np.ndarray, Figures], Figures]) -> None:
  """The main program of a side: a job in JSON as its only argument."""
  job = json.loads(sys.argv[1])
  case = Case(**job['case'])
  made = measure(case, np.load(job['stream']), job)
  made['cores'] = os.cpu_count()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  made['peak_gib'] = peak / 2**20  # Linux counts in KiB.
  pathlib.Path(job['out']).write_text(json.dumps(made))
