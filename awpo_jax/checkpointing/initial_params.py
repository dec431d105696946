"""Parameters that a run starts from, new adapters, and the KL's reference."""

import contextlib
import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.checkpointing import checkpoints
from awpo_jax.config import algorithm, checks
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import induction_init, lora
from awpo_jax.models.formats import gguf_files, hf_files, hf_weights
from awpo_jax.rollout.sampling import sampler

# What safetensors calls them.
_DTYPES = {'F32': jnp.float32, 'BF16': jnp.bfloat16, 'F16': jnp.float16}


def source(config: config_lib.Config) -> str:
  """`pretrained`, or the key of `induction_init.INIT_WEIGHTS` that is meant.

  Says nothing of `--init_from`, which comes before it.

  Raises:
    ConfigError: `--init_weights=pretrained` and `--model` is a config.json, or
      `auto` and it is a folder without weights.
  """
  wanted, model = config.model.init_weights, config.model.model
  if wanted == 'pretrained' and not _holds_weights(model):
    raise flags_lib.ConfigError(
      f'--init_weights=pretrained, but --model={model} holds no *.safetensors: '
      'name the folder that holds them beside config.json, a GGUF file, or a '
      'model by its Hugging Face name.'
    )
  if wanted != 'auto':
    return wanted
  if _holds_weights(model):
    return 'pretrained'
  if pathlib.Path(model).is_dir() and not config.run.init_from:
    raise flags_lib.ConfigError(
      f'--model={model} is a folder without *.safetensors: to start at random, '
      'name its config.json, or set --init_weights=normal.'
    )
  return 'normal'


def is_trained(config: config_lib.Config) -> bool:
  """Whether a run starts from weights that were trained before."""
  return bool(config.run.init_from) or source(config) == 'pretrained'


def _holds_weights(model: str) -> bool:
  path = pathlib.Path(model)
  if path.is_dir():
    return any(path.glob('*.safetensors'))
  return gguf_files.find(model) is not None or is_hub_name(model)


def is_hub_name(model: str) -> bool:
  """`owner/name` that is neither a file nor a folder here."""
  named = re.fullmatch(r'[\w-][\w.-]*/[\w.-]+', model)
  return bool(named) and not (
    pathlib.Path(model).exists() or model.endswith(('.json', '.gguf'))
  )


def read_hf_config(model: str) -> dict[str, Any]:
  """The `config.json` of a file, folder, GGUF or name on the hub, checked.

  Raises:
    FileNotFoundError: there is none.
    ConnectionError, PermissionError: the hub does not give it.
    ValueError: it is none, or of a model that is not implemented.
  """
  path = pathlib.Path(model)
  gguf = gguf_files.find(model)
  if gguf:
    hf = gguf_files.hf_config(gguf)
    model_config.from_hf_dict(hf)
    return hf
  if is_hub_name(model):
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
) -> types.ArrayTree:
  """Parameters before the first update.

  Args:
    config: says where they come from: `--init_from`, else `source`.
    model: their shapes and dtypes.
    mesh: on which pretrained ones are placed.

  Raises:
    ConfigError, OSError: what a flag names cannot be read.
    CheckpointError: `--init_from` does not fit the model.
  """
  key = sampler.fact_key(sampler.facts(config.run.seed, 'init'))
  shapes = param_shapes(model)
  if config.run.init_from:
    return checkpoints.restore_params(config.run.init_from, shapes)
  wanted = source(config)
  if wanted != 'pretrained':
    return induction_init.INIT_WEIGHTS[wanted](model, key)
  try:
    _, params = hf_weights.load_pretrained(
      config.model.model,
      dtype=model.dtype,
      param_dtype=model.param_dtype,
      sharding=sharding.state_shardings(shapes, mesh),
    )
  except ValueError as error:
    raise flags_lib.ConfigError(str(error)) from error
  return params


# A file, or a model on the hub, that cannot be read.
ABSENT = (FileNotFoundError, ConnectionError, PermissionError)


@contextlib.contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
  """Makes errors of what flags name a `ConfigError`."""
  try:
    yield
  except flags_lib.ConfigError:
    raise
  except errors as error:
    raise flags_lib.ConfigError(str(error)) from error


def param_shapes(model: model_config.DecoderConfig) -> types.ArrayTree:
  """`jax.ShapeDtypeStruct`s of the parameters."""
  return jax.eval_shape(
    lambda: decoder_lib.init_params(model, jax.random.key(0))
  )


def new_params(
  config: config_lib.Config,
  model: model_config.DecoderConfig,
  mesh: jax.sharding.Mesh,
) -> types.ArrayTree:
  """`initial_params` with the adapters of the model, if any.

  They are new ones beside the weights that the run starts from, unless
  `--init_from` has some: then it is these that are trained on. Prints a warning
  where bfloat16 will round updates away.

  Raises:
    ConfigError: `--init_from` has adapters of another `--lora_alpha`.
    OSError, CheckpointError: as `initial_params`.
  """
  warning = checks.rounding_warning(config)
  if warning:
    print(f'Warning: {warning}', file=sys.stderr)
  if model.lora is None or _has_adapters(config):
    return initial_params(config, model, mesh)
  bare = dataclasses.replace(model, lora=None)
  base = initial_params(config, bare, mesh)
  key = sampler.fact_key(sampler.facts(config.run.seed, 'init'))
  return lora.join(lora.new_adapters(model, key), base)


def _has_adapters(config: config_lib.Config) -> bool:
  """Whether `--init_from` has adapters; their scale must be the same here."""
  if not config.run.init_from:
    return False
  names, flags = checkpoints.stored_params(config.run.init_from)
  if not any(name.endswith(lora.LEAVES) for name in names):
    return False
  then, now = flags.get('lora_alpha'), config.model.lora_alpha
  if then != now:
    raise flags_lib.ConfigError(
      f'--init_from={config.run.init_from} has adapters of '
      f'--lora_alpha={then}; with --lora_alpha={now} they would be another '
      'policy.'
    )
  return True


def restore_reference(
  manager: checkpoints.Manager,
  config: config_lib.Config,
  step: int,
  params: types.ArrayTree,
) -> types.ArrayTree | None:
  """The stored policy at the start of RL, which the KL term refers to.

  Args:
    manager: of the run's checkpoints.
    config: of the run.
    step: from which it goes on.
    params: shapes, dtypes and placement of the parameters.

  Returns:
    Of all that is trained, the values at the start of RL; None without a KL
    term, or where RL has not begun.

  Raises:
    CheckpointError: the checkpoint of that step is not there any more.
  """
  begun = config.run.sft_steps
  if not algorithm.has_reference(config) or step <= begun:
    return None
  trained, _ = lora.split(params)
  try:
    return checkpoints.restore_params(
      manager.directory / str(begun), trained, partial=True
    )
  except FileNotFoundError as error:
    raise checkpoints.CheckpointError(
      f'--kl_coef needs the checkpoint of step {begun}, the policy at the '
      f'start of RL, which {manager.directory} has no more: put it back, or '
      'start a new run.'
    ) from error


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs for later processes there; '': none.

  It is a setting of the process.
  """
  if folder:
    path = pathlib.Path(folder).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))
