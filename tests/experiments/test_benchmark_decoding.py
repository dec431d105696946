"""What a sampled token launches, in programs compiled for an H100."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from experiments.benchmarks import hlo_traffic
from tests.helpers import whole_runs

BENCHMARKS = whole_runs.ROOT / 'experiments/benchmarks'
# 128 rows of 8 key heads, 1,024 columns of width 128, 2 bytes: the keys or the
# values that a layer caches.
CACHED = 2 * 128 * 8 * 1024 * 128


def counted(folder, *flags):
  """What the program counts of Qwen3-0.6B, and its two layers as text."""
  environment = whole_runs.environment() | {'JAX_PLATFORMS': 'cpu'}
  environment.pop('XLA_FLAGS', None)  # Compiled as it would be.
  done = subprocess.run(
    [
      *(sys.executable, BENCHMARKS / 'decoding.py', '--of=0.6b'),
      *(f'--counts={folder}/counts.json', f'--hlo={folder}', *flags),
    ],
    cwd=whole_runs.ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  sizes = json.loads((folder / 'counts.json').read_text())['sizes']
  return sizes['0.6b'], (folder / '0.6b_2.hlo').read_text()


@pytest.mark.skipif(
  not any(importlib.util.find_spec(f'jax_cuda{x}_plugin') for x in (12, 13)),
  reason="needs JAX's plugin for CUDA",
)
def test_cudnn_launches_fewer_kernels_and_copies_no_cache(tmp_path):
  parts, _ = counted(tmp_path)
  found, text = counted(tmp_path, '--decode_attention=cudnn')
  # Of 28 layers, each at least five less.
  assert found['kernels'] <= parts['kernels'] - 28 * 5
  assert found['bytes_in_use'] < parts['bytes'] < found['bytes']
  assert found['bound'] == parts['bound'] < found['bytes_in_use']
  program = hlo_traffic.parse(text)
  loops = hlo_traffic.loops(program)
  bodies = [list(hlo_traffic.kernels(program, x)) for x in loops]
  step = max(bodies, key=len)
  calls = [x for x in step if '__cudnn$fmhaSoftmax"' in x.instruction.line]
  assert len(calls) == 4  # Two layers, a prompt's keys and a row's own.
  assert sum(x.read > 2 * CACHED for x in calls) == 2
  assert max(x.read for x in step if x not in calls) < 2 * CACHED
  assert max(x.written for x in step) < CACHED
  # The log-sum-exps of 128 rows and 16 heads are merged as cuDNN makes them.
  sums = r'bf16\[(128,16(,1)?|128,1,16|16,(8,16|16,8))\]'
  assert re.search(sums.replace('bf16', 'f32'), text)
  assert not re.search(sums, text)
