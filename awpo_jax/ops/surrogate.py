"""Functions of the log ratio of two policies, token by token.

Of policy and behavior the clipped surrogate; of policy and reference estimates
of KL(policy || reference), functions of u = log policy - log reference (the
flag `kl_estimator`); of trainer and sampler what corrects their disagreement,
v = l_old - l_roll. `aggregation` has the weights by which tokens add up.
"""

from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked

Array = types.Array
Functions = Mapping[str, Callable[..., Array]]

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
    advantages: f32[N], f32[N, 1] or f32[N, T], constant under differentiation.
    clip_low: how far below 1 the ratio still counts; a number, f32[N] or
      f32[N, 1].
    clip_high: how far above 1 the ratio still counts; likewise.
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


# Estimates of the KL divergence.

MAX_K3 = 10.0


def k1(u: Array) -> Array:
  """k1 = u: unbiased, may be negative; as a loss its gradient is zero-mean."""
  return u


def k2(u: Array) -> Array:
  """k2 = u^2 / 2: as a loss it has the gradient of the reverse KL."""
  return 0.5 * jnp.square(u)


def k3(u: Array) -> Array:
  """k3 = exp(-u) + u - 1, at most 10: unbiased and never negative."""
  # expm1 keeps the digits that 1 would swallow where u is small.
  return jnp.minimum(jnp.expm1(-u) + u, MAX_K3)


def _with_gradient_of_k2(u: Array, value: Array) -> Array:
  half = k2(u)
  return half - jax.lax.stop_gradient(half) + jax.lax.stop_gradient(value)


def k1_plus(u: Array) -> Array:
  """The value of k1 with the gradient of k2."""
  return _with_gradient_of_k2(u, k1(u))


def k3_plus(u: Array) -> Array:
  """The value of k3 with the gradient of k2.

  A low-variance figure to report and, where the policy itself has drawn the
  tokens, the gradient of KL(policy || reference); k3's own is that of
  KL(reference || policy).
  """
  return _with_gradient_of_k2(u, k3(u))


KL_ESTIMATORS: dict[str, Callable[[Array], Array]] = {
  'k1': k1,
  'k2': k2,
  'k3': k3,
  'k1+': k1_plus,
  'k3+': k3_plus,
}


def kl_estimate(
  logprobs: Array,
  ref_logprobs: Array,
  mask: Array,
  *,
  kind: str,
) -> Array:
  """Estimate of KL(policy || reference) at each token.

    u = logprobs - ref_logprobs, clamped to [-20, 20]

  k1, k2 and k3 of u as in http://joschu.net/blog/kl-approx.html; k3 is capped
  at 10. Outside of the clamps the gradient is 0. As a term of a loss, on tokens
  that the policy has drawn, k2, k1+ and k3+ have the expected gradient of that
  KL; k1 has none.

  Args:
    logprobs: float[N, T], of the policy.
    ref_logprobs: float[N, T], held constant under differentiation.
    mask: bool[N, T], True where the policy chose the token.
    kind: a key of `KL_ESTIMATORS`.

  Returns:
    f32[N, T]; 0 where masked.

  Raises:
    ValueError: if `kind` is unknown.
  """
  estimator = choices.pick('kl', KL_ESTIMATORS, kind)
  reference = jax.lax.stop_gradient(ref_logprobs)
  return estimator(log_ratio(logprobs, reference, mask))


# Where sampler and trainer disagree: what to start from, how to correct.


def from_sampler(sampler: Array, trainer: Callable[[], Array]) -> Array:
  """The sampler's: the ratio itself corrects for any disagreement."""
  return sampler


def from_trainer(sampler: Array, trainer: Callable[[], Array]) -> Array:
  """The trainer's log-probabilities: ratios begin at exactly 1."""
  return trainer()


# What the log-probabilities that a ratio starts from are.
OLD_LOGPROBS: Functions = {'sampler': from_sampler, 'trainer': from_trainer}


def token_level(v: Array) -> Array:
  """v_t of each token."""
  return v


def row_level(v: Array) -> Array:
  """sum_t v_t, the same for all tokens of a row."""
  total = jnp.sum(v, axis=-1, keepdims=True)
  total = jnp.clip(total, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  return jnp.broadcast_to(total, v.shape)


LEVELS: Functions = {'token': token_level, 'row': row_level}


def uncorrected(w: Array, *, low: float | None, high: float | None) -> Array:
  """1."""
  return jnp.ones_like(w)


def tis(w: Array, *, low: float | None, high: float | None) -> Array:
  """min(w, C), truncated importance sampling; C = 2 unless `high` is given."""
  return jnp.minimum(w, 2.0 if high is None else high)


def icepop(w: Array, *, low: float | None, high: float | None) -> Array:
  """w where low <= w <= high, else 0; 0.5 and 5 unless they are given."""
  low, high = (0.5 if low is None else low), (5.0 if high is None else high)
  return jnp.where((w >= low) & (w <= high), w, 0.0)


MISMATCHES: Functions = {'none': uncorrected, 'tis': tis, 'icepop': icepop}


def mismatch_weights(
  trainer: Array,
  sampler: Array,
  mask: Array,
  *,
  mismatch: str,
  mismatch_level: str,
  mismatch_low: float | None,
  mismatch_high: float | None,
  **_,
) -> Array:
  """Weights of the per-token loss, w = exp(v), truncated or masked.

  Args:
    trainer: float[..., T], l_old.
    sampler: float[..., T], l_roll.
    mask: bool[..., T], the policy's tokens.
    mismatch: a key of `MISMATCHES`.
    mismatch_level: a key of `LEVELS`.
    mismatch_low, mismatch_high: bounds; None for the defaults of `mismatch`.

  Returns:
    f32[..., T], constant under differentiation; 0 where masked.

  Raises:
    ValueError: if a flag value is unknown.
  """
  correct = choices.pick('mismatch', MISMATCHES, mismatch)
  level = choices.pick('mismatch_level', LEVELS, mismatch_level)
  w = jnp.exp(level(log_ratio(trainer, sampler, mask)))
  corrected = correct(w, low=mismatch_low, high=mismatch_high)
  return jax.lax.stop_gradient(masked.fill(corrected, mask))
