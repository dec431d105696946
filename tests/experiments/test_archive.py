"""A run that is killed while it archives goes on to the same archive."""

import jax
import numpy as np

from awpo_jax.reporting import rollout_archive
from tests.helpers import tiny_dataset, whole_runs

LAST = tiny_dataset.SFT_STEPS + tiny_dataset.RL_STEPS
RL = list(range(tiny_dataset.SFT_STEPS + 1, LAST + 1))


def _run(folder, at=None):
  folder.parent.mkdir(exist_ok=True)
  flags = tiny_dataset.flags(folder, '--archive', '--cpu_devices=1')
  return whole_runs.forked(flags, folder.parent, at=at)


def test_killed_in_the_middle_of_a_rollout(tmp_path):
  whole, killed = tmp_path / 'a' / 'run', tmp_path / 'b' / 'run'
  done = _run(whole)
  assert done.returncode == 0, done.stderr
  want = rollout_archive.open_archive(whole)
  assert want.steps == RL
  # Each rollout has some twenty arrays: this is within the second of them.
  fields = len(want[RL[0]])
  at = whole_runs.Signal(
    'awpo_jax.reporting.rollout_archive:Writer._write',
    call=fields + fields // 2,
  )
  assert _run(killed, at).returncode == -at.number
  left = rollout_archive.open_archive(killed)
  assert left.steps == RL[:1]
  jax.tree.map(
    np.testing.assert_array_equal, left.rollout(RL[0]), want.rollout(RL[0])
  )
  assert _run(killed).returncode == 0
  got = rollout_archive.open_archive(killed)
  assert got.steps == RL
  for step in RL:
    jax.tree.map(
      np.testing.assert_array_equal, got.rollout(step), want.rollout(step)
    )
    assert got.tasks(step) == want.tasks(step)
    assert set(got.parts(step)) >= {'solved', 'length'}
