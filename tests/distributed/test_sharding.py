"""Which device and microbatch a prompt goes to, and that none is lost."""

import functools

import jax
import numpy as np
import pytest

from awpo_jax.distributed import device_map, sharding


@pytest.mark.parametrize(
  ('minibatches', 'devices', 'micro'),
  [(1, 1, 1), (4, 1, 6), (4, 2, 3), (2, 4, 1), (1, 4, 3), (3, 2, 2)],
)
def test_a_minibatch_is_a_run_of_prompts(minibatches, devices, micro):
  order = sharding.deal(24, minibatches=minibatches, parts=devices)
  assert order.shape == (devices, 24 // devices)
  tree = {'a': order, 'b': np.arange(72).reshape(24, 3)[order]}
  parts = sharding.cut(tree, minibatches=minibatches, micro=micro)
  size = 24 // minibatches
  assert len(parts) == minibatches
  for number, part in enumerate(parts):
    run = range(number * size, (number + 1) * size)
    assert part['a'].shape == (devices, size // devices // micro, micro)
    np.testing.assert_array_equal(part['a'].ravel(), run)
    assert part['b'].shape == (*part['a'].shape, 3)
    np.testing.assert_array_equal(part['b'][..., 1], 3 * part['a'] + 1)


def test_merge_undoes_split():
  tree = {'a': np.arange(12), 'b': np.arange(24).reshape(12, 2)}
  parts = sharding.split(tree, 4)
  # Device 2 of four has the third run of three.
  np.testing.assert_array_equal(parts['a'][2], [6, 7, 8])
  np.testing.assert_array_equal(parts['b'][1], [[6, 7], [8, 9], [10, 11]])
  merged = sharding.merge(parts)
  jax.tree.map(np.testing.assert_array_equal, merged, tree)


def test_placement():
  mesh = sharding.data_mesh()
  assert mesh.devices.tolist() == jax.devices() and len(jax.devices()) == 4
  whole = sharding.place_replicated(np.arange(3), mesh)
  assert [list(s.data) for s in whole.addressable_shards] == [[0, 1, 2]] * 4
  parts = sharding.place_split(np.arange(8).reshape(4, 2), mesh)
  held = {s.device: s.data.tolist() for s in parts.addressable_shards}
  assert held == {
    device: [[2 * i, 2 * i + 1]] for i, device in enumerate(jax.devices())
  }


def test_pmapped_maps_the_data_axis_over_the_mesh():
  mesh = sharding.data_mesh(jax.devices()[:2])

  def add(scale, x, *, axis_name):
    return scale * x, jax.lax.psum(x, axis_name)

  mapped = device_map.mapped(add, mesh, in_axes=(None, 0), out_axes=(0, None))
  own, total = mapped(10, np.array([[1, 2], [3, 4]]))
  np.testing.assert_array_equal(own, [[10, 20], [30, 40]])
  np.testing.assert_array_equal(total, [4, 6])
  # Two parts for each device: one of them would be lost.
  with pytest.raises(ValueError, match='size not equal to one'):
    mapped(10, np.ones((4, 2)))


def test_pmapped_as_jax_would():
  mesh = sharding.data_mesh()

  def step(state, batch, scale, *, axis_name):
    total = jax.lax.psum(batch['x'].sum(0), axis_name)
    rows = {'own': batch['x'] * scale, 'part': jax.lax.axis_index(axis_name)}
    return {'w': state['w'] - scale * total, 'count': state['count'] + 1}, rows

  axes = {'in_axes': (None, 0, None), 'out_axes': (None, {'own': 0, 'part': 0})}
  theirs = jax.pmap(
    functools.partial(step, axis_name='data'), axis_name='data', **axes
  )
  state = {'w': np.float32([1, 2, 3]), 'count': np.int32(6)}
  batch = {'x': np.random.default_rng(0).normal(size=(4, 2, 3)).astype('f')}
  want = theirs(state, batch, np.float32(0.3))
  state = sharding.place_state(state, mesh)
  mapped = device_map.mapped(step, mesh, **axes, donate=(0,))
  placed = sharding.place_split(batch, mesh)
  got = mapped(state, placed, np.float32(0.3))
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert jax.tree.map(lambda x: x.sharding, got) == jax.tree.map(
    lambda x: x.sharding, want
  )
  assert all(x.is_deleted() for x in jax.tree.leaves(state))
  assert not placed['x'].is_deleted()
