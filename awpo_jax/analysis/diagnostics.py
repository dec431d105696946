"""How much of an advantage comes from the reasoning; where rewards disagree."""

import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.ops import awpo as awpo_lib
from awpo_jax.ops import masked

Array = types.Array


def reasoning_change(made: awpo_lib.Advantages) -> Array:
  """A - d A_out: what the reasoning added to the outcome's share.

  Args:
    made: of AWPO with `combine=convex`, where it is d w (A_mix - A_out).

  Returns:
    f32[P, G], or f32[P, G, T] where tokens differ.
  """
  return made.advantages - _outcome_part(made)


def reasoning_share(made: awpo_lib.Advantages) -> Array:
  """Share of the reasoning in an advantage, in [0, 1]; 0 where both are 0."""
  change = jnp.abs(reasoning_change(made))
  outcome = jnp.abs(_outcome_part(made))
  total = change + outcome
  return jnp.where(total > 0, change / jnp.where(total > 0, total, 1.0), 0.0)


def _outcome_part(made: awpo_lib.Advantages) -> Array:
  """d A_out, with as many axes as the advantages."""
  assert made.outcome_advantages is not None, 'not of AWPO'
  part = jnp.expand_dims(made.difficulty, 1) * made.outcome_advantages
  return part.reshape(*part.shape, *[1] * (made.advantages.ndim - part.ndim))


def disagreement(outcome: Array, reasoning: Array, valid: Array) -> Array:
  """Share of the pairs of samples that both rewards order, but oppositely.

  Args:
    outcome: float[P, G]; anything where not valid.
    reasoning: float[P, G]; likewise.
    valid: bool[P, G].

  Returns:
    f32[P]; 0 where there is no such pair.
  """

  def order(rewards: Array) -> Array:
    rewards = masked.fill(rewards, valid)
    return jnp.sign(rewards[:, :, None] - rewards[:, None, :])

  pairs = valid[:, :, None] & valid[:, None, :]
  both = order(outcome) * order(reasoning)
  return masked.mean(both < 0, pairs & (both != 0), axis=(1, 2))


def solved_cosine(advantages: Array, solved: Array) -> float | None:
  """How far advantages point to solved answers: a cosine, in float64.

    sum A s / sqrt(sum A^2 sum s^2),   s = solved - its group's mean

  A description and no score: GRPO's own are below 1, as it divides each group
  by its standard deviation, and reasoning that helps where no answer of a group
  is solved lowers it.

  Args:
    advantages: float[P, G].
    solved: float[P, G], 1 or 0; NaN where it is not known: such a sample counts
      in no sum.

  Returns:
    In [-1, 1]; None where advantages are 0 or groups all equal.
  """
  known = np.isfinite(solved)
  a = np.where(known, np.asarray(advantages, np.float64), 0.0)
  s = np.where(known, np.asarray(solved, np.float64), 0.0)
  means = s.sum(1) / np.maximum(known.sum(1), 1)
  s = np.where(known, s - means[:, None], 0.0)
  size = np.sqrt(np.sum(a * a) * np.sum(s * s))
  return float(np.sum(a * s) / size) if size else None
