"""Attention by a library's kernel, which knows one stretch of keys.

Its log-sum-exp has no gradient, so parts cannot be merged around it: the keys
and values of a shared prompt are broadcast to the rows that see them (never
computed again) and stand in front of the rows' own. Decoding, where a broadcast
cache would be read once per row, keeps the parts, and needs no gradient: there
a kernel may read each part, see `attend_by_lengths`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import chex
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash_lib,
)

from awpo_jax import types
from awpo_jax.models import attention
from awpo_jax.models import config as config_lib

# Choices of --attention: `attention.attend`, an implementation of
# `jax.nn.dot_product_attention`, or JAX's own kernel for TPUs.
KERNELS = ('parts', 'xla', 'cudnn', 'splash', 'auto')
# Choices of --decode_attention, likewise.
DECODE_KERNELS = ('parts', 'xla', 'cudnn')
# Whose kernel it is, `jax.Device.platform` of those, and what it takes.
_LIMITS = {
  'cudnn': ("Nvidia's GPUs", ('gpu', 'cuda'), ('bfloat16', 'float16')),
  'splash': ('TPUs', ('tpu',), ('bfloat16', 'float32')),
}
# What JAX takes for cuDNN's flash attention, on the newer cards.
_CUDNN_WIDTHS = range(8, 257, 8)
# The largest block of scores, in queries and in keys.
_SPLASH_BLOCK = 512
# A score below all others.
_SINK = -1e30


def attend_joined(
  query: types.Array,
  parts: Sequence[attention.Part],
  *,
  scale: float,
  implementation: str,
  interpret: bool = False,
) -> types.Array:
  """As `attention.attend`, of all keys at once.

  Args:
    query: [N, S, H, C].
    parts: what it may see, in any order; a query that may see nothing gets
      something finite.
    scale: multiplies the dot products.
    implementation: `xla`, `cudnn`, which wants 16 bits, or `splash`.
    interpret: `splash` on a device that is no TPU, by Pallas's interpreter.

  Returns:
    [N, S, H, C] in the dtype of `query`.
  """
  chex.assert_rank(query, 4)
  rows, length = query.shape[:2]
  keys, values = (
    jnp.concatenate([_of_rows(x, rows) for x in arrays], axis=1)
    for arrays in ([p.keys for p in parts], [p.values for p in parts])
  )
  mask = jnp.concatenate([_seen(p.bias, rows, length) for p in parts], axis=2)
  if implementation == 'splash':
    return _splash(scale * query, keys, values, mask, interpret=interpret)
  # With a mask cuDNN's backward pass takes even lengths only. A query that is
  # added sees nothing, a key that is added is not seen.
  odd, odd_keys = length % 2, keys.shape[1] % 2
  joined = jax.nn.dot_product_attention(
    _pad(query, 1, odd),
    _pad(keys, 1, odd_keys),
    _pad(values, 1, odd_keys),
    mask=_pad(_pad(mask, 1, odd), 2, odd_keys)[:, None],
    scale=scale,
    implementation=cast(Literal['xla', 'cudnn'], implementation),
  )
  return joined[:, :length]


def attend_by_lengths(
  query: types.Array,
  parts: Sequence[attention.Part],
  *,
  scale: float,
  implementation: str,
) -> types.Array:
  """As `attention.attend`, of one query a row and the first keys of each part.

  A kernel is told how many keys of a part may be seen and reads each part as it
  lies; the rows that share a part are queries of one call. With o_p its output
  and l_p its log-sum-exp over part p alone, the output is
  sum_p exp(l_p) o_p / sum_p exp(l_p). Nothing is differentiated.

  JAX rounds l_p to the dtype of `query`, but XLA drops that where it widens l_p
  again. With 16 bits that were kept (outside of jit), the output would be two
  to four times as far from float64 as that of the parts.

  Args:
    query: [N, 1, H, C].
    parts: of each part row a query sees the same keys, and of those the ones
      that come first; the bias is f32[B, 1, S]. A query that may see nothing
      gets something finite.
    scale: multiplies the dot products.
    implementation: `xla`, or `cudnn`, which wants 16 bits.

  Returns:
    [N, 1, H, C] in the dtype of `query`.
  """
  chex.assert_shape(query, (None, 1, None, None))
  outputs, tops = [], []
  for part in parts:
    chex.assert_shape(part.bias, (None, 1, None))
    lengths = jnp.sum(part.bias[:, 0] == 0, axis=-1, dtype=jnp.int32)
    output, top = jax.nn.dot_product_attention(
      query.reshape(lengths.shape[0], -1, *query.shape[2:]),
      part.keys.swapaxes(1, 2),
      part.values.swapaxes(1, 2),
      scale=scale,
      # What a kernel makes of no key at all is not said.
      key_value_seq_lengths=jnp.maximum(lengths, 1),
      implementation=cast(Literal['xla', 'cudnn'], implementation),
      return_residual=True,
    )
    top = jnp.where(lengths[:, None, None] > 0, top.astype(jnp.float32), _SINK)
    outputs.append(output.reshape(query.shape))
    tops.append(top.reshape(query.shape[:3]))
  shares = jax.nn.softmax(jnp.stack(tops), axis=0)[..., None]
  merged = sum(x * y for x, y in zip(shares, outputs, strict=True))
  return jnp.asarray(merged, query.dtype)


def _of_rows(x: types.Array, rows: int) -> types.Array:
  """[B, K, S, C] of a part -> [rows, S, K, C], what is shared broadcast."""
  return jnp.repeat(x.swapaxes(1, 2), rows // x.shape[0], axis=0)


def _seen(bias: types.Array, rows: int, length: int) -> types.Array:
  """The mask that a part's bias was made of: bool[rows, length, S]."""
  mask = bias == 0
  if mask.shape[1] > 1:
    return mask.reshape(rows, length, -1)
  mask = jnp.repeat(mask, rows // mask.shape[0], axis=0)
  return jnp.broadcast_to(mask, (rows, length, mask.shape[2]))


def _pad(x: types.Array, axis: int, count: int) -> types.Array:
  widths = [(0, count if i == axis else 0) for i in range(x.ndim)]
  return jnp.pad(x, widths) if count else x


def _splash(
  query: types.Array,
  keys: types.Array,
  values: types.Array,
  mask: types.Array,
  *,
  interpret: bool,
) -> types.Array:
  """By JAX's kernel for TPUs, one row after another.

  The heads of a row share its mask, an array. `vmap` would make a loop over
  rows as well, but keep the log-sum-exp of all of them as the kernel writes it,
  128 times over. A query that sees nothing has its sink: the output is 0.
  """
  length, heads = query.shape[1:3]
  more, more_keys = (-x.shape[1] % splash_lib.NUM_LANES for x in (query, keys))
  mask = _pad(_pad(mask, 1, more), 2, more_keys)
  q, kv = (math.gcd(x, _SPLASH_BLOCK) for x in mask.shape[1:])
  blocks = splash_lib.BlockSizes(
    block_q=q,
    block_kv=kv,
    block_q_dkv=q,
    block_kv_dkv=kv,
    block_q_dq=q,
    block_kv_dq=kv,
  )

  def attend(row):
    mask, *arrays = row
    kernel = splash_lib.make_splash_mha_single_device(
      mask[None], block_sizes=blocks, interpret=interpret
    )
    # JAX makes a traced array of this as well, and then asks for its truth.
    kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)
    return kernel(*arrays, sinks=jnp.full(heads, _SINK))

  keys, values = (_pad(x, 1, more_keys) for x in (keys, values))
  by_head = (x.swapaxes(1, 2) for x in (_pad(query, 1, more), keys, values))
  joined = jax.lax.map(attend, (mask, *by_head))
  return joined.swapaxes(1, 2)[:, :length]


