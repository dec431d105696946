"""The folder of a run: a new run claims it, a continued one checks it."""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

from awpo_jax.checkpointing import checkpoints, model_files
from awpo_jax.config import data
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.reporting import (
  file_locks,
  files,
  profiler,
  rollout_archive,
  trackers,
)
from awpo_jax.reporting import metrics as metrics_lib

FLAGS_FILE = 'flags.json'
FLAGFILE = 'run.flags'
LOCK_FILE = '.lock'
# What a run may have made before its first step was written.
_FOLDERS = (
  checkpoints.RUN_SUBFOLDER,
  rollout_archive.FOLDER,
  model_files.TOKENIZER_FOLDER,
  model_files.UNFINISHED_TOKENIZER,
  metrics_lib.TENSORBOARD_FOLDER,
  profiler.FOLDER,
  'wandb',
)
_FILES = (
  metrics_lib.METRICS_FILE,
  metrics_lib.TRANSCRIPTS_FILE,
  trackers.WANDB_ID_FILE,
  trackers.TRACKIO_ID_FILE,
  model_files.MODEL_FILE,
  f'{model_files.MODEL_FILE}.tmp',
  FLAGFILE,
  LOCK_FILE,
  # Last: a process killed in here leaves the folder of a run.
  FLAGS_FILE,
)
_JUDGE_FLAGS = {field.name for field in dataclasses.fields(data.JudgeConfig)}
# A run must not go on with other data unnoticed, and only its place is known.
_MOVED = (
  '\nData that has moved: put it, or a link to it, back at the old place, or '
  'start a new run.'
)


@contextlib.contextmanager
def claimed(
  folder: pathlib.Path, config: config_lib.Config
) -> Iterator[Callable[[], None]]:
  """Claims the folder for this process.

  A new run that fails at its start gives it back: a mistaken flag must not bar
  the corrected one, and what nothing was trained in is no run.

  Yields:
    To be called when the first step is written: from then on the folder stays.

  Raises:
    ConfigError: as `claim_folder`, or another process has it.
  """
  existed = folder.exists()
  _check(folder, config)  # Before anything is written there, the lock included.
  folder.mkdir(parents=True, exist_ok=True)
  with _locked(folder):
    # Once more: another process may have been there in between.
    kept = not claim_folder(folder, config)

    def keep() -> None:
      nonlocal kept
      kept = True

    try:
      yield keep
    except BaseException:
      if not kept:
        leave_folder(folder, remove=not existed)
      raise


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Locks the folder; the system unlocks it when this process ends.

  On a file system that knows no locks nothing is kept out.
  """
  with (folder / LOCK_FILE).open('w') as file:
    # Not `flock`, which the children of a killed process would go on holding.
    if not file_locks.try_lock(file, fcntl.lockf):
      raise flags_lib.ConfigError(
        f'--output_dir={folder}: another process is running there. Wait for '
        'it, or name another folder.'
      )
    yield


def settled(
  folder: pathlib.Path, config: config_lib.Config, platform: str
) -> config_lib.Config:
  """`experiment.settled`, by the stored flags of a run that goes on."""
  stored = folder / FLAGS_FILE
  began = json.loads(stored.read_text()) if stored.exists() else None
  return config_lib.settled(config, platform, began)


def claim_folder(folder: pathlib.Path, config: config_lib.Config) -> bool:
  """Stores the flags of a new run; refuses another run's folder.

  Flags of the judge may be corrected as long as no step of RL is written, and
  nothing hangs on them.

  Returns:
    Whether the run is a new one.

  Raises:
    ConfigError: the folder holds something else, or a run whose flags differ.
  """
  new, changed = _check(folder, config)
  if new or changed:
    folder.mkdir(parents=True, exist_ok=True)
    # The file that is compared comes last.
    files.write_whole(folder / FLAGFILE, config_lib.to_flagfile(config))
    text = json.dumps(config_lib.to_json(config), indent=2)
    files.write_whole(folder / FLAGS_FILE, text)
  return new


def _check(
  folder: pathlib.Path, config: config_lib.Config
) -> tuple[bool, bool]:
  """Whether the run is a new one, and whether flags of its judge differ."""
  stored = folder / FLAGS_FILE
  if stored.exists():
    changed = config_lib.differences(json.loads(stored.read_text()), config)
    names = {text.partition(':')[0].removeprefix('--') for text in changed}
    if changed and not (names <= _JUDGE_FLAGS and not _has_rl(folder)):
      raise flags_lib.ConfigError(
        f'--output_dir={folder} holds a run with other flags; name another '
        'folder, or set these back:\n'
        + '\n'.join(changed)
        + _MOVED * any(text.startswith('--data:') for text in changed)
      )
    return False, bool(changed)
  # A process that is killed at its start leaves these behind.
  ours = {LOCK_FILE, FLAGFILE, f'{FLAGFILE}.tmp', f'{FLAGS_FILE}.tmp'}
  if folder.exists() and any(x.name not in ours for x in folder.iterdir()):
    raise flags_lib.ConfigError(
      f'--output_dir={folder} holds files but no run: name a new folder.'
    )
  return True, False


def _has_rl(folder: pathlib.Path) -> bool:
  """Whether a step of RL is written."""
  file = folder / metrics_lib.METRICS_FILE
  lines = file.read_text().split('\n') if file.exists() else []
  return any('"phase": "rl"' in line for line in lines)


def leave_folder(folder: pathlib.Path, *, remove: bool) -> None:
  """Undoes `claim_folder`; with `remove` the folder goes, too, if empty."""
  for name in _FOLDERS:
    shutil.rmtree(folder / name, ignore_errors=True)
  for name in _FILES:
    (folder / name).unlink(missing_ok=True)
  if remove and not any(folder.iterdir()):
    folder.rmdir()
