"""Learning rates after the warm-up, one function per value of `schedule`."""

from collections.abc import Callable, Mapping

import optax


def constant(peak: float, final: float, updates: int) -> optax.Schedule:
  """The peak throughout."""
  return optax.constant_schedule(peak)


def linear(peak: float, final: float, updates: int) -> optax.Schedule:
  """Straight from the peak to `peak * final`."""
  return optax.linear_schedule(peak, peak * final, updates)


def cosine(peak: float, final: float, updates: int) -> optax.Schedule:
  """Half a cosine from the peak to `peak * final`."""
  return optax.cosine_decay_schedule(peak, updates, alpha=final)


SCHEDULES: Mapping[str, Callable[[float, float, int], optax.Schedule]] = {
  'constant': constant,
  'linear': linear,
  'cosine': cosine,
}
