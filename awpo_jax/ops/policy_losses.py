"""Losses of the policy, one small function per value of the flag `loss`.

  l, l_old, l_ref   log-probabilities: policy, before the update, reference
  d, r              log ratio l - l_old, and exp(d)
  m, len            mask of the policy's tokens, their number in a row
  A                 advantage, a constant

A token loss is f32[N, T], a row loss f32[N], a group loss f32[P]. They differ
in what a rewritten ratio is the ratio of; aggregation is the caller's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked, surrogate

Array = types.Array
Losses = dict[str, Callable[..., Array]]

MAX_ROW_LOG_RATIO = 10.0  # As of GSPO's own script.


@types.record
class Tokens:
  """What a loss may read; N rows of T tokens, those of a group together.

  Attributes:
    logprobs: f32[N, T], l; 0 where masked.
    log_ratio: f32[N, T], d, clamped to [-20, 20]; 0 where masked.
    mask: bool[N, T], m.
    advantages: f32[N, 1] or f32[N, T], A.
    clip_low: f32[N, 1], how far below 1 a ratio still counts.
    clip_high: f32[N, 1], how far above 1.
    ref_logprobs: f32[N, T], l_ref; None where no loss needs it.
  """

  logprobs: Array
  log_ratio: Array
  mask: Array
  advantages: Array
  clip_low: Array
  clip_high: Array
  ref_logprobs: Array | None = None

  @property
  def ratio(self) -> Array:
    """f32[N, T], r."""
    return jnp.exp(self.log_ratio)

  @property
  def length(self) -> Array:
    """f32[N, 1], len, at least 1."""
    return jnp.maximum(masked.count(self.mask, axis=-1, keepdims=True), 1.0)


def _sg(x: Array) -> Array:
  return jax.lax.stop_gradient(x)


def _row_mean(tokens: Tokens, values: Array) -> Array:
  """f32[N, 1], mean over the tokens of a row."""
  return masked.sum(values, tokens.mask, axis=-1, keepdims=True) / tokens.length


def _row_log_ratio(tokens: Tokens) -> Array:
  """f32[N, 1], log of GSPO's s = exp(sum_t m d / len)."""
  return jnp.minimum(_row_mean(tokens, tokens.log_ratio), MAX_ROW_LOG_RATIO)


def _clipped(tokens: Tokens, log_ratio: Array, **bounds: float | None) -> Array:
  return surrogate.clipped_surrogate(
    log_ratio,
    tokens.advantages,
    clip_low=tokens.clip_low,
    clip_high=tokens.clip_high,
    **bounds,
  )


# Token losses.


def ppo(tokens: Tokens, *, dual_clip: float | None, **_) -> Array:
  """-min(r A, clip(r, 1 - lo, 1 + hi) A) (arXiv:1707.06347)."""
  return _clipped(tokens, tokens.log_ratio, dual_clip=dual_clip)


def gspo_token(tokens: Tokens, **_) -> Array:
  """PPO's loss of s_t = sg(s) exp(l - sg(l)) (arXiv:2507.18071).

  With one A a row and weights of seq-mean-token-mean it equals `gspo`.
  """
  own = tokens.logprobs - _sg(tokens.logprobs)
  return _clipped(tokens, _sg(_row_log_ratio(tokens)) + own)


def cispo(tokens: Tokens, **_) -> Array:
  """-sg(clip(r, 1 - lo, 1 + hi)) A l (arXiv:2506.13585).

  No token loses its gradient. An absolute upper bound b is hi = b - 1 with
  lo >= 1.
  """
  low, high = 1.0 - tokens.clip_low, 1.0 + tokens.clip_high
  weight = _sg(jnp.clip(tokens.ratio, low, high))
  return -weight * tokens.advantages * tokens.logprobs


