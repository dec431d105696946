"""Placement on devices, and how a function is mapped over them.

The mesh says it all. With the one axis `data` every device holds the whole
state and functions are pmapped. With a second axis, `model`, the state is cut
by `RULES` (fully over `data`, by heads and features over `model`), and the same
functions run under `jit` over global arrays.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from awpo_jax import types
from awpo_jax.config import checks, sections
from awpo_jax.config import flags as flags_lib
from awpo_jax.models.activation_sharding import DATA_AXIS, MODEL_AXIS

AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh
# (regular expression, rule): how an array whose path ends in a match is cut.
# The first match counts. The moments of the optimizer are named like their
# parameters. What matches none (norms, counters, adapters) is whole everywhere.
RULES = (
  (r'embed_tokens/embedding$', PartitionSpec(MODEL_AXIS, DATA_AXIS)),
  (r'lm_head$', PartitionSpec(DATA_AXIS, MODEL_AXIS)),
  (r'(q|k|v|gate|up)_proj/kernel$', PartitionSpec(DATA_AXIS, MODEL_AXIS)),
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


def make_mesh(
  flags: sections.DevicesConfig,
  devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Mesh:
  """The mesh that `--parallelism` and `--mesh` ask for.

  Raises:
    ConfigError: there are more devices, or fewer.
  """
  devices = jax.devices() if devices is None else list(devices)
  if flags.parallelism == 'pmap':
    return data_mesh(devices)
  data, model = checks.parse_mesh(flags.mesh) or (len(devices), 1)
  try:
    return model_mesh(data, model, devices)
  except ValueError as error:
    raise flags_lib.ConfigError(str(error)) from error


def _mesh(devices, axes: dict[str, int]) -> jax.sharding.Mesh:
  return jax.sharding.Mesh(
    np.asarray(devices).reshape(tuple(axes.values())),
    tuple(axes),
    axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
  )


def is_sharded(mesh: AnyMesh) -> bool:
  """Whether the state is cut over the mesh (else every device holds it all)."""
  return MODEL_AXIS in mesh.axis_names


def parts(mesh: AnyMesh) -> int:
  """Number of parts that the rows of a batch are cut into."""
  return mesh.shape[DATA_AXIS]


def replicated(mesh: AnyMesh) -> NamedSharding:
  """The sharding of arrays that every device holds completely."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(tree: types.ArrayTree, mesh: AnyMesh) -> types.ArrayTree:
  """The sharding of each array, or `jax.ShapeDtypeStruct`, by its path."""
  if not is_sharded(mesh):
    return jax.tree.map(lambda _: replicated(mesh), tree)
  return jax.tree.map_with_path(
    lambda path, _: NamedSharding(mesh, _rule(path)), tree
  )


def _rule(path: Any) -> PartitionSpec:
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  matches = (spec for pattern, spec in RULES if re.search(pattern, name))
  return next(matches, PartitionSpec())


