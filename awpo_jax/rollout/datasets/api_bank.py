"""API-Bank in ToolRL's form: one call to predict from a dialogue.

Reads `level-{1,2,3}-api_processed.json` of github.com/qiancheng0/ToolRL, JSON
arrays. For evaluation only; no choice of `--dataset`.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator

from awpo_jax.rollout.datasets import files
from awpo_jax.rollout.text import tool_calls

LEVELS = ('level-1', 'level-2', 'level-3')
EXPECTED = (
  "API-Bank's files of ToolRL: a folder with level-{1,2,3}-api_processed.json"
)


@dataclasses.dataclass(frozen=True)
class Row:
  """A row with the one call that answers it.

  Attributes:
    row_id: e.g. `Level1_3`.
    level: of `LEVELS`.
    system: ready system text, tools listed in it.
    user: ready user text.
    answer: the expected call.
  """

  row_id: str
  level: str
  system: str
  user: str
  answer: tool_calls.ToolCall


def read(data: str | None, skipped: list[str] | None = None) -> list[Row]:
  """All rows, level by level.

  Args:
    data: the folder, or a data set of the hub with its files.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Raises:
    ValueError: no file, or a bad row (its file and line are named).
  """
  folder = files.place(data, expected=EXPECTED)
  found = {
    level: folder / f'{level}-api_processed.json'
    for level in LEVELS
    if (folder / f'{level}-api_processed.json').is_file()
  }
  if not found:
    raise ValueError(f'--data={data}: expected {EXPECTED}')
  rows: list[Row] = []
  for level, path in found.items():
    parse = functools.partial(_row, level=level, count=itertools.count())
    rows += files.read_rows(path, files.unique(parse), skipped)
  return rows


def _row(row: files.Row, where: str, level: str, count: Iterator[int]) -> Row:
  position = next(count)
  answer = row.get('answer')
  # Level 2 has the call bare.
  calls = answer if isinstance(answer, list) else [answer]
  if len(calls) != 1 or not isinstance(calls[0], dict):
    raise ValueError(f'{where}: "answer" is not one call')
  call = tool_calls.ToolCall(
    files.field(calls[0], 'name', str, where),
    files.field(tool_calls.filled(calls[0]), 'parameters', dict, where),
  )
  # Upstream's rows have no id: their number in the file.
  number = re.sub(r'\D', '', level)
  return Row(
    row_id=files.identifier(row, where, default=f'Level{number}_{position}'),
    level=level,
    system=files.field(row, 'system', str, where),
    user=files.field(row, 'user', str, where),
    answer=call,
  )
