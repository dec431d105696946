"""The upper clip radius where it is not a multiple of the lower one."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, estimators
from awpo_jax.ops import samples as samples_lib

Array = types.Array


def factor(advantages: Array, high: Array, samples, **_) -> Array:
  """The radius times `clip_high_factor`, for every sample."""
  del samples
  return jnp.broadcast_to(high, advantages.shape)


def adaptive(
  advantages: Array, high: Array, samples, *, delta: float, all_sum
) -> Array:
  """hi + delta Phi(A~), A~ the batch-normed advantage (ACPO, 2510.00690).

  Phi is the distribution function of a standard normal; delta is not known
  from the paper.
  """
  normed = estimators.row_norm(
    advantages, samples, all_sum=all_sum, ddof=1, eps=1e-6
  )
  return high + delta * jax.scipy.stats.norm.cdf(normed)


CLIP_HIGHS: Mapping[str, Callable[..., Array]] = {
  'factor': factor,
  'adaptive': adaptive,
}


def upper_radius(
  advantages: Array,
  radius: Array,
  samples: samples_lib.Samples,
  *,
  clip_high: str,
  clip_high_factor: float,
  clip_high_delta: float | None,
  all_sum: types.AllSum,
) -> Array:
  """f32[P, G], how far above 1 the ratio of each sample still counts.

  Args:
    advantages: f32[P, G].
    radius: f32[], of `advantages.clip_radius`.
    samples: of the rollout batch.
    clip_high: a key of `CLIP_HIGHS`.
    clip_high_factor: upper radius over the lower one, before the rule.
    clip_high_delta: what the rule `adaptive` adds at most.
    all_sum: adds up over all devices.

  Raises:
    ValueError: if `clip_high` is unknown.
  """
  rule = choices.pick('clip_high', CLIP_HIGHS, clip_high)
  high = rule(
    advantages,
    radius * clip_high_factor,
    samples,
    delta=clip_high_delta,
    all_sum=all_sum,
  )
  return jax.lax.stop_gradient(high)
