"""A run goes on under whatever layout, to numbers that differ by rounding."""

import json
import signal

import numpy as np
import pytest

from tests.helpers import tiny_dataset, whole_runs

FURTHER = (
  '--cpu_devices=4',
  '--sft_batch=8',
  '--prompts_per_step=8',
  '--vocab_size=300',
)
LAYOUTS = {
  'pmap': (),
  'both': ('--parallelism=sharded', '--mesh=data:2,model:2'),
  'data': ('--parallelism=sharded',),
  'model': ('--parallelism=sharded', '--mesh=data:1,model:4'),
}


@pytest.fixture(scope='module')
def further(tmp_path_factory):
  """Flags of a model with heads enough to be cut in four."""
  model = {**tiny_dataset.MODEL, 'num_attention_heads': 4}
  model |= {'num_key_value_heads': 4, 'head_dim': 8}
  path = tmp_path_factory.mktemp('model') / 'config.json'
  path.write_text(json.dumps(model))
  return (*FURTHER, f'--model={path}')


@pytest.fixture(scope='module')
def replicated(tmp_path_factory, cache, further):
  """The folder of a run under `pmap` that nothing disturbed."""
  base = tmp_path_factory.mktemp('replicated')
  flags = tiny_dataset.flags(base / 'run', cache, *further)
  result = whole_runs.forked(flags, base)
  assert result.returncode == 0, result.stderr
  return base / 'run'


def test_a_run_whose_layout_changes(replicated, start, further, tmp_path):
  stops = (
    ('both', 'awpo_jax.training.update.minibatches:of_demonstrations', 3),
    ('pmap', 'awpo_jax.training.collection.score:score', 1),
    ('model', 'awpo_jax.training.collection.score:score', 1),
  )
  for layout, function, call in stops:
    at = whole_runs.Signal(function, call, number=signal.SIGTERM)
    result = start(*further, *LAYOUTS[layout], at=at)
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
  result = start(*further, *LAYOUTS['data'])
  assert result.returncode == 0, result.stderr
  folder, last = tmp_path / 'run', tiny_dataset.SFT_STEPS + 3
  steps = [row['step'] for row in whole_runs.rows(folder)]
  assert steps == list(range(1, last + 1))
  ours, theirs = (
    whole_runs.rows(x, 'transcripts.jsonl') for x in (folder, replicated)
  )
  # A draw may differ where rounding carries it over an edge; none does here.
  assert [x['response'] for x in ours] == [x['response'] for x in theirs]
  for got, want in zip(
    whole_runs.untimed(folder), whole_runs.untimed(replicated), strict=True
  ):
    assert got.keys() == want.keys()
    for name in ('loss', 'grad_norm', 'policy_entropy'):
      assert got[name] == pytest.approx(want[name], rel=1e-4, abs=1e-6), name
  got, want = (whole_runs.stored(x, last) for x in (folder, replicated))
  assert got.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_allclose(array, got[name], atol=4e-5, err_msg=name)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--mesh=data:1,model:2'], '--mesh=data:1,model:2 needs --parallelism'),
    (['--parallelism=sharded', '--mesh=2,2'], 'the form data:8,model:4'),
    (
      ['--parallelism=sharded', '--mesh=data:3,model:1'],
      'is 3 devices, here are 2',
    ),
    # One key/value head, a vocabulary that is odd.
    (
      ['--parallelism=sharded', '--mesh=data:1,model:2'],
      '1 key/value heads do not divide over model:2',
    ),
    (
      ['--parallelism=sharded', '--attention=splash'],
      'splash is not cut over devices: set --parallelism=pmap',
    ),
    (
      ['--parallelism=sharded', '--decode_attention=xla'],
      '--decode_attention=xla is not cut over devices: set --parallelism=pmap',
    ),
  ],
)
def test_what_does_not_fit_is_refused(start, flags, message):
  result = start(*flags)
  assert result.returncode == 1
  assert message in result.stderr and 'Traceback' not in result.stderr
