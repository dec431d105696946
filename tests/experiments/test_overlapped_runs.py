"""Whole runs whose next batch is made ahead: undisturbed, stopped, killed."""

import signal

import pytest

from tests.helpers import tiny_dataset, whole_runs

# Steps 2 to 5 are RL; saved are 2 and 4.
LAST = 5
FLAGS = (
  '--sft_steps=1',
  f'--rl_steps={LAST - 1}',
  '--learning_rate=1e-2',
  '--overlap',
  '--mismatch=tis',
)


@pytest.mark.parametrize(
  'places',
  [0, pytest.param(1, marks=pytest.mark.slow)],
)
def test_stopped_and_killed(cache, tmp_path, places):
  flags = (*FLAGS, f'--rollout_devices={places}', '--sft_batch=4', cache)
  whole, broken = tmp_path / 'whole' / 'run', tmp_path / 'broken' / 'run'
  for folder in (whole, broken):
    folder.parent.mkdir()
  result = whole_runs.forked(tiny_dataset.flags(whole, *flags), whole.parent)
  assert result.returncode == 0, result.stderr
  rows = [row for row in whole_runs.rows(whole) if row['phase'] == 'rl']
  gaps = [row['ratio/sampler_abs_log_mean'] for row in rows]
  # The first batch is of the policy that is trained, the others of the one
  # before.
  assert gaps[0] < 1e-5 < 1e-3 < min(gaps[1:])
  broken_flags = tiny_dataset.flags(broken, *flags)
  for at, saved in (
    # In step 2, while its answers are scored: it is finished and saved with
    # the answers of step 3.
    (
      whole_runs.Signal(
        'awpo_jax.training.collection.score:score',
        1,
        number=signal.SIGTERM,
      ),
      {2},
    ),
    # In step 5, the last, between its two updates; 4 may be half written.
    (
      whole_runs.Signal(
        'awpo_jax.training.update.minibatches:Dealer.cut', call=3, when='second'
      ),
      {2, 4},
    ),
    # Where answers that were read from a checkpoint are scored.
    (
      whole_runs.Signal('awpo_jax.training.collection.score:score', call=1),
      {2, 4},
    ),
  ):
    result = whole_runs.forked(broken_flags, broken.parent, at=at)
    wanted = 128 + at.number if at.number == signal.SIGTERM else -signal.SIGKILL
    assert result.returncode == wanted, (at, result)
    assert whole_runs.saved_steps(broken)[-1] in saved, at
  result = whole_runs.forked(broken_flags, broken.parent)
  assert result.returncode == 0, result.stderr
  whole_runs.assert_same(broken, whole, LAST)
  for folder in (whole, broken):
    held = {
      step: any('ahead' in name for name in whole_runs.stored(folder, step))
      for step in whole_runs.saved_steps(folder)
    }
    # The first batch belongs to its step; after the last there is none.
    assert held == {1: False, 2: True, 4: True, LAST: False}
