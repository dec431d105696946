"""A run that is killed while it archives goes on to the same archive."""

import jax
import numpy as np

from awpo_jax.reporting import rollout_archive
from tests.helpers import tiny_dataset, whole_runs


def test_killed_in_the_middle_of_a_rollout(reference, start, tmp_path):
  killed = tmp_path / 'run'
  want = rollout_archive.open_archive(reference.folder)
  steps = list(range(tiny_dataset.SFT_STEPS + 1, reference.last + 1))
  assert want.steps == steps
  # Each rollout has some twenty arrays: this is within the second of them.
  fields = len(want[steps[0]])
  at = whole_runs.Signal(
    'awpo_jax.reporting.rollout_archive:Writer._write',
    call=fields + fields // 2,
  )
  assert start('--archive', at=at).returncode == -at.number
  left = rollout_archive.open_archive(killed)
  assert left.steps == steps[:1]
  jax.tree.map(
    np.testing.assert_array_equal,
    left.rollout(steps[0]),
    want.rollout(steps[0]),
  )
  assert start('--archive').returncode == 0
  got = rollout_archive.open_archive(killed)
  assert got.steps == steps
  for step in steps:
    jax.tree.map(
      np.testing.assert_array_equal, got.rollout(step), want.rollout(step)
    )
    assert got.tasks(step) == want.tasks(step)
    assert set(got.parts(step)) >= {'solved', 'length'}
