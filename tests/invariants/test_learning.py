"""A tiny policy learns what it is rewarded for."""

import jax
import numpy as np

from tests.helpers import tiny_training

WANTED = 7


def test_a_rewarded_token_becomes_common():
  """Outcome: is the first token the one wanted? At first one in 29 is."""
  state, rates = tiny_training.initial_state(), []
  for step in range(20):
    rollout = tiny_training.sampled(
      tiny_training.rollout(100 + step), state.params, step
    )
    hit = rollout.completions.tokens[..., 0] == WANTED
    rates.append(hit.mean())
    everywhere = np.ones(hit.shape, bool)
    rollout = tiny_training.with_rewards(
      rollout,
      outcome=hit.astype(np.float32),
      outcome_min=np.zeros(tiny_training.PROMPTS, np.float32),
      outcome_max=np.ones(tiny_training.PROMPTS, np.float32),
      outcome_valid=everywhere,
      reasoning=np.full(hit.shape, 0.5, np.float32),
      reasoning_valid=everywhere,
    )
    batch = tiny_training.prepared(rollout, state.params).batch
    state, metrics = tiny_training.updates(state, batch)
    assert all(jax.tree.leaves([m.finite for m in metrics]))
  assert np.mean(rates[:2]) < 0.15, rates
  assert np.mean(rates[-2:]) > 0.7, rates
