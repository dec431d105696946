"""The summary of a finished run, made of the files it wrote."""

import json
import os
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from awpo_jax.reporting import files, json_text
from awpo_jax.reporting import metrics as metrics_lib

SUMMARY_FILE = 'summary.json'
CURVES_FILE = 'curves.png'
_REWARDS = ('outcome', 'reasoning')
# Of ToolRL's reward: shares of the answers.
_SHARES = {'format': 'right layout', 'exact_calls': 'exact calls'}
_LEFT_OUT = 'data/left_out/'
# Times of a line that overlap neither one another nor SFT's `time/step`.
_PARTS = (
  'setup',
  'compile',
  'sample',
  'score',
  'prepare',
  'update',
  'eval',
)

Row = Mapping[str, Any]


def finish(
  output_dir: str | os.PathLike[str],
  *,
  counted: float | None = None,
  reasoning_note: str = '',
) -> str:
  """Writes `summary.json` and `curves.png`; returns the text to print.

  Args:
    output_dir: folder of a run that has reached its end.
    counted: `time.perf_counter()` up to which the last line of metrics counts
      the run's seconds; None if another process wrote it.
    reasoning_note: what the judge's score means; shown below the table where
      that has such scores.

  Returns:
    A table of accuracies, a transcript before and after, and the files.

  Raises:
    ValueError: the run has not been evaluated.
  """
  folder = pathlib.Path(output_dir)
  rows = metrics_lib.read_metrics(folder / metrics_lib.METRICS_FILE)
  before, after = evaluations(rows)
  transcripts = metrics_lib.read_metrics(folder / metrics_lib.TRANSCRIPTS_FILE)
  # Half a second of matplotlib that the first step need not wait for.
  from awpo_jax.reporting import curves

  curves.plot_curves(rows, folder / CURVES_FILE)
  path = folder / SUMMARY_FILE
  if counted is not None:
    since = time.perf_counter() - counted
  else:
    since = _seconds_before(path) - rows[-1]['time/elapsed']
  summary = summarize(rows, since=max(since, 0.0))
  # It is read again when the command is.
  files.write_whole(path, json_text.dumps(summary, indent=2) + '\n')
  return '\n'.join(
    [
      '',
      table(before, after),
      *_note(after, reasoning_note),
      '',
      *example(transcripts, before['step'], after['step']),
      f'seconds: {summary["seconds"]:.0f}',
      f'curves: {folder / CURVES_FILE}',
      f'numbers: {folder / SUMMARY_FILE}, {folder / metrics_lib.METRICS_FILE}',
      f'answers: {folder / metrics_lib.TRANSCRIPTS_FILE}',
      'look inside: python experiments/view.py '
      f'--run={shlex.quote(str(folder))}',
    ]
  )


def _note(after: Row, text: str) -> list[str]:
  """What the reasoning score means, where the table shows one."""
  shown = any(
    after.get(f'eval/{x}/reasoning') is not None for x in _sets(after)
  )
  return ['', text] if shown and text else []


def _seconds_before(path: pathlib.Path) -> float:
  """What a summary says already; 0 where there is none."""
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  return json.loads(text)['seconds'] if text else 0.0


def evaluations(rows: Sequence[Row]) -> tuple[Row, Row]:
  """The rows of the evaluations before RL (or the first) and at the end.

  Raises:
    ValueError: there is none.
  """
  evaluated = [row for row in rows if _sets(row)]
  if not evaluated:
    raise ValueError('The run holds no evaluation.')
  sft = [row for row in evaluated if row['phase'] in ('sft', 'start')]
  trained_on = evaluated[-1]['phase']
  before = sft[-1] if sft and trained_on == 'rl' else evaluated[0]
  return before, evaluated[-1]


def _sets(row: Row) -> list[str]:
  """Names of the evaluation sets of a row, the main one first."""
  return [
    key.split('/')[1]
    for key in row
    if key.startswith('eval/') and key.count('/') == 2 and 'accuracy' in key
  ]


def _kinds(row: Row, name: str) -> dict[str, float]:
  prefix = f'eval/{name}/accuracy/'
  return {
    key.removeprefix(prefix): value
    for key, value in row.items()
    if key.startswith(prefix)
  }


