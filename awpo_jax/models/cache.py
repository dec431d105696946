"""The key/value cache, explicit: made, written and read by the caller."""

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import attention
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
    bias: f32[P, 1, Sp], of `attention.mask_bias`: 0 where there is a token.
  """

  layers: tuple[KV, ...]
  bias: types.Array

  def part(self, layer: int) -> attention.Part:
    """What every row of a group sees of its prompt: all of it."""
    kv = self.layers[layer]
    return attention.Part(keys=kv.keys, values=kv.values, bias=self.bias)


def make_prefix(layers: tuple[KV, ...], mask: types.Array) -> Prefix:
  """Keys and values [P, K, Sp, C] of prompts, and which of them are tokens."""
  return Prefix(layers=layers, bias=attention.mask_bias(mask[:, None, :]))


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
