"""Placement on devices, and how a function is mapped over them.

The mesh says it all. With the one axis `data` every device holds the whole
state and functions are `pmap`ped. With a second axis, `model`, the state is cut
by `RULES` (fully over `data`, by heads and features over `model`), and the same
functions run under `jit` over global arrays.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from awpo_jax import config as config_lib
from awpo_jax import config_rules, types
from awpo_jax.models.partition import DATA_AXIS, MODEL_AXIS

# (regular expression, rule): how an array whose path ends in a match is cut.
# The first match counts. The moments of the optimizer are named like their
# parameters. What matches none (norms, counters, adapters) is whole everywhere.
Rules = tuple[tuple[str, PartitionSpec], ...]
RULES: Rules = (
  (r'embed_tokens/embedding$', PartitionSpec(MODEL_AXIS, DATA_AXIS)),
  (r'lm_head$', PartitionSpec(DATA_AXIS, MODEL_AXIS)),
  (
    r'(q|k|v|gate|up)_proj/kernel$',
    PartitionSpec(DATA_AXIS, MODEL_AXIS),
  ),
  (r'(o|down)_proj/kernel$', PartitionSpec(MODEL_AXIS, DATA_AXIS)),
  (r'(q|k|v|gate|up)_proj/bias$', PartitionSpec(MODEL_AXIS)),
)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """A mesh of one axis, `data`, over the given (default: all) devices."""
  devices = jax.devices() if devices is None else list(devices)
  return _mesh(devices, {DATA_AXIS: len(devices)})


def model_mesh(
  data: int, model: int, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """A mesh of the axes `data` and `model`, over all devices by default.

  Raises:
    ValueError: their product is not the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  if data * model != len(devices):
    raise ValueError(
      f'--mesh=data:{data},model:{model} is {data * model} devices, here are '
      f'{len(devices)}.'
    )
  return _mesh(devices, {DATA_AXIS: data, MODEL_AXIS: model})


def make_mesh(run: config_lib.RunConfig) -> jax.sharding.Mesh:
  """The mesh that `--parallelism` and `--mesh` ask for, over all devices.

  Raises:
    ConfigError: there are more devices, or fewer.
  """
  if run.parallelism == 'pmap':
    return data_mesh()
  data, model = config_rules.parse_mesh(run.mesh) or (jax.device_count(), 1)
  try:
    return model_mesh(data, model)
  except ValueError as error:
    raise config_lib.ConfigError(str(error)) from error


def _mesh(devices, axes: dict[str, int]) -> jax.sharding.Mesh:
  return jax.sharding.Mesh(
    np.asarray(devices).reshape(tuple(axes.values())),
    tuple(axes),
    axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
  )


def is_sharded(mesh: jax.sharding.Mesh) -> bool:
  """Whether the state is cut over the mesh, or whole on every device."""
  return MODEL_AXIS in mesh.axis_names


def parts(mesh: jax.sharding.Mesh) -> int:
  """Into how many parts the rows of a batch are cut."""
  return mesh.shape[DATA_AXIS]


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The sharding of what is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(
  tree: types.ArrayTree, mesh: jax.sharding.Mesh, rules: Rules = RULES
) -> types.ArrayTree:
  """The sharding of each array of a state, by its path.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`s.
    mesh: see the module.
    rules: see `RULES`.
  """
  if not is_sharded(mesh):
    return jax.tree.map(lambda _: replicated(mesh), tree)
  return jax.tree.map_with_path(
    lambda path, _: NamedSharding(mesh, _rule(path, rules)), tree
  )


def _rule(path: Any, rules: Rules) -> PartitionSpec:
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  matches = (spec for pattern, spec in rules if re.search(pattern, name))
  return next(matches, PartitionSpec())


def misfits(
  tree: types.ArrayTree, mesh: jax.sharding.Mesh, rules: Rules = RULES
) -> Iterator[str]:
  """What of a state does not divide over the mesh, as text."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  for path, leaf in leaves:
    spec = _rule(path, rules) if is_sharded(mesh) else ()
    for size, axis in zip(leaf.shape, spec, strict=False):
      if axis is not None and size % mesh.shape[axis]:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        count = mesh.shape[axis]
        yield f'{name} {list(leaf.shape)}: {size} over {axis}:{count}'


def place_state(
  tree: types.ArrayTree, mesh: jax.sharding.Mesh
) -> types.ArrayTree:
  """Puts a state on its devices."""
  return jax.device_put(tree, state_shardings(tree, mesh))


def constrain_state(
  tree: types.ArrayTree, mesh: jax.sharding.Mesh
) -> types.ArrayTree:
  """Within a jitted function: a state, cut as outside of it."""
  return jax.lax.with_sharding_constraint(tree, state_shardings(tree, mesh))


def place_replicated(tree: types.ArrayTree, mesh: jax.sharding.Mesh):
  """Puts arrays on all devices, without a device axis."""
  return jax.device_put(tree, replicated(mesh))


def place_split(tree: types.ArrayTree, mesh: jax.sharding.Mesh):
  """Puts a batch [parts, ...] so that part i of the mesh holds entry i."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


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
    return jax.pmap(
      functools.partial(fn, axis_name=DATA_AXIS),
      axis_name=DATA_AXIS,
      in_axes=in_axes,
      out_axes=out_axes,
      donate_argnums=donate,
      devices=list(mesh.devices.flat),
    )
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
