"""Clip radii: AWPO's, from the gates of a rollout batch, and upper ones.

The more the noisier reasoning signal is relied on, the smaller the trust
region. `wbar` is the mean gate, or with the scope `group` each group's own.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, collectives, estimators, masked
from awpo_jax.ops import samples as samples_lib

Array = types.Array

CLIP_SLOPE = 0.2  # of the clips `harmonic` and `widen`


def linear_clip(wbar: Array, *, clip_min: float, clip_max: float) -> Array:
  """clip_max - (clip_max - clip_min) wbar."""
  return clip_max - (clip_max - clip_min) * wbar


def harmonic_clip(wbar: Array, *, clip_max: float, **_) -> Array:
  """clip_max / (1 + 0.2 wbar)."""
  return clip_max / (1.0 + CLIP_SLOPE * wbar)


def widening_clip(wbar: Array, *, clip_max: float, **_) -> Array:
  """clip_max (1 + 0.2 wbar)."""
  return clip_max * (1.0 + CLIP_SLOPE * wbar)


def fixed_clip(wbar: Array, *, clip_max: float, **_) -> Array:
  """clip_max."""
  return jnp.full_like(wbar, clip_max)


CLIPS: dict[str, Callable[..., Array]] = {
  'linear': linear_clip,
  'harmonic': harmonic_clip,
  'widen': widening_clip,
  'fixed': fixed_clip,
}


# Which gate that is.


def batch_gate(gate: Array | float, counted: Array, all_sum) -> Array:
  """wbar, the mean of w over the counted groups of all devices: f32[]."""
  total, groups = all_sum((masked.sum(gate, counted), masked.count(counted)))
  return total / jnp.maximum(groups, 1.0)


def group_gate(gate: Array | float, counted: Array, all_sum) -> Array:
  """w of each group, 0 where it does not count: f32[P] (ours).

  The batch's mean counts solved groups too, whose gate is shut and which carry
  no gradient: the more of them, the wider the radius of all others.
  """
  return masked.fill(gate, counted)


CLIP_SCOPES: dict[str, Callable[..., Array]] = {
  'batch': batch_gate,
  'group': group_gate,
}


def clip_radius(
  gate: Array | float,
  counted: Array,
  *,
  clip: str,
  clip_scope: str,
  clip_min: float,
  clip_max: float,
  all_sum: types.AllSum = collectives.identity,
  **_,
) -> Array:
  """Clip radius of a rollout batch, or of each group, from the gate.

  Args:
    gate: f32[P], w; a number is that of every group.
    counted: bool[P], True where a group has two or more valid samples.
    clip: a key of `CLIPS`.
    clip_scope: a key of `CLIP_SCOPES`.
    clip_min: radius of `linear` where the gate is 1.
    clip_max: radius where the gate is 0, and where no group counts.
    all_sum: adds each leaf of a tree up over all devices.

  Returns:
    f32[], equal on all devices, or f32[P] with the scope `group`; constant
    under differentiation.

  Raises:
    ValueError: if a flag value is unknown.
  """
  chex.assert_rank([gate, counted], [{0, 1}, 1])
  radius = choices.pick('clip', CLIPS, clip)
  scope = choices.pick('clip_scope', CLIP_SCOPES, clip_scope)
  relied = scope(gate, counted, all_sum)
  result = radius(relied, clip_min=clip_min, clip_max=clip_max)
  return jax.lax.stop_gradient(result.astype(jnp.float32))


# The upper radius, where it is not a multiple of that one.


def factor(advantages: Array, high: Array, samples, **_) -> Array:
  """The radius times `clip_high_factor`, for every sample."""
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


CLIP_HIGHS: dict[str, Callable[..., Array]] = {
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
  **_,
) -> Array:
  """f32[P, G], how far above 1 the ratio of each sample still counts.

  Args:
    advantages: f32[P, G].
    radius: f32[] or f32[P], of `clip_radius`.
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
    radius.reshape(-1, 1) * clip_high_factor,
    samples,
    delta=clip_high_delta,
    all_sum=all_sum,
  )
  return jax.lax.stop_gradient(high)
