"""Several processes of one run: how they meet, and what they tell each other.

Each holds some of the devices, samples and scores the prompts of its own part,
and runs the same programs. What must be the same everywhere and is not computed
on the devices goes through `gather`.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from awpo_jax.config import flags as flags_lib
from awpo_jax.config import sections
from awpo_jax.reporting import progress

# A process that is gone is noticed, and the others end, within this time.
_HEARTBEAT_SECONDS = 30


def join(flags: sections.DevicesConfig) -> None:
  """Makes this process one of several, if flags say so; before any other use.

  Args:
    flags: those of processes.

  Raises:
    ConfigError: they could not be joined.
  """
  if flags.distributed == 'no':
    return
  # Between CPUs; other platforms have their own.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  given: dict[str, Any] = {}
  if flags.distributed == 'flags':
    given = {
      'coordinator_address': flags.coordinator,
      'num_processes': flags.processes,
      'process_id': flags.process_id,
    }
  try:
    jax.distributed.initialize(
      **given, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except (ValueError, RuntimeError) as error:
    raise flags_lib.ConfigError(
      f'--distributed={flags.distributed}: {error} Where JAX does not know the '
      'cluster, give --distributed=flags --coordinator=HOST:PORT '
      '--processes=N --process_id=I.'
    ) from error


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def working(
  say: Callable[[], str],
) -> contextlib.AbstractContextManager[None]:
  """`progress.working`, where the first process alone speaks."""
  return progress.working(say, silent=not is_first())


@contextlib.contextmanager
def one_after_another() -> Iterator[None]:
  """The first process does what is in the block, then the others do.

  What it has written there they can read. If it fails they end, too, when they
  notice that it is gone.
  """
  if not is_first():
    gather(None)
  yield
  if is_first():
    gather(None)


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
