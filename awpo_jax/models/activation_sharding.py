"""How activations lie on a mesh of the axes `data` and `model`."""

import jax
from jax.sharding import PartitionSpec

from awpo_jax import types

DATA_AXIS = 'data'
MODEL_AXIS = 'model'


def by_rows(x: types.Array) -> types.Array:
  """Keeps activations [N, ...] cut by rows over `data`, and not otherwise.

  The compiler would as soon follow the parameters, which lie along `data` too,
  and move the larger activations instead of them. Without a mesh of both axes
  around (`jax.sharding.use_abstract_mesh`) nothing is said.
  """
  if MODEL_AXIS not in jax.sharding.get_abstract_mesh().axis_names:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA_AXIS))
