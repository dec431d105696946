"""The benchmarks of programs that are compiled for an H100."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from experiments.benchmarks import hlo_traffic

ROOT = pathlib.Path(__file__).parents[2]
PLUGIN = any(
  importlib.util.find_spec(f'jax_cuda{number}_plugin') for number in (12, 13)
)


def start(program, *flags):
  return subprocess.run(
    [sys.executable, f'experiments/benchmarks/{program}.py', *flags],
    check=False,
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.mark.parametrize('program', ['decoding', 'updating'])
def test_runs_or_names_what_is_missing(program, tmp_path):
  done = start(
    program,
    '--of=tiny',
    '--attention=parts',
    f'--counts={tmp_path}/counts.json',
  )
  said = done.stdout + done.stderr
  if PLUGIN:
    assert done.returncode == 0, said
    assert 'tiny: ' in done.stdout
    assert (tmp_path / 'counts.json').stat().st_size > 0
  else:
    assert done.returncode == 1
    assert "ConfigError: --dry_run=h100 compiles by JAX's plugin" in said
    assert "pip install -e '.[cuda12]'" in said


# 128 rows of 8 key heads, 1,024 columns of width 128, 2 bytes: the keys or the
# values that a layer of Qwen3-0.6B caches.
CACHED = 2 * 128 * 8 * 1024 * 128


@pytest.mark.skipif(not PLUGIN, reason="needs JAX's plugin for CUDA")
def test_cudnn_launches_fewer_kernels_and_copies_no_cache(tmp_path):
  found = {}
  for kernel in ('parts', 'cudnn'):
    file = tmp_path / f'{kernel}.json'
    flags = (f'--decode_attention={kernel}', f'--hlo={tmp_path}')
    done = start('decoding', '--of=0.6b', f'--counts={file}', *flags)
    assert done.returncode == 0, done.stderr
    found[kernel] = json.loads(file.read_text())['sizes']['0.6b']
  text = (tmp_path / '0.6b_2.hlo').read_text()  # Of the last: two layers.
  program = hlo_traffic.parse(text)
  bodies = [
    list(hlo_traffic.kernels(program, x)) for x in hlo_traffic.loops(program)
  ]
  step = max(bodies, key=len)
  calls = [x for x in step if '"__cudnn$fmhaSoftmax"' in x.instruction.line]
  assert len(calls) == 4  # Each layer: a prompt's keys, and a row's own.
  assert sum(x.read > 2 * CACHED for x in calls) == 2
  assert max(x.read for x in calls) < 2.1 * CACHED
  assert max(x.read for x in step if x not in calls) < 2 * CACHED
  assert max(x.written for x in step) < CACHED
  # The log-sum-exps of 128 rows and 16 heads are merged as cuDNN makes them.
  shapes = r'\[(128,16(,1)?|128,1,16|16,(8,16|16,8))\]'
  assert re.search('f32' + shapes, text)
  assert not re.search('bf16' + shapes, text)
  parts, cudnn = found['parts'], found['cudnn']
  # Of 28 layers, each at least five less.
  assert cudnn['kernels'] <= parts['kernels'] - 28 * 5
  assert cudnn['bytes_in_use'] < parts['bytes'] < cudnn['bytes']
  assert cudnn['bound'] == parts['bound'] < cudnn['bytes_in_use']
