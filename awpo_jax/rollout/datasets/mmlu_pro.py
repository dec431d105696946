"""MMLU-Pro (github.com/TIGER-AI-Lab/MMLU-Pro): questions with ten options.

Reads JSON Lines or the parquet files of the hub. Worked examples for few-shot
prompts are the rows with `cot_content` (the validation rows upstream). For
evaluation only; no choice of `--dataset`.
"""

import dataclasses
import pathlib

from awpo_jax.rollout.datasets import files

LETTERS = 'ABCDEFGHIJ'
EXPECTED = (
  'questions of MMLU-Pro: a file, or a folder with one, *.jsonl or *.parquet, '
  'with question_id, question, options, answer and category'
)
_SUFFIXES = ('.jsonl', '.parquet')


@dataclasses.dataclass(frozen=True)
class Row:
  """A question.

  Attributes:
    row_id: e.g. `mmlu_pro_70`.
    category: e.g. `computer science`.
    question: its text.
    options: ten at most.
    answer: letter of the right option.
    worked: a worked answer; empty where there is none.
  """

  row_id: str
  category: str
  question: str
  options: tuple[str, ...]
  answer: str
  worked: str = ''


def read(data: str | None, skipped: list[str] | None = None) -> list[Row]:
  """All questions of a file, or of a folder's test part.

  Args:
    data: file, folder, or a data set of the hub. Of a folder whose files are
      named after their part (`test-...parquet`), the test part.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Raises:
    ValueError: no file, or a bad row (its file and line are named).
  """
  place = files.place(data, expected=EXPECTED)
  found = [place]
  if place.is_dir():
    found = sorted(x for x in place.rglob('*') if x.suffix in _SUFFIXES)
    found = [x for x in found if x.stem.startswith('test')] or found
  if not found:
    raise ValueError(f'--data={data}: expected {EXPECTED}')
  return _read(found, skipped)


def read_examples(path: str) -> list[Row]:
  """The worked examples of a file.

  Raises:
    ValueError: no such file, a bad row, or one without a worked answer.
  """
  expected = 'MMLU-Pro questions with cot_content, *.jsonl or *.parquet'
  rows = _read([files.place(path, expected=expected)], None)
  for row in rows:
    if not row.worked:
      raise ValueError(f'{path}: {row.row_id} has no "cot_content"')
  return rows


def _read(found: list[pathlib.Path], skipped) -> list[Row]:
  parse = files.unique(_row)
  return [x for path in found for x in files.read_rows(path, parse, skipped)]


def _row(row: files.Row, where: str) -> Row:
  options = files.field(row, 'options', list, where)
  answer = files.field(row, 'answer', str, where)
  if not all(isinstance(option, str) for option in options):
    raise ValueError(f'{where}: "options": not a list of texts')
  if not 1 <= len(options) <= len(LETTERS):
    raise ValueError(f'{where}: {len(options)} options, not 1 to 10')
  if answer not in LETTERS[: len(options)] or len(answer) != 1:
    raise ValueError(
      f'{where}: the answer {answer!r} is none of the {len(options)} options'
    )
  return Row(
    row_id=f'mmlu_pro_{files.field(row, "question_id", int, where)}',
    category=files.field(row, 'category', str, where),
    question=files.field(row, 'question', str, where),
    options=tuple(options),
    answer=answer,
    worked=_worked(row, where),
  )


def _worked(row: files.Row, where: str) -> str:
  if row.get('cot_content') in (None, ''):
    return ''
  return files.field(row, 'cot_content', str, where)
