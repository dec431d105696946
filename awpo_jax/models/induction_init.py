"""Initial weights with which a new model can copy.

A transformer copies by two heads in a row (an induction circuit,
arXiv:2209.11895): one writes at each position what stood before it, the next
looks for the place whose predecessor is the present token and repeats what
stands there. From random weights that circuit appears late and all at once; a
small model with minutes to train starts with it instead, in the spirit of
mimetic initialisation (arXiv:2305.09828). It is a start, not a constraint:
every weight is trained.
"""

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.models import config as config_lib
from awpo_jax.models import decoder

_BACK = (1, 2)  # tokens that the position heads look back, one head each
_PEAK = 20.0  # score of the position looked for, at its maximum
_PEAK_PAIRS = 5  # fastest rotary pairs, which tell neighbours apart
_MATCH = 10.0  # score of a key that both earlier tokens of match
_SHARES = (0.75, 0.25)  # of the match, for the token one and two before a key
_SLOWEST = 0.02  # radians a position; slower pairs hold a match at distance
_CONTENT = 0.1  # share of the random weights kept in the position heads


def init_params(
  config: config_lib.DecoderConfig, key: types.Array
) -> types.ArrayTree:
  """Random parameters with an induction circuit in the first two layers.

  The first two heads of the first layer attend to the position one and two
  before their own, by biases alone. Each writes a random projection P of the
  embedding there into the residual stream, rotated by an orthogonal U_1 or U_2
  of its own. The first D / C heads of the second layer look for the place that
  the present token (P against U_1 P) and the one before it (U_1 P against
  U_2 P) stand right before; each repeats its share of the embedding found. All
  other heads stay random, free to look for something else.

  Args:
    config: at least two layers and heads, biases on queries and keys, as many
      key heads as query heads, no q/k-norm; C, the head width, at most D, the
      width.
    key: of everything random.

  Returns:
    Parameters as of `decoder.init_params`; all but the attention of the first
    two layers are the same as there.

  Raises:
    ValueError: for another architecture.
  """
  _check(config)
  params = decoder.init_params(config, key)
  width = config.width
  first, second, basis, mixing, values = (
    jax.random.orthogonal(k, n)
    for k, n in zip(
      jax.random.split(jax.random.fold_in(key, 1), 5),
      (width, width, width, config.head_width, width),
      strict=True,
    )
  )
  projection = basis[:, : config.head_width]
  # Where the stream holds the embedding of this token and of those before it.
  places = (projection, first @ projection, second @ projection)
  layers = [params[f'layers_{i}']['self_attn'] for i in (0, 1)]
  layers[0] = _look_back(layers[0], config, places)
  layers[1] = _match_and_repeat(layers[1], config, places, mixing, values)
  return {
    **params,
    **{
      f'layers_{i}': {**params[f'layers_{i}'], 'self_attn': layer}
      for i, layer in enumerate(layers)
    },
  }


def _check(config: config_lib.DecoderConfig) -> None:
  wrong = {
    'fewer than 2 layers': config.layers < 2,
    'fewer than 2 heads': config.heads < len(_BACK),
    'no query and key biases (model_type qwen2 has them)': not config.qkv_bias,
    'q/k-norm': config.qk_norm,
    'scaled rotary frequencies': config.rope_scaling.rope_type != 'default',
    'fewer key heads than query heads': config.kv_heads != config.heads,
    'a head wider than the residual stream': config.head_width > config.width,
  }
  found = [text for text, is_wrong in wrong.items() if is_wrong]
  if found:
    raise ValueError(
      f'--init_weights=induction: the model has {"; ".join(found)}. Use '
      '--init_weights=normal.'
    )


def _frequencies(config: config_lib.DecoderConfig) -> np.ndarray:
  exponents = np.arange(0, config.head_width, 2) / config.head_width
  return config.rope_theta**-exponents


def _look_back(layer, config, places) -> types.ArrayTree:
  """score(t, s) = peak * mean over fast pairs i of cos((t - s - back) theta_i).

  Head `back` - 1 writes what stands that far back to `places[back]`.
  """
  width = config.head_width
  theta = _frequencies(config)
  fast = jnp.arange(width // 2) < _PEAK_PAIRS
  size = jnp.where(fast, jnp.sqrt(_PEAK * width**0.5 / _PEAK_PAIRS), 0.0)
  layer = dict(layer)
  for head, back in enumerate(_BACK):
    columns = jnp.s_[head * width : (head + 1) * width]
    turned = [size * jnp.cos(back * theta), size * jnp.sin(back * theta)]
    for name, bias in (
      ('q_proj', [size, jnp.zeros_like(size)]),
      ('k_proj', turned),
    ):
      old = layer[name]
      layer[name] = {
        **old,
        'kernel': old['kernel'].at[:, columns].multiply(_CONTENT),
        'bias': _set(old['bias'], columns, jnp.concatenate(bias)),
      }
    write = config.init_range * places[back].T
    layer = _with_kernel(layer, 'v_proj', jnp.s_[:, columns], places[0])
    layer = _with_kernel(layer, 'o_proj', columns, write)
  return layer


def _match_and_repeat(layer, config, places, mixing, values):
  """q_t . k_s is large where tokens t - 1, t stood before s; it repeats s."""
  width = config.head_width
  heads = min(config.heads, config.width // width)
  slow = np.flatnonzero(np.tile(_frequencies(config) < _SLOWEST, 2))
  cuts = np.round(np.cumsum((0.0, *_SHARES)) * slow.size).astype(int)
  # The stream holds an embedding and a part of two others by now: the norm
  # divides all by this.
  norm = np.sqrt(1 + len(_BACK) * width / config.width)
  query = jnp.zeros((config.width, heads * width))
  key = jnp.zeros_like(query)
  for head in range(heads):
    for i, share in enumerate(_SHARES):
      used = head * width + slow[cuts[i] : cuts[i + 1]]
      # Each head compares other dimensions, as far as there are others.
      chosen = mixing[:, (np.arange(used.size) + head * used.size) % width]
      scale = norm * np.sqrt(_MATCH * share * width**0.5 / used.size)
      query = query.at[:, used].set(scale * places[i] @ chosen)
      key = key.at[:, used].set(scale * places[i + 1] @ chosen)
  columns = jnp.s_[: heads * width]
  read = values[:, columns]
  layer = _with_kernel(layer, 'q_proj', jnp.s_[:, columns], query)
  layer = _with_kernel(layer, 'k_proj', jnp.s_[:, columns], key)
  layer = _with_kernel(layer, 'v_proj', jnp.s_[:, columns], read)
  write = norm * config.init_range * read.T
  return _with_kernel(layer, 'o_proj', columns, write)


def _with_kernel(layer, name, where, values) -> types.ArrayTree:
  kernel = _set(layer[name]['kernel'], where, values)
  return {**layer, name: {**layer[name], 'kernel': kernel}}


def _set(array, where, values):
  return array.at[where].set(values.astype(array.dtype))


INIT_WEIGHTS = {'normal': decoder.init_params, 'induction': init_params}
"""How a new model starts: (config, key) -> parameters."""
