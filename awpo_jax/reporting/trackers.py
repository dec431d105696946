"""Services that show a run beside its own files: W&B and trackio.

Both get every line of metrics, and the answers of a step: Weights & Biases as a
table, trackio as traces with their tool calls.
"""

import contextlib
import importlib
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

WANDB_ID_FILE = 'wandb_id.txt'
TRACKIO_ID_FILE = 'trackio_id.txt'
TITLES = {'wandb': 'Weights & Biases', 'trackio': 'trackio'}
MAX_ROWS = 64
"""Answers of one step and set that are sent, at most."""
MAX_CHARS = 20_000
"""Characters of a text that are sent, at most."""
COLUMNS = (
  'prompt', 'sample', 'task_id', 'kind', 'user', 'response', 'outcome',
  'reasoning', 'solved', 'finished', 'advantage',
)  # fmt: skip

Row = Mapping[str, Any]
# A row of the transcripts and a bound of characters -> messages of a chat.
Chat = Callable[..., list[dict[str, Any]]]


class Tracker(Protocol):
  """A run of a service."""

  def log(self, row: Row) -> None:
    """Sends the metrics of a step, `step` among them."""

  def show(self, step: int, name: str, rows: Sequence[Row]) -> None:
    """Sends answers of a step under a name."""

  def finish(self) -> None:
    """Sends what is left."""


def load(name: str, project: str) -> Any:
  """The package of a service.

  Args:
    name: key of `TITLES`, which the package and its extra are called as well.
    project: that is logged to.

  Raises:
    ModuleNotFoundError: it is not installed; says how to have it.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f'Logging to the {TITLES[name]} project {project!r} needs the package '
      f"`{name}`: pip install -e '.[{name}]', or leave --{name}_project empty.",
      name=name,
    ) from error


def check(**projects: str) -> None:
  """Refuses, as `load`, a project whose package is missing; '' is none."""
  for name, project in projects.items():
    if project:
      load(name, project)


def _run_id(file: pathlib.Path, resume_step: int) -> str:
  """The id of a run; a restart of the same folder goes on with the same."""
  if not (resume_step and file.exists()):
    file.write_text(uuid.uuid4().hex[:8])
  return file.read_text()


class Wandb:
  """A run of Weights & Biases."""

  def __init__(
    self, module: Any, project: str, folder: pathlib.Path, resume_step: int
  ) -> None:
    self._module = module
    self._run = module.init(
      project=project,
      id=_run_id(folder / WANDB_ID_FILE, resume_step),
      name=folder.name,
      dir=str(folder),
      resume='allow',
    )

  def log(self, row: Row) -> None:
    """The metrics end the step, to which `show` has added its tables."""
    self._run.log(row, step=row['step'])

  def show(self, step: int, name: str, rows: Sequence[Row]) -> None:
    """A table of one answer a row."""
    data = [[_cell(row.get(name)) for name in COLUMNS] for row in rows]
    table = self._module.Table(columns=list(COLUMNS), data=data)
    self._run.log({f'completions/{name}': table}, step=step)

  def finish(self) -> None:
    """Waits until all is sent."""
    self._run.finish()


def _cell(value: Any) -> Any:
  """A value of a table: texts are bounded, and have no half of a pair."""
  if value is None or isinstance(value, bool | int | float):
    return value
  return str(value)[:MAX_CHARS].encode('utf-8', 'replace').decode('utf-8')


class Trackio:
  """A run of trackio, which lies on this machine unless its variables say else.

  It prints what it does; that goes to standard error.
  """

  def __init__(
    self,
    module: Any,
    project: str,
    folder: pathlib.Path,
    resume_step: int,
    chat: Chat,
  ) -> None:
    self._module, self._chat = module, chat
    name = f'{folder.name}-{_run_id(folder / TRACKIO_ID_FILE, resume_step)}'
    with contextlib.redirect_stdout(sys.stderr):
      self._run = module.init(
        project=project,
        name=name,
        resume='allow',
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
      )

  def log(self, row: Row) -> None:
    """Without `step`, which trackio keeps itself, and without nulls."""
    metrics = {k: v for k, v in row.items() if k != 'step' and v is not None}
    self._run.log(metrics, step=row['step'])

  def show(self, step: int, name: str, rows: Sequence[Row]) -> None:
    """A trace of each answer, with what it was paid."""
    traces = [
      self._module.Trace(
        messages=self._chat(row, limit=MAX_CHARS),
        metadata={
          key: _cell(row[key])
          for key in COLUMNS
          if key not in ('user', 'response') and row.get(key) is not None
        },
      )
      for row in rows
    ]
    self._run.log({f'completions/{name}': traces}, step=step)

  def finish(self) -> None:
    """Waits until all is written, half a minute at most."""
    with contextlib.redirect_stdout(sys.stderr):
      self._module.finish()


def by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """The first rows of each held-out set, and of rollouts, by name."""
  named: dict[str, list[Row]] = {}
  for row in rows:
    named.setdefault(str(row.get('set', 'rollout')), []).append(row)
  return {name: some[:MAX_ROWS] for name, some in named.items()}
