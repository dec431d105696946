"""The microbatches of a mini-batch, one after another."""

from collections.abc import Callable
from typing import TypeVar

import jax

from awpo_jax import types

_T = TypeVar('_T')


def fold(
  add: Callable[[_T, types.Batch], _T], start: _T, batch: types.Batch
) -> _T:
  """`add` to `start` each microbatch of a mini-batch.

  Args:
    add: (sum, microbatch [P, ...]) -> sum.
    start: the sum of nothing.
    batch: [M, P, ...]; any tree of arrays [M, ...] without a layout.
  """
  layout = getattr(batch, 'layout', None)
  if layout is not None:
    return layout.fold(add, start, batch)
  total, _ = jax.lax.scan(lambda t, x: (add(t, x), None), start, batch)
  return total


def first(batch: types.Batch) -> types.Batch:
  """The first microbatch of a mini-batch, for its shapes."""
  layout = getattr(batch, 'layout', None)
  if layout is not None:
    return layout.first(batch)
  return jax.tree.map(lambda x: x[0], batch)
