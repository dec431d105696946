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

_PEAK = 10.0  # score of the previous position, at its maximum
_PEAK_PAIRS = 5  # fastest rotary pairs, which tell neighbours apart
_MATCH = 4.0  # score of a key whose predecessor is the query's token
_SLOWEST = 0.03  # radians a position; slower pairs hold a match at distance
_CONTENT = 0.1  # share of the random weights kept in position heads


def init_params(
  config: config_lib.DecoderConfig, key: types.Array
) -> types.ArrayTree:
  """Random parameters with an induction circuit in the first two layers.

  Half of the heads of the first layer attend to the position before their own,
  by biases alone, and write its embedding, rotated by a random orthogonal U,
  into the residual stream. Every head of the second layer compares the present
  embedding with U^T of what was written and repeats the embedding found.

  Args:
    config: at least two layers, biases on queries and keys, as many key heads
      as query heads, an even number of heads, no q/k-norm.
    key: of everything random.

  Returns:
    Parameters as of `decoder.init_params`; all but the attention of the first
    two layers are the same as there.

  Raises:
    ValueError: for another architecture.
  """
  _check(config)
  params = decoder.init_params(config, key)
  rotation, basis, mixing, values = (
    jax.random.orthogonal(k, n)
    for k, n in zip(
      jax.random.split(jax.random.fold_in(key, 1), 4),
      (config.width, config.width, _written(config), config.width),
      strict=True,
    )
  )
  written = basis[:, : _written(config)]
  first, second = (params[f'layers_{i}']['self_attn'] for i in (0, 1))
  first = _previous_token(first, config, rotation, written)
  second = _match_and_repeat(second, config, rotation, written @ mixing, values)
  return {
    **params,
    'layers_0': {**params['layers_0'], 'self_attn': first},
    'layers_1': {**params['layers_1'], 'self_attn': second},
  }


def _check(config: config_lib.DecoderConfig) -> None:
  wrong = {
    'fewer than 2 layers': config.layers < 2,
    'no query and key biases (model_type qwen2 has them)': not config.qkv_bias,
    'q/k-norm': config.qk_norm,
    'fewer key heads than query heads': config.kv_heads != config.heads,
    'an odd number of heads': config.heads % 2 == 1,
    'heads wider than the residual stream': (
      config.heads * config.head_width > config.width
    ),
  }
  found = [text for text, is_wrong in wrong.items() if is_wrong]
  if found:
    raise ValueError(
      f'--init_weights=induction: the model has {"; ".join(found)}. Use '
      '--init_weights=normal.'
    )


def _written(config: config_lib.DecoderConfig) -> int:
  """Dimensions of an embedding that the first layer passes on."""
  return config.heads // 2 * config.head_width


def _frequencies(config: config_lib.DecoderConfig) -> np.ndarray:
  exponents = np.arange(0, config.head_width, 2) / config.head_width
  return config.rope_theta**-exponents


def _previous_token(layer, config, rotation, written) -> types.ArrayTree:
  """score(t, s) = peak * mean over fast pairs i of cos((t - s - 1) theta_i)."""
  heads, width = config.heads // 2, config.head_width
  theta = _frequencies(config)
  fast = jnp.arange(width // 2) < _PEAK_PAIRS
  size = jnp.where(fast, jnp.sqrt(_PEAK * width**0.5 / _PEAK_PAIRS), 0.0)
  query = jnp.concatenate([size, jnp.zeros_like(size)])
  shifted = jnp.concatenate([size * jnp.cos(theta), size * jnp.sin(theta)])
  write = config.init_range * (rotation @ written).T
  columns = heads * width
  layer = dict(layer)
  for name, bias in (('q_proj', query), ('k_proj', shifted)):
    old = layer[name]
    layer[name] = {
      'kernel': old['kernel'].at[:, :columns].multiply(_CONTENT),
      'bias': _set(old['bias'], jnp.s_[:columns], jnp.tile(bias, heads)),
    }
  layer['v_proj'] = _with_kernel(
    layer['v_proj'],
    _set(layer['v_proj']['kernel'], jnp.s_[:, :columns], written),
  )
  layer['o_proj'] = _with_kernel(
    layer['o_proj'],
    _set(layer['o_proj']['kernel'], jnp.s_[:columns], write),
  )
  return layer


def _match_and_repeat(layer, config, rotation, matched, values):
  """q_t . k_s is large where token t stood before s; the output is token s."""
  heads, width = config.heads, config.head_width
  slow = np.tile(_frequencies(config) < _SLOWEST, 2)
  used = np.flatnonzero(np.tile(slow, heads))
  # Each head compares other dimensions, all together as many as there are.
  chosen = matched[:, np.arange(used.size) % matched.shape[1]]
  # The stream holds two embeddings by now: the norm shrinks each by sqrt(2).
  scale = np.sqrt(2 * _MATCH * width**0.5 / np.sum(slow))
  query = jnp.zeros((config.width, heads * width))
  query = query.at[:, used].set(scale * chosen)
  read = values[:, : heads * width]
  return {
    'q_proj': _with_kernel(layer['q_proj'], query),
    'k_proj': _with_kernel(layer['k_proj'], rotation @ query),
    'v_proj': _with_kernel(layer['v_proj'], read),
    'o_proj': _with_kernel(
      layer['o_proj'], 2**0.5 * config.init_range * read.T
    ),
  }


def _set(array, where, values):
  return array.at[where].set(values.astype(array.dtype))


def _with_kernel(dense, kernel):
  return {**dense, 'kernel': kernel.astype(dense['kernel'].dtype)}


INIT_WEIGHTS = {'normal': decoder.init_params, 'induction': init_params}
"""How a new model starts: (config, key) -> parameters."""
