"""Held-out rows of a grid of runs: differences paired by row."""

import csv
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from awpo_jax.analysis import comparison
from awpo_jax.analysis import grid as grid_lib
from awpo_jax.reporting import metrics as metrics_lib

ROWS_FILE = 'rows.csv'
_REWARDS = ('solved', 'outcome', 'reasoning')
_NAMES = ('cell', 'seed', 'set', 'task')

# Set -> cell -> seed -> task -> measure -> value.
Answers = dict[str, dict[str, dict[int, dict[str, dict[str, float]]]]]


def read(grid: grid_lib.Grid) -> Answers:
  """The last evaluation of every finished run, of warm starts too.

  What `rows.csv` in the grid's folder says of a run that is not there any more
  is kept: a run's folder is large, and may have been deleted, or made on
  another machine.

  Raises:
    ValueError: a file is damaged.
  """
  found: Answers = {}
  warm, cells = grid_lib.runs(grid)
  at_hand = [run for run in (*warm, *cells) if run.finished]
  old = grid.folder / ROWS_FILE
  if old.is_file():
    newer = {(run.name, run.seed) for run in at_hand}
    _read_csv(old, found, newer)
  for run in at_hand:
    for row in _last(run.folder / metrics_lib.TRANSCRIPTS_FILE):
      values = {name: row.get(name) for name in _REWARDS} | row.get('parts', {})
      _put(found, row['set'], run.name, run.seed, row['task_id'], values)
  return found


def _last(path: pathlib.Path) -> list[metrics_lib.Row]:
  """Rows of the last evaluation; none where a run wrote none."""
  rows = metrics_lib.read_metrics(path) if path.is_file() else []
  asked = [row for row in rows if 'set' in row]
  return [row for row in asked if row['step'] == asked[-1]['step']]


def _put(found: Answers, name, cell, seed, task, values) -> None:
  seeds = found.setdefault(name, {}).setdefault(cell, {})
  seeds.setdefault(seed, {})[task] = {
    key: float(value) for key, value in values.items() if value is not None
  }


def _read_csv(path: pathlib.Path, found: Answers, newer) -> None:
  with path.open(newline='', encoding='utf-8') as file:
    for line in csv.DictReader(file):
      try:
        cell, seed, name, task = (line.pop(x) for x in _NAMES)
        if (cell, int(seed)) not in newer:
          given = {key: value for key, value in line.items() if value}
          _put(found, name, cell, int(seed), task, given)
      except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
          f'{path}: {error!r}; it has {", ".join(_NAMES)} and numbers. '
          'Mend the file or remove it.'
        ) from error


def measures(answers: Answers) -> list[str]:
  """Those that some row has: the rewards, then the parts of the outcome."""
  found = {
    name: None
    for cells in answers.values()
    for seeds in cells.values()
    for rows in seeds.values()
    for values in rows.values()
    for name in values
  }
  return [x for x in _REWARDS if x in found] + sorted(set(found) - {*_REWARDS})


def write_csv(answers: Answers, path: str | os.PathLike[str]) -> None:
  """One line an answer: cell, seed, set, task, and its measures."""
  names = measures(answers)
  with pathlib.Path(path).open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow([*_NAMES, *names])
    for set_name, cells in answers.items():
      for cell, seeds in cells.items():
        for seed, rows in seeds.items():
          for task, values in rows.items():
            each = [f'{values[x]:.6g}' if x in values else '' for x in names]
            writer.writerow([cell, seed, set_name, task, *each])


def paired(
  cell: Mapping[int, Mapping[str, Mapping[str, float]]],
  other: Mapping[int, Mapping[str, Mapping[str, float]]],
  measure: str,
) -> np.ndarray:
  """f64[rows], differences of two cells, each the mean over their seeds.

  Args:
    cell, other: seed -> task -> measure -> value.
    measure: of the difference; a row counts where both have it, of a seed that
      both have.
  """
  each: dict[str, list[float]] = {}
  for seed in sorted(set(cell) & set(other)):
    ours, theirs = cell[seed], other[seed]
    for task in ours:
      a, b = ours[task].get(measure), theirs.get(task, {}).get(measure)
      if a is not None and b is not None:
        each.setdefault(task, []).append(a - b)
  return np.array([np.mean(x) for x in each.values()], np.float64)


def markdown(answers: Answers, *, baseline: str) -> str:
  """Tables of every set: means, and differences to baseline and warm start."""
  names = measures(answers)
  lines: list[str] = []
  for set_name, cells in answers.items():
    rows = {task for s in cells.values() for r in s.values() for task in r}
    lines += ['', f'## {set_name}, {len(rows)} rows', '']
    lines += _table(
      ['cell', 'seeds', *names],
      (
        [c, ', '.join(map(str, s)), *_means(s, names)] for c, s in cells.items()
      ),
    )
    for other in (baseline, grid_lib.WARM_CELL):
      others = [
        cell for cell in cells if cell not in (other, grid_lib.WARM_CELL)
      ]
      if other in cells and others:
        lines += ['', f'Minus {other}, row by row:', '']
        lines += _table(
          ['cell', *names],
          (
            [
              cell,
              *(
                _difference(paired(cells[cell], cells[other], x)) for x in names
              ),
            ]
            for cell in others
          ),
        )
  if lines:
    lines += [
      '',
      f'Mean [{comparison.CONFIDENCE:.0%} bootstrap interval over rows], a row '
      'being the mean over the seeds that both have: it holds for these runs '
      'and new rows, and does not cover how far another seed would have come '
      'out. Without brackets no row differs.',
    ]
  return '\n'.join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  return [
    comparison.table_row(head),
    comparison.table_row(['---'] * len(head)),
    *map(comparison.table_row, rows),
  ]


def _means(seeds, names: Sequence[str]) -> list[str]:
  """Each measure's mean over rows, then over seeds."""
  texts = []
  for name in names:
    each = [
      np.mean([x[name] for x in rows.values() if name in x])
      for rows in seeds.values()
      if any(name in x for x in rows.values())
    ]
    texts.append(f'{np.mean(each):.3f}' if each else '-')
  return texts


def _difference(values: np.ndarray) -> str:
  if not len(values):
    return '-'
  found = comparison.estimate(values.tolist())
  if found.low is None or found.low == found.high:
    return f'{found.mean:+.3f}'
  return f'{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]'
