"""Copies of arrays that do not change while they are saved."""

from collections.abc import Mapping

import jax
import numpy as np

from awpo_jax import types


def snapshot(arrays: Mapping[str, types.Array]) -> dict[str, types.Array]:
  """Arrays that stay as they are while they are written in the background.

  On the CPU orbax writes from the very memory of an array, which the next
  step is given. That the runtime spares memory which is still looked at is not
  something to lean on. Accelerators are read out before `save` returns.
  """

  def copy(array: types.Array) -> types.Array:
    if isinstance(array, jax.Array) and any(
      device.platform != 'cpu' for device in array.devices()
    ):
      return array
    # By NumPy: a copy by JAX is a program to compile for every shape.
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
      return jax.make_array_from_single_device_arrays(
        array.shape,
        array.sharding,
        [
          jax.device_put(np.array(shard.data), shard.device)
          for shard in array.addressable_shards
        ],
      )
    return np.array(jax.device_get(array))

  return {name: copy(array) for name, array in arrays.items()}
