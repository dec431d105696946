"""Which tokens are trained on, and how their losses add up: weights from masks.

Shapes stay as they are: what is left out weighs 0, in every denominator too.
Weights are made before the gradient, over a whole mini-batch. `m` is the mask,
`len_i` the number of tokens of row i, N the number of rows with a token.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, collectives, masked

Array = types.Array
Functions = Mapping[str, Callable[..., Array]]

_HALVINGS = 40


# Groups in which no sample has an advantage.


def count_all(advantages: Array) -> Array:
  """All groups count in the denominator."""
  return jnp.ones(advantages.shape[:1], bool)


def drop_empty(advantages: Array) -> Array:
  """Only groups with an advantage count (DAPO, arXiv:2503.14476)."""
  axes = tuple(range(1, advantages.ndim))
  return jnp.any(advantages != 0, axis=axes)


EMPTY_GROUPS: Functions = {'count': count_all, 'drop': drop_empty}


# Answers that the length limit cut off.


def train_unfinished(finished: Array) -> Array:
  """All answers are trained on."""
  return jnp.ones_like(finished, bool)


def drop_unfinished(finished: Array) -> Array:
  """Overlong filtering: an answer that was cut off is not."""
  return finished


UNFINISHED: Functions = {'train': train_unfinished, 'drop': drop_unfinished}


def top_entropy(
  entropy: Array,
  mask: Array,
  *,
  share: float,
  all_sum: types.AllSum = collectives.identity,
) -> Array:
  """The tokens of highest entropy of the batch (arXiv:2506.01939).

  The threshold is found by halving, with counts over all devices: no device
  needs the entropies of another.

  Args:
    entropy: f32[..., T], at least 0.
    mask: bool[..., T].
    share: of the tokens to keep, in (0, 1].
    all_sum: adds up over all devices.

  Returns:
    bool[..., T]: all tokens at or above the largest threshold that keeps
    `share` of them; tokens of equal entropy stay or go together.
  """
  if share >= 1:
    return mask
  entropy = masked.fill(entropy, mask)
  wanted = share * all_sum(masked.count(mask))

  def halve(_, bounds):
    low, high = bounds
    middle = 0.5 * (low + high)
    enough = all_sum(masked.count(mask & (entropy >= middle))) >= wanted
    return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

  # No entropy of a vocabulary comes near 100 nats.
  low, _ = jax.lax.fori_loop(
    0, _HALVINGS, halve, (jnp.float32(0.0), jnp.float32(100.0))
  )
  return mask & (entropy >= low)


def selected(
  mask: Array,
  advantages: Array,
  finished: Array,
  entropy: Array,
  *,
  empty_groups: str,
  unfinished: str,
  entropy_share: float,
  all_sum: types.AllSum = collectives.identity,
  **_,
) -> Array:
  """Tokens that the updates train on.

  Args:
    mask: bool[P, G, T], policy tokens of valid samples.
    advantages: f32[P, G] or f32[P, G, T].
    finished: bool[P, G], False where the length limit cut the answer.
    entropy: f32[P, G, T], of the sampler.
    empty_groups: a key of `EMPTY_GROUPS`.
    unfinished: a key of `UNFINISHED`.
    entropy_share: of the tokens to keep, those of highest entropy.
    all_sum: adds up over all devices.

  Returns:
    bool[P, G, T].

  Raises:
    ValueError: if a flag value is unknown.
  """
  keep = choices.pick('empty_groups', EMPTY_GROUPS, empty_groups)(advantages)
  rows = choices.pick('unfinished', UNFINISHED, unfinished)(finished)
  mask = mask & keep[:, None, None] & rows[..., None]
  return top_entropy(entropy, mask, share=entropy_share, all_sum=all_sum)


# The weights.


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
