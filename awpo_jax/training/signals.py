"""What the process is told from outside while a run lasts."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


class Stopped(RuntimeError):
  """The run was asked to stop and has saved what it had."""

  def __init__(self, message: str, signum: int):
    super().__init__(message)
    self.signum = signum


def stop_at_start(signum: int, _: Any) -> None:
  """The handler while nothing is there to be saved."""
  raise Stopped(
    f'Stopped by {signal.Signals(signum).name} at the start: the same command '
    'starts again.',
    signum,
  )


@contextlib.contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
  """SIGTERM and SIGINT go to `handler` while the block runs."""
  old = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for signum, previous in old.items():
      signal.signal(signum, previous)
