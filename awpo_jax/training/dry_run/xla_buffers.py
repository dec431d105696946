"""The memory that XLA assigns to a program, for devices that are not here.

A compilation makes hundreds of kernels after it has assigned the buffers: nine
tenths of its time, and nothing of its memory. Here it is a process of its own
that is told to report the assignment, and is ended when it has.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_TOTAL = re.compile(r'^Total bytes: (\d+) ', re.MULTILINE)
_REPORT = '*_after_optimizations-memory-usage-report.txt'
_POLL_SECONDS = 0.2


def of_absent(config: config_lib.Config, key: tuple[Any, ...]) -> int:
  """Bytes on each device while a program of a dry run runs.

  Args:
    config: names the devices with `--dry_run`.
    key: of `memory.lowerings`.

  Raises:
    ConfigError: the program does not compile, with what the compiler said.
  """
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    flags, log = folder / 'run.flags', folder / 'log.txt'
    flags.write_text(config_lib.to_flagfile(config))
    command = [
      sys.executable,
      '-m',
      'awpo_jax.training.dry_run.program',
      str(flags),
      str(folder),
      *map(str, key),
    ]
    path = f'{_ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    environment = os.environ | {'PYTHONPATH': path}
    with (
      log.open('w') as output,
      subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,  # It ends when this process does.
        stdout=output,
        stderr=output,
      ) as process,
    ):
      try:
        return _wait(process, folder, log)
      finally:
        process.kill()


def _wait(
  process: subprocess.Popen[Any], folder: pathlib.Path, log: pathlib.Path
) -> int:
  """The total of the report as soon as it stands in the folder."""
  while True:
    ended = process.poll() is not None
    total = read(folder)
    if total is not None:
      return total
    if ended:
      raise flags_lib.ConfigError(
        f'--dry_run: a program was not compiled: {log.read_text()[-2000:]}'
      )
    time.sleep(_POLL_SECONDS)


def read(folder: pathlib.Path) -> int | None:
  """Bytes of all memory spaces in XLA's report; None: not there yet.

  Arguments, results and temporaries are in it, what is donated once.
  """
  for file in folder.glob(_REPORT):
    totals = _TOTAL.findall(file.read_text())
    if totals:
      return sum(map(int, totals))
  return None
