"""Attention over parts: separate stretches of keys under one softmax."""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types

_MASKED = -1e30


@types.record
class Part:
  """Keys and values that some queries may see.

  Attributes:
    keys: [B, K, S, C]; B divides the number of query rows, and query row n
      reads part row n // (N / B): a group shares its prompt's part.
    values: [B, K, S, C].
    bias: f32[B, Q, S] of `mask_bias`, added to the scores; Q is 1 (all queries
      alike) or the number of queries that read a part row.
  """

  keys: types.Array
  values: types.Array
  bias: types.Array


def mask_bias(mask: types.Array) -> types.Array:
  """0 where a key may be seen and -1e30 where not: f32, shaped like `mask`.

  It is kept apart from the scores' fusion, which would read the mask's bits
  once per head and layer, several times slower on a CPU.
  """
  bias = jnp.where(mask, 0.0, _MASKED).astype(jnp.float32)
  return jax.lax.optimization_barrier(bias)


def within(
  mask: types.Array,
  query_positions: types.Array,
  key_positions: types.Array,
  *,
  window: int | None,
) -> types.Array:
  """Takes keys out of a mask that lie `window` or more tokens back.

  Args:
    mask: bool[B, Q or 1, S].
    query_positions: i32[B, Q].
    key_positions: i32[B, S].
    window: None leaves the mask as it is.

  Returns:
    bool[B, Q, S], or `mask`.
  """
  if window is None:
    return mask
  distance = query_positions[:, :, None] - key_positions[:, None, :]
  return mask & (distance < window)


def seen_by(
  values: types.Array, seen: types.Array, *, axis: int
) -> types.Array:
  """What some rows hold, for each row that sees them, along `axis`.

  Args:
    values: [N, ..., S, ...], S at `axis`.
    seen: i32[D, N / D, J], rows among the N / D of the same part.
    axis: at least 1.

  Returns:
    [N, ..., J * S, ...].
  """
  parts, rows, count = seen.shape
  split = values.reshape(parts, rows, *values.shape[1:])
  picked = [
    jax.vmap(lambda x, i: x[i])(split, seen[..., j]) for j in range(count)
  ]
  joined = jnp.concatenate(picked, axis=axis + 1)
  return joined.reshape(-1, *joined.shape[2:])


def attend(
  query: types.Array, parts: Sequence[Part], *, scale: float
) -> types.Array:
  """Softmax attention over the union of the parts' keys.

  With o_p and w_p the sums of weighted values and of weights over part p alone,
  relative to its highest score m_p, and with m = max_p m_p, the output is
  sum_p exp(m_p - m) o_p / sum_p exp(m_p - m) w_p. The
  output does not depend on m and m_p, so their gradients are left out.

  Args:
    query: [N, S, H, C].
    parts: what it may see; a query that may see nothing gets
      something finite.
    scale: multiplies the dot products.

  Returns:
    [N, S, H, C] in the dtype of `query`.
  """
  outputs, totals, tops = zip(
    *(attend_part(query, part, scale=scale) for part in parts), strict=True
  )
  top = functools.reduce(jnp.maximum, tops)
  shares = [jnp.exp(x - top) for x in tops]
  output = sum(x * y for x, y in zip(shares, outputs, strict=True))
  total = sum(x * y for x, y in zip(shares, totals, strict=True))
  return (output / total).astype(query.dtype)


def attend_part(
  query: types.Array, part: Part, *, scale: float
) -> tuple[types.Array, types.Array, types.Array]:
  """The sums of attention within one part, see `attend`.

  Args:
    query: [N, S, H, C].
    part: keys and values of K heads; query head h reads head h // (H / K).
    scale: multiplies the dot products.

  Returns:
    f32[N, S, H, C] sum of weighted values, and f32[N, S, H, 1] each sum of
    weights and highest scaled score, about -1e30 where nothing is visible; all
    finite there.
  """
  chex.assert_rank([query, part.keys, part.values, part.bias], [4, 4, 4, 3])
  rows, length, heads, width = query.shape
  batch, kv_heads = part.keys.shape[:2]
  # Heads that share keys become rows of one matrix product per key head.
  query = (scale * query).reshape(batch, -1, kv_heads, heads // kv_heads, width)
  query = query.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, width)
  scores = jnp.einsum(
    'bkqc,bksc->bkqs', query, part.keys, preferred_element_type=jnp.float32
  )
  shape = (batch, kv_heads, heads // kv_heads, -1)
  scores = scores.reshape(*shape, scores.shape[-1]) + part.bias[:, None, None]
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights.astype(part.values.dtype)
  output = jnp.einsum(
    'bkqs,bksc->bkqc',
    weights.reshape(batch, kv_heads, -1, weights.shape[-1]),
    part.values,
    preferred_element_type=jnp.float32,
  )

  def by_query(x):
    x = x.reshape(*shape, x.shape[-1]).transpose(0, 3, 1, 2, 4)
    return x.reshape(rows, length, heads, -1)

  return by_query(output), by_query(total), by_query(top)
