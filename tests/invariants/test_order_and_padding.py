"""Order within a group, padding and invalid samples change nothing."""

import functools

import jax
import numpy as np

from tests.helpers import tiny_training


@functools.cache
def _rollout():
  return tiny_training.rollout(4)


def _after(rollout):
  """The prepared batch, and the state and metrics after four updates."""
  batch = tiny_training.prepared(rollout).batch
  return batch, *tiny_training.updates(tiny_training.initial_state(), batch)


@functools.cache
def _want():
  return _after(_rollout())


def _assert_same_updates(state, metrics):
  """To rounding."""
  _, want, want_metrics = _want()
  moved = jax.tree.map(np.subtract, want.params, tiny_training.params())
  tiny_training.assert_close(state.params, want.params, scale=moved, rtol=1e-4)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
    metrics,
    want_metrics,
  )


def test_samples_may_change_places_within_their_group():
  rng = np.random.default_rng(0)
  places = rng.permuted(
    np.tile(np.arange(tiny_training.SAMPLES), (tiny_training.PROMPTS, 1)),
    axis=1,
  )

  def permute(x):
    if x.shape[1:2] != (tiny_training.SAMPLES,):
      return x
    index = places.reshape(places.shape + (1,) * (x.ndim - 2))
    return np.take_along_axis(x, index, axis=1)

  rollout = _rollout()
  permuted = rollout.replace(
    completions=jax.tree.map(permute, rollout.completions),
    rewards=jax.tree.map(permute, rollout.rewards),
    sample_ids=permute(rollout.sample_ids),
  )
  batch, state, metrics = _after(permuted)
  want = permute(_want()[0].advantages)
  assert np.abs(want - _want()[0].advantages).max() > 1
  np.testing.assert_allclose(batch.advantages, want, atol=1e-5)
  _assert_same_updates(state, metrics)


def test_longer_buckets_change_nothing():
  def pad(x, **sides):
    before, after = sides.get('left', 0), sides.get('right', 0)
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])

  rollout = _rollout()
  prompts, completions = rollout.prompts, rollout.completions
  longer = rollout.replace(
    prompts=prompts.replace(
      tokens=pad(prompts.tokens, left=3), mask=pad(prompts.mask, left=3)
    ),
    completions=jax.tree.map(
      lambda x: pad(x, right=2) if x.ndim == 3 else x, completions
    ),
  )
  batch, state, metrics = _after(longer)
  assert batch.tokens.shape[-1] == tiny_training.RESPONSE + 2
  assert batch.prompt_tokens.shape[-1] == tiny_training.PROMPT + 3
  np.testing.assert_array_equal(batch.advantages, _want()[0].advantages)
  _assert_same_updates(state, metrics)


def test_what_an_invalid_sample_holds_does_not_matter():
  rollout = _rollout()
  rewards, completions = rollout.rewards, rollout.completions
  invalid = ~(rewards.outcome_valid & rewards.reasoning_valid)
  assert 0.1 < invalid.mean() < 0.5
  spoiled = rollout.replace(
    completions=completions.replace(
      tokens=np.where(invalid[..., None], 5, completions.tokens),
      logprobs=np.where(invalid[..., None], np.nan, completions.logprobs),
    ),
    rewards=rewards.replace(
      outcome=np.where(invalid, np.nan, rewards.outcome),
      reasoning=np.where(invalid, np.nan, rewards.reasoning),
    ),
  )
  batch, state, metrics = _after(spoiled)
  np.testing.assert_array_equal(batch.advantages, _want()[0].advantages)
  np.testing.assert_array_equal(batch.clip_radius, _want()[0].clip_radius)
  tiny_training.assert_equal((state, metrics), _want()[1:])
  # With the sampler's log-probabilities there is a NaN in the batch itself.
  sampler = batch.replace(old_logprobs=spoiled.completions.logprobs)
  clean = batch.replace(old_logprobs=completions.logprobs)
  tiny_training.assert_equal(
    tiny_training.updates(tiny_training.initial_state(), sampler),
    tiny_training.updates(tiny_training.initial_state(), clean),
  )
