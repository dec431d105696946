"""Layers of the decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import attention, attention_kernels, lora_layers, rope
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import config as config_lib


def rope_angles(
  positions: types.Array,
  *,
  head_width: int,
  theta: float,
  scaling: rope.Scaling = rope.Scaling(),  # noqa: B008  (frozen)
) -> tuple[types.Array, types.Array]:
  """Cosines and sines of rotary embeddings (arXiv:2104.09864, Eq. 34).

  Pair i turns by position * theta^(-2i / C), or as `scaling` has it.

  Args:
    positions: i32[N, S], real tokens before each one.
    head_width: C, even.
    theta: base of the frequencies.
    scaling: see `rope.Scaling`.

  Returns:
    Two f32[N, S, 1, C / 2].
  """
  frequencies = rope.frequencies(head_width, theta=theta, scaling=scaling)
  angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
  angles = angles[:, :, None, :]
  factor = rope.attention_factor(scaling)
  # A product with 1 holds them fast: what XLA can fuse, cosines too, it would
  # compute anew in every head of every layer.
  cos, sin = (
    jnp.matmul(values * factor, jnp.eye(head_width // 2), precision='highest')
    for values in (jnp.cos(angles), jnp.sin(angles))
  )
  return cos, sin


def apply_rope(
  x: types.Array, angles: tuple[types.Array, types.Array]
) -> types.Array:
  """Rotates pairs (i, i + C/2) of x [N, S, H, C]; the same dtype comes out."""
  cos, sin = angles
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


class RMSNorm(nn.Module):
  """x / sqrt(mean(x^2) + eps) * weight, in float32 (arXiv:1910.07467)."""

  eps: float
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: types.Array) -> types.Array:
    weight = self.param(
      'weight', nn.initializers.ones, (x.shape[-1],), self.param_dtype
    )
    x = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = (x * jax.lax.rsqrt(variance + self.eps)).astype(self.dtype)
    return _scale(x, weight.astype(self.dtype))


def _scale(x: types.Array, weight: types.Array) -> types.Array:
  return x * jnp.expand_dims(weight, range(x.ndim - 1))


def _norm(config: config_lib.DecoderConfig, name: str) -> RMSNorm:
  return RMSNorm(config.norm_eps, config.dtype, config.param_dtype, name=name)


def _dense(
  config: config_lib.DecoderConfig,
  features: int,
  bias: bool,
  name: str,
  *,
  to_residual: bool = False,
) -> nn.Dense:
  # What writes to the residual stream starts at 0: every layer of a new model
  # sees the token embeddings. Its effect on learning was not measured alone.
  init = nn.initializers.zeros if to_residual else None
  make: Callable[..., nn.Dense] = nn.Dense
  if config.lora is not None and name in config.lora.targets:
    make = functools.partial(lora_layers.AdaptedDense, lora=config.lora)
  return make(
    features,
    use_bias=bias,
    dtype=config.dtype,
    param_dtype=config.param_dtype,
    kernel_init=init or nn.initializers.normal(config.init_range),
    dot_general=dot_general,
    name=name,
  )


class Attention(nn.Module):
  """Grouped-query attention (arXiv:2305.13245) over parts."""

  config: config_lib.DecoderConfig

  @nn.compact
  def __call__(
    self,
    x: types.Array,
    angles: tuple[types.Array, types.Array],
    bias: types.Array,
    *,
    prefix: attention.Part | None = None,
    cache: cache_lib.Columns | None = None,
    index: types.Array | None = None,
    used: int | None = None,
    tail: int | None = None,
    seen: types.Array | None = None,
  ) -> tuple[types.Array, cache_lib.KV | cache_lib.Columns]:
    """Attends from x to the prefix and to the rows' own keys.

    Args:
      x: [N, S, D], normalised.
      angles: of `rope_angles`, for the S positions.
      bias: f32[N, S, S_own], of `attention.mask_bias` for its own keys.
      prefix: a part shared by groups of rows.
      cache: earlier keys and values of the rows; None: only those of x.
      index: i32[N] or i32[], where the cache is written.
      used: columns of the cache that are read; None: all.
      tail: only the last `tail` positions are queries; None: all.
      seen: whose keys each row sees, of `attention.seen_by`; S_own is J * S
        then. None: its own.

    Returns:
      [N, tail or S, D], and the rows' own keys and values, x's included: the
      cache where there is one.
    """
    c = self.config

    def heads(inputs, count, name, norm, angles):
      y = _dense(c, count * c.head_width, c.qkv_bias, name)(inputs)
      y = y.reshape(*y.shape[:2], count, c.head_width)
      if norm and c.qk_norm:
        y = _norm(c, norm)(y)
      return y if angles is None else apply_rope(y, angles)

    new = cache_lib.KV(
      keys=heads(x, c.kv_heads, 'k_proj', 'k_norm', angles).swapaxes(1, 2),
      values=heads(x, c.kv_heads, 'v_proj', None, None).swapaxes(1, 2),
    )
    own = new
    kept: cache_lib.KV | cache_lib.Columns = new
    if cache is not None:
      assert index is not None
      kept = cache = cache_lib.write(cache, new, index)
      own = cache_lib.read(cache, used)
    if tail is not None:
      x, bias = x[:, -tail:], bias[:, -tail:]
      angles = angles[0][:, -tail:], angles[1][:, -tail:]
    query = heads(x, c.heads, 'q_proj', 'q_norm', angles)
    keys, values = own.keys, own.values
    if seen is not None:
      keys, values = (
        attention.seen_by(x, seen, axis=2) for x in (keys, values)
      )
    parts = [attention.Part(keys=keys, values=values, bias=bias)]
    if prefix is not None:
      parts.append(prefix)
    attend: Callable[..., types.Array] = attention.attend
    if cache is None and c.attention != 'parts':
      attend = functools.partial(
        attention_kernels.attend_joined, implementation=c.attention
      )
    if cache is not None and x.shape[1] == 1 and c.decode_attention != 'parts':
      attend = functools.partial(
        attention_kernels.attend_by_lengths, implementation=c.decode_attention
      )
    out = attend(query, parts, scale=c.head_width**-0.5)
    out = out.reshape(*out.shape[:2], -1)
    return _dense(c, c.width, c.out_bias, 'o_proj', to_residual=True)(out), kept


class SwiGLU(nn.Module):
  """W_down (silu(W_gate x) * W_up x) (arXiv:2002.05202)."""

  config: config_lib.DecoderConfig

  @nn.compact
  def __call__(self, x: types.Array) -> types.Array:
    c = self.config
    gate = _dense(c, c.mlp_width, c.mlp_bias, 'gate_proj')(x)
    up = _dense(c, c.mlp_width, c.mlp_bias, 'up_proj')(x)
    down = _dense(c, c.width, c.mlp_bias, 'down_proj', to_residual=True)
    return down(nn.silu(gate) * up)


class Block(nn.Module):
  """Pre-norm residual block; arguments as in `Attention`."""

  config: config_lib.DecoderConfig

  @nn.compact
  def __call__(self, x, angles, bias, *, tail=None, **kwargs):
    normed = _norm(self.config, 'input_layernorm')(x)
    out, kv = Attention(self.config, name='self_attn')(
      normed, angles, bias, tail=tail, **kwargs
    )
    x = (x if tail is None else x[:, -tail:]) + out
    normed = _norm(self.config, 'post_attention_layernorm')(x)
    return x + SwiGLU(self.config, name='mlp')(normed), kv


Array = types.Array


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
  """x W, with the gradients g W^T and x^T g.

  JAX's own gradient of a kernel is (g^T x)^T. On a CPU, XLA then computes what
  g is made of in transposed order, which takes longer than the product itself
  where W widens.

  Args:
    x: [..., K].
    kernel: [K, M].

  Returns:
    [..., M]; differentiable in reverse alone.
  """
  chex.assert_rank(kernel, 2)
  return x @ kernel


def _forward(x, kernel):
  return x @ kernel, (x, kernel)


def _backward(saved, g):
  x, kernel = saved
  rows = x.reshape(-1, x.shape[-1])
  return g @ kernel.T, rows.T @ g.reshape(-1, g.shape[-1])


product.defvjp(_forward, _backward)


def dot_general(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
  """`product` as `flax.linen.Dense` calls its `dot_general`."""
  return product(x, kernel)
