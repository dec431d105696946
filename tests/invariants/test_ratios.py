"""The first update of a rollout sees ratios of one; the clip works later."""

import functools

import jax
import pytest

from awpo_jax.ops import clipping
from tests.helpers import tiny_training


@functools.cache
def _states(clip):
  """Parameters after one and after four updates, with that clip."""
  rollout = tiny_training.rollout(3)
  # Nothing but the radius depends on the clip.
  batch = tiny_training.prepared(rollout).batch
  radius = tiny_training.prepared(
    rollout, trainer=False, clip=clip
  ).batch.clip_radius
  batch = batch.replace(clip_radius=radius)
  one, _ = tiny_training.update(
    tiny_training.initial_state(), tiny_training.minibatches(batch)[0]
  )
  four, _ = tiny_training.updates(tiny_training.initial_state(), batch)
  return one.params, four.params


@pytest.mark.parametrize('clip', [x for x in clipping.CLIPS if x != 'fixed'])
def test_the_clip_changes_four_updates_but_not_one(clip):
  one, four = _states(clip)
  fixed_one, fixed_four = _states('fixed')
  tiny_training.assert_equal(one, fixed_one)
  assert tiny_training.distance(one, tiny_training.params()) > 0.01
  moved = tiny_training.distance(fixed_four, tiny_training.params())
  assert tiny_training.distance(four, fixed_four) > 1e-3 * moved


@pytest.mark.parametrize(
  ('trainer', 'tolerance'), [(True, 1e-6), (False, 1e-5)]
)
def test_ratios_are_one_before_the_first_update_alone(trainer, tolerance):
  rollout = tiny_training.sampled(
    tiny_training.rollout(3), tiny_training.params()
  )
  used = rollout.completions.policy_mask
  assert (rollout.completions.logprobs[used] < -0.1).mean() > 0.5
  prepared = tiny_training.prepared(rollout, trainer=trainer)
  _, metrics = tiny_training.updates(
    tiny_training.initial_state(), prepared.batch
  )
  first, *others = jax.tree.map(float, metrics)
  assert first.maxima['ratio_abs_log_max'] < tolerance
  assert first.sums['clip_fraction'] == 0
  for later in others:
    assert later.sums['ratio_abs_log'] > 1e-2
  total, count = prepared.metrics['ratio/sampler_abs_log_mean']
  assert count == used.sum() and total / count < 1e-5