def best(model: config_lib.DecoderConfig, platform: str) -> str:
  """The kernel of `auto`: cuDNN's where the device has it, else `parts`.

  Args:
    model: its dtype and the width of its heads.
    platform: as `jax.Device.platform` has it.
  """
  return 'parts' if any(misfits('cudnn', model, platform)) else 'cudnn'


def model_misfits(
  model: config_lib.DecoderConfig, platform: str
) -> Iterator[str]:
  """What keeps the kernels of a model from running; see `misfits`."""
  for flag in ('attention', 'decode_attention'):
    yield from misfits(getattr(model, flag), model, platform, flag=flag)


def misfits(
  kernel: str,
  model: config_lib.DecoderConfig,
  platform: str,
  *,
  flag: str = 'attention',
) -> Iterator[str]:
  """What keeps the kernel of a flag from running, as text with the remedy."""
  if kernel not in _LIMITS:
    return
  devices, platforms, dtypes = _LIMITS[kernel]
  if platform not in platforms:
    yield (
      f'--{flag}={kernel} is a kernel of {devices}, this is {platform}: '
      f'set --{flag}=parts.'
    )
  if model.dtype.name not in dtypes:
    yield (
      f'--{flag}={kernel} takes no {model.dtype.name}: set '
      f'--dtype=bfloat16, or --{flag}=parts.'
    )
  if kernel == 'cudnn' and model.head_width not in _CUDNN_WIDTHS:
    yield (
      f'--{flag}=cudnn: heads of width {model.head_width} are no multiple '
      f'of 8 up to {_CUDNN_WIDTHS[-1]}; set --{flag}=parts.'
    )
