"""Learning rates after the warm-up, one function per value of `schedule`.

Each is given the peak and the number of updates that are left.
"""

from collections.abc import Callable, Mapping

import optax

SCHEDULES: Mapping[str, Callable[[float, int], optax.Schedule]] = {
  'constant': lambda peak, updates: optax.constant_schedule(peak),
  'linear': lambda peak, updates: optax.linear_schedule(peak, 0.0, updates),
  'cosine': optax.cosine_decay_schedule,
}
