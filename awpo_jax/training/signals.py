"""Signals that a process gets while a run goes on."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any


class Stopped(RuntimeError):
  """The run had to stop and has saved its state.

  Attributes:
    signum: of the signal that asked for it; None where it cannot go on now.
    exit_code: of the process, as a shell has it for a signal; else that of a
      failure that may pass, or of one that will not.
  """

  def __init__(
    self, message: str, signum: int | None = None, *, passes: bool = True
  ):
    """The end of a run.

    Args:
      message: what happened and how to go on.
      signum: of a signal.
      passes: without one, whether the same command may work later; else
        something must be changed before.
    """
    super().__init__(message)
    self.signum = signum
    self.exit_code = os.EX_TEMPFAIL if passes else 1
    if signum is not None:
      self.exit_code = 128 + signum


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
