"""The record of a run: JSON lines, TensorBoard events, transcripts.

`metrics.jsonl` is the record; everything else is a view of it. A run that was
killed and restarted writes each step once: what stands past the restored
checkpoint is cut before anything is added, and the TensorBoard folder is
written anew from the lines that were kept. No value that a run comes up with,
and no view that fails, ends it.
"""

import contextlib
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeAlias

from absl import logging

from awpo_jax.reporting import files, json_text, trackers

METRICS_FILE = 'metrics.jsonl'
TRANSCRIPTS_FILE = 'transcripts.jsonl'
TENSORBOARD_FOLDER = 'tensorboard'

Row: TypeAlias = dict[str, Any]


def read_metrics(path: str | os.PathLike[str]) -> list[Row]:
  """Rows of a JSON Lines file in the order written.

  A torn last line, as a killed or still writing process leaves it, is skipped.

  Args:
    path: a `metrics.jsonl` or `transcripts.jsonl`.

  Returns:
    One dict per line, each with an integer `step`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line before the last is not a JSON object with a `step`.
  """
  lines = pathlib.Path(path).read_bytes().split(b'\n')
  rows = []
  for number, line in enumerate(lines[:-1], start=1):
    row = _parse(line)
    if row is None and number == len(lines) - 1:
      break  # Torn, although its newline reached the disk.
    if row is None:
      raise ValueError(
        f'{path}, line {number} is not a JSON object with a `step`: '
        f'{line[:80]!r}. Remove that line, or start a new --output_dir.'
      )
    rows.append(row)
  return rows


def _parse(line: bytes) -> Row | None:
  try:
    row = json.loads(line)
  except ValueError:
    return None
  return row if isinstance(row, dict) and 'step' in row else None


def _cut(path: pathlib.Path, resume_step: int) -> list[Row]:
  """Keeps the rows of a file up to the restored checkpoint, atomically."""
  rows = read_metrics(path) if path.exists() and resume_step else []
  rows = [row for row in rows if row['step'] <= resume_step]
  files.write_whole(path, ''.join(map(_line, rows)))
  return rows


def _line(row: Mapping[str, Any]) -> str:
  return json_text.dumps(row) + '\n'


def _plain(value: Any) -> Any:
  """A metric as JSON has it: None where a number is not finite."""
  value = json_text.plain(value)
  if isinstance(value, str | bool | int | float | None):
    return None if value in json_text.NOT_FINITE else value
  return json_text.dumps(value)


