"""Ways of sampling and updating faster that a run may choose by flags.

No other file of these wings mentions them. They are defined in
`rollout/sampling/continuous_batching.py` and `training/update/packing.py`.
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
    # Pmapped, each device sees its own part alone.
    parts=sharding.parts(mesh) if sharding.is_sharded(mesh) else 1,
  )


def cached(
  config: config_lib.Config, prompts: int, answers: int
) -> tuple[int, int]:
  """Prompts and answers whose keys a device holds while it samples.

  Slots answer fewer at once, and hold copies of the keys of their prompts.
  """
  if config.rl.slots:
    answers = min(answers, config.rl.slots)
    prompts += answers // config.rl.slots_shared
  return prompts, answers