def summarize(rows: Sequence[Row], *, since: float = 0.0) -> dict[str, Any]:
  """Accuracies and rewards before and after, what was left out, and the time.

  Args:
    rows: all lines of metrics.
    since: seconds that passed after the last of them.

  Returns:
    What `summary.json` says; of a run that was evaluated once, None where it
    says what was before.
  """
  before, after = evaluations(rows)
  if before['step'] == after['step']:
    before = {}
  name = _sets(after)[0]
  seconds = rows[-1]['time/elapsed'] + since
  return {
    'main_set': name,
    'accuracy_before': before.get(f'eval/{name}/accuracy'),
    'accuracy_after': after[f'eval/{name}/accuracy'],
    'accuracy_by_kind': {
      kind: {'before': _kinds(before, name).get(kind), 'after': value}
      for kind, value in _kinds(after, name).items()
    },
    **{
      f'{metric}_by_set': {
        key: {
          'before': before.get(f'eval/{key}/{metric}'),
          'after': after.get(f'eval/{key}/{metric}'),
        }
        for key in _sets(after)
      }
      for metric in ('accuracy', *_REWARDS, *_shares(after))
    },
    'left_out': {
      key.removeprefix(_LEFT_OUT): value
      for key, value in rows[0].items()
      if key.startswith(_LEFT_OUT)
    },
    'step_before': before.get('step'),
    'step_after': after['step'],
    'seconds': seconds,
    'seconds_by_part': _by_part(rows, seconds),
  }


def _shares(row: Row) -> list[str]:
  """Those of `_SHARES` that the evaluations of a row tell."""
  return [x for x in _SHARES if any(f'eval/{y}/{x}' in row for y in _sets(row))]


def _by_part(rows: Sequence[Row], seconds: float) -> dict[str, float]:
  """Seconds of each part of the run, together all of them.

  The rest is what no line of metrics counts: saving, writing, this report.
  """
  parts: dict[str, float] = {}
  for row in rows:
    times = {part: row.get(f'time/{part}') for part in _PARTS}
    times['sft'] = row.get('time/step') if row['phase'] == 'sft' else None
    for part, value in times.items():
      if value is not None:
        parts[part] = parts.get(part, 0.0) + value
  return {**parts, 'rest': seconds - sum(parts.values())}


def table(before: Row, after: Row) -> str:
  """Accuracy by kind of task and mean rewards, before and after, by set.

  One column with the step's number, of a run that was evaluated once.
  """
  columns = {'before': before, 'after': after}
  if before['step'] == after['step']:
    columns = {f'step {after["step"]}': after}
  head = ''.join(f'{name:>8}' for name in columns)
  lines = [f'{"accuracy":<24}{head}']

  def add(label: str, key: str, form: str) -> None:
    cells = (row.get(key) for row in columns.values())
    texts = ('-' if value is None else format(value, form) for value in cells)
    lines.append(f'{label:<24}' + ''.join(f'{text:>8}' for text in texts))

  for name in _sets(after):
    add(name, f'eval/{name}/accuracy', '.1%')
    for kind in _kinds(after, name):
      add(f'  {kind}', f'eval/{name}/accuracy/{kind}', '.1%')
    for share in _shares(after):
      add(f'  {_SHARES[share]}', f'eval/{name}/{share}', '.1%')
    for reward in _REWARDS:
      if after.get(f'eval/{name}/{reward}') is not None:
        add(f'  {reward} reward', f'eval/{name}/{reward}', '.2f')
  return '\n'.join(lines)


def example(transcripts: Sequence[Row], before: int, after: int) -> list[str]:
  """The first task that was wrong before and right after, both answers.

  One answer, of a run that was evaluated once.
  """
  answers: dict[int, dict[tuple[str, str], Row]] = {before: {}, after: {}}
  for row in transcripts:
    if 'set' in row and row['step'] in answers:
      answers[row['step']][row['set'], row['task_id']] = row
  both = [
    (answers[before][key], row)
    for key, row in answers[after].items()
    if key in answers[before]
  ]
  learnt = [
    pair for pair in both if pair[1]['solved'] and not pair[0]['solved']
  ]
  if not (learnt or both):
    return []
  first, last = (learnt or both)[0]
  return [
    f'{last["task_id"]}: {last["user"]}',
    '',
    *(['before:', first['response'], '', 'after:'] if before != after else []),
    last['response'],
    '',
  ]
