"""Several processes of one run: how they meet, and what they tell each other.

Each holds some of the devices, samples and scores the prompts of its own part,
and runs the same programs. What must be the same everywhere and is not computed
on the devices goes through `gather`.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from awpo_jax import config as config_lib

# A process that is gone is noticed, and the others end, within this time.
_HEARTBEAT_SECONDS = 30


def join(run: config_lib.RunConfig) -> None:
  """Makes this process one of several, if flags say so; before any other use.

  Args:
    run: with `distributed` the processes find each other as JAX knows how to
      (TPU pods, SLURM, Open MPI), or as `coordinator`, `processes` and
      `process_id` have it.

  Raises:
    ConfigError: they could not be joined.
  """
  if not run.distributed:
    return
  # Between CPUs; other platforms have their own.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  given = {}
  if run.coordinator:
    given = {
      'coordinator_address': run.coordinator,
      'num_processes': run.processes,
      'process_id': run.process_id,
    }
  try:
    jax.distributed.initialize(
      **given, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except (ValueError, RuntimeError) as error:
    raise config_lib.ConfigError(
      f'--distributed: {error} Where JAX does not know the cluster, give '
      '--coordinator=HOST:PORT --processes=N --process_id=I.'
    ) from error


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
  """What each process gives, by its number; every process must call it.

  Args:
    value: what JSON can hold.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  with jax.transfer_guard('allow'):
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    # Powers of two: few programs.
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
    padded[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
  return [
    json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)
  ]
