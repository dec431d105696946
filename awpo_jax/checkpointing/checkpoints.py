"""Checkpoints of a run: a thin layer over version 1 of orbax's API.

A checkpoint is the folder `<step>/` with the items `state` (parameters,
optimizer, step: whatever the state record holds), `position` (the phase and
the seconds so far), `flags` (as resolved) and `metrics`. Where the data stands
is not stored: it follows from the step, as do the keys of all draws. It is
written under another name in the background and renamed when complete, so a
folder named by a number is a whole checkpoint, and what a killed process left
behind is none.

Arrays are stored under names made of their path, `params/layer_0/kernel`, not
under the Python types that held them. Checkpoints that version 0 of the API
wrote are read as well: they differ in how arrays are laid out in their files
and in the names of the JSON files.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from awpo_jax import types
from awpo_jax.checkpointing import host_copy
from awpo_jax.checkpointing import manager as manager_lib

RUN_SUBFOLDER = 'checkpoints'
STATE = 'state'
POSITION = manager_lib.POSITION
FLAGS = manager_lib.FLAGS
METRICS = 'metrics'

Json: TypeAlias = dict[str, Any]

# What to look at when a stored tree and the expected one differ.
_LIKELY_FLAGS = {
  'params': 'the flags of the model, its adapters, dtype or tokenizer',
  'opt_state': 'the flags of the optimizer or of the model',
}


class CheckpointError(ValueError):
  """A checkpoint cannot be read, or belongs to another model or optimizer."""


Manager: TypeAlias = manager_lib.Manager


def make_manager(
  directory: str | os.PathLike[str],
  *,
  keep: int,
  best_metric: str | None = None,
  keep_steps: Sequence[int] = (),
) -> Manager:
  """Opens a folder of checkpoints for saving and restoring.

  Args:
    directory: made if missing; what a killed save left in it is removed.
    keep: how many of the last checkpoints stay, at least 1.
    best_metric: a key of the metrics given to `save_checkpoint`; the
      checkpoint with its highest value stays as well, the later one of equals.
    keep_steps: steps whose checkpoints always stay.

  Returns:
    The manager; `wait_until_finished` before exiting, or `close`.

  Raises:
    CheckpointError: the metrics of a checkpoint in the folder are damaged.
  """
  policies = ocp.training.preservation_policies
  keepers: list[Any] = [
    policies.LatestN(keep),
    policies.CustomSteps(list(keep_steps)),
  ]

  def quality(metrics: Mapping[str, float]) -> float:
    return metrics.get(best_metric or '', -math.inf)

  if best_metric is not None:
    keepers.append(policies.BestN(get_metric_fn=quality, n=1))
  directory = pathlib.Path(directory).absolute()
  _check_readable(directory)
  return Manager(directory, keepers)


def save_checkpoint(
  manager: Manager,
  step: int,
  state: types.ArrayTree,
  *,
  position: Json,
  flags: Json,
  metrics: Mapping[str, float] | None = None,
) -> None:
  """Starts to save; the state may be donated as soon as this returns.

  Args:
    manager: from `make_manager`.
    step: not saved before.
    state: tree of arrays.
    position: JSON object; what of the run besides its state goes on from here.
    flags: JSON object; the resolved flags.
    metrics: finite numbers measured at `step`; of those without the best metric
      none is the best.

  Raises:
    FileExistsError: there is a checkpoint of this step.
  """
  numbers = {key: float(value) for key, value in (metrics or {}).items()}
  manager.save(
    step,
    {
      STATE: _nested(host_copy.snapshot(_named(state))),
      POSITION: position,
      FLAGS: flags,
    },
    # Never none, as `Manager.save` says.
    {'step': step, **numbers},
  )


def restore_checkpoint(
  manager: Manager, example_state: types.ArrayTree
) -> tuple[types.ArrayTree, Json, int]:
  """Reads the last checkpoint back.

  Args:
    manager: from `make_manager`.
    example_state: tree with the shapes and dtypes expected, of arrays or
      `jax.ShapeDtypeStruct`; a leaf with a sharding is placed with it, one
      without comes back as a NumPy array.

  Returns:
    The state in the structure of `example_state`, its position, its step.

  Raises:
    FileNotFoundError: there is no checkpoint.
    CheckpointError: it is damaged, or its arrays are not those expected; the
      message names the first difference.
  """
  manager.wait_until_finished()
  step = manager.latest_step()
  if step is None:
    raise FileNotFoundError(f'{manager.directory} has no checkpoint yet.')
  folder = pathlib.Path(manager.directory) / str(step)
  return _restore(folder, example_state), _load(folder, POSITION), step


def restore_params(
  path: str | os.PathLike[str],
  example_params: types.ArrayTree,
  *,
  partial: bool = False,
) -> types.ArrayTree:
  """Reads the parameters alone: a new run from an old one's.

  Args:
    path: folder of a run or of its checkpoints (the last one is taken), or of
      one checkpoint.
    example_params: as `example_state` of `restore_checkpoint`.
    partial: whether the checkpoint may hold further parameters.

  Returns:
    The field `params` of the stored state.

  Raises:
    FileNotFoundError: there is no checkpoint at the path.
    CheckpointError: it is damaged, or its parameters are not those expected.
  """
  folder = checkpoint_folder(pathlib.Path(path).absolute())
  example = {'params': example_params}
  return _restore(folder, example, partial=partial)['params']


def stored_params(
  path: str | os.PathLike[str],
) -> tuple[frozenset[str], Json]:
  """Names of the parameters at a path, `layers_0/...`, and its flags.

  Args:
    path: as of `restore_params`.

  Raises:
    FileNotFoundError, CheckpointError: as there.
  """
  folder = checkpoint_folder(pathlib.Path(path).absolute())
  names, prefix = _stored(folder), 'params/'
  return frozenset(
    name.removeprefix(prefix) for name in names if name.startswith(prefix)
  ), _load(folder, FLAGS)


def checkpoint_folder(path: pathlib.Path) -> pathlib.Path:
  """The folder of a checkpoint: the path itself, or a run's newest one.

  Raises:
    FileNotFoundError: there is none; says what to give.
  """
  if (path / STATE).is_dir():
    return path
  for folder in (path / RUN_SUBFOLDER, path):
    steps = _steps(folder)
    if steps:
      return folder / str(max(steps))
  raise FileNotFoundError(
    f'No checkpoint at {path}. Give the folder of a run (which holds '
    f'`{RUN_SUBFOLDER}/`) or of one checkpoint (`{RUN_SUBFOLDER}/<step>`).'
  )


def _steps(directory: pathlib.Path) -> list[int]:
  entries = directory.iterdir() if directory.is_dir() else ()
  return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def _check_readable(directory: pathlib.Path) -> None:
  """Reads all metrics, as opening the folder does, to name a damaged one."""
  for step in _steps(directory):
    folder = directory / str(step)
    try:
      json.loads((folder / METRICS / METRICS).read_text())
    except FileNotFoundError:
      continue  # Its deletion was cut short; the next save finishes it.
    except ValueError as error:
      raise _damaged(folder, error) from error


def _named(tree: types.ArrayTree) -> dict[str, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
  """`{'a/b': x}` as `{'a': {'b': x}}`."""
  tree: dict[str, Any] = {}
  for name, leaf in named.items():
    *folders, last = name.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = leaf
  return tree


def _stored(folder: pathlib.Path) -> dict[str, Any]:
  """Path -> shape and dtype of all arrays of a checkpoint."""
  try:
    with manager_lib.context():
      tree = ocp.metadata(folder, STATE).metadata
      if tree is None:  # Orbax only logs why; reading raises it.
        tree = ocp.load(folder, checkpointable_name=STATE)
  except Exception as error:
    raise _damaged(folder, error) from error
  return _named(tree)


def _load(folder: pathlib.Path, item: str, example: Any = None) -> Any:
  """One item of a checkpoint."""
  try:
    with manager_lib.context():
      return ocp.load_checkpointables(folder, {item: example})[item]
  except Exception as error:
    raise _damaged(folder, error) from error


def _restore(
  folder: pathlib.Path, example: types.ArrayTree, *, partial: bool = False
) -> types.ArrayTree:
  """The arrays of `example` from the state stored in a checkpoint."""
  expected = _named(example)
  targets = {name: _target(leaf) for name, leaf in expected.items()}
  stored = _stored(folder)
  if partial:
    stored = {name: x for name, x in stored.items() if name in expected}
  _check_same(folder, stored, expected)
  arrays = _named(_load(folder, STATE, _nested(targets)))
  return jax.tree.unflatten(
    jax.tree.structure(example), [arrays[name] for name in expected]
  )


def _target(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
  """An array as orbax is asked for it; no values and no memory of its size."""
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _check_same(
  folder: pathlib.Path, stored: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
  """Raises at the first array that is missing, unexpected or different."""
  fields = {name.split('/')[0] for name in expected}
  names = sorted({*stored, *expected})
  # Parameters first: where they differ the optimizer's copies of them do too.
  for name in sorted(names, key=lambda name: not name.startswith('params/')):
    if name not in expected and name.split('/')[0] not in fields:
      continue  # A field that was not asked for.
    found, wanted = _described(stored, name), _described(expected, name)
    if found != wanted:
      likely = _LIKELY_FLAGS.get(name.split('/')[0], 'the flags of the run')
      raise CheckpointError(
        f'{folder} does not fit: {name} is {found}, expected {wanted}. Compare '
        f'{likely} with those it was saved with, in {folder / FLAGS}.'
      )


def _described(arrays: Mapping[str, Any], name: str) -> str:
  if name not in arrays:
    return 'absent'
  return f'{np.dtype(arrays[name].dtype).name}{list(arrays[name].shape)}'


def _damaged(folder: pathlib.Path, error: Exception) -> CheckpointError:
  cause: BaseException = error
  while cause.__cause__ is not None:  # Those above say what was tried.
    cause = cause.__cause__
  reason = str(cause).strip().split('\n')[0][:200]
  return CheckpointError(
    f'The checkpoint {folder} is damaged ({type(cause).__name__}: {reason}). '
    'Delete that folder: the run then goes on from the checkpoint before it, '
    'or from its start where there is none.'
  )
