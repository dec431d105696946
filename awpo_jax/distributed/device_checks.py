"""What of a run its devices cannot do, before anything compiles."""

from collections.abc import Iterable
from typing import Any

import jax

from awpo_jax import types
from awpo_jax.distributed import sharding
from awpo_jax.models import attention_kernels
from awpo_jax.models import config as model_config


def check_model(
  model: model_config.DecoderConfig,
  params: types.ArrayTree,
  mesh: jax.sharding.Mesh,
) -> Iterable[str]:
  """What of a model the devices cannot do, with the remedy."""
  platform = mesh.devices.flat[0].platform
  yield from attention_kernels.misfits(model.attention, model, platform)
  if not sharding.is_sharded(mesh):
    return
  size = mesh.shape[sharding.MODEL_AXIS]
  if model.kv_heads % size:
    yield (
      f'{model.kv_heads} key/value heads do not divide over model:{size}; '
      'give --mesh another model axis.'
    )
  for misfit in sharding.misfits(params, mesh):
    yield f'{misfit} does not divide; give --mesh another axis of that name.'


def check_devices(config: Any, devices: int) -> Iterable[str]:
  """What does not divide over the devices, as text with the remedy."""
  if jax.process_count() > 1:
    # Each of these puts together what one process has.
    for flag, used in (
      ('--environment', config.environment.environment != 'none'),
      ('--archive', config.run.archive),
      ('--sampling_rounds', config.selection.sampling_rounds > 1),
    ):
      if used:
        yield f'{flag} is for one process, here are {jax.process_count()}.'
  unit = devices * config.rl.micro * config.rl.minibatches
  if config.run.rl_steps and config.rl.prompts_per_step % unit:
    yield (
      f'--prompts_per_step={config.rl.prompts_per_step} does not divide over '
      f'{devices} devices x --minibatches={config.rl.minibatches} x '
      f'--micro={config.rl.micro}.'
    )
  unit = devices * config.rl.rollout_micro
  if config.run.rl_steps and unit and config.rl.prompts_per_step % unit:
    yield (
      f'--prompts_per_step={config.rl.prompts_per_step} does not divide over '
      f'{devices} devices x --rollout_micro={config.rl.rollout_micro}.'
    )
  unit = devices * config.sft.sft_micro
  if config.run.sft_steps and config.sft.sft_batch % unit:
    yield (
      f'--sft_batch={config.sft.sft_batch} does not divide over {devices} '
      f'devices x --sft_micro={config.sft.sft_micro}.'
    )
  if config.run.eval_batch % devices:
    yield (
      f'--eval_batch={config.run.eval_batch} does not divide over {devices} '
      'devices.'
    )
