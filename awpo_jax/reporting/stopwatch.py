"""Times of the parts of a step."""

import time


class Clock:
  """Seconds between the parts of a step, as `time/<part>`."""

  def __init__(self) -> None:
    self.started = self._last = time.perf_counter()
    self.laps: dict[str, float] = {}

  def lap(self, name: str) -> None:
    """Adds the time since the last call to a part."""
    now, key = time.perf_counter(), f'time/{name}'
    self.laps[key] = self.laps.get(key, 0.0) + now - self._last
    self._last = now

  def total(self) -> float:
    """Seconds since the start."""
    return time.perf_counter() - self.started
