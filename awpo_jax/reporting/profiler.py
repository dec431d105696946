"""The window of steps that `jax.profiler` traces."""

import pathlib
from collections.abc import Sequence

import jax

from awpo_jax import types

FOLDER = 'profile'


class Profiler:
  """Traces from the first to the last step of a window.

  Where a run goes on inside of its window nothing is traced: half a window
  would look like a whole one.
  """

  def __init__(self, window: Sequence[int], output_dir: str) -> None:
    """Starts nothing yet.

    Args:
      window: first and last step, or empty.
      output_dir: folder of the run; the trace goes to `profile/`.
    """
    self._window = tuple(window)
    self._folder = pathlib.Path(output_dir) / FOLDER
    self._tracing = False

  def before(self, step: int) -> None:
    """To be called before each step."""
    if self._window and step == self._window[0]:
      self._tracing = True
      jax.profiler.start_trace(str(self._folder))

  def after(self, step: int, params: types.ArrayTree) -> None:
    """To be called after each step, with the parameters it leaves."""
    if self._tracing and step == self._window[1]:
      # The step has only been dispatched: its programs belong to the trace.
      jax.block_until_ready(params)
      self.close()

  def close(self) -> None:
    """Writes what there is; a run that ends in its window keeps that much."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
