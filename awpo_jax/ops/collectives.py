"""Sums and maxima over devices: the same code on one device and on many."""

import functools

import jax

from awpo_jax import types


def identity(tree: types.ArrayTree) -> types.ArrayTree:
  """What one device, or a program over global arrays, needs: nothing."""
  return tree


def make_all_sum(axis_name: str | None = None) -> types.AllSum:
  """A function that adds up each leaf of a tree over a mapped axis.

  Args:
    axis_name: the axis named to `pmap` or `vmap`; None outside of them.

  Returns:
    A function from a tree of arrays to the same tree, equal on all devices.
  """
  if axis_name is None:
    return identity
  return functools.partial(jax.lax.psum, axis_name=axis_name)


def make_all_max(axis_name: str | None = None) -> types.AllSum:
  """As `make_all_sum`, with the largest value instead of the sum."""
  if axis_name is None:
    return identity
  return functools.partial(jax.lax.pmax, axis_name=axis_name)
