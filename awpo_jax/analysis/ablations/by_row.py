"""Held-out rows of a grid of runs: differences paired by row."""

import csv
import io
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from awpo_jax.analysis.ablations import comparison, mistakes
from awpo_jax.analysis.ablations import grid as grid_lib
from awpo_jax.evaluation import tables as tables_lib
from awpo_jax.reporting import files
from awpo_jax.reporting import metrics as metrics_lib

ROWS_FILE = 'rows.csv'
_REWARDS = ('solved', 'outcome', 'reasoning')
_PART = 'parts/'
_MISTAKE = 'mistakes/'
_NAMES = ('cell', 'seed', 'set', 'task')
_TOGETHER = 'All sets together'

# Task -> measure -> value; a part of the outcome is a measure `parts/<name>`,
# and a kind of mistake, 1 or 0, is `mistakes/<kind>`.
Rows = dict[str, dict[str, float]]
# Set -> cell -> seed -> its rows.
Answers = dict[str, dict[str, dict[int, Rows]]]


def read(grid: grid_lib.Grid) -> Answers:
  """The last evaluation of every finished run, of warm starts too.

  What `rows.csv` in the grid's folder says of a run without transcripts there
  is kept: its folder is large and may have been deleted, or the run was made on
  another machine.

  Args:
    grid: of which each run may be finished or not.

  Returns:
    Sets in the order in which they were met; cells and seeds in the grid's,
    then those that `rows.csv` alone has.

  Raises:
    ValueError: a file is damaged.
  """
  warm, cells = grid_lib.runs(grid)
  found: dict[tuple[str, int], dict[str, Rows]] = {
    (run.name, run.seed): _last(run.folder / metrics_lib.TRANSCRIPTS_FILE)
    for run in (*warm, *cells)
    if run.finished
  }
  for key, sets in read_csv(grid.folder / ROWS_FILE).items():
    if not found.get(key):
      found[key] = sets
  order = [grid_lib.WARM_CELL, *(cell.name for cell in grid.cells)]

  def place(key: tuple[str, int]) -> tuple[int, str, int]:
    name, seed = key
    return order.index(name) if name in order else len(order), name, seed

  answers: Answers = {}
  for name, seed in sorted(found, key=place):
    for set_name, rows in found[name, seed].items():
      answers.setdefault(set_name, {}).setdefault(name, {})[seed] = rows
  return answers


def _last(path: pathlib.Path) -> dict[str, Rows]:
  """Set -> rows of the last evaluation; none where a run wrote none."""
  lines = metrics_lib.read_metrics(path) if path.is_file() else []
  asked = [line for line in lines if 'set' in line]
  sets: dict[str, Rows] = {}
  for line in asked:
    if line['step'] == asked[-1]['step']:
      rows = sets.setdefault(line['set'], {})
      task = line['task_id']
      if task in rows:  # A data set of one's own may name two tasks alike.
        task = f'{task}#{len(rows)}'
      parts = {_PART + k: v for k, v in line.get('parts', {}).items()}
      wrong = mistakes.of_transcript(line)
      values = {name: line.get(name) for name in _REWARDS} | parts
      values |= {_MISTAKE + kind: value for kind, value in wrong.items()}
      rows[task] = {k: float(v) for k, v in values.items() if v is not None}
  return sets


def read_csv(
  path: str | os.PathLike[str],
) -> dict[tuple[str, int], dict[str, Rows]]:
  """(cell, seed) -> set -> rows, as `write_csv` wrote them; {} of no file.

  Raises:
    ValueError: it is damaged; the file and the line are named.
  """
  path = pathlib.Path(path)
  found: dict[tuple[str, int], dict[str, Rows]] = {}
  if not path.is_file():
    return found
  with path.open(newline='', encoding='utf-8') as file:
    reader = csv.DictReader(file)
    try:
      for line in reader:
        if None in line or None in line.values():
          raise ValueError('not as many values as the first line has names')
        cell, seed, name, task = (line.pop(x) for x in _NAMES)
        values = {key: float(text) for key, text in line.items() if text}
        if not all(map(math.isfinite, values.values())):
          raise ValueError('a value is not finite')
        rows = found.setdefault((cell, int(seed)), {}).setdefault(name, {})
        rows[task] = values
      if reader.fieldnames is None:
        raise ValueError('it is empty')
    except (csv.Error, KeyError, ValueError) as error:
      raise ValueError(
        f'{path}, line {reader.line_num}: {error}. A line is '
        f'{", ".join(_NAMES)} and numbers. Mend the file, or remove it.'
      ) from error
  return found


def write_csv(answers: Answers, path: str | os.PathLike[str]) -> None:
  """One line an answer: cell, seed, set, task, and its measures.

  The file is replaced whole: it may hold what nothing else does.
  """
  names, text = measures(answers), io.StringIO(newline='')
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow([*_NAMES, *names])
  for set_name, cells in answers.items():
    for cell, seeds in cells.items():
      for seed, rows in seeds.items():
        for task, values in rows.items():
          # Nine digits tell all numbers of 32 bits apart.
          each = [f'{values[x]:.9g}' if x in values else '' for x in names]
          writer.writerow([cell, seed, set_name, task, *each])
  files.write_whole(path, text.getvalue())


