"""What a run starts from, and what its KL term refers to."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator

import jax

from awpo_jax import config as config_lib
from awpo_jax import types
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import induction, lora
from awpo_jax.rollout import sampling
from awpo_jax.training import checkpoints, optimizer

# The model's config -> its parameters.
Base = Callable[[model_config.DecoderConfig], types.ArrayTree]


def param_shapes(model: model_config.DecoderConfig) -> types.ArrayTree:
  """`jax.ShapeDtypeStruct`s of the parameters."""
  return jax.eval_shape(
    lambda: decoder_lib.init_params(model, jax.random.key(0))
  )


def base_params(
  config: config_lib.Config, model: model_config.DecoderConfig
) -> types.ArrayTree:
  """Parameters of `--init_from`, or drawn from the seed.

  Raises:
    ConfigError: there is no checkpoint at `--init_from`.
    CheckpointError: it does not fit the model.
  """
  if config.run.init_from:
    with _missing_is_a_flag():
      return checkpoints.restore_params(
        config.run.init_from, param_shapes(model)
      )
  return induction.INIT_WEIGHTS[config.model.init_weights](model, _key(config))


def _key(config: config_lib.Config) -> types.Array:
  return sampling.fact_key(sampling.facts(config.run.seed, 'init'))


@contextlib.contextmanager
def _missing_is_a_flag() -> Iterator[None]:
  try:
    yield
  except FileNotFoundError as error:
    raise config_lib.ConfigError(str(error)) from error


def new_params(
  config: config_lib.Config,
  model: model_config.DecoderConfig,
  base: Base,
) -> types.ArrayTree:
  """Parameters before the first update.

  Adapters are new ones beside `base`, unless `--init_from` has some: then it is
  these that are trained on.

  Args:
    config: of the run.
    model: with the adapters of the flags, if any.
    base: parameters of a model without adapters, or of all there is in
      `--init_from`.

  Raises:
    ConfigError: `--init_from` has adapters of another `--lora_alpha`, or what
      `base` raises.

  Effects: a warning on standard error where updates will be rounded away.
  """
  warning = optimizer.rounding_warning(config)
  if warning:
    print(f'Warning: {warning}', file=sys.stderr)
  if model.lora is None or _has_adapters(config):
    return base(model)
  bare = dataclasses.replace(model, lora=None)
  return lora.join(lora.new_adapters(model, _key(config)), base(bare))


def _has_adapters(config: config_lib.Config) -> bool:
  """Whether `--init_from` has adapters; they must count as they did there."""
  if not config.run.init_from:
    return False
  with _missing_is_a_flag():
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
  manager: checkpoints.Manager, step: int, trained: types.ArrayTree
) -> types.ArrayTree:
  """What the KL term kept of the policy at the start of RL.

  Args:
    manager: of the run's checkpoints.
    step: last one before RL.
    trained: shapes, dtypes and placement of what is trained.

  Raises:
    CheckpointError: the checkpoint of `step` is not there any more.
  """
  try:
    return checkpoints.restore_params(
      manager.directory / str(step), trained, partial=True
    )
  except FileNotFoundError as error:
    raise checkpoints.CheckpointError(
      f'--kl_coef needs the checkpoint of step {step}, the policy at the start '
      f'of RL, which {manager.directory} has no more: put it back, or start a '
      'new run.'
    ) from error