def sapo(tokens: Tokens, *, sapo_tau: tuple[float, float], **_) -> Array:
  """-(4 / tau) sigmoid(tau (r - 1)) A (arXiv:2511.20347), no hard clip.

  tau is the first number where A > 0, else the second.
  """
  tau = jnp.where(tokens.advantages > 0, *sapo_tau)
  gate = jax.nn.sigmoid(tau * (tokens.ratio - 1.0))
  return -(4.0 / tau) * gate * tokens.advantages


def dppo_tv(
  tokens: Tokens, *, tv_bound: float, tv_max_ratio: float, **_
) -> Array:
  """-sg(min(r, c)) A l v (arXiv:2602.04879): a trust region in probability.

  v = 1[p - p_old <= e] where A > 0, else 1[p - p_old >= -e].
  """
  moved = jnp.exp(tokens.logprobs) - jnp.exp(tokens.logprobs - tokens.log_ratio)
  up = tokens.advantages > 0
  inside = jnp.where(up, moved <= tv_bound, moved >= -tv_bound)
  weight = _sg(jnp.minimum(tokens.ratio, tv_max_ratio) * inside)
  return -weight * tokens.advantages * tokens.logprobs


def reinforce(tokens: Tokens, **_) -> Array:
  """-A l: right for the policy's own tokens alone (GPG, arXiv:2504.02546)."""
  return -tokens.advantages * tokens.logprobs


def _from_reference(tokens: Tokens) -> Array:
  """l - l_ref, not clamped: it is not exponentiated."""
  if tokens.ref_logprobs is None:
    raise ValueError('the loss apa needs ref_logprobs')
  return tokens.logprobs - _sg(tokens.ref_logprobs)


def apa(tokens: Tokens, *, apa_lambda: float, **_) -> Array:
  """(l - l_ref - A / lam)^2 (arXiv:2306.02231), l_ref the policy at the start.

  With one A a row it asks for a total log ratio of len A / lam.
  """
  return jnp.square(_from_reference(tokens) - tokens.advantages / apa_lambda)


TOKEN_LOSSES: Losses = {
  'ppo': ppo,
  'gspo_token': gspo_token,
  'cispo': cispo,
  'sapo': sapo,
  'dppo_tv': dppo_tv,
  'reinforce': reinforce,
  'apa': apa,
}


# Row losses: one number a row, with the weight of its tokens.


def gspo(tokens: Tokens, **_) -> Array:
  """PPO's loss of s = exp(sum_t m d / len) (arXiv:2507.18071)."""
  return _clipped(tokens, _row_log_ratio(tokens))[:, 0]


def gmpo(tokens: Tokens, **_) -> Array:
  """-A exp(mean_t min(d, hi) where A >= 0, max(d, -lo) elsewhere).

  A geometric mean of ratios (arXiv:2507.20673); lo and hi bound their logs.
  """
  up = jnp.minimum(tokens.log_ratio, tokens.clip_high)
  down = jnp.maximum(tokens.log_ratio, -tokens.clip_low)
  bounded = jnp.where(tokens.advantages >= 0, up, down)
  return (-tokens.advantages * jnp.exp(_row_mean(tokens, bounded)))[:, 0]


ROW_LOSSES: Losses = {'gspo': gspo, 'gmpo': gmpo}


# Group losses: A > 0 marks the correct, A < 0 the wrong samples.


def mean_log_likelihood(tokens: Tokens) -> Array:
  """f32[N], mean_t l."""
  return _row_mean(tokens, tokens.logprobs)[:, 0]


def mean_ratio(tokens: Tokens) -> Array:
  """f32[N], mean_t r."""
  return _row_mean(tokens, tokens.ratio)[:, 0]


SCORES: Losses = {'log-likelihood': mean_log_likelihood, 'ratio': mean_ratio}


def _sides(tokens: Tokens, samples: int, score: str):
  """Scores [P, G], which are correct, which are wrong, and groups with both."""
  scores = choices.pick('disco_score', SCORES, score)(tokens)
  scores = scores.reshape(-1, samples)
  has = jnp.any(tokens.mask, axis=-1).reshape(-1, samples)
  signs = tokens.advantages[:, 0].reshape(-1, samples)
  right, wrong = has & (signs > 0), has & (signs < 0)
  return scores, right, wrong, jnp.any(right, 1) & jnp.any(wrong, 1)


