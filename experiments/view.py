"""Writes one HTML file of a run: curves, groups, answers, tokens.

python experiments/view.py --run=runs/quickstart

The file opens from disk and loads nothing. Several --run, or --runs with the
--output_dir of ablate.py, are shown side by side.
"""

import logging
import os
import pathlib
import sys
import time

# It announces at every import that torch is missing, which is as it should be.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax.analysis.page import reading, writing  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402

_RUN = flags.DEFINE_multi_string(
  'run', [], 'Folder of a run. It may be given several times.'
)
_RUNS = flags.DEFINE_string(
  'runs',
  '',
  'Folder of a grid of ablate.py, all runs of whose cells are shown.',
)
_OUTPUT = flags.DEFINE_string(
  'output', '', 'The file. Empty: run.html in the folder that is named first.'
)
_STEPS = flags.DEFINE_integer(
  'max_steps',
  0,
  'Steps of each run whose answers are in the file, spread evenly; 0: as many '
  'as fit.',
  lower_bound=0,
)
_MEGABYTES = flags.DEFINE_float(
  'max_megabytes', 20, 'Size of the file at most.', lower_bound=0.1
)


def main(arguments: list[str]) -> None:
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  started = time.perf_counter()
  try:
    if len(arguments) > 1:
      raise ValueError(f'not a flag: {" ".join(arguments[1:])}')
    if not (_RUN.value or _RUNS.value):
      raise ValueError('--run is not set: name the folder of a run.')
    runs = reading.read_runs(_RUN.value)
    if _RUNS.value:
      runs += reading.read_grid(_RUNS.value)
    first = pathlib.Path((*_RUN.value, _RUNS.value)[0])
    path = pathlib.Path(_OUTPUT.value or first / 'run.html')
    notes = writing.write_page(
      runs, path, max_steps=_STEPS.value, max_megabytes=_MEGABYTES.value
    )
  except (OSError, ValueError) as error:
    sys.exit(f'{error}')
  for note in notes:
    print(note)
  size = path.stat().st_size / 1e6
  seconds = time.perf_counter() - started
  print(f'{size:.1f} MB, written in {seconds:.1f} s. Open it in a browser:')
  print(path.absolute().as_uri())


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
