"""Log ratio, clipped surrogate, KL estimates, and the weights of tokens.

Losses are per token; a set of weights made from masks before the gradient says
how they add up. `m` is the mask, `len_i` the number of tokens of row i.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked

Array = types.Array

MAX_LOG_RATIO = 20.0
MAX_K3 = 10.0


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
  surrogate = k2(u)
  return (
    surrogate - jax.lax.stop_gradient(surrogate) + jax.lax.stop_gradient(value)
  )


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
  logprobs: Array, ref_logprobs: Array, mask: Array, *, kind: str
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


def _lengths(mask: Array) -> Array:
  """len_i, at least 1, as f32[..., 1]."""
  return jnp.maximum(masked.count(mask, axis=-1, keepdims=True), 1.0)


def _rows(mask: Array, all_sum: types.AllSum) -> Array:
  """N, the rows with a token over all devices, at least 1, as f32[]."""
  rows = jnp.sum(jnp.any(mask, axis=-1), dtype=jnp.int32)
  return jnp.maximum(all_sum(rows), 1).astype(jnp.float32)


def token_mean(mask: Array, *, all_sum: types.AllSum, **_) -> Array:
  """m / sum(m): every token of the batch counts the same (DAPO)."""
  tokens = all_sum(jnp.sum(mask, dtype=jnp.int32))
  return mask / jnp.maximum(tokens, 1).astype(jnp.float32)


def seq_mean_token_mean(mask: Array, *, all_sum: types.AllSum, **_) -> Array:
  """m / (len_i N): every row counts the same (GRPO)."""
  return mask / (_lengths(mask) * _rows(mask, all_sum))


def seq_mean_token_sum(mask: Array, *, all_sum: types.AllSum, **_) -> Array:
  """m / N: the plain policy gradient."""
  return mask / _rows(mask, all_sum)


def seq_mean_token_sum_norm(
  mask: Array, *, all_sum: types.AllSum, max_length: int | None
) -> Array:
  """m / (max_length N): a constant instead of the length (Dr. GRPO)."""
  if max_length is None or max_length <= 0:
    raise ValueError(
      'aggregation=seq-mean-token-sum-norm needs max_length, the longest '
      f'response in tokens; got {max_length!r}'
    )
  return mask / (max_length * _rows(mask, all_sum))


def token_sum(mask: Array, **_) -> Array:
  """m: no normalization."""
  return mask


AGGREGATIONS: dict[str, Callable[..., Array]] = {
  'token-mean': token_mean,
  'seq-mean-token-mean': seq_mean_token_mean,
  'seq-mean-token-sum': seq_mean_token_sum,
  'seq-mean-token-sum-norm': seq_mean_token_sum_norm,
  'token-sum': token_sum,
}


def token_weights(
  mask: Array,
  *,
  aggregation: str,
  all_sum: types.AllSum,
  max_length: int | None = None,
) -> Array:
  """Weights on the per-token loss; the loss is the sum of weights * loss.

  Over all devices they sum to one for the two mean modes only. Rows without a
  token weigh 0 and are not counted in N, as in verl.

  Args:
    mask: bool[..., T], True where a token is trained on; False in the whole row
      of an invalid sample. All leading axes hold rows.
    aggregation: a key of `AGGREGATIONS`.
    all_sum: adds a count up over all devices.
    max_length: longest response in tokens, for `seq-mean-token-sum-norm`.

  Returns:
    f32, shaped like `mask`; 0 everywhere if the mask is empty.

  Raises:
    ValueError: if `aggregation` is unknown, or needs `max_length` and has none.
  """
  aggregate = choices.pick('aggregation', AGGREGATIONS, aggregation)
  mask = jnp.asarray(mask, jnp.float32)
  return aggregate(mask, all_sum=all_sum, max_length=max_length)