def disco(
  tokens: Tokens,
  *,
  samples: int,
  disco_score: str,
  disco_tau: float,
  **_,
) -> Array:
  """tau (logsumexp_wrong(s / tau) - log n_wrong) - mean_correct s.

  The higher a wrong answer scores, the more it weighs (arXiv:2505.12366).
  """
  scores, right, wrong, both = _sides(tokens, samples, disco_score)
  wrong = jnp.where(both[:, None], wrong, True)  # Nothing to sum elsewhere.
  shifted = jnp.where(wrong, scores / disco_tau, -jnp.inf)
  count = jnp.log(masked.count(wrong, axis=1))
  soft = disco_tau * (jax.nn.logsumexp(shifted, axis=1) - count)
  return jnp.where(both, soft - masked.mean(scores, right, axis=1), 0.0)


GROUP_LOSSES: Losses = {'disco': disco}
LOSSES: Losses = {**TOKEN_LOSSES, **ROW_LOSSES, **GROUP_LOSSES}
# Those that take the radius of the flag `clip`.
CLIPPED = frozenset({'ppo', 'gspo', 'gspo_token', 'cispo', 'gmpo'})
# Those that read `ref_logprobs`.
REFERRED = frozenset({'apa'})


def weighted_loss(
  tokens: Tokens,
  weights: Array,
  *,
  loss: str,
  samples: int,
  prompts: int,
  correction: Array | None = None,
  **numbers,
) -> Array:
  """Weighted sum of the losses of some rows of a mini-batch.

  Args:
    tokens: P * G rows, groups whole.
    weights: f32[N, T], of `aggregation.token_weights` over the mini-batch.
    loss: a key of `LOSSES`.
    samples: G.
    prompts: of the whole mini-batch; a group loss is divided by it.
    correction: f32[N, T], `surrogate.mismatch_weights`; None for none.
    **numbers: of the loss, by the names of its flags.

  Returns:
    f32[]: token losses under their weights; row losses under those of their
    tokens together; group losses over `prompts`.

  Raises:
    ValueError: `loss` is unknown, or what it needs is missing.
  """
  function = choices.pick('loss', LOSSES, loss)
  value = function(tokens, samples=samples, **numbers)
  if loss in GROUP_LOSSES:
    return jnp.sum(value) / prompts
  if loss in ROW_LOSSES:
    value = jnp.broadcast_to(value[:, None], weights.shape)
  if correction is not None:
    weights = weights * _sg(correction)
  return jnp.sum(weights * value)


def kl_penalty(kl: Array, *, beta: float, delta: float) -> Array:
  """(beta / 2) max(0, KL - delta)^2, DisCO's trust region (arXiv:2505.12366).

  Args:
    kl: f32[], weighted mean of l_old - l over a mini-batch.
    beta: its weight, 1000 in the paper.
    delta: KL that costs nothing, 1e-4 in the paper.
  """
  return 0.5 * beta * jnp.square(jnp.maximum(kl - delta, 0.0))


def is_clipped(tokens: Tokens, *, loss: str) -> Array | None:
  """bool[N, T], tokens that a clip left without gradient.

  Returns:
    None for losses whose tokens always have one, or have it by another rule.
  """
  rewritten = {
    'ppo': lambda: tokens.log_ratio,
    'gspo': lambda: _row_log_ratio(tokens),
    'gspo_token': lambda: _row_log_ratio(tokens),
  }
  if loss not in rewritten:
    return None
  clipped = surrogate.is_clipped(
    rewritten[loss](),
    tokens.advantages,
    clip_low=tokens.clip_low,
    clip_high=tokens.clip_high,
  )
  return jnp.broadcast_to(clipped, tokens.mask.shape)