class NoLog(contextlib.AbstractContextManager):
  """For a process that is not the one that writes."""

  def __exit__(self, *_: Any) -> None:
    pass

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes nothing."""

  def write_transcripts(
    self, step: int, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    """Writes nothing."""


class MetricsLog:
  """Writes what a run reports. A context manager; `close` flushes it all.

  Every line is handed to the operating system before `write` returns, so it
  outlives the process. A checkpoint of step n is saved after the line of n.
  """

  def __init__(
    self,
    output_dir: str | os.PathLike[str],
    *,
    resume_step: int,
    wandb_project: str | None = None,
    trackio_project: str | None = None,
    chat: trackers.Chat = lambda row, limit: [],
  ) -> None:
    """Opens the files and cuts what stands past the restored checkpoint.

    Args:
      output_dir: the run's folder; made if missing.
      resume_step: step of the restored checkpoint; its own rows stay. 0 means
        that nothing was restored: no row stays, one of step 0 neither.
      wandb_project: Weights & Biases project to log to, None for no logging.
        After a restart that service keeps the points it already has.
      trackio_project: likewise of trackio.
      chat: messages of a transcript, for traces of trackio.

    Raises:
      ValueError: a kept file has a damaged line before its last.
      ModuleNotFoundError: a project is given, its package not installed.
    """
    folder = pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    self._said: set[str] = set()
    self._trackers: dict[str, trackers.Tracker] = {}
    start: dict[str, Any] = {
      'wandb': trackers.Wandb,
      'trackio': functools.partial(trackers.Trackio, chat=chat),
    }
    projects = {'wandb': wandb_project, 'trackio': trackio_project}
    for name, project in projects.items():
      if project is not None:
        module, title = trackers.load(name, project), trackers.TITLES[name]
        with self._view(title):
          begun = start[name](module, project, folder, resume_step)
          self._trackers[title] = begun
    rows = _cut(folder / METRICS_FILE, resume_step)
    _cut(folder / TRANSCRIPTS_FILE, resume_step)
    self._last_step = rows[-1]['step'] if rows else -1
    self._metrics = _open(folder / METRICS_FILE)
    self._transcripts = _open(folder / TRANSCRIPTS_FILE)
    shutil.rmtree(folder / TENSORBOARD_FOLDER, ignore_errors=True)
    self._events = None
    with self._view('TensorBoard'):
      import tensorboardX  # Where it is missing, this view alone is.

      self._events = tensorboardX.SummaryWriter(
        str(folder / TENSORBOARD_FOLDER)
      )
    for row in rows:
      self._write_events(row)

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Adds the line of a step to `metrics.jsonl` and its views.

    Args:
      step: larger than the step of every line before.
      metrics: name -> number, string, bool or None; names are tags separated by
        `/`. A number that is not finite is written as null, which is said once
        of each metric; anything else as its JSON or its `repr`.

    Raises:
      ValueError: the step is not new, or a metric is called `step`.
    """
    if step <= self._last_step:
      raise ValueError(
        f'Step {step} comes after step {self._last_step} was written: each '
        'step is written once and in order. Gather its metrics in one call.'
      )
    if 'step' in metrics:
      raise ValueError('A metric cannot be called `step`: it is the argument.')
    row = {'step': int(step)}
    row |= {key: self._metric(key, value) for key, value in metrics.items()}
    self._metrics.write(_line(row))
    self._metrics.flush()
    self._last_step = step
    self._write_events(row)
    for title, tracker in self._trackers.items():
      with self._view(title):
        tracker.log(row)

  def write_transcripts(
    self, step: int, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    """Adds sampled transcripts, one JSON line each, led by their step.

    Args:
      step: the step that sampled them.
      rows: objects, e.g. with `prompt`, `response` and rewards. Whatever they
        hold is written, see `json_text.plain`: NaN as the text "NaN".
    """
    lines = [_line({'step': int(step), **row}) for row in rows]
    self._transcripts.writelines(lines)
    self._transcripts.flush()
    for title, tracker in self._trackers.items():
      for name, some in trackers.by_set(rows).items():
        with self._view(title):
          tracker.show(int(step), name, some)

  def close(self) -> None:
    """Flushes and closes every file; nothing can be written after it."""
    self._metrics.close()
    self._transcripts.close()
    if self._events is not None:
      with self._view('TensorBoard'):
        self._events.close()
    for title, tracker in self._trackers.items():
      with self._view(title):
        tracker.finish()

  def __enter__(self) -> 'MetricsLog':
    return self

  def __exit__(self, *unused_exception: object) -> None:
    self.close()

  def _write_events(self, row: Row) -> None:
    if self._events is None:
      return
    for key, value in row.items():
      if key != 'step' and isinstance(value, bool | int | float):
        with self._view('TensorBoard'):
          self._events.add_scalar(key, float(value), row['step'])

  def _metric(self, name: str, value: Any) -> Any:
    plain = _plain(value)
    if plain is None and value is not None:
      self._say_once(
        f'metric {name} is {value}: written as null, as JSON has no such number'
      )
    return plain

  @contextlib.contextmanager
  def _view(self, name: str) -> Iterator[None]:
    """Runs a view of the record; where it fails the run goes on without it."""
    try:
      yield
    except Exception as error:
      self._say_once(
        f'{name} fails, and the run goes on: the record is in {METRICS_FILE}',
        f'{type(error).__name__}: {error}',
      )

  def _say_once(self, what: str, why: str = '') -> None:
    if what not in self._said:
      self._said.add(what)
      logging.warning('%s', f'{what} ({why})' if why else what)


def _open(path: pathlib.Path) -> TextIO:
  return path.open('a', encoding='utf-8')
