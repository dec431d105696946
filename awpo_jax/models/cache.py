"""The key/value cache, explicit: made, written and read by the caller."""

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import config as config_lib


@types.record
class KV:
  """Keys (after RoPE) and values of one layer, both [B, K, S, C]."""

  keys: types.Array
  values: types.Array


@types.record
class Prefix:
  """A prompt that a group of rows shares.

  Attributes:
    layers: `KV` of each layer, [P, K, Sp, C].
    mask: bool[P, Sp], True where there is a token.
  """

  layers: tuple[KV, ...]
  mask: types.Array


def init_cache(
  config: config_lib.DecoderConfig, rows: int, length: int
) -> tuple[KV, ...]:
  """A cache of zeros, [rows, K, length, C] for each layer."""
  shape = (rows, config.kv_heads, length, config.head_width)
  return tuple(
    KV(
      keys=jnp.zeros(shape, config.dtype),
      values=jnp.zeros(shape, config.dtype),
    )
    for _ in range(config.layers)
  )


def write(cache: KV, new: KV, index: types.Array) -> KV:
  """Writes new keys and values at each row's own index.

  Args:
    cache: [N, K, S, C].
    new: [N, K, S', C], S' <= S.
    index: i32[N], first column to write; a write past the end is moved back
      so that it fits (`dynamic_update_slice`), the caller keeps it in range.

  Returns:
    The cache with columns index[n] .. index[n] + S' - 1 of row n replaced.
  """
  put = jax.vmap(
    lambda row, value, start: jax.lax.dynamic_update_slice(
      row, value, (0, start, 0)
    )
  )
  return KV(
    keys=put(cache.keys, new.keys, index),
    values=put(cache.values, new.values, index),
  )
