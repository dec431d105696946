"""Progress for whoever watches: a bar of steps, and what long work does.

All of it goes to standard error: one line that is rewritten on a terminal,
plain lines elsewhere, at most one every ten seconds or so.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import tqdm


class Progress:
  """A `tqdm` bar on a terminal, else a line every ten seconds or so.

  Lines carry the rate since the line before, so that they follow a run whose
  phases differ in speed, and the time left at that rate.
  """

  def __init__(
    self,
    total: int,
    initial: int = 0,
    *,
    unit: str = 'step',
    stream: TextIO | None = None,
    interval: float = 10.0,
    silent: bool = False,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Starts the display.

    Args:
      total: last step of the run.
      initial: steps done before this start, e.g. by the run resumed.
      unit: what is counted.
      stream: where to write; standard error by default.
      interval: least number of seconds between two plain lines.
      silent: shows nothing but messages.
      clock: seconds that only grow.
    """
    self._total, self._unit = total, unit
    self._stream = sys.stderr if stream is None else stream
    self._silent = silent
    self._interval = interval
    self._clock = clock
    self._line_step = initial
    self._time = self._line_time = clock()
    self._seconds = 0.0  # Of the steps since the last line.
    self._first = True
    self._bar = None
    if self._stream.isatty() and not silent:
      self._bar = tqdm.tqdm(
        total=total,
        initial=initial,
        unit=unit,
        file=self._stream,
        dynamic_ncols=True,
      )

  def update(
    self, step: int, text: str = '', *, seconds: float | None = None
  ) -> None:
    """Shows that `step` is done.

    Args:
      step: the step just done, in `[initial, total]`.
      text: what to show beside it, e.g. `loss 0.31`.
      seconds: how long the steps since the last call took, where other work,
        such as an evaluation, was done in between, which would make the rate
        too low; None where that was all.
    """
    now = self._clock()
    passed, self._time = now - self._time, now
    seconds = passed if seconds is None else seconds
    self._seconds += seconds
    if self._bar is not None:
      if not self._bar.disable:  # TQDM_DISABLE; it has no times then.
        # As its own `unpause` takes off what was no work.
        self._bar.start_t += passed - seconds
        self._bar.last_print_t += passed - seconds
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(step - self._bar.n)
      return
    if self._silent:
      return
    recent = now - self._line_time < self._interval
    if not self._first and step < self._total and recent:
      return
    steps, took = step - self._line_step, self._seconds
    rate = steps / took if took > 0 else 0.0
    self.message(_line(step, self._total, rate, text, self._unit))
    self._first, self._line_step, self._line_time = False, step, now
    self._seconds = 0.0

  def message(self, text: str) -> None:
    """Writes a line of its own, above the bar where there is one."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    if self._bar is not None:
      self._bar.close()


def _line(step: int, total: int, rate: float, text: str, unit: str) -> str:
  parts = [f'{unit} {step}/{total}']
  if rate > 0:
    speed = f'{rate:.2f} {unit}s/s'
    if rate < 0.1:
      speed = f'{1 / rate:.1f} s/{unit}'
    left = tqdm.tqdm.format_interval((total - step) / rate)
    parts += [speed, f'{left} left']
  if text:
    parts.append(text)
  return '  '.join(parts)


@contextlib.contextmanager
def working(
  say: Callable[[], str],
  *,
  stream: TextIO | None = None,
  silent: bool = False,
  interval: float = 10.0,
) -> Iterator[None]:
  """Says what the work in the block does, if it takes long.

  On a terminal the line is rewritten ten times in an interval, over a bar if
  there is one, and cleared in the end. What lasted an interval leaves a last
  line, unless it failed. A thread writes, which ends with the block and
  touches neither JAX nor signals.

  Args:
    say: what is done by now, e.g. `Judging: 3 of 64 answers have a score`;
      called by that thread.
    stream: where to write; standard error by default.
    silent: says nothing, e.g. in all processes of a run but the first.
    interval: seconds before the first plain line, and between two.
  """
  if silent:
    yield
    return
  line = _Line(say, sys.stderr if stream is None else stream, interval)
  thread = threading.Thread(target=line.keep, name='progress', daemon=True)
  thread.start()
  done = False
  try:
    yield
    done = True
  finally:
    line.ended.set()
    thread.join()
    line.leave(done)


class _Line:
  """The line of one work; a stream that is gone ends it silently."""

  def __init__(
    self, say: Callable[[], str], stream: TextIO, interval: float
  ) -> None:
    self._say, self._stream, self._interval = say, stream, interval
    self._terminal = stream.isatty()
    self._shown = False
    self._begun = time.monotonic()
    self.ended = threading.Event()

  def keep(self) -> None:
    pause = self._interval / 10 if self._terminal else self._interval
    while not self.ended.wait(pause):
      self._write(f'{self._say()}, {self._seconds():.0f} s')

  def leave(self, done: bool) -> None:
    if self._terminal and self._shown:
      # Which also draws the bar again.
      with _broken_off(), tqdm.tqdm.external_write_mode(file=self._stream):
        self._stream.write(self._whole(''))
    if done and self._seconds() >= self._interval:
      with _broken_off():
        text = f'{self._say()}, done after {self._seconds():.0f} s'
        tqdm.tqdm.write(text, file=self._stream)
        self._stream.flush()

  def _write(self, text: str) -> None:
    with _broken_off(), tqdm.tqdm.get_lock():
      self._stream.write(self._whole(text) if self._terminal else f'{text}\n')
      self._stream.flush()
      self._shown = True

  def _whole(self, text: str) -> str:
    """A line of the terminal over what stands there, and its beginning."""
    width = 80
    with contextlib.suppress(OSError, ValueError):
      # Not the last column, which would begin another line.
      width = os.get_terminal_size(self._stream.fileno()).columns or width
    return f'\r{text[: width - 1]:<{width - 1}}\r'

  def _seconds(self) -> float:
    return time.monotonic() - self._begun


def _broken_off() -> contextlib.AbstractContextManager[None]:
  """Ignores errors of a stream that is closed or that nobody reads."""
  return contextlib.suppress(OSError, ValueError)


def headline(metrics: Mapping[str, Any]) -> str:
  """The few numbers that go beside the progress bar."""
  names = {
    'loss': 'loss',
    'reward/outcome': 'outcome',
    'reward/reasoning': 'reasoning',
    'gate/mean': 'gate',
  }
  parts = [
    f'{label} {metrics[name]:.3f}'
    for name, label in names.items()
    if metrics.get(name) is not None
  ]
  parts += [
    f'{name.removeprefix("eval/")} {value:.1%}'
    for name, value in metrics.items()
    if name.startswith('eval/') and name.endswith('/accuracy')
  ]
  return ', '.join([metrics['phase'], *parts])
