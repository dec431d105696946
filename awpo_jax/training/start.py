"""A run's start: what it refuses, new adapters, what its KL term refers to."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import jax

from awpo_jax import config as config_lib
from awpo_jax import config_objective, types
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.rollout import sampling
from awpo_jax.training import checkpoints, optimizer, weights

# A file, or a model on the hub, that cannot be had.
ABSENT = (FileNotFoundError, ConnectionError, PermissionError)


@contextlib.contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
  """Makes errors of what flags name a `ConfigError`."""
  try:
    yield
  except config_lib.ConfigError:
    raise
  except errors as error:
    raise config_lib.ConfigError(str(error)) from error


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
  """Parameters before the first update.

  Adapters are new ones beside the weights that the run starts from, unless
  `--init_from` has some: then it is these that are trained on. Prints a warning
  where bfloat16 will round updates away.

  Args:
    config: of the run.
    model: with the adapters of the flags, if any.
    mesh: as of `weights.initial_params`.

  Raises:
    ConfigError: `--init_from` has adapters of another `--lora_alpha`.
    OSError, CheckpointError: as `weights.initial_params`.
  """
  warning = optimizer.rounding_warning(config)
  if warning:
    print(f'Warning: {warning}', file=sys.stderr)
  if model.lora is None or _has_adapters(config):
    return weights.initial_params(config, model, mesh, restored=False)
  bare = dataclasses.replace(model, lora=None)
  base = weights.initial_params(config, bare, mesh, restored=False)
  key = sampling.fact_key(sampling.facts(config.run.seed, 'init'))
  return lora.join(lora.new_adapters(model, key), base)


def _has_adapters(config: config_lib.Config) -> bool:
  """Whether `--init_from` has adapters; they must count as they did there."""
  if not config.run.init_from:
    return False
  names, flags = checkpoints.stored_params(config.run.init_from)
  if not any(name.endswith(lora.LEAVES) for name in names):
    return False
  then, now = flags.get('lora_alpha'), config.model.lora_alpha
  if then != now:
    raise config_lib.ConfigError(
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
  """What the KL term kept of the policy at the start of RL.

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
  if not config_objective.has_reference(config) or step <= begun:
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


def use_compilation_cache(config: config_lib.Config) -> None:
  """Compiled programs of this and later runs; a setting of the process."""
  if config.run.compilation_cache:
    path = pathlib.Path(config.run.compilation_cache).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))