def measures(answers: Answers) -> list[str]:
  """Those that some row has: rewards, parts of the outcome, mistakes."""
  found = {
    name
    for cells in answers.values()
    for seeds in cells.values()
    for rows in seeds.values()
    for values in rows.values()
    for name in values
  }
  kinds = [_MISTAKE + kind for kind in mistakes.KINDS]
  return [
    *(x for x in _REWARDS if x in found),
    *sorted(found - {*_REWARDS, *kinds}),
    *(x for x in kinds if x in found),
  ]


def paired(
  cell: Mapping[int, Rows], other: Mapping[int, Rows], measure: str
) -> np.ndarray:
  """f64[rows], differences of two cells, each the mean over its seeds.

  Args:
    cell, other: seed -> rows.
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


def together(answers: Answers) -> dict[str, dict[int, Rows]]:
  """Cell -> seed -> its rows of all sets, each row named `<set>/<task>`."""
  cells: dict[str, dict[int, Rows]] = {}
  for set_name, each in answers.items():
    for cell, seeds in each.items():
      for seed, rows in seeds.items():
        named = {f'{set_name}/{task}': row for task, row in rows.items()}
        cells.setdefault(cell, {}).setdefault(seed, {}).update(named)
  return cells


def markdown(answers: Answers, *, baseline: str) -> str:
  """Tables: means, and differences to baseline and warm start.

  There is a table of every set and, where there are several, of all their rows
  together; then, where references call tools, one of what is wrong with the
  calls.

  Args:
    answers: of `read`.
    baseline: a cell.

  Returns:
    The text; '' where there are no answers.
  """
  tables = dict(answers)
  if len(answers) > 1:
    tables[_TOGETHER] = together(answers)
  wrong = [x for x in measures(answers) if x.startswith(_MISTAKE)]
  names = [x for x in measures(answers) if x not in wrong]
  lines: list[str] = []
  for set_name, cells in tables.items():
    tasks = {
      task for s in cells.values() for rows in s.values() for task in rows
    }
    lines += ['', f'## {set_name}, {len(tasks)} rows']
    lines += _compared(cells, names, baseline)
  if wrong:
    lines += [
      '',
      '## What is wrong with the calls, share of the rows that want some',
    ]
    lines += _compared(together(answers), wrong, baseline)
  if lines:
    lines += [
      '',
      f'Mean [{comparison.CONFIDENCE:.0%} bootstrap interval over rows], a row '
      'being the mean over the seeds that both have, or of one seed where each '
      'seed draws its own tasks. The interval holds for these runs and new '
      'rows, and does not cover how far another seed would have come out. '
      'Where all rows have one difference, it is how far a share of rows that '
      "is otherwise, unseen, could move it (Wilson's bound); and there are no "
      'brackets if a row is not just right or wrong.',
    ]
  return '\n'.join(lines)


def _compared(
  cells: Mapping[str, Mapping[int, Rows]], names: Sequence[str], baseline: str
) -> list[str]:
  """Means of the measures `names`, and differences, of seeds that have them."""
  cells = {
    cell: {seed: rows for seed, rows in seeds.items() if _has(rows, names)}
    for cell, seeds in cells.items()
  }
  cells = {cell: seeds for cell, seeds in cells.items() if seeds}
  heads = [x.removeprefix(_PART).removeprefix(_MISTAKE) for x in names]
  lines = ['']
  lines += _table(
    ['cell', 'seeds', *heads],
    ([c, ', '.join(map(str, s)), *_means(s, names)] for c, s in cells.items()),
  )
  for other in (baseline, grid_lib.WARM_CELL):
    compared = [x for x in cells if x not in (other, grid_lib.WARM_CELL)]
    if other in cells and compared:
      lines += ['', f'Minus {other}, row by row:', '']
      lines += _table(
        ['cell', *heads],
        (
          [x, *(_text(paired(cells[x], cells[other], m), m) for m in names)]
          for x in compared
        ),
      )
  return lines


def _has(rows: Rows, names: Sequence[str]) -> bool:
  return any(name in values for values in rows.values() for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  return [
    comparison.table_row(head),
    comparison.table_row(['---'] * len(head)),
    *map(comparison.table_row, rows),
  ]


def _means(seeds: Mapping[int, Rows], names: Sequence[str]) -> list[str]:
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


def _text(values: np.ndarray, measure: str) -> str:
  """A mean with its interval; '-' of no values."""
  if not len(values):
    return '-'
  found = comparison.estimate(values.tolist())
  low, high = found.low, found.high
  # Other measures have no ends that are known here.
  if low is None and (measure == 'solved' or measure.startswith(_MISTAKE)):
    low, high = tables_lib.equal_rows(
      found.mean, found.count, least=-1, most=1
    ).tolist()
  if low is None:
    return f'{found.mean:+.3f}'
  return f'{found.mean:+.3f} [{low:+.3f}, {high:+.3f}]'
