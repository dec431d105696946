"""A decoder-only language model in Flax Linen: pure `init` and `apply`."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import (
  activation_sharding,
  attention,
  decoding_params,
  layers,
)
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import config as config_lib


def token_positions(mask: types.Array) -> types.Array:
  """Number of real tokens before each column: i32[..., S] of bool[..., S]."""
  counts = jnp.cumsum(mask.astype(jnp.int32), axis=-1)
  return jnp.maximum(counts - 1, 0)


class Decoder(nn.Module):
  """Llama-type decoder; with `qk_norm` Qwen3, with `qkv_bias` Qwen2.

  Parameter names are those of the Hugging Face checkpoints; kernels are
  [in, out].
  """

  config: config_lib.DecoderConfig

  def setup(self):
    c = self.config
    self.embed_tokens = nn.Embed(
      c.vocab_size,
      c.width,
      dtype=c.dtype,
      param_dtype=c.param_dtype,
      embedding_init=nn.initializers.normal(c.init_range),
    )
    self.layers = [layers.Block(c) for _ in range(c.layers)]
    self.norm = layers.RMSNorm(c.norm_eps, c.dtype, c.param_dtype)
    if not c.tied:
      self.lm_head = self.param(
        'lm_head',
        nn.initializers.normal(c.init_range),
        (c.width, c.vocab_size),
        c.param_dtype,
      )

  def __call__(
    self, tokens: types.Array, mask: types.Array | None = None
  ) -> types.Array:
    """Logits of a whole sequence.

    Args:
      tokens: i32[N, S].
      mask: bool[N, S], False at padding on either side; None: all real.

    Returns:
      f32[N, S, V].
    """
    if mask is None:
      mask = jnp.ones(tokens.shape, bool)
    hidden, _ = self.hidden(tokens, token_positions(mask), mask)
    return self.unembed(hidden)

  def hidden(
    self,
    tokens: types.Array,
    positions: types.Array,
    mask: types.Array,
    *,
    prefix: cache_lib.Prefix | None = None,
    tail: int | None = None,
  ) -> tuple[types.Array, tuple[cache_lib.KV, ...]]:
    """Normalised hidden states of a sequence read at once.

    Args:
      tokens: i32[N, S].
      positions: i32[N, S], real tokens before each one, the prefix included.
      mask: bool[N, S], True at real tokens.
      prefix: prompts of P rows, each seen by N / P consecutive rows.
      tail: return the last `tail` positions only; the last block then computes
        no others (its keys and values excepted). None: all.

    Returns:
      [N, tail or S, D], and the keys and values of each layer.
    """
    length = tokens.shape[-1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    visible = causal[None] & mask[:, None, :]
    return self._blocks(
      tokens, positions, positions, visible, prefix, tail=tail
    )

  def packed(
    self,
    tokens: types.Array,
    positions: types.Array,
    seen: types.Array,
    visible: types.Array,
  ) -> types.Array:
    """Normalised hidden states of blocks that see the keys of other blocks.

    Args:
      tokens: i32[N, B], the blocks of D packed rows, one row after another.
      positions: i32[N, B].
      seen: i32[D, N / D, J], the blocks of its own row that a block sees.
      visible: bool[N, B, J * B], the keys of them that each token sees.

    Returns:
      [N, B, D].
    """
    hidden, _ = self._blocks(
      tokens,
      positions,
      attention.seen_by(positions, seen, axis=1),
      visible,
      None,
      seen=seen,
    )
    return hidden

  def decode(
    self,
    tokens: types.Array,
    positions: types.Array,
    cache: tuple[cache_lib.Columns, ...],
    index: types.Array,
    *,
    prefix: cache_lib.Prefix | None = None,
    used: int | None = None,
  ) -> tuple[types.Array, tuple[cache_lib.Columns, ...]]:
    """Normalised hidden states of the next tokens of rows with a cache.

    A query sees the prefix and columns 0 .. its own of the cache.

    Args:
      tokens: i32[N, S'], usually S' = 1.
      positions: i32[N, S'].
      cache: of `cache.init_cache`, written up to `index`.
      index: i32[N], column of the first new token of each row, or i32[], where
        it is the same.
      prefix: as in `hidden`.
      used: columns of the cache that are read, the new ones among them; None:
        all.

    Returns:
      [N, S', D] and the cache with the new tokens.
    """
    used = used or cache_lib.length(cache)
    columns = jnp.arange(used)[None, None, :]
    first = jnp.broadcast_to(index, tokens.shape[:1])
    own = first[:, None, None] + jnp.arange(tokens.shape[1])[None, :, None]
    # Column c of a row's cache holds its c-th own token.
    columns_at = positions[:, :1] - first[:, None] + columns[0]
    return self._blocks(
      tokens,
      positions,
      columns_at,
      columns <= own,
      prefix,
      cache=cache,
      index=index,
      used=used,
    )

  def _blocks(
    self,
    tokens,
    positions,
    own_positions,
    own_mask,
    prefix,
    *,
    cache=None,
    index=None,
    used=None,
    tail=None,
    seen=None,
  ):
    """All blocks; `own_*` describe the keys that the rows do not share."""
    c = self.config
    angles = layers.rope_angles(
      positions,
      head_width=c.head_width,
      theta=c.rope_theta,
      scaling=c.rope_scaling,
    )
    # One bias for the layers that see all and one for the local ones.
    biases = {
      local: self._biases(local, positions, own_positions, own_mask, prefix)
      for local in set(c.local_layers or (False,))
    }
    x = activation_sharding.by_rows(self.embed_tokens(tokens))
    # A cache is for sampling, which is not differentiated.
    remat = c.remat if cache is None else 'none'
    scanned, own = 0, []
    if remat == 'loop' and not self.is_initializing():
      # But the last one, which may compute fewer positions.
      scanned = c.layers - 1
    if scanned:
      x, own = self._scan(scanned, x, angles, biases, prefix, seen=seen)
    for i in range(scanned, c.layers):
      own_bias, prefix_bias = biases[self._is_local(i)]
      run = self._block(
        i,
        tail=tail if i == c.layers - 1 else None,
        used=used,
        remat=remat,
      )
      x, kv = run(
        x,
        angles,
        own_bias,
        prefix=_part(prefix and prefix.layers[i], prefix_bias),
        cache=None if cache is None else cache[i],
        index=index,
        seen=seen,
      )
      x = activation_sharding.by_rows(x)
      own.append(kv)
    return self.norm(x), tuple(own)

  def _scan(self, count, x, angles, biases, prefix, *, seen):
    """The first `count` blocks as one loop, compiled as a single block.

    The backward pass computes each of them anew from its input. Parameters are
    stacked in the dtype to which a block casts them.

    Returns:
      The residual stream, and a list of the keys and values of each block.
    """
    c = self.config
    params = [
      decoding_params.cast(c, self.layers[i].variables['params'])
      for i in range(count)
    ]
    shared = None if prefix is None else _stack(prefix.layers[:count])
    local = jnp.array([self._is_local(i) for i in range(count)])

    def step(x, layer):
      params, shared, is_local = layer
      own_bias, prefix_bias = _bias_of(is_local, biases)
      part = _part(shared, prefix_bias)
      x, kv = _run_block(
        params, x, angles, own_bias, config=c, prefix=part, seen=seen
      )
      return activation_sharding.by_rows(x), kv

    # A loop keeps XLA from sharing work between the two passes by itself.
    step = jax.checkpoint(
      step, policy=config_lib.REMATS['loop'], prevent_cse=False
    )
    x, kvs = jax.lax.scan(step, x, (_stack(params), shared, local))
    return x, [
      cache_lib.KV(*each) for each in zip(kvs.keys, kvs.values, strict=True)
    ]

  def _is_local(self, i):
    return bool(self.config.local_layers) and self.config.local_layers[i]

  def _block(self, i, *, remat, **static):
    """Block i as a function."""
    block = self.layers[i]
    if self.is_initializing():
      return functools.partial(block, **static)
    run = functools.partial(_run_block, config=self.config, **static)
    if remat != 'none':
      run = jax.checkpoint(run, policy=config_lib.REMATS[remat])
    return functools.partial(run, block.variables['params'])

  def _biases(self, local, positions, own_positions, own_mask, prefix):
    """What each query may add to the scores of own and prefix keys."""
    window = self.config.window if local else None
    own_mask = attention.within(
      own_mask, positions, own_positions, window=window
    )
    own_bias = attention.mask_bias(own_mask)
    if prefix is None:
      return own_bias, None
    mask = prefix.mask[:, None, :]
    if window is not None:
      rows = mask.shape[0]
      mask = attention.within(
        mask,
        positions.reshape(rows, -1),
        token_positions(prefix.mask),
        window=window,
      )
    return own_bias, attention.mask_bias(mask)

  def head(self) -> types.Array:
    """The matrix [D, V] that turns hidden states into logits."""
    if self.config.tied:
      return self.embed_tokens.embedding.T
    return self.lm_head

  def unembed(self, hidden: types.Array) -> types.Array:
    """f32[..., V] logits of normalised hidden states [..., D]."""
    head = self.head().astype(self.config.dtype)
    return jnp.einsum(
      '...d,dv->...v', hidden, head, preferred_element_type=jnp.float32
    )


def _part(kv, bias):
  """Keys and values of a layer, or None, as a part of its attention."""
  if kv is None:
    return None
  return attention.Part(keys=kv.keys, values=kv.values, bias=bias)


def _stack(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _bias_of(is_local, biases):
  """Those of a layer: `biases` of the local and of the other layers."""
  if len(biases) == 1:
    return next(iter(biases.values()))
  return jax.tree.map(
    lambda local, other: jnp.where(is_local, local, other),
    biases[True],
    biases[False],
  )


@functools.partial(jax.jit, static_argnames=('config', 'tail', 'used'))
def _run_block(params, *arguments, config, **options):
  """A block with its parameters; jitted, so that equal ones are traced once."""
  block = layers.Block(config, parent=None)
  return block.apply({'params': params}, *arguments, **options)


def init_params(
  config: config_lib.DecoderConfig, key: types.Array
) -> types.ArrayTree:
  """Random parameters of `Decoder(config)` (jitted: nothing is kept twice)."""
  tokens = jnp.zeros((1, 2), jnp.int32)
  # A library's kernel, which may not be here, would be traced for nothing.
  config = dataclasses.replace(config, attention='parts')
  return jax.jit(Decoder(config).init)(key, tokens)['params']
