"""A function over all devices: pmapped, or under `jit` over a mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

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
    fn: takes `axis_name`, of the data axis where it is pmapped, None where it
      sees global arrays.
    mesh: of `sharding.make_mesh`.
    in_axes: 0 for a batch [parts, ...], None for a state.
    out_axes: likewise. What is None must be the same on every device: all of
      it has passed `all_sum` or `all_max`.
    donate: arguments whose buffers the result may use.
    rows_axis: of the axes that `fn` sees of a batch, the one of the prompts,
      which are cut into parts; of a result it is always the first.

  Returns:
    The mapped function; it has `lower`, as a jitted one.
  """
  if is_sharded(mesh):
    run = _over_global_arrays(fn, mesh, in_axes, out_axes, rows_axis)
  else:
    run = pmapped(fn, mesh, in_axes=in_axes, out_axes=out_axes)
  return jax.jit(run, donate_argnums=donate)


def pmapped(
  fn: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  *,
  in_axes: tuple[int | None, ...],
  out_axes: Any,
) -> Callable[..., Any]:
  """`fn` pmapped: each device runs it on its own part, for `jit` to compile.

  `jax.pmap` is the same `shard_map` under `jit`, but takes and gives the arrays
  of one process; these are global ones, of any number of processes. Arguments
  are those of `mapped`; calling the result raises a ValueError where a batch
  has another number of parts than there are devices.
  """

  def run(*args):
    # Unlike `x[0]`, `squeeze` refuses several parts of one device.
    args = _by_axis(in_axes, args, lambda x: jax.lax.squeeze(x, [0]))
    results = fn(*args, axis_name=DATA_AXIS)
    return _by_axis(out_axes, results, lambda x: jax.lax.expand_dims(x, [0]))

  def specs(axes):
    one, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    return _by_axis(axes, axes, lambda _: one, lambda _: whole)

  return jax.shard_map(
    run,
    mesh=mesh,
    in_specs=specs(in_axes),
    out_specs=specs(out_axes),
    # Where it is checked, JAX adds up gradients, which `all_sum` does here.
    check_vma=False,
  )


def _over_global_arrays(fn, mesh, in_axes, out_axes, rows_axis):
  rows = NamedSharding(mesh, PartitionSpec(*[None] * rows_axis, DATA_AXIS))
  where = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

  def join(x):
    """[parts, ..., P, ...] -> [..., parts * P, ...]."""
    x = jnp.moveaxis(x, 0, rows_axis)
    x = x.reshape(*x.shape[:rows_axis], -1, *x.shape[rows_axis + 2 :])
    return jax.lax.with_sharding_constraint(x, rows)

  def part(x):
    return jax.lax.with_sharding_constraint(split(x, parts(mesh)), where)

  def run(*args):
    args = _by_axis(in_axes, args, join)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      results = fn(*args, axis_name=None)
    whole = functools.partial(constrain_state, mesh=mesh)
    return _by_axis(out_axes, results, part, whole)

  return run


def _by_axis(axes, trees, change, whole=lambda tree: tree):
  """Changes each array of axis 0, and the trees of axis None as a whole."""
  return jax.tree.map(
    lambda axis, tree: (
      whole(tree) if axis is None else jax.tree.map(change, tree)
    ),
    axes,
    trees,
    is_leaf=lambda axis: axis is None,
  )
