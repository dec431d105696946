"""The losses in plain code: every row reads its own prompt, nothing is shared.

Each row is its prompt followed by its completion, read by `Decoder.__call__`;
weights are NumPy loops over rows, in float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from tests.helpers import tiny_training


def rows_of(batch):
  """tokens i32[N, S], lengths i32[N], starts i32[N] of the completions.

  Padding stands on the right alone: nothing but the order of tokens is left.
  """
  sequences, starts = [], []
  for p, group in enumerate(batch.tokens):
    prompt = batch.prompt_tokens[p][batch.prompt_mask[p]]
    for g, tokens in enumerate(group):
      sequences.append([*prompt, *tokens[batch.mask[p, g]]])
      starts.append(len(prompt))
  width = batch.prompt_tokens.shape[-1] + batch.tokens.shape[-1]
  rows = np.zeros((len(sequences), width), np.int32)
  for row, sequence in zip(rows, sequences, strict=True):
    row[: len(sequence)] = sequence
  return rows, np.array([len(x) for x in sequences]), np.array(starts)


def logprobs_and_entropy(params, tokens, lengths, starts, *, width):
  """Both f32[N, width], of each completion's tokens; junk past its end."""
  columns = jnp.arange(tokens.shape[1])
  mask = columns[None] < lengths[:, None]
  logits = tiny_training.DECODER.apply({'params': params}, tokens, mask)
  logprobs = jax.nn.log_softmax(logits, axis=-1)
  at = jnp.minimum(starts[:, None] + jnp.arange(width)[None], columns[-1])
  logprobs = jnp.take_along_axis(logprobs, at[..., None] - 1, axis=1)
  chosen = jnp.take_along_axis(tokens, at, axis=1)[..., None]
  entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
  return jnp.take_along_axis(logprobs, chosen, axis=-1)[..., 0], entropy


def weights(batch, aggregation, max_length=None):
  """float64[P, G, Sc], one row at a time."""
  used = batch.policy_mask
  tokens, rows = used.sum(), used.any(axis=-1).sum()
  result = np.zeros(used.shape)
  for p, g in np.ndindex(used.shape[:2]):
    if used[p, g].any():
      result[p, g] = (
        used[p, g]
        * {
          'token-mean': 1 / tokens,
          'seq-mean-token-mean': 1 / (used[p, g].sum() * rows),
          'seq-mean-token-sum': 1 / rows,
          'seq-mean-token-sum-norm': 1 / ((max_length or 1) * rows),
          'token-sum': 1.0,
        }[aggregation]
      )
  return result


def _weighted(values, weights):
  return jnp.sum(jnp.where(weights > 0, weights * values, 0.0))


def _sft(params, rows, weights, old, advantages, radius):
  del old, advantages, radius
  logprobs, entropy = logprobs_and_entropy(
    params, *rows, width=weights.shape[-1]
  )
  loss = -_weighted(logprobs, weights)
  sums = {'loss': loss, 'weight': jnp.sum(weights)}
  return loss, sums | {'entropy': _weighted(entropy, weights)}


def _rl(
  params,
  rows,
  weights,
  old,
  advantages,
  radius,
  *,
  high=1.0,
  dual=None,
  bonus=0,
):
  logprobs, entropy = logprobs_and_entropy(
    params, *rows, width=weights.shape[-1]
  )
  change = jnp.where(weights > 0, logprobs - old, 0.0)
  ratio, a = jnp.exp(change), jnp.broadcast_to(advantages, change.shape)
  # Where the ratio went past its bound in the direction of the advantage, the
  # objective is the bound's and has no gradient.
  low, top = 1 - radius, 1 + high * radius
  over, under = (a > 0) & (ratio > top), (a < 0) & (ratio < low)
  objective = jnp.where(over, top * a, jnp.where(under, low * a, ratio * a))
  if dual is not None:
    objective = jnp.where((a < 0) & (ratio > dual), dual * a, objective)
  surrogate = -_weighted(objective, weights)
  sums = {
    'weight': jnp.sum(weights),
    'surrogate': surrogate,
    'entropy': _weighted(entropy, weights),
    'clip_fraction': _weighted(over | under, weights),
    'ratio_abs_log': _weighted(jnp.abs(change), weights),
  }
  sums['loss'] = surrogate - bonus * sums['entropy']
  sums['ratio_abs_log_max'] = jnp.max(jnp.abs(change))
  return sums['loss'], sums


@functools.cache
def _gradient(loss, **options):
  loss = functools.partial(loss, **options) if options else loss
  return tiny_training.jit(jax.grad(loss, has_aux=True))


def _inputs(batch, aggregation, max_length):
  """Everything but the parameters, one row of the batch after another."""
  width = batch.tokens.shape[-1]
  return (
    rows_of(batch),
    np.float32(weights(batch, aggregation, max_length)).reshape(-1, width),
    batch.old_logprobs.reshape(-1, width),
    batch.advantages.reshape(-1, width if batch.advantages.ndim == 3 else 1),
    np.repeat(batch.clip_radius, batch.tokens.shape[1])[:, None],
  )


def sft(params, batch, *, aggregation='token-mean'):
  """Gradient and metrics of the cross-entropy of a batch [P, ...]."""
  return _gradient(_sft)(params, *_inputs(batch, aggregation, None))


def rl(params, batch, *, aggregation='token-mean', max_length=None, **options):
  """Gradient and metrics of the clipped surrogate of a batch [P, ...].

  `high` is the upper radius over the lower one, `dual` the dual clip, `bonus`
  the weight of the entropy.
  """
  inputs = _inputs(batch, aggregation, max_length)
  return _gradient(_rl, **options)(params, *inputs)


@functools.cache
def _scores(width):
  return tiny_training.jit(functools.partial(logprobs_and_entropy, width=width))


def scores(params, batch):
  """Log-probabilities and entropies f32[P, G, Sc]; junk without a token."""
  shape = batch.tokens.shape
  return tuple(
    np.asarray(x).reshape(shape)
    for x in _scores(shape[-1])(params, *rows_of(batch))
  )


def batch_of(rollout, **fields):
  """A rollout as a batch [P, ...] of valid samples with these `fields`."""
  batch = types.Batch.of(rollout.prompts, rollout.completions)
  valid = rollout.rewards.outcome_valid
  return batch.replace(
    policy_mask=batch.policy_mask & valid[..., None], **fields
  )


@functools.cache
def random_batch(seed):
  """Eight prompts [P, ...] with ratios on both sides of the clip radius."""
  rng = np.random.default_rng(seed)
  rollout = tiny_training.rollout(seed)
  advantages = rng.normal(size=(tiny_training.PROMPTS, tiny_training.SAMPLES))
  batch = batch_of(
    rollout,
    advantages=advantages.astype(np.float32),
    clip_radius=np.full(tiny_training.PROMPTS, 0.2, np.float32),
    old_logprobs=rollout.completions.logprobs,
  )
  batch = tiny_training.minibatches(batch)[0]
  old = scores(tiny_training.params(), batch)[0]
  old = old + 0.5 * rng.normal(size=old.shape)
  return batch.replace(
    old_logprobs=np.where(batch.policy_mask, old, 0).astype(np.float32)
  )
