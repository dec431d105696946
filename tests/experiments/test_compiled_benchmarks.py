"""The benchmarks of programs that are compiled for an H100."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PLUGIN = any(
  importlib.util.find_spec(f'jax_cuda{number}_plugin') for number in (12, 13)
)


@pytest.mark.parametrize('program', ['decoding', 'updating'])
def test_runs_or_names_what_is_missing(program, tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      f'experiments/benchmarks/{program}.py',
      '--of=tiny',
      '--attention=parts',
      f'--counts={tmp_path}/counts.json',
    ],
    check=False,
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
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
