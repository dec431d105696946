"""Adapters in a tree of parameters: found, made, merged and written.

The full tree, adapters among it, is what sampler, trainer and checkpoints are
given. What is trained of it is told by the names of its leaves: the adapters
where there are any, else everything.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from awpo_jax import types
from awpo_jax.models import config as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora_layers

LEAVES = ('lora_a', 'lora_b')
CONFIG_FILE = 'adapter_config.json'
WEIGHTS_FILE = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.model.'

_Path = tuple[str, ...]


def split(
  params: types.ArrayTree,
) -> tuple[types.ArrayTree, types.ArrayTree]:
  """What is trained and what is frozen, each a tree of its own.

  Args:
    params: nested dicts.

  Returns:
    The adapters and all else; `params` and nothing where there is no adapter.
  """
  flat = traverse_util.flatten_dict(params)
  trained = {path: x for path, x in flat.items() if path[-1] in LEAVES}
  if not trained:
    return params, {}
  frozen = {path: x for path, x in flat.items() if path not in trained}
  return (
    traverse_util.unflatten_dict(trained),
    traverse_util.unflatten_dict(frozen),
  )


def join(trained: types.ArrayTree, frozen: types.ArrayTree) -> types.ArrayTree:
  """The inverse of `split`."""
  if not frozen:
    return trained
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trained)
  )


def new_adapters(
  config: config_lib.DecoderConfig, key: types.Array
) -> types.ArrayTree:
  """New adapters alone, those of `decoder.init_params(config, key)`."""

  def run(key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = decoder_lib.Decoder(config).init(key, tokens)['params']
    return split(params)[0]

  # Jitted, so that the base is not drawn.
  return jax.jit(run)(key)


def merge(
  config: config_lib.DecoderConfig, params: types.ArrayTree
) -> tuple[config_lib.DecoderConfig, types.ArrayTree]:
  """The same model without adapters: W + (alpha / r) A B in their place.

  The sum is taken in float32 and rounded to the dtype of W once. With bfloat16
  kernels that is a loss: the adapters alone keep what they have learned.

  Args:
    config: of `params`.
    params: may have no adapters.

  Returns:
    `config` with `lora=None`, and its parameters.

  Raises:
    ValueError: there are adapters, but `config.lora` is None.
  """
  flat = traverse_util.flatten_dict(params)
  merged = {path: x for path, x in flat.items() if path[-1] not in LEAVES}
  for path in (path for path in flat if path[-1] == LEAVES[0]):
    if config.lora is None:
      raise ValueError(f'{"/".join(path)}: config.lora does not say its alpha.')
    down, up = (flat[(*path[:-1], name)] for name in LEAVES)
    where = (*path[:-1], 'kernel')
    merged[where] = _merged(flat[where], down, up, scale=config.lora.scale)
  config = dataclasses.replace(config, lora=None)
  return config, traverse_util.unflatten_dict(merged)


def _merged(kernel, down, up, *, scale: float) -> types.Array:
  product = jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST)
  total = jnp.asarray(kernel).astype(jnp.float32) + scale * product
  return total.astype(kernel.dtype)


def save_peft(
  path: str | os.PathLike[str],
  config: config_lib.DecoderConfig,
  params: types.ArrayTree,
  base_model_name: str,
) -> None:
  """Writes the adapters alone, as the library PEFT has them.

  Args:
    path: folder, made if missing; gets `adapter_config.json` and
      `adapter_model.safetensors`.
    config: of `params`, with `lora`.
    params: the full tree or the adapters of it.
    base_model_name: path or name of the model they belong to, for PEFT.

  Raises:
    ValueError: `config.lora` is None.
  """
  if config.lora is None:
    raise ValueError('No adapters to write: config.lora is None.')
  folder = pathlib.Path(path)
  folder.mkdir(parents=True, exist_ok=True)
  flat = traverse_util.flatten_dict(split(params)[0])
  tensors = {
    _peft_name(where): np.ascontiguousarray(np.asarray(jax.device_get(x)).T)
    for where, x in flat.items()
  }
  safetensors.numpy.save_file(
    tensors, folder / WEIGHTS_FILE, metadata={'format': 'pt'}
  )
  (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors keeps it to the owner.
  text = json.dumps(_peft_config(config.lora, base_model_name), indent=2)
  (folder / CONFIG_FILE).write_text(text + '\n')


def _peft_name(path: _Path) -> str:
  """`layers_3/mlp/up_proj/lora_a` as PEFT calls it."""
  layer, *modules, leaf = path
  names = layer.replace('_', '.'), *modules, f'lora_{leaf[-1].upper()}'
  return f'{_PREFIX}{".".join(names)}.weight'


def _peft_config(
  lora: lora_layers.LoraConfig, base_model_name: str
) -> dict[str, Any]:
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base_model_name,
    'r': lora.rank,
    'lora_alpha': int(lora.alpha) if lora.alpha % 1 == 0 else lora.alpha,
    'target_modules': list(lora.targets),
    'lora_dropout': 0.0,
    'bias': 'none',
    'fan_in_fan_out': False,
    'init_lora_weights': True,
    'inference_mode': True,
    'use_rslora': False,
    'use_dora': False,
  }
