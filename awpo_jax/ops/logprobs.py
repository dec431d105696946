"""Log-probability and entropy of tokens, in chunks over the sequence.

The logits of a whole batch, [N, T, V], are the largest array of a naive train
step. Here they exist for one chunk of positions at a time, forward and
backward.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types

Array = types.Array


@types.record
class TokenLogprobs:
  """What the policy thought of each token.

  Attributes:
    logprobs: f32[...], log-probability of the target.
    entropy: f32[...], of the whole distribution, in nats.
  """

  logprobs: Array
  entropy: Array


def log_distribution(logits: Array, *, temperature: float) -> Array:
  """log p = log_softmax(logits / temperature), in float32.

  Args:
    logits: float[..., V]; -inf is a token that cannot occur.
    temperature: above 0.
  """
  return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, axis=-1)


def score_targets(log_p: Array, targets: Array) -> TokenLogprobs:
  """Log-probability of the targets and entropy H = -sum_v p_v log p_v.

  Args:
    log_p: f32[..., V], of `log_distribution`.
    targets: i32[...] in [0, V).

  Returns:
    `TokenLogprobs` shaped like `targets`.
  """
  chex.assert_equal_shape_prefix([log_p, targets], targets.ndim)
  chosen = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
  finite = jnp.where(jnp.isneginf(log_p), 0.0, log_p)
  return TokenLogprobs(
    logprobs=chosen, entropy=-jnp.sum(jnp.exp(log_p) * finite, axis=-1)
  )


def _split(values: Array, chunk: int) -> Array:
  """[N, T, ...] as [chunks, N, chunk, ...], padded with zeros."""
  n, t = values.shape[:2]
  padding = [(0, 0), (0, -t % chunk)] + [(0, 0)] * (values.ndim - 2)
  values = jnp.pad(values, padding)
  return values.reshape(n, -1, chunk, *values.shape[2:]).swapaxes(0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _score(
  states: Array, head: Array, targets: Array, temperature: float
) -> TokenLogprobs:
  """`token_logprobs` of one chunk; what follows is its gradient."""
  logits = _logits(states, head)
  return score_targets(
    log_distribution(logits, temperature=temperature), targets
  )


def _logits(states: Array, head: Array) -> Array:
  return jnp.einsum(
    'ntd,dv->ntv',
    states,
    head.astype(states.dtype),
    preferred_element_type=jnp.float32,
  )


def _score_forward(states, head, targets, temperature):
  scores = _score(states, head, targets, temperature)
  return scores, (states, head, targets, scores.entropy)


def _score_backward(temperature, saved, gradient: TokenLogprobs):
  """With z = logits / temperature and p = softmax(z), of target y:

  d logp_y / d z_v = 1[v = y] - p_v,   d H / d z_v = -p_v (log p_v + H)
  """
  states, head, targets, entropy = saved
  log_p = log_distribution(_logits(states, head), temperature=temperature)
  p, chosen = jnp.exp(log_p), gradient.logprobs[..., None]
  vocabulary = jnp.arange(head.shape[-1])[None, None]
  d_z = jnp.where(vocabulary == targets[..., None], chosen, 0.0) - p * (
    chosen + gradient.entropy[..., None] * (log_p + entropy[..., None])
  )
  d_z = (d_z / temperature).astype(states.dtype)
  d_states = jnp.einsum('ntv,dv->ntd', d_z, head.astype(states.dtype))
  d_head = jnp.einsum(
    'ntd,ntv->dv', states, d_z, preferred_element_type=jnp.float32
  )
  return d_states, d_head.astype(head.dtype), None


_score.defvjp(_score_forward, _score_backward)


def token_logprobs(
  hidden: Array,
  head: Array,
  targets: Array,
  *,
  temperature: float,
  chunk: int,
  used: Array | None = None,
) -> TokenLogprobs:
  """`score_targets` of the logits `hidden @ head`, in chunks of positions.

  The product runs in the dtype of `hidden` and is accumulated in float32; the
  backward pass computes the logits of a chunk a second time.

  Args:
    hidden: float[N, T, D], last hidden states, any float dtype.
    head: float[D, V]; its gradient is accumulated in its own dtype.
    targets: i32[N, T] in [0, V); position t holds the token predicted from
      `hidden[:, t]`.
    temperature: above 0; the one the sampler used.
    chunk: positions whose logits exist at once; at least 1.
    used: bool[N, T], positions that matter; a chunk without any costs nothing
      and is 0. None: all.

  Returns:
    `TokenLogprobs` of f32[N, T], differentiable in both fields.

  Raises:
    ValueError: if `chunk` or `temperature` is out of range.
  """
  chex.assert_rank([hidden, head, targets], [3, 2, 2])
  chex.assert_equal_shape_prefix([hidden, targets], 2)
  if chunk < 1 or not temperature > 0:
    raise ValueError(
      f'chunk={chunk} must be at least 1, temperature={temperature} above 0'
    )
  n, t = targets.shape

  def score(piece):
    states, tokens = piece
    return _score(states, head, tokens, temperature)

  # As many chunks as are needed, all of one size: little padding.
  chunk = -(-t // max(1, -(-t // chunk)))
  pieces = _split(hidden, chunk), _split(targets, chunk)
  if used is None:
    scores = jax.lax.map(score, pieces)
  else:
    zeros = jnp.zeros((n, chunk), jnp.float32)
    nothing = TokenLogprobs(logprobs=zeros, entropy=zeros)
    scores = jax.lax.map(
      lambda x: jax.lax.cond(x[0], score, lambda _: nothing, x[1]),
      (jnp.any(_split(used, chunk), axis=(1, 2)), pieces),
    )
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(n, -1)[:, :t], scores)
