"""Statistics of the valid rewards in each prompt's group."""

import chex
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import masked

Array = types.Array


@types.record
class GroupStats:
  """Statistics over the valid samples of each group.

  Attributes:
    mean: f32[P]; 0 where no sample is valid.
    std: f32[P]; exactly 0 where `flat`.
    flat: bool[P], True where the group cannot rank its samples: all rewards
      equal, or fewer than two valid.
  """

  mean: Array
  std: Array
  flat: Array


def group_stats(rewards: Array, valid: Array, *, ddof: int = 1) -> GroupStats:
  """Mean and standard deviation of the valid rewards of each group.

    mean = sum(r) / n,   std = sqrt(sum((r - mean)^2) / (n - ddof))

  In float32 the mean of equal rewards need not equal them (ten times 0.1), and
  that residue divided by a small epsilon is an advantage of some percent. So
  where max == min the mean is the reward itself and the std exactly 0.

  Args:
    rewards: float[P, G]; anything, even NaN, where not valid.
    valid: bool[P, G].
    ddof: 1 for the unbiased variance, 0 for the biased one.

  Returns:
    `GroupStats`, differentiable with finite gradients.

  Raises:
    ValueError: if `ddof` is neither 0 nor 1.
  """
  chex.assert_rank([rewards, valid], 2)
  chex.assert_equal_shape([rewards, valid])
  if ddof not in (0, 1):
    raise ValueError(f'unknown ddof={ddof!r}; choose one of: 0, 1')
  maximum = masked.max(rewards, valid, axis=1)
  flat = maximum == masked.min(rewards, valid, axis=1)
  mean = masked.mean(rewards, valid, axis=1)
  std = masked.std(rewards, valid, ddof=ddof, axis=1)
  return GroupStats(
    mean=jnp.where(flat, maximum, mean),
    std=jnp.where(flat, 0.0, std),
    flat=flat,
  )
