"""Learning rates after the warm-up, one function per value of `schedule`."""

from collections.abc import Callable, Mapping

import optax


def constant(peak: float, updates: int) -> optax.Schedule:
  """The peak throughout."""
  del updates
  return optax.constant_schedule(peak)


def linear(peak: float, updates: int) -> optax.Schedule:
  """Straight from the peak to 0."""
  return optax.linear_schedule(peak, 0.0, updates)


def cosine(peak: float, updates: int) -> optax.Schedule:
  """Half a cosine from the peak to 0."""
  return optax.cosine_decay_schedule(peak, updates)


SCHEDULES: Mapping[str, Callable[[float, int], optax.Schedule]] = {
  'constant': constant,
  'linear': linear,
  'cosine': cosine,
}
