"""The log ratio of policies, and the clipped surrogate on it.

The loss is per token; `aggregation` has the weights by which tokens add up.
"""

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import masked

Array = types.Array

MAX_LOG_RATIO = 20.0


def log_ratio(logprobs: Array, old_logprobs: Array, mask: Array) -> Array:
  """Log of the probability ratio of each token, clamped to [-20, 20].

  Args:
    logprobs: float[N, T], of the policy.
    old_logprobs: float[N, T], of the behavior or the reference; held constant
      by the caller.
    mask: bool[N, T], True where the policy chose the token.

  Returns:
    f32[N, T]; 0 where masked, whatever the log-probabilities are there.
  """
  chex.assert_equal_shape([logprobs, old_logprobs, mask])
  difference = masked.fill(logprobs, mask) - masked.fill(old_logprobs, mask)
  return jnp.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def _per_row(values: float | Array) -> Array:
  """A number, f32[N] as a column that broadcasts over tokens, or f32[N, T]."""
  values = jax.lax.stop_gradient(jnp.asarray(values, jnp.float32))
  chex.assert_rank(values, {0, 1, 2})
  return values[:, None] if values.ndim == 1 else values


def clipped_surrogate(
  log_ratio: Array,
  advantages: Array,
  *,
  clip_low: float | Array,
  clip_high: float | Array,
  dual_clip: float | None = None,
) -> Array:
  """Pessimistic policy-gradient loss of each token (arXiv:1707.06347, Eq. 7).

    L = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = exp(log_ratio)

  and with a dual clip c (arXiv:1912.09729), where A < 0: min(L, -c A).

  Args:
    log_ratio: f32[N, T], log policy - log behavior; 0 where masked.
    advantages: f32[N] or f32[N, T], constant under differentiation.
    clip_low: how far below 1 the ratio still counts; a number or f32[N].
    clip_high: how far above 1 the ratio still counts; a number or f32[N].
    dual_clip: bound > 1 of the loss in units of |A| where A < 0; None for none.

  Returns:
    f32[N, T]; weighting and summing belong to the caller.

  Raises:
    ValueError: if `dual_clip` is not above 1.
  """
  chex.assert_rank([log_ratio, advantages], [2, {1, 2}])
  chex.assert_equal_shape_prefix([log_ratio, advantages], 1)
  if dual_clip is not None and not dual_clip > 1:
    raise ValueError(f'dual_clip={dual_clip!r} must be above 1, or None')
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1.0 - _per_row(clip_low), 1.0 + _per_row(clip_high))
  advantages = _per_row(advantages)
  loss = -jnp.minimum(ratio * advantages, clipped * advantages)
  if dual_clip is None:
    return loss
  bounded = jnp.minimum(loss, -dual_clip * advantages)
  return jnp.where(advantages < 0, bounded, loss)


def is_clipped(
  log_ratio: Array,
  advantages: Array,
  *,
  clip_low: float | Array,
  clip_high: float | Array,
) -> Array:
  """bool[N, T]: tokens whose loss `clip_low` or `clip_high` made constant.

  Arguments as for `clipped_surrogate`. Its mean under the loss's weights is the
  clip fraction; the dual clip does not count.
  """
  ratio = jnp.exp(log_ratio)
  advantages = _per_row(advantages)
  above = (ratio > 1.0 + _per_row(clip_high)) & (advantages > 0)
  below = (ratio < 1.0 - _per_row(clip_low)) & (advantages < 0)
  return above | below
