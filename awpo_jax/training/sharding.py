"""Placement on devices: the data axis of `pmap` and what lies along it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types

DATA_AXIS = 'data'


def data_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """A mesh of one axis, `data`, over the given (default: all) devices."""
  devices = jax.devices() if devices is None else list(devices)
  return jax.sharding.Mesh(
    np.asarray(devices),
    (DATA_AXIS,),
    axis_types=(jax.sharding.AxisType.Auto,),
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of a state: all of it on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def place_replicated(tree: types.ArrayTree, mesh: jax.sharding.Mesh):
  """Puts a state on all devices, without a device axis."""
  return jax.device_put(tree, replicated(mesh))


def place_split(tree: types.ArrayTree, mesh: jax.sharding.Mesh):
  """Puts a batch [devices, ...] so that device i holds entry i."""
  spec = jax.sharding.PartitionSpec(DATA_AXIS)
  return jax.device_put(tree, jax.sharding.NamedSharding(mesh, spec))


def split(tree: types.ArrayTree, devices: int) -> types.ArrayTree:
  """[X, ...] -> [devices, X / devices, ...]; X must be a multiple."""
  return jax.tree.map(
    lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), tree
  )


def merge(tree: types.ArrayTree) -> types.ArrayTree:
  """The inverse of `split`."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def cut(
  tree: types.ArrayTree, *, minibatches: int, devices: int, micro: int
) -> list[types.ArrayTree]:
  """Cuts a rollout batch [P, ...] into mini-batches [devices, M, P', ...].

  Mini-batch b is the b-th run of P / minibatches consecutive prompts, however
  many devices and microbatches share it.

  Args:
    tree: NumPy arrays with leading axis P, a multiple of
      minibatches * devices * micro.
    minibatches: updates.
    devices: along the data axis.
    micro: prompts of a microbatch.

  Returns:
    One tree per mini-batch.
  """

  def reshape(x):
    return x.reshape(minibatches, devices, -1, micro, *x.shape[1:])

  tree = jax.tree.map(reshape, tree)
  return [jax.tree.map(lambda x, b=b: x[b], tree) for b in range(minibatches)]


def pmapped(
  fn: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  *,
  in_axes: tuple[int | None, ...],
  out_axes: Any,
  donate: tuple[int, ...] = (),
) -> jax.stages.Wrapped:
  """`pmap` of `fn` over the data axis; arguments of axis None are replicated.

  Args:
    fn: takes `axis_name`.
    mesh: of `data_mesh`.
    in_axes: 0 for a batch with a device axis, None for a replicated argument.
    out_axes: likewise. What is None must be the same on every device: all of
      it has passed `all_sum` or `all_max`.
    donate: arguments whose buffers the result may use.

  Returns:
    The mapped function; it has `lower`, as a jitted one.
  """
  return jax.pmap(
    functools.partial(fn, axis_name=DATA_AXIS),
    axis_name=DATA_AXIS,
    in_axes=in_axes,
    out_axes=out_axes,
    donate_argnums=donate,
    devices=list(mesh.devices.flat),
  )
