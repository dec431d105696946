"""The metrics of a run, to be asked for figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
