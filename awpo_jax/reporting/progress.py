"""Progress of a run for whoever watches it: a bar, or plain lines."""

import sys
import time
from collections.abc import Callable, Mapping
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
    self._line_time = clock()
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

  def update(self, step: int, text: str = '') -> None:
    """Shows that `step` is done.

    Args:
      step: the step just done, in `[initial, total]`.
      text: what to show beside it, e.g. `loss 0.31`.
    """
    if self._bar is not None:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(step - self._bar.n)
      return
    if self._silent:
      return
    now = self._clock()
    elapsed = now - self._line_time
    if not self._first and step < self._total and elapsed < self._interval:
      return
    rate = (step - self._line_step) / elapsed if elapsed > 0 else 0.0
    self.message(_line(step, self._total, rate, text, self._unit))
    self._first, self._line_step, self._line_time = False, step, now

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


def counted(
  total: int,
  tell: Callable[[str], None],
  *,
  unit: str = 'answer',
  text: str = '',
  interval: float = 10.0,
  clock: Callable[[], float] = time.monotonic,
) -> Callable[[int], None]:
  """Counts what is done within a step; nothing is said of what is quick.

  Args:
    total: how many there will be.
    tell: given a line.
    unit, text: as of `Progress`.
    interval: least number of seconds before a line.
    clock: seconds that only grow.

  Returns:
    Called with how many more are done.
  """
  done, begun = 0, clock()
  told = begun

  def advance(count: int) -> None:
    nonlocal done, told
    done += count
    now = clock()
    if now - told >= interval and done < total:
      told = now
      tell(_line(done, total, done / (now - begun), text, unit))

  return advance


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
