"""Runs a grid of flags x seeds and compares its cells.

python experiments/ablate.py --flagfile=experiments/ablations/quickstart.flags

What has ended is not run again, what was stopped goes on, what failed is tried
again. Writes report.md, runs.csv, rows.csv and four pictures (overview, curves,
scores, differences) to --output_dir.
"""

import pathlib
import shlex
import sys

from absl import app, flags

from awpo_jax.analysis.ablations import by_row, grid, plots
from awpo_jax.config import flags as flags_lib

_OUTPUT = flags.DEFINE_string(
  'output_dir', '', 'Folder of all runs and of the report. It has to be set.'
)
_BASE = flags.DEFINE_string(
  'base', '', 'Flags of train.py that all cells have.'
)
_WARM = flags.DEFINE_string(
  'warm_start',
  '',
  'Flags of a run for each seed, from whose parameters all cells start. Empty '
  'starts them as train.py does.',
)
_CELLS = flags.DEFINE_multi_string(
  'cell',
  [],
  'A cell of the grid as `name: flags`, or `name x5: flags` for the first five '
  'seeds only. It is given once for each cell.',
)
_SEEDS = flags.DEFINE_list(
  'seeds', ['0'], 'Seeds of every cell, separated by commas.'
)
_BASELINE = flags.DEFINE_string(
  'baseline', '', 'Cell with which the others are compared. It has to be set.'
)
_SET = flags.DEFINE_string(
  'set',
  'held_out',
  'Evaluation set of the pictures and of the tables over seeds. The tables '
  'over rows are of every set.',
)
_JOBS = flags.DEFINE_integer(
  'jobs', 1, 'Number of runs at once.', lower_bound=1
)
_DEVICES = flags.DEFINE_list(
  'devices', [], 'CUDA devices, separated by commas; each run gets one.'
)
_SECONDS = flags.DEFINE_float(
  'seconds', 0, 'Seconds after which a run is stopped; 0 is no limit.'
)
_PROGRAM = pathlib.Path(__file__).with_name('train.py')


def _grid() -> grid.Grid:
  seeds = tuple(int(seed) for seed in _SEEDS.value)
  cells = tuple(grid.parse_cell(text, len(seeds)) for text in _CELLS.value)
  names = [cell.name for cell in cells]
  for wrong, problem in (
    (not _OUTPUT.value, '--output_dir is not set: name the folder.'),
    (not cells, '--cell is not set: name at least one.'),
    (len(set(names)) < len(names), f'--cell: a name twice among {names}.'),
    (len(set(seeds)) < len(seeds), f'--seeds: a seed twice among {seeds}.'),
    (_BASELINE.value not in names, f'--baseline: choose one of {names}.'),
  ):
    if wrong:
      raise ValueError(problem)
  base, warm = shlex.split(_BASE.value), shlex.split(_WARM.value)
  folder = pathlib.Path(_OUTPUT.value).absolute()
  return grid.Grid(
    folder, tuple(base), cells, seeds, tuple(warm), _SECONDS.value
  )


def main(arguments: list[str]) -> None:
  try:
    if len(arguments) > 1:
      raise ValueError(f'not a flag: {" ".join(arguments[1:])}')
    made = _grid()
    # Before hours of runs, not after them.
    by_row.read_csv(made.folder / by_row.ROWS_FILE)
  except ValueError as error:
    sys.exit(f'{error}')
  failed = grid.execute(
    made, _PROGRAM, jobs=_JOBS.value, devices=_DEVICES.value
  )
  text = plots.write_report(
    made, failed, baseline=_BASELINE.value, name=_SET.value
  )
  print(f'\n{text}\n\nreport: {made.folder / plots.REPORT_FILE}')
  print(
    'look inside: python experiments/view.py '
    f'--runs={shlex.quote(str(made.folder))}'
  )
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
