"""Where the parameters of a new run come from."""

import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp

from awpo_jax import config as config_lib
from awpo_jax import types
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import hf_files, hf_weights, induction
from awpo_jax.rollout import sampling
from awpo_jax.training import checkpoints, sharding

# What safetensors calls them.
_DTYPES = {'F32': jnp.float32, 'BF16': jnp.bfloat16, 'F16': jnp.float16}


def source(config: config_lib.Config) -> str:
  """`pretrained`, or the key of `induction.INIT_WEIGHTS` that is meant.

  Says nothing of `--init_from`, which comes before it.

  Raises:
    ConfigError: `--init_weights=pretrained` and `--model` is a config.json, or
      `auto` and it is a folder without weights.
  """
  wanted, model = config.model.init_weights, config.model.model
  if wanted == 'pretrained' and not _holds_weights(model):
    raise config_lib.ConfigError(
      f'--init_weights=pretrained, but --model={model} holds no *.safetensors: '
      'name the folder that holds them beside config.json, or a model by its '
      'Hugging Face name.'
    )
  if wanted != 'auto':
    return wanted
  if _holds_weights(model):
    return 'pretrained'
  if pathlib.Path(model).is_dir() and not config.run.init_from:
    raise config_lib.ConfigError(
      f'--model={model} is a folder without *.safetensors: to start at random, '
      'name its config.json, or set --init_weights=normal.'
    )
  return 'normal'


def _holds_weights(model: str) -> bool:
  path = pathlib.Path(model)
  if path.is_dir():
    return any(path.glob('*.safetensors'))
  return _is_hub_name(model)


def _is_hub_name(model: str) -> bool:
  """`owner/name` that is neither a file nor a folder here."""
  named = re.fullmatch(r'[\w-][\w.-]*/[\w.-]+', model)
  return bool(named) and not (
    pathlib.Path(model).exists() or model.endswith('.json')
  )


def read_hf_config(model: str) -> dict[str, Any]:
  """The `config.json` of a file, a folder or a name on the hub, checked.

  Raises:
    FileNotFoundError: there is none.
    ConnectionError, PermissionError: the hub does not give it.
    ValueError: it is none, or of a model that is not implemented.
  """
  path = pathlib.Path(model)
  if _is_hub_name(model):
    path = hf_files.find(model)
  model_config.load_config(path)
  file = path / 'config.json' if path.is_dir() else path
  return json.loads(file.read_text())


def stored_dtype(model: str) -> str:
  """Name of the dtype that holds a model's tensors, the widest of several.

  Raises:
    OSError, ValueError: it cannot be read.
  """
  tensors = hf_files.tensors(hf_files.find(model))
  kinds = {tensor.dtype for tensor in tensors.values()} & set(_DTYPES)
  # What is stored in none of these is refused where it is read.
  return jnp.result_type(*(_DTYPES[x] for x in kinds or {'F32'})).name


def initial_params(
  config: config_lib.Config,
  model: model_config.DecoderConfig,
  mesh: jax.sharding.Mesh,
  *,
  restored: bool,
) -> types.ArrayTree:
  """Parameters before the first update.

  Args:
    config: says where they come from: `--init_from`, else `source`.
    model: their shapes and dtypes.
    mesh: on which pretrained ones are placed.
    restored: only shapes are wanted, the run goes on from its checkpoint.

  Returns:
    The parameters, or their `jax.ShapeDtypeStruct`s.

  Raises:
    ConfigError, OSError: what a flag names cannot be read.
    CheckpointError: `--init_from` does not fit the model.
  """
  key = sampling.fact_key(sampling.facts(config.run.seed, 'init'))
  shapes = jax.eval_shape(lambda: decoder_lib.init_params(model, key))
  if restored:
    return shapes
  if config.run.init_from:
    return checkpoints.restore_params(config.run.init_from, shapes)
  wanted = source(config)
  if wanted != 'pretrained':
    return induction.INIT_WEIGHTS[wanted](model, key)
  try:
    _, params = hf_weights.load_pretrained(
      config.model.model,
      dtype=model.dtype,
      param_dtype=model.param_dtype,
      sharding=sharding.state_shardings(shapes, mesh),
    )
  except ValueError as error:
    raise config_lib.ConfigError(str(error)) from error
  return params
