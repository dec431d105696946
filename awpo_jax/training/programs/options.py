"""Ways of sampling and updating faster that a run may choose by flags.

Nothing else in the wings names them: what they are is in `rollout.sampling.
continuous_batching` and in `training.update.packing`.
"""

import functools
from collections.abc import Callable

import jax

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.rollout.sampling import continuous_batching, sampler
from awpo_jax.training.update import minibatches, packing


def make_layout(config: config_lib.Config) -> minibatches.Layout | None:
  """How tokens of updates lie: `--pack_tokens`, or None, padded."""
  columns = config.model.pack_tokens
  return packing.Packing(columns) if columns else None


def rollout_sampler(
  config: config_lib.Config, mesh: jax.sharding.Mesh
) -> Callable[..., types.Completions]:
  """What samples answers to train on: all at once, or in `--slots`.

  Args:
    config: of the run.
    mesh: see `sharding`.

  Returns:
    `sampler.sample`, or what takes its arguments.
  """
  if not config.rl.slots:
    return sampler.sample
  return functools.partial(
    continuous_batching.sample,
    slots=config.rl.slots,
    shared=config.rl.slots_shared,
    # Under `pmap` each device sees its own part alone.
    parts=sharding.parts(mesh) if sharding.is_sharded(mesh) else 1,
  )
