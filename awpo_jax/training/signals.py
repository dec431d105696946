"""What the process is told from outside while a run lasts."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
  """SIGTERM and SIGINT go to `handler` while the block runs."""
  old = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for signum, previous in old.items():
      signal.signal(signum, previous)
