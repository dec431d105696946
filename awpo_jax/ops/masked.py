"""Sum, mean, std, max and min under a mask, in float32.

Masked values are replaced before any arithmetic, so that a NaN or an infinity
in a masked place reaches neither the value nor the gradient (0 * NaN is NaN).
A reduction over nothing is 0. `group_stats` are those of a prompt's rewards.
"""

import chex
import jax.numpy as jnp

from awpo_jax import types

Array = types.Array
Axis = int | tuple[int, ...] | None


def fill(values: Array | float, mask: Array, fill_value: float = 0.0) -> Array:
  """`values` as f32 of the same shape, `fill_value` where masked out."""
  values = jnp.asarray(values, jnp.float32)
  return jnp.where(mask, values, jnp.float32(fill_value))


def count(mask: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
  """Number of True in `mask` along `axis`, as f32."""
  # Counted in integers: a running float32 sum of ones stops at 2**24.
  total = jnp.sum(mask, axis=axis, keepdims=keepdims, dtype=jnp.int32)
  return total.astype(jnp.float32)


def sum(
  values: Array | float,
  mask: Array,
  *,
  axis: Axis = None,
  keepdims: bool = False,
) -> Array:
  """Sum of the values under the mask.

  Args:
    values: float[...]; anything, even NaN, where `mask` is False. A number is
      the value everywhere.
    mask: bool, shaped like `values`.
    axis: reduced axes; None for all.
    keepdims: whether the reduced axes stay, with length 1.

  Returns:
    f32, `values` without the reduced axes; 0 where the mask is empty.
  """
  return jnp.sum(fill(values, mask), axis=axis, keepdims=keepdims)


def mean(
  values: Array, mask: Array, *, axis: Axis = None, keepdims: bool = False
) -> Array:
  """Mean of the values under the mask; arguments as for `sum`."""
  total = sum(values, mask, axis=axis, keepdims=keepdims)
  return total / jnp.maximum(count(mask, axis=axis, keepdims=keepdims), 1.0)


def sqrt(values: Array) -> Array:
  """Square root of values >= 0 whose gradient at 0 is 0, not infinite."""
  positive = values > 0
  root = jnp.sqrt(jnp.where(positive, values, jnp.ones_like(values)))
  return jnp.where(positive, root, jnp.zeros_like(values))


def std(
  values: Array,
  mask: Array,
  *,
  ddof: int = 1,
  axis: Axis = None,
  keepdims: bool = False,
) -> Array:
  """Standard deviation of the values under the mask, in two passes.

    sqrt(sum((x - mean)^2) / (n - ddof))

  Args:
    values: float[...]; anything, even NaN, where `mask` is False.
    mask: bool, shaped like `values`.
    ddof: 1 for the unbiased variance, 0 for the biased one.
    axis: reduced axes; None for all.
    keepdims: whether the reduced axes stay, with length 1.

  Returns:
    f32, `values` without the reduced axes; 0 where n <= ddof. Equal values that
    float32 cannot add up exactly leave a residue of a few rounding errors.
  """
  center = mean(values, mask, axis=axis, keepdims=True)
  deviation = fill(fill(values, mask) - center, mask)
  squares = jnp.sum(jnp.square(deviation), axis=axis, keepdims=keepdims)
  degrees = count(mask, axis=axis, keepdims=keepdims) - ddof
  variance = jnp.where(degrees > 0, squares / jnp.maximum(degrees, 1.0), 0.0)
  return sqrt(variance)


def max(
  values: Array, mask: Array, *, axis: Axis = None, keepdims: bool = False
) -> Array:
  """Largest value under the mask; arguments as for `sum`."""
  largest = jnp.max(fill(values, mask, -jnp.inf), axis=axis, keepdims=keepdims)
  return fill(largest, jnp.any(mask, axis=axis, keepdims=keepdims))


def min(
  values: Array, mask: Array, *, axis: Axis = None, keepdims: bool = False
) -> Array:
  """Smallest value under the mask; arguments as for `sum`."""
  smallest = jnp.min(fill(values, mask, jnp.inf), axis=axis, keepdims=keepdims)
  return fill(smallest, jnp.any(mask, axis=axis, keepdims=keepdims))


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
  maximum = max(rewards, valid, axis=1)
  flat = maximum == min(rewards, valid, axis=1)
  spread = std(rewards, valid, ddof=ddof, axis=1)
  return GroupStats(
    mean=jnp.where(flat, maximum, mean(rewards, valid, axis=1)),
    std=jnp.where(flat, 0.0, spread),
    flat=flat,
  )
