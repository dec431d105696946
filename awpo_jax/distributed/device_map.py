"""A function over all devices: under `pmap`, or under `jit` over a mesh."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from awpo_jax import types
from awpo_jax.distributed.sharding import (
  constrain_state,
  is_sharded,
  parts,
  split,
)
from awpo_jax.models.activation_sharding import DATA_AXIS


def mapped(
  fn: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  *,
  in_axes: tuple[int | None, ...],
  out_axes: Any,
  donate: tuple[int, ...] = (),
  rows_axis: int = 0,
) -> jax.stages.Wrapped:
  """`fn` over all devices; arguments of axis None are whole or cut by `RULES`.

  Args:
    fn: takes `axis_name`, of the data axis under `pmap`, None where it sees
      global arrays.
    mesh: see the module.
    in_axes: 0 for a batch [parts, ...], None for a state.
    out_axes: likewise. What is None must be the same on every device: all of
      it has passed `all_sum` or `all_max`.
    donate: arguments whose buffers the result may use.
    rows_axis: of the axes that `fn` sees of a batch, the one of the prompts,
      which are cut into parts; of a result it is always the first.

  Returns:
    The mapped function; it has `lower`, as a jitted one.
  """
  if not is_sharded(mesh):
    return _pmapped(fn, mesh, in_axes, out_axes, donate)
  rows = NamedSharding(mesh, PartitionSpec(*[None] * rows_axis, DATA_AXIS))

  def run(*args):
    args = [
      arg if axis is None else _joined(arg, rows, rows_axis)
      for arg, axis in zip(args, in_axes, strict=True)
    ]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      results = fn(*args, axis_name=None)
    return jax.tree.map(
      lambda axis, tree: _parted(tree, axis, mesh),
      out_axes,
      results,
      is_leaf=lambda axis: axis is None,
    )

  return jax.jit(run, donate_argnums=donate)


def _pmapped(fn, mesh, in_axes, out_axes, donate) -> jax.stages.Wrapped:
  fn = functools.partial(fn, axis_name=DATA_AXIS)
  if jax.process_count() == 1:
    return jax.pmap(
      fn,
      axis_name=DATA_AXIS,
      in_axes=in_axes,
      out_axes=out_axes,
      donate_argnums=donate,
      devices=list(mesh.devices.flat),
    )
  # What `pmap` is made of: its own `lower` takes local arrays, which these are
  # not where there are several processes.
  one, all_of = PartitionSpec(DATA_AXIS), PartitionSpec()

  def spec(axis):
    return all_of if axis is None else one

  def run(*args):
    args = [
      arg if axis is None else jax.tree.map(lambda x: x[0], arg)
      for arg, axis in zip(args, in_axes, strict=True)
    ]
    results = fn(*args)
    return jax.tree.map(
      lambda axis, tree: (
        tree if axis is None else jax.tree.map(lambda x: x[None], tree)
      ),
      out_axes,
      results,
      is_leaf=lambda axis: axis is None,
    )

  mapped = jax.shard_map(
    run,
    mesh=mesh,
    in_specs=tuple(map(spec, in_axes)),
    out_specs=jax.tree.map(spec, out_axes, is_leaf=lambda x: x is None),
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=donate)


def _joined(tree: types.ArrayTree, rows: NamedSharding, axis: int):
  """[parts, ..., P, ...] -> [..., parts * P, ...]: global arrays of a batch."""

  def join(x):
    x = jnp.moveaxis(x, 0, axis)
    shape = (*x.shape[:axis], math.prod(x.shape[axis : axis + 2]))
    return jax.lax.with_sharding_constraint(
      x.reshape(*shape, *x.shape[axis + 2 :]), rows
    )

  return jax.tree.map(join, tree)


def _parted(tree: types.ArrayTree, axis: int | None, mesh: jax.sharding.Mesh):
  """The results of a mapped function, as `pmap` would give them."""
  if axis is None:
    return constrain_state(tree, mesh)
  return jax.lax.with_sharding_constraint(
    split(tree, parts(mesh)), NamedSharding(mesh, PartitionSpec(DATA_AXIS))
  )
