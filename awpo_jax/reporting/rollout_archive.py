"""Rollouts kept as they were: one zarr array a field, one row a step.

A row is written whole before the index names it, and nobody reads a row that it
does not name: a run may be killed at any time, and read while it goes on. Each
field of each step is one compressed chunk, a file of its own. What is finished
may be kept as a zip file: `python -m zipfile -c archive.zip archive`.
"""

import contextlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
import tensorstore as ts

from awpo_jax import types
from awpo_jax.reporting import files, json_text

FOLDER = 'archive'
ZIP_FILE = 'archive.zip'
INDEX_FILE = 'steps.jsonl'
# Fields whose last axis is padded to the largest bucket, and its name.
_PROMPT, _RESPONSE = 'prompt', 'response'
_PARTS = 'parts/'
# Follows from the masks: not stored.
_DERIVED = 'completions/positions'
# A folder on disk or in a zip file.
_Folder: TypeAlias = pathlib.Path | zipfile.Path


def _flat(rollout: types.Rollout) -> dict[str, np.ndarray]:
  """Name of each array, `completions/tokens`, -> the array."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(rollout)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in leaves
  }


def _axis(name: str, array: np.ndarray) -> str | None:
  """Which length the last axis of a field has; None: none that varies."""
  if name in ('prompts/tokens', 'prompts/mask'):
    return _PROMPT
  return _RESPONSE if array.ndim == 3 else None


def _spec(path: _Folder) -> dict[str, Any]:
  return {'driver': 'zarr3', 'kvstore': _kvstore(path)}


def _kvstore(path: _Folder) -> dict[str, Any]:
  if isinstance(path, zipfile.Path):
    file = os.path.abspath(str(path.root.filename))
    return {
      'driver': 'zip',
      'base': {'driver': 'file', 'path': file},
      'path': path.at.removesuffix('/') + '/',
    }
  return {
    'driver': 'file',
    'path': str(path.absolute()) + '/',
    # Only the run itself writes here, which its folder's lock sees to, and a
    # file system may have no locks. Files still appear whole.
    'file_io_locking': {'mode': 'none'},
  }


def _create(path: pathlib.Path, array: np.ndarray) -> ts.TensorStore:
  """An array of no rows yet, each to be a compressed chunk."""
  floating = np.issubdtype(array.dtype, np.floating)
  return ts.open(
    {
      **_spec(path),
      'metadata': {
        'shape': [0, *array.shape],
        'data_type': array.dtype.name,
        'chunk_grid': {
          'name': 'regular',
          'configuration': {'chunk_shape': [1, *array.shape]},
        },
        'fill_value': 'NaN' if floating else array.dtype.type(0).item(),
        'codecs': [
          {'name': 'bytes', 'configuration': {'endian': 'little'}}
          if array.dtype.itemsize > 1
          else {'name': 'bytes'},
          {
            'name': 'blosc',
            'configuration': {
              'cname': 'zstd',
              'clevel': 9,
              'shuffle': 'shuffle'
              if array.dtype.itemsize > 1
              else 'bitshuffle',
              'typesize': array.dtype.itemsize,
              'blocksize': 0,
            },
          },
        ],
      },
    },
    create=True,
  ).result()


def _read_index(folder: _Folder) -> list[dict[str, Any]]:
  """Rows of the index; a last line that a killed process tore is left out."""
  file = folder / INDEX_FILE
  text = file.read_bytes() if file.exists() else b''
  rows = []
  for line in text.split(b'\n')[:-1]:
    try:
      rows.append(json.loads(line))
    except ValueError:
      break
  return rows


class Writer:
  """Adds rollouts to an archive. Each is whole and readable, or not there."""

  def __init__(
    self,
    folder: str | os.PathLike[str],
    *,
    prompt_width: int,
    response_width: int,
    resume_step: int,
  ) -> None:
    """Opens an archive and cuts what stands past the restored checkpoint.

    Args:
      folder: made if missing.
      prompt_width: of the longest prompt.
      response_width: of the longest completion.
      resume_step: step of the restored checkpoint; its own rollout stays.
    """
    self._folder = pathlib.Path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._widths = {_PROMPT: prompt_width, _RESPONSE: response_width}
    kept = [x for x in _read_index(self._folder) if x['step'] <= resume_step]
    self._last = kept[-1]['step'] if kept else 0
    self._rows = len(kept)
    # Rows past it are written over when their turn comes again.
    lines = ''.join(json_text.dumps(x) + '\n' for x in kept)
    files.write_whole(self._folder / INDEX_FILE, lines)
    self._arrays: dict[str, ts.TensorStore] = {}

  def append(self, step: int, scored: types.Scored) -> None:
    """Adds the rollout of a step.

    Args:
      step: of the run, larger than all before.
      scored: as it was trained on.

    Raises:
      ValueError: the step is not new.
    """
    if step <= self._last:
      raise ValueError(f'Step {step} comes after step {self._last}.')
    fields = _flat(scored.rollout)
    del fields[_DERIVED]
    fields |= {_PARTS + name: x for name, x in scored.parts.items()}
    widths = {
      _PROMPT: fields['prompts/tokens'].shape[-1],
      _RESPONSE: fields['completions/tokens'].shape[-1],
    }
    writes = [self._write(name, array) for name, array in fields.items()]
    for write in writes:
      write.result()
    row = {
      'step': step,
      **widths,
      'fields': sorted(fields),
      'tasks': [task.task_id for task in scored.tasks],
    }
    with (self._folder / INDEX_FILE).open('a', encoding='utf-8') as file:
      file.write(json_text.dumps(row) + '\n')
    self._last, self._rows = step, self._rows + 1

  def _write(self, name: str, array: np.ndarray) -> Any:
    axis = _axis(name, array)
    if axis:
      missing = self._widths[axis] - array.shape[-1]
      array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
    store = self._arrays.get(name) or self._open(name, array)
    # Not fewer than there are: an older process may have left rows behind.
    store = store.resize(
      exclusive_max=[max(self._rows + 1, store.shape[0]), *array.shape],
      expand_only=True,
    ).result()
    self._arrays[name] = store
    return store[self._rows].write(array)

  def _open(self, name: str, array: np.ndarray) -> ts.TensorStore:
    path = self._folder / name
    if (path / 'zarr.json').exists():
      return ts.open(_spec(path)).result()
    return _create(path, array)


class Archive:
  """Lazily read rollouts by step."""

  def __init__(self, folder: _Folder) -> None:
    """Reads the index; see `open_archive`."""
    self._folder = folder
    self._rows = {
      row['step']: (number, row)
      for number, row in enumerate(_read_index(self._folder))
    }

  @property
  def steps(self) -> list[int]:
    """Steps that are there, in order, as of when the archive was opened."""
    return list(self._rows)

  def tasks(self, step: int) -> list[str]:
    """Ids of the P tasks of a step."""
    return self._row(step)[1]['tasks']

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, step: int) -> Mapping[str, ts.TensorStore]:
    """Name -> array of a step, read when asked for (`np.asarray`).

    Names are `prompts/tokens`, `rewards/outcome`, `parts/solved` and so on.

    Raises:
      KeyError: there is no such step.
    """
    return _Step(self._folder, *self._row(step))

  def _row(self, step: int) -> tuple[int, dict[str, Any]]:
    if step not in self._rows:
      raise KeyError(f'{self._folder} has no step {step}, but {self.steps}')
    return self._rows[step]

  def rollout(self, step: int) -> types.Rollout:
    """The rollout of a step as it was trained on, of NumPy arrays."""
    arrays = {name: np.asarray(x) for name, x in self[step].items()}
    nested: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
      group, _, field = name.rpartition('/')
      nested.setdefault(group, {})[field] = array
    mask = nested['completions']['mask']
    length = nested['prompts']['mask'].sum(axis=-1)[:, None, None]
    before = length + np.cumsum(mask, axis=-1) - 1
    nested['completions']['positions'] = np.where(mask, before, 0).astype('i4')
    rewards = nested['rewards']
    if 'wants_call' not in rewards:
      # Archives of before it was stored: ToolRL's outcome passes 1 for a call.
      rewards['wants_call'] = rewards['outcome_max'] > 1
    parts = nested.get('rewards/parts')
    flat: dict[str, Any] = nested['']
    return types.Rollout(
      prompts=types.Prompts(**nested['prompts']),
      completions=types.Completions(**nested['completions']),
      rewards=types.Rewards(**rewards, parts=parts),
      **flat,
    )

  def parts(self, step: int) -> dict[str, np.ndarray]:
    """Part of the outcome -> f32[P, G], NaN where it is missing."""
    return {
      name.removeprefix(_PARTS): np.asarray(array)
      for name, array in self[step].items()
      if name.startswith(_PARTS)
    }


class _Step(Mapping[str, ts.TensorStore]):
  """Arrays of a step, opened one by one."""

  def __init__(self, folder: _Folder, number: int, row: Any) -> None:
    self._folder, self._number, self._row = folder, number, row

  def __getitem__(self, name: str) -> ts.TensorStore:
    if name not in self._row['fields']:
      raise KeyError(name)
    store = ts.open(_spec(self._folder / name), read=True).result()
    view = store[self._number]
    if name in ('prompts/tokens', 'prompts/mask'):
      return view[..., : self._row[_PROMPT]]
    return view[..., : self._row[_RESPONSE]] if view.ndim == 3 else view

  def __iter__(self) -> Iterator[str]:
    return iter(self._row['fields'])

  def __len__(self) -> int:
    return len(self._row['fields'])


def open_archive(path: str | os.PathLike[str]) -> Archive:
  """Opens the archive of a run, of a finished or a running one.

  Args:
    path: of a run (`runs/x`), whose archive may be a zip file
      (`runs/x/archive.zip`), or of the archive's folder (`runs/x/archive`).

  Raises:
    FileNotFoundError: there is none.
  """
  folder = pathlib.Path(path)
  candidates: list[_Folder] = [folder / FOLDER, folder]
  if (folder / ZIP_FILE).is_file():
    candidates.append(zipfile.Path(folder / ZIP_FILE, FOLDER + '/'))
  for candidate in candidates:
    if (candidate / INDEX_FILE).is_file():
      return Archive(candidate)
  raise FileNotFoundError(
    f'No archive at {path}: give the folder of a run made with --archive.'
  )


@contextlib.contextmanager
def writing(config: Any, step: int) -> Iterator[Writer | None]:
  """A writer where `--archive` is set, else None.

  Args:
    config: `config.Config`.
    step: of the restored checkpoint, 0 for none.
  """
  if not config.run.archive:
    yield None
    return
  yield Writer(
    pathlib.Path(config.run.output_dir) / FOLDER,
    prompt_width=config.data.prompt_buckets[-1],
    response_width=config.data.response_buckets[-1],
    resume_step=step,
  )
