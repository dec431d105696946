"""Parameters as a loop over tokens should find them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import config as config_lib

# Projections of one input.
_SHARING = (('q_proj', 'k_proj', 'v_proj'), ('gate_proj', 'up_proj'))


def make(
  config: config_lib.DecoderConfig, params: types.ArrayTree
) -> types.ArrayTree:
  """The same model by parameters that cost less for each token.

  They are cast once to `config.dtype`, in which every use of them casts them,
  and adapters of one input are joined. They are held beside the parameters: 2
  bytes each where those are float32 and `dtype` has 16 bits, and the adapters'
  B as often as there are adapters of its input.

  Args:
    config: of `params`.
    params: in any dtypes.

  Returns:
    Parameters for the decoder of `config`. A leaf that `dtype` would not make
    smaller keeps its own: it would only take more memory.
  """
  params = cast(config, params)
  return params if config.lora is None else _join_adapters(params)


def cast(
  config: config_lib.DecoderConfig, params: types.ArrayTree
) -> types.ArrayTree:
  """Leaves in `config.dtype` where that is smaller than what they have."""
  dtype = config.dtype
  return jax.tree.map(
    lambda x: x.astype(dtype) if dtype.itemsize < x.dtype.itemsize else x,
    params,
  )


def _join_adapters(params: types.ArrayTree) -> types.ArrayTree:
  """Gives all adapters of one input the same A, all of theirs side by side.

  x [A_1 A_2] is then one product, of which XLA takes no second, and B_1 with
  rows of zeros below it picks its part.
  """
  if not isinstance(params, Mapping):
    return params
  made = {name: _join_adapters(x) for name, x in params.items()}
  for names in _SHARING:
    found = [x for x in names if 'lora_a' in made.get(x, ())]
    if len(found) < 2:
      continue
    down = jnp.concatenate([made[x]['lora_a'] for x in found], axis=1)
    before = 0
    for name in found:
      up = made[name]['lora_b']
      after = down.shape[1] - before - up.shape[0]
      rows = jnp.pad(up, ((before, after), (0, 0)))
      made[name] = {**made[name], 'lora_a': down, 'lora_b': rows}
      before += up.shape[0]
  return made
