"""Orbax with the settings of this project, and one save at a time."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from orbax.checkpoint import v1 as ocp

from awpo_jax.reporting import file_locks

POSITION = 'position'
FLAGS = 'flags'


class Manager:
  """A folder of checkpoints, and the save that is under way in it."""

  def __init__(self, directory: pathlib.Path, keepers: Sequence[Any]) -> None:
    """Removes what a killed save left in the folder, which is made if missing.

    Args:
      directory: absolute.
      keepers: preservation policies of orbax; a checkpoint that none of them
        keeps is deleted after the next save.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not file_locks.work_in(directory):
      _write_without_locks()
    policies = ocp.training.preservation_policies
    self.directory = directory
    self._checkpointer = ocp.training.Checkpointer(
      directory,
      context=context(),
      preservation_policy=policies.AnyPreservationPolicy(keepers),
      cleanup_tmp_directories=True,
    )
    self._saving: ocp.AsyncResponse[bool] | None = None

  def latest_step(self) -> int | None:
    """The step of the last checkpoint; None where there is none."""
    latest = self._checkpointer.latest
    return latest.step if latest else None

  def save(
    self, step: int, items: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> None:
    """Starts to save, once the save before has ended.

    Args:
      step: not saved before.
      items: trees of arrays, and JSON objects under the names above.
      metrics: finite numbers, at least one: without any orbax writes none, and
        keeps the checkpoint for ever beside the best.

    Raises:
      FileExistsError: there is a checkpoint of this step.
      OSError: the save before has failed.
    """
    self.wait_until_finished()
    self._saving = self._checkpointer.save_checkpointables_async(
      step, dict(items), metrics=dict(metrics), force=True
    )

  def wait_until_finished(self) -> None:
    """Waits for the last save, and raises what it failed of."""
    saving, self._saving = self._saving, None
    if saving is not None:
      # A response whose result nobody asks for goes on holding a thread and
      # three open files. What it raises is raised below as well.
      with contextlib.suppress(Exception):
        saving.result()
    self._checkpointer.wait()

  def close(self) -> None:
    """`wait_until_finished`, and the end."""
    try:
      self.wait_until_finished()
    finally:
      self._checkpointer.close()

  def __enter__(self) -> 'Manager':
    return self

  def __exit__(self, *unused_error: object) -> None:
    self.close()


def context() -> ocp.Context:
  """The settings with which orbax saves and loads here."""
  made = ocp.Context()
  made.pytree.loading.partial_load = True
  # `host_copy` has made the copies.
  made.memory.deepcopy_host_arrays = False
  registry = ocp.handlers.local_registry()
  for name in (POSITION, FLAGS):
    # Orbax would take an object of numbers for a tree of arrays.
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
  made.checkpointables.registry = registry
  return made


def _write_without_locks() -> None:
  """Makes orbax write without locks, for the rest of the process.

  It locks a file of each checkpoint although it writes into a new folder, which
  nobody else knows of. No version of its API has a setting for that: its
  `tensorstore_utils.py: get_ts_context` reads these two and nothing else.
  """
  # In here: where a newer orbax has it elsewhere, only these file systems fail.
  from orbax.checkpoint._src.serialization import tensorstore_utils

  for name in ('_BASE_TS_CONTEXT', '_DEFAULT_OCDBT_TS_CONTEXT'):
    getattr(tensorstore_utils, name)['file_io_locking'] = {'mode': 'none'}
