"""Times of the parts of a step, or of an evaluation."""

import collections
import time


class Clock:
  """Seconds spent on parts of the work, by default as `time/<part>`.

  Attributes:
    started: `time.perf_counter()` when it was made.
    laps: seconds by name, in the order in which the parts first ended.
  """

  def __init__(self, prefix: str = 'time/') -> None:
    self.started = self._last = time.perf_counter()
    self.laps: dict[str, float] = collections.defaultdict(float)
    self._prefix = prefix

  def lap(self, name: str) -> None:
    """Adds the time since the last call to a part."""
    now = time.perf_counter()
    self.laps[self._prefix + name] += now - self._last
    self._last = now

  def total(self) -> float:
    """Seconds since the start."""
    return time.perf_counter() - self.started
