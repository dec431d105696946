"""The metrics and flags of a run, to be asked for figures."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from awpo_jax.checkpointing import run_folder
from awpo_jax.reporting import metrics as metrics_lib

# How many steps "the last steps" are, and what a rise needs.
LAST = 20
_STEPS_OF_A_RISE = 9


def is_number(value: Any) -> bool:
  """Whether a value is a number; True and False are not."""
  return isinstance(value, int | float) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Record:
  """What a run says of itself.

  Attributes:
    rows: lines of `metrics.jsonl` in their order.
    flags: name -> value, as `flags.json` has them; empty where it is missing.
  """

  rows: Sequence[Mapping[str, Any]]
  flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def values(self, name: str, phase: str = 'rl') -> np.ndarray:
    """f64[n], a metric at the steps of a phase that have it, in order."""
    found = [
      row.get(name)
      for row in self.rows
      if not phase or row.get('phase') == phase
    ]
    return np.array([x for x in found if is_number(x)], np.float64)

  def recent(self, name: str, phase: str = 'rl') -> float | None:
    """The mean of its last values; None where there is none."""
    values = self.values(name, phase)[-LAST:]
    return float(values.mean()) if values.size else None

  def largest(self, name: str) -> float | None:
    """The largest value at a step of RL; None where there is none."""
    return max(self.values(name).tolist(), default=None)

  def rise(self, name: str) -> float | None:
    """Change from the first to the last third of RL, in standard errors.

    None of fewer than nine steps.
    """
    values = self.values(name)
    if values.size < _STEPS_OF_A_RISE:
      return None
    third = values.size // 3
    first, last = values[:third], values[-third:]
    error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / third)
    change = last.mean() - first.mean()
    return float(change / max(error, 1e-9 + 1e-6 * abs(first.mean())))


def read(folder: str | os.PathLike[str]) -> Record:
  """The metrics and flags of a run.

  Args:
    folder: of the run; without `flags.json` what needs a flag is not checked.

  Raises:
    FileNotFoundError: it is not the folder of a run.
    ValueError: a file of it is damaged.
  """
  folder = pathlib.Path(folder)
  path = folder / metrics_lib.METRICS_FILE
  if not path.is_file():
    raise FileNotFoundError(
      f'{folder} is not the folder of a run: there is no {path.name} in it. '
      'Name the --output_dir of train.py.'
    )
  return Record(metrics_lib.read_metrics(path), read_flags(folder))


def read_flags(folder: pathlib.Path) -> Mapping[str, Any]:
  """The flags of a run; empty without `flags.json`.

  Raises:
    ValueError: the file is damaged.
  """
  path = folder / run_folder.FLAGS_FILE
  if not path.is_file():
    return {}
  try:
    flags = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}. Remove it.') from error
  if not isinstance(flags, dict):
    raise ValueError(f'{path} is not a JSON object of flags. Remove it.')
  return flags
