"""The solve rate p of a group, and the difficulty weight d made of it."""

from collections.abc import Callable

import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked
from awpo_jax.ops import samples as samples_lib

Array = types.Array
Functions = dict[str, Callable[..., Array]]

TOLERANCE = 1e-6  # of the bounds of the band, which float32 cannot hit exactly


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
  mean = masked.group_stats(rewards.outcome, samples.valid).mean
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
SOLVE_RATES: Functions = {
  'reward': solve_rate,
  'solved': solved_share,
}


# Difficulty weight, d.


def banded_difficulty(
  solve_rate: Array,
  *,
  band: tuple[float, float],
  base: float,
  priority: float,
  **_,
) -> Array:
  """d = priority where band[0] <= p <= band[1], else base."""
  low, high = band
  inside = (solve_rate >= low - TOLERANCE) & (solve_rate <= high + TOLERANCE)
  return jnp.where(inside, jnp.float32(priority), jnp.float32(base))


def parabola_difficulty(solve_rate: Array, *, floor: float, **_) -> Array:
  """d = max(floor, 4 p (1 - p)).

  With floor 0 it is 0 in all-right and all-wrong groups, exactly where the
  ratio gate opens fully: it throws the reasoning signal away there.
  """
  return jnp.maximum(4.0 * solve_rate * (1.0 - solve_rate), floor)


def no_difficulty(solve_rate: Array, **_) -> Array:
  """d = 1."""
  return jnp.ones_like(solve_rate)


DIFFICULTIES: Functions = {
  'banded': banded_difficulty,
  'parabola': parabola_difficulty,
  'none': no_difficulty,
}


# What the weights of a batch are divided by. As they are, a weight above 1 on
# most groups is a larger step, too.


def mean_one(difficulty: Array, counted: Array, all_sum: types.AllSum) -> Array:
  """d over its mean in the groups that count, of the batch on all devices.

  Where all weights are 0 they stay so.
  """
  total, count = all_sum(
    (masked.sum(difficulty, counted), masked.count(counted))
  )
  mean = total / jnp.maximum(count, 1.0)
  return difficulty / jnp.where(mean > 0, mean, 1.0)


DIFFICULTY_NORMS: Functions = {
  'none': lambda difficulty, counted, all_sum: difficulty,
  'mean': mean_one,
}


def group_rate(
  rewards: types.Rewards,
  samples: samples_lib.Samples,
  *,
  difficulty_of: str,
  **_,
) -> Array:
  """p of each group, f32[P]; `difficulty_of` is a key of `SOLVE_RATES`."""
  rate = choices.pick('difficulty_of', SOLVE_RATES, difficulty_of)
  return rate(rewards, samples)


def group_weight(
  solve_rate: Array,
  counted: Array,
  *,
  difficulty: str,
  difficulty_norm: str,
  all_sum: types.AllSum,
  **flags,
) -> Array:
  """d of each group by its solve rate, f32[P]; 0 where it does not count.

  Args:
    solve_rate: f32[P], p.
    counted: bool[P], groups with two or more valid samples.
    difficulty: a key of `DIFFICULTIES`.
    difficulty_norm: a key of `DIFFICULTY_NORMS`.
    all_sum: adds each leaf of a tree up over all devices.
    **flags: of the weights, `band` and the like.

  Raises:
    ValueError: if a flag value is unknown.
  """
  d = choices.pick('difficulty', DIFFICULTIES, difficulty)(solve_rate, **flags)
  norm = choices.pick('difficulty_norm', DIFFICULTY_NORMS, difficulty_norm)
  return norm(masked.fill(d, counted), counted, all_sum)
