"""From the folder of a run to the plain data that its page shows."""

import csv
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from awpo_jax.analysis import records
from awpo_jax.analysis.ablations import grid
from awpo_jax.analysis.page import tokens
from awpo_jax.ops import advantages
from awpo_jax.reporting import metrics as metrics_lib
from awpo_jax.rollout import messages
from awpo_jax.rollout.rewards.judges import rubric

Json = dict[str, Any]
# Of a group; all other fields of a row are of one answer.
_OF_GROUP = (
  'prompt',
  'task_id',
  'set',
  'kind',
  'user',
  'tools',
  'ground_truth',
  'outcome_bounds',
  'gate',
  'difficulty',
  'solve_rate',
)
_SAME_SCORE = 1e-6


@dataclasses.dataclass(frozen=True)
class Run:
  """What is shown of a run.

  Attributes:
    name: on the page.
    cell: runs of one cell have one colour.
    folder: of the run.
    record: its metrics and flags.
    rows: step -> rows of `transcripts.jsonl`.
    archive: with tokens; None where the run kept none.
  """

  name: str
  cell: str
  folder: pathlib.Path
  record: records.Record
  rows: dict[int, list[Json]]
  archive: tokens.Tokens | None

  @property
  def steps(self) -> list[int]:
    """Steps whose answers or tokens can be shown, in order."""
    kept = self.archive.steps if self.archive else []
    return sorted({*self.rows, *kept})

  @property
  def judged(self) -> bool:
    """Whether a sample without a score of the judge is invalid.

    Without flags: whether the judge ever gave one.
    """
    flags = self.record.flags
    if not {'advantage', 'gate'} <= flags.keys():
      return self.record.values('reward/reasoning').size > 0
    return advantages.reads_reasoning(
      advantage=flags['advantage'], gate=flags['gate']
    )

  def groups(self, step: int) -> list[Json]:
    """The groups of a step: of the rollout batch, then held-out answers."""
    groups = [_group(rows) for rows in _by_group(self.rows.get(step, []))]
    if self.archive and step in self.archive.steps:
      groups = self.archive.joined(step, groups)
    return groups


def read_runs(folders: Sequence[str]) -> list[Run]:
  """Reads runs, each a cell of its own.

  They are named as their folders; where two of these have one name, by the
  whole paths.

  Raises: as `read_run`.
  """
  names = [pathlib.Path(folder).absolute().name for folder in folders]
  if len({*names}) < len(names):
    names = list(folders)
  return [read_run(x, name=y) for x, y in zip(folders, names, strict=True)]


def read_run(
  folder: str | os.PathLike[str], *, name: str = '', cell: str = ''
) -> Run:
  """Reads a run, a finished or a running one.

  Args:
    folder: with `metrics.jsonl`; transcripts and archive may be missing.
    name: on the page; empty for the folder's.
    cell: of a grid; empty: a cell of its own.

  Raises:
    FileNotFoundError: it is not the folder of a run.
    ValueError: a file of it is damaged.
  """
  folder = pathlib.Path(folder)
  record = records.read(folder)
  answers = folder / metrics_lib.TRANSCRIPTS_FILE
  rows: dict[int, list[Json]] = {}
  for row in metrics_lib.read_metrics(answers) if answers.is_file() else []:
    rows.setdefault(row['step'], []).append(row)
  name = name or folder.name
  return Run(
    name,
    cell or name,
    folder,
    record,
    rows,
    tokens.read(folder),
  )


def read_grid(folder: str | os.PathLike[str]) -> list[Run]:
  """The runs of a grid of `ablate.py`, cell by cell.

  Cells have the order of the grid, whose pictures give them the same colours;
  of a grid that still goes on, the order of the alphabet.

  Raises:
    FileNotFoundError: there is no run of a cell in it.
  """
  cells = pathlib.Path(folder) / grid.CELL_FOLDER
  order = _cells_in_order(cells.parent / grid.RUNS_FILE)
  found = sorted(
    cells.glob(f'*/*/{metrics_lib.METRICS_FILE}'),
    key=lambda path: (order.get(path.parent.parent.name, len(order)), path),
  )
  if not found:
    raise FileNotFoundError(
      f'{cells} holds no run: name the --output_dir of ablate.py.'
    )
  return [
    read_run(
      path.parent,
      name=f'{path.parent.parent.name}, {path.parent.name.replace("_", " ")}',
      cell=path.parent.parent.name,
    )
    for path in found
  ]


def _cells_in_order(path: pathlib.Path) -> dict[str, int]:
  """Cell -> its place in the table of a grid; empty where there is none."""
  if not path.is_file():
    return {}
  with path.open(newline='', encoding='utf-8') as file:
    names = dict.fromkeys(row.get('cell') for row in csv.DictReader(file))
  return {str(name): place for place, name in enumerate(names)}


def _by_group(rows: Sequence[Json]) -> Iterator[list[Json]]:
  """Rows of one prompt together; held-out answers last."""

  def key(row: Json) -> tuple[Any, ...]:
    return row.get('set', ''), row.get('prompt'), row.get('task_id')

  ordered = sorted(rows, key=lambda row: 'set' in row)
  for _, group in itertools.groupby(ordered, key):
    yield list(group)


def _group(rows: Sequence[Json]) -> Json:
  group = {name: rows[0][name] for name in _OF_GROUP if name in rows[0]}
  samples = []
  for row in rows:
    sample = {
      name: value
      for name, value in row.items()
      if name not in _OF_GROUP and name not in ('step', 'sample')
    }
    if 'episode' in sample:  # Its turns have the text already.
      sample['turns'] = sample.pop('episode').get('turns', [])
    if 'said' not in sample and (said := _counted(row)):
      sample['said'] = said
    samples.append(sample)
  return group | {'samples': samples}


def _counted(row: Json) -> str | None:
  """What the rubric counted, if it is what gave this score."""
  score = row.get('reasoning')
  if not isinstance(score, float) or 'episode' in row:
    return None
  try:
    found = rubric.score_thought(
      row['user'], messages.tools_of(row), row['response']
    )
  except (KeyError, TypeError, ValueError, AttributeError):
    return None
  if abs(found.total - score) > _SAME_SCORE:
    return None
  parts = (f'{name} {value:.2f}' for name, value in found._asdict().items())
  return f'rubric: {", ".join(parts)}'
