"""How the losses of tokens add up, as weights made from masks.

They are made before the gradient, over a whole mini-batch. `m` is the mask,
`len_i` the number of tokens of row i, N the number of rows with a token.
"""

from collections.abc import Callable

import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked

Array = types.Array


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