def misfits(tree: types.ArrayTree, mesh: jax.sharding.Mesh) -> Iterator[str]:
  """What of a state does not divide over the mesh, as text."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  for path, leaf in leaves:
    spec = _rule(path) if is_sharded(mesh) else ()
    for size, axis in zip(leaf.shape, spec, strict=False):
      if axis is not None and size % mesh.shape[axis]:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        count = mesh.shape[axis]
        yield f'{name} {list(leaf.shape)}: {size} over {axis}:{count}'


def bytes_of_each(tree: types.ArrayTree, *, mesh: AnyMesh) -> int:
  """Bytes of a state on each device."""
  return sum(
    math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize
    for x, where in zip(
      jax.tree.leaves(tree),
      jax.tree.leaves(state_shardings(tree, mesh)),
      strict=True,
    )
  )


def place_state(
  tree: types.ArrayTree, mesh: jax.sharding.Mesh
) -> types.ArrayTree:
  """Puts a state on its devices; every process must have all of it."""
  return jax.tree.map(_place, tree, state_shardings(tree, mesh))


def _place(x: types.Array, where: NamedSharding) -> jax.Array:
  if jax.process_count() == 1 or getattr(x, 'sharding', None) == where:
    return jax.device_put(x, where)
  host = jax.device_get(x)
  # As explicit as `device_put`, only that a transfer guard cannot tell.
  with jax.transfer_guard('allow'):
    return jax.make_array_from_callback(host.shape, where, host.__getitem__)


def constrain_state(
  tree: types.ArrayTree, mesh: jax.sharding.Mesh
) -> types.ArrayTree:
  """A state within a jitted function, cut as it is outside."""
  return jax.lax.with_sharding_constraint(tree, state_shardings(tree, mesh))


def place_replicated(tree: types.ArrayTree, mesh: jax.sharding.Mesh):
  """Puts arrays on all devices, without an axis of parts."""
  return jax.tree.map(lambda x: _place(x, replicated(mesh)), tree)


def place_split(tree: types.ArrayTree, mesh: jax.sharding.Mesh):
  """Puts a batch [parts, ...] so that part i of the mesh holds entry i.

  Of several processes each gives its `own_parts`, in their order.
  """
  where = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
  # As explicit as `device_put`, only that a transfer guard cannot tell.
  with jax.transfer_guard('allow'):
    return jax.make_array_from_process_local_data(where, tree)


def fetch_split(tree: types.ArrayTree) -> types.ArrayTree:
  """The inverse of `place_split`: NumPy arrays [own parts, ...]."""
  if jax.process_count() == 1:
    return jax.device_get(tree)

  def own(x):
    # Along a model axis there are several copies of a part.
    shards = {s.index[0].start or 0: s.data for s in x.addressable_shards}
    return np.concatenate(jax.device_get([shards[i] for i in sorted(shards)]))

  return jax.tree.map(own, tree)


def own_parts(mesh: jax.sharding.Mesh) -> list[int]:
  """The parts of a batch that lie on devices of this process.

  Raises:
    ConfigError: a part lies on devices of several processes.
  """
  owners = [
    {device.process_index for device in row}
    for row in mesh.devices.reshape(parts(mesh), -1)
  ]
  if any(len(x) > 1 for x in owners):
    raise flags_lib.ConfigError(
      f'--mesh: a part of the batch lies on devices of several processes '
      f'({owners}); the model axis must divide the devices of one.'
    )
  return [i for i, x in enumerate(owners) if x == {jax.process_index()}]


def deal(size: int, *, minibatches: int, parts: int) -> np.ndarray:
  """Which prompts of a rollout batch go to which part: i32[parts, ...].

  Mini-batch b is the b-th run of size / minibatches prompts, however many parts
  share it; of each such run a part has one stretch, as `cut` needs it.
  """
  order = np.arange(size, dtype=np.int32).reshape(minibatches, parts, -1)
  return order.swapaxes(0, 1).reshape(parts, -1)


def own_rows(
  size: int, *, minibatches: int, mesh: jax.sharding.Mesh
) -> np.ndarray:
  """The prompts of a rollout batch that this process has, in order."""
  dealt = deal(size, minibatches=minibatches, parts=parts(mesh))
  return np.sort(dealt[own_parts(mesh)].ravel())


def collect(tree: types.ArrayTree, rows: np.ndarray) -> types.ArrayTree:
  """The inverse of `tree[rows]`: NumPy [parts, ...] back to [P, ...]."""

  def back(x):
    out = np.empty((rows.size, *x.shape[2:]), x.dtype)
    out[rows.ravel()] = x.reshape(out.shape)
    return out

  return jax.tree.map(back, tree)


def split(tree: types.ArrayTree, devices: int) -> types.ArrayTree:
  """[X, ...] -> [devices, X / devices, ...]; X must be a multiple."""
  return jax.tree.map(
    lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), tree
  )


def merge(tree: types.ArrayTree) -> types.ArrayTree:
  """The inverse of `split`."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def cut(
  tree: types.ArrayTree, *, minibatches: int, micro: int
) -> list[types.ArrayTree]:
  """Cuts a rollout batch, dealt to parts, into mini-batches for `place_split`.

  Args:
    tree: NumPy arrays [parts, rows, ...] in the order of `deal`; rows must be a
      multiple of minibatches * micro.
    minibatches: updates.
    micro: prompts of a microbatch.

  Returns:
    One tree [parts, M, micro, ...] per mini-batch.
  """

  def reshape(x):
    return x.reshape(x.shape[0], minibatches, -1, micro, *x.shape[2:])

  tree = jax.tree.map(reshape, tree)
  return [
    jax.tree.map(lambda x, b=b: x[:, b], tree) for b in range(minibatches)
  ]
