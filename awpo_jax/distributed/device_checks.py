"""Refuses runs that do not fit their devices, before anything compiles."""

import math
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
  """Messages on a model that the devices cannot run, with the remedy."""
  platform = mesh.devices.flat[0].platform
  yield from attention_kernels.model_misfits(model, platform)
  if not sharding.is_sharded(mesh):
    return
  if model.attention == 'splash' and mesh.size > 1:
    yield (
      '--attention=splash is not cut over devices: set --parallelism=pmap, or '
      '--attention=parts.'
    )
  if model.decode_attention != 'parts' and mesh.size > 1:
    yield (
      f'--decode_attention={model.decode_attention} is not cut over devices: '
      'set --parallelism=pmap, or --decode_attention=parts.'
    )
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
  run, rl, sft = config.run, config.rl, config.sft
  updates = {'minibatches': rl.minibatches, 'micro': rl.micro}
  for wanted, flag, size, units in (
    (run.rl_steps, 'prompts_per_step', rl.prompts_per_step, updates),
    (
      run.rl_steps and rl.rollout_micro,
      'prompts_per_step',
      rl.prompts_per_step,
      {'rollout_micro': rl.rollout_micro},
    ),
    (run.sft_steps, 'sft_batch', sft.sft_batch, {'sft_micro': sft.sft_micro}),
    (True, 'eval_batch', run.eval_batch, {}),
  ):
    if wanted and size % (devices * math.prod(units.values())):
      over = [f'{devices} devices', *(f'--{k}={x}' for k, x in units.items())]
      yield f'--{flag}={size} does not divide over {" x ".join(over)}.'
