"""The solve rate p of a group: what the difficulty weight is a function of."""

from collections.abc import Callable

import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import group_stats, masked
from awpo_jax.ops import samples as samples_lib

Array = types.Array


def outcome_span(rewards: types.Rewards, samples: samples_lib.Samples) -> Array:
  """f32[P], out_max - out_min; 1 where that is nothing to divide by."""
  # A prompt without a group may lack bounds, too.
  span = rewards.outcome_max - rewards.outcome_min
  span = masked.fill(span, samples.comparable)
  return jnp.where(span > 0, span, 1.0)


def solve_rate(rewards: types.Rewards, samples: samples_lib.Samples) -> Array:
  """f32[P], p = (mu_out - out_min) / (out_max - out_min), cut to [0, 1].

  It is 0 where no two samples are valid.
  """
  mean = group_stats.group_stats(rewards.outcome, samples.valid).mean
  low = masked.fill(rewards.outcome_min, samples.comparable)
  p = jnp.clip((mean - low) / outcome_span(rewards, samples), 0.0, 1.0)
  return masked.fill(p, samples.comparable)


def solved_share(rewards: types.Rewards, samples: samples_lib.Samples) -> Array:
  """f32[P], p = the share of valid samples whose outcome is the best there is.

  The best is what the prompt allows, out_max; a task's own word on whether it
  is solved does not reach the device. It is 0 where no two samples are valid.
  """
  best = samples_lib.is_correct(
    rewards.outcome,
    samples.valid,
    rewards.outcome_min,
    rewards.outcome_max,
    share=1.0,
  )
  share = masked.mean(best, samples.valid, axis=1)
  return masked.fill(share, samples.comparable)


# What p is.
SOLVE_RATES: dict[str, Callable[..., Array]] = {
  'reward': solve_rate,
  'solved': solved_share,
}
