"""The script for a GPU, at tiny shapes on the CPU, as it will be called."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from tests.helpers import tiny_run, whole_runs

BENCHMARKS = whole_runs.ROOT / 'experiments/benchmarks'
PROGRAM = BENCHMARKS / 'gpu.py'
# Two prompts x two answers x eight tokens are sampled at once, of four prompts.
SHAPES = (
  '--prompts_per_step=4',
  '--minibatches=2',
  '--rollout_micro=2',
  '--samples=2',
  '--prompt_buckets=8',
  '--response_buckets=8',
  '--compilation_cache=',
)
# TFLOP of a forward pass on half of the prompts, 16 tokens of prompts and 32 of
# answers: projections and MLP; scores and values of 8 + 4 keys and of 4; head.
FORWARD = 2e-12 * (1536 * 48 + 2 * 16 * (32 * 12 + 16 * 4) + 16 * 320 * 32)
# What the machine that lends a GPU does not have: importing it fails.
ABSENT = ('grain', 'tensorboardX', 'jinja2', 'openai', 'matplotlib', 'pyarrow')


def _environment():
  """Without what finds the package elsewhere than beside the program."""
  environment = whole_runs.environment()
  del environment['PYTHONPATH']
  return environment


@pytest.fixture
def run(tmp_path):
  """Runs it on a tiny model; its exit code, output and figures.

  What is planted is Python that is run first, with the programs to be measured
  as `gpu_programs`.
  """
  model = tmp_path / 'config.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  file = tmp_path / 'gpu.json'

  def call(*flags, planted='pass'):
    code = f"""
      import runpy, sys
      sys.modules |= dict.fromkeys({ABSENT})
      sys.path[:0] = {[str(BENCHMARKS), str(whole_runs.ROOT)]}
      import gpu_programs
      {planted}
      runpy.run_path({str(PROGRAM)!r}, run_name='__main__')
    """
    flags = (f'--model={model}', f'--json={file}', *SHAPES, *flags)
    done = subprocess.run(
      [sys.executable, '-c', textwrap.dedent(code), *flags],
      cwd=tmp_path,
      env=_environment(),
      capture_output=True,
      text=True,
      check=False,
      timeout=300,
    )
    figures = json.loads(file.read_text()) if file.exists() else {}
    return done, figures

  return call


def test_every_part_of_a_size(run, tmp_path):
  done, figures = run(
    '--size=tiny',
    '--param_dtype=bfloat16',
    '--lora_rank=32',
    '--lora_alpha=64',
  )
  assert done.returncode == 0, done.stderr[-2000:]
  names = {x.name for x in tmp_path.iterdir()}
  assert names == {'config.json', 'gpu.json'}
  # What is written has been printed, line by line.
  printed = {}
  for line in done.stdout.splitlines():
    for name, some in json.loads(line).items():
      printed.setdefault(name, {}).update(some)
  assert printed == figures
  assert list(figures) == [
    *('command', 'setting', 'peaks', 'state'),
    *('sample', 'prepare', 'update', 'sample_kernel', 'ended'),
  ]
  setting, state = figures['setting'], figures['state']
  assert setting['attention'] == 'parts'  # What auto is on a CPU.
  assert setting['decode_attention'] == 'parts'
  # Where there is no GPU it is XLA's.
  assert figures['sample_kernel']['decode_attention'] == 'xla'
  assert (setting['dtype'], setting['param_dtype']) == ('float32', 'bfloat16')
  # A rank of 32 at both ends of each projection: q and o (16 to 16), k and v
  # (16 to 8), three of the MLP (16 to 16).
  assert state['trained_parameters'] == 32 * (5 * 32 + 2 * 24)
  for name in ('sample', 'prepare', 'update', 'sample_kernel'):
    assert figures[name]['compile_seconds'] > 0
    assert not figures[name]['from_compilation_cache']
  # The state is written in place: adapters and moments, 12 bytes each.
  assert figures['update']['donated_gib'] * 2**30 >= (
    12 * state['trained_parameters']
  )
  _check_sampling(figures['peaks'], figures['sample'])
  _check_sampling(figures['peaks'], figures['sample_kernel'])
  _check_update(figures)


def _check_sampling(peaks, sample):
  assert sample['rows'] == 4
  took = sorted(sample['seconds'])[1]
  assert sample['tokens_per_second'] * took == pytest.approx(32)
  # Bytes of a token: weights and head once, keys and values (8 of each) of two
  # prompts and of four rows that have four tokens on average; float32.
  weights = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 16 + 16 * 320
  read = 8 * 4 * (weights + 2 * 8 * (2 * 8 + 4 * 4))
  bound = read / (1e9 * peaks['bandwidth_gb_per_second'])
  assert sample['bound_seconds'] == pytest.approx(bound)
  assert sample['share_of_bandwidth_peak'] == pytest.approx(bound / took)


def _check_update(figures):
  # The base is held: forward and backward pass cost the same, and an update is
  # on half of the prompts.
  update = figures['update']
  assert update['tflop'] == pytest.approx(2 * FORWARD)
  assert figures['prepare']['tflop'] == pytest.approx(2 * FORWARD)
  took = sorted(update['seconds'])[1]
  bound = update['tflop'] / figures['peaks']['bfloat16_tflops']
  assert update['share_of_bfloat16_peak'] == pytest.approx(bound / took)


def test_a_part_that_fails_keeps_the_others_and_is_told(run):
  done, figures = run(
    '--size=tiny',
    planted="""
      def prepared(self):
        yield {'compile_seconds': 1.5}
        raise MemoryError('out of it')
      gpu_programs.Bench.prepared = prepared
    """.strip(),
  )
  assert done.returncode == 1
  assert figures['prepare'] == {
    'compile_seconds': 1.5,
    'error': 'MemoryError: out of it',
  }
  assert min(figures['sample']['seconds']) > 0
  # All of the weights are trained: the backward pass costs two forward ones.
  assert figures['update']['tflop'] == pytest.approx(3 * FORWARD)


@pytest.fixture
def make_bench(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  programs = importlib.import_module('gpu_programs')
  model = tmp_path / 'config.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  flags = ('--flagfile=experiments/benchmarks/gpu.flags', *SHAPES)
  monkeypatch.chdir(whole_runs.ROOT)
  return lambda *more: programs.Bench(
    config_lib.parse([*flags, f'--model={model}', *more])
  )


@pytest.mark.parametrize(
  ('platform', 'kernel'), [('gpu', 'cudnn'), ('cuda', 'cudnn'), ('tpu', 'xla')]
)
def test_which_kernel_samples_at_last(
  make_bench, monkeypatch, platform, kernel
):
  bench, sampled = make_bench('--dtype=bfloat16'), []
  monkeypatch.setattr(bench, 'platform', platform)
  monkeypatch.setattr(bench, '_sampled', lambda x: iter([sampled.append(x)]))
  assert next(bench.sampled()) is None
  assert list(bench.sampled_by_kernel()) == [{'decode_attention': kernel}, None]
  models = [x.config.decode_attention for x in sampled]
  assert models == ['parts', kernel]


def test_a_model_that_is_none_for_the_kernel_is_told(make_bench, monkeypatch):
  bench = make_bench('--dtype=float32')
  monkeypatch.setattr(bench, 'platform', 'gpu')
  figures = bench.sampled_by_kernel()
  assert next(figures) == {'decode_attention': 'cudnn'}
  with pytest.raises(ValueError, match='decode_attention=cudnn takes no float'):
    next(figures)


def test_an_update_that_is_not_finite_is_no_figure(make_bench, monkeypatch):
  bench = make_bench('--dtype=float32')
  (state,) = bench.make_state()
  assert state['parameters'] == state['trained_parameters']
  filled = bench._batch

  def batch(like):
    made = filled(like)
    return made.replace(advantages=made.advantages * np.nan)

  monkeypatch.setattr(bench, '_batch', batch)
  figures = bench.updated()
  assert 'compile_seconds' in next(figures)
  with pytest.raises(ArithmeticError, match='not finite'):
    next(figures)


def test_what_is_known_at_the_time_limit_is_kept(tmp_path):
  file = tmp_path / 'gpu.json'
  code = f"""
    import pathlib, sys, time
    sys.path.insert(0, {str(BENCHMARKS)!r})
    import gpu
    def figures():
      yield {{'compile_seconds': 2.5}}
      time.sleep(1000)
      yield {{'seconds': 1}}
    gpu.Record(pathlib.Path({str(file)!r}), 5).part('sample', figures())
  """
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    env=_environment(),
    capture_output=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 1
  assert json.loads(file.read_text()) == {
    'sample': {
      'compile_seconds': 2.5,
      'error': '--time_limit came before the end of it.',
    }
  }


def test_a_real_size_wants_an_accelerator(run):
  done, figures = run('--size=0.6b')
  assert done.returncode == 1 and not figures
  assert 'JAX finds no accelerator' in done.stderr


def test_calls_are_queued(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  programs = importlib.import_module('gpu_programs')
  clock, waited = iter([0.0, 6.0, 10.0, 19.0]), []
  monkeypatch.setattr(programs.time, 'perf_counter', lambda: next(clock))
  monkeypatch.setattr(programs.jax, 'block_until_ready', waited.append)
  calls = iter(range(6))
  # Three calls in six seconds, then in nine; the last of them is waited for.
  got = programs.seconds(lambda: next(calls), queued=3, rounds=2)
  assert got == [2.0, 3.0] and waited == [2, 5]


# What the machine that lends a GPU is asked for.
PACKAGES = (
  'jax==0.11.2',
  'flax',
  'optax',
  'orbax-checkpoint',
  'transformers',
  'chex',
  'absl-py',
  'tensorstore',
)


def _python():
  """A Python 3.12; None where none is found."""
  own = pathlib.Path(os.environ.get('PYENV_ROOT', '~/.pyenv')).expanduser()
  found = [
    shutil.which('python3.12'),
    *sorted(own.glob('versions/3.12.*/bin/python')),
  ]
  for python in filter(None, found):
    tried = subprocess.run(
      [python, '-c', 'import sys, ensurepip; print(*sys.version_info[:2])'],
      capture_output=True,
      text=True,
      check=False,
    )
    if tried.stdout == '3 12\n':
      return python
  return None


@pytest.mark.slow
def test_a_rehearsal_with_nothing_else_installed(tmp_path):
  python = _python()
  if python is None:
    pytest.skip('needs a Python 3.12')
  folder = tmp_path / 'environment'
  subprocess.run([python, '-m', 'venv', folder], check=True)
  program = folder / 'bin/python'
  installed = subprocess.run(
    [program, '-m', 'pip', 'install', '--quiet', *PACKAGES],
    capture_output=True,
    text=True,
    check=False,
  )
  if installed.returncode:
    pytest.skip(f'pip cannot install: {installed.stderr[-500:]}')
  environment = _environment()
  del environment['XLA_FLAGS']  # Compiled as it will be.
  done = subprocess.run(
    [program, PROGRAM, '--size=tiny', '--compilation_cache='],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr[-2000:]
  figures = json.loads((tmp_path / 'gpu_tiny.json').read_text())
  assert figures['setting']['jax'] == '0.11.2'
  for name in ('sample', 'prepare', 'update', 'sample_kernel'):
    assert min(figures[name]['seconds']) > 0 and 'error' not in figures[name]
