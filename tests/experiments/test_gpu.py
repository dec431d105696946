"""The script for a GPU, at tiny shapes on the CPU, as it will be called."""

import json
import subprocess
import sys

import pytest

from tests.helpers import tiny_run, whole_runs

FLAGS = (
  '--prompts_per_step=4',
  '--minibatches=2',
  '--rollout_micro=2',
  '--samples=2',
  '--prompt_buckets=8',
  '--response_buckets=8',
  '--compilation_cache=',
)
PARTS = {
  'peaks',
  'programs',
  'sample',
  'prepare',
  'update',
  'iteration',
  'other_attention',
}


@pytest.fixture
def run(tmp_path):
  """Runs it on a tiny model and reads what it wrote."""
  model = tmp_path / 'config.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  file = tmp_path / 'gpu.json'

  def call(*flags):
    subprocess.run(
      [
        sys.executable,
        whole_runs.ROOT / 'experiments/benchmarks/gpu.py',
        f'--model={model}',
        f'--json={file}',
        *FLAGS,
        *flags,
      ],
      cwd=tmp_path,
      env=whole_runs.environment(),
      check=True,
      stdout=subprocess.DEVNULL,
      timeout=300,
    )
    return json.loads(file.read_text())

  return call


def test_every_part_of_a_size(run, tmp_path):
  result = run('--sizes=qwen3_4b', '--budget=280')
  assert sorted(x.name for x in tmp_path.iterdir()) == [
    'config.json',
    'gpu.json',
  ]
  figures = result['sizes']['qwen3_4b']
  assert set(figures) == PARTS
  assert not any('error' in x for x in figures.values()), figures
  # A rank of 32 at both ends of each projection: q and o (16 to 16), k and v
  # (16 to 8), three of the MLP (16 to 16).
  programs = figures['programs']
  assert programs['trained_parameters'] == 32 * (5 * 32 + 2 * 24)
  assert programs['param_dtype'] == programs['dtype'] == 'bfloat16'
  assert programs['attention'] == 'parts'  # What auto is on a CPU.
  assert figures['other_attention']['attention'] == 'xla'
  # Two prompts x two answers x eight tokens; twice as many in an iteration.
  sample = figures['sample']
  assert sample['rows'] == 4 and figures['iteration']['tokens'] == 64
  took = sorted(sample['seconds'])[1]
  assert sample['tokens_per_second'] * took == pytest.approx(32)
  # Bytes of a token: weights and head once, keys and values (8 of each) of two
  # prompts and of four rows that have four tokens on average.
  weights = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 16 + 16 * 320
  read = 8 * 2 * (weights + 2 * 8 * (2 * 8 + 4 * 4))
  band = 1e9 * figures['peaks']['bandwidth_gb_per_second']
  assert sample['bound_seconds'] == pytest.approx(read / band)
  # Of a base that is held, the backward pass costs what the forward pass does;
  # an update is on half of the prompts.
  update, prepare = figures['update'], figures['prepare']
  assert update['tflop'] == pytest.approx(prepare['tflop'])
  # The state is written in place: adapters and moments, 12 bytes each.
  assert programs['update_donated_gib'] * 2**30 >= (
    12 * programs['trained_parameters']
  )


def test_what_does_not_end_in_time_is_killed_and_said(run):
  result = run('--sizes=qwen3_0.6b,qwen3_1.7b', '--budget=2')
  assert set(result['sizes']) == {'qwen3_0.6b', 'qwen3_1.7b'}
  for figures in result['sizes'].values():
    assert 'killed' in figures
  assert result['seconds'] < 30


def test_unknown_sizes_are_refused(run):
  with pytest.raises(subprocess.CalledProcessError):
    run('--sizes=qwen3_9b')
