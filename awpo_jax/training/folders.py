"""The folder of a run: claimed by a new run, known again by an old one."""

import json
import pathlib
import shutil

from awpo_jax import config as config_lib
from awpo_jax.training import experiment as experiment_lib

FLAGS_FILE = 'flags.json'
FLAGFILE = 'run.flags'


def claim_folder(folder: pathlib.Path, config: config_lib.Config) -> bool:
  """Stores the flags of a new run; refuses another run's folder.

  Returns:
    Whether the run is a new one.

  Raises:
    ConfigError: the folder holds something else, or a run whose flags differ.
  """
  stored = folder / FLAGS_FILE
  unfinished = stored.with_suffix('.tmp')
  if stored.exists():
    changed = config_lib.differences(json.loads(stored.read_text()), config)
    if changed:
      raise config_lib.ConfigError(
        f'--output_dir={folder} holds a run with other flags; name another '
        'folder, or set these back:\n' + '\n'.join(changed)
      )
    return False
  # A process killed in here leaves these two behind.
  ours = {FLAGFILE, unfinished.name}
  if folder.exists() and any(x.name not in ours for x in folder.iterdir()):
    raise config_lib.ConfigError(
      f'--output_dir={folder} holds files but no run: name a new folder.'
    )
  folder.mkdir(parents=True, exist_ok=True)
  (folder / FLAGFILE).write_text(config_lib.to_flagfile(config))
  unfinished.write_text(json.dumps(config_lib.to_json(config), indent=2))
  unfinished.rename(stored)
  return True


def leave_folder(folder: pathlib.Path) -> None:
  """Undoes `claim_folder`: a mistaken flag must not bar the corrected one."""
  shutil.rmtree(folder / experiment_lib.TOKENIZER_FOLDER, ignore_errors=True)
  (folder / FLAGFILE).unlink()
  (folder / FLAGS_FILE).unlink()
