"""Checkpoints of before Orbax's API of version 1 are read as new ones are."""

import json

import chex
import jax
import numpy as np
import pytest

from awpo_jax.checkpointing import checkpoints
from tests.helpers import v0_checkpoints


@pytest.fixture
def folder(tmp_path):
  v0_checkpoints.unpack(tmp_path)
  return tmp_path


def _kept(folder):
  return sorted(int(path.name) for path in folder.iterdir())


def test_the_last_one_is_restored_on_other_devices(folder):
  # Written by one process with four devices, read onto two.
  mesh = jax.make_mesh(
    (2,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:2],
  )
  placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  example = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
    v0_checkpoints.state(0),
  )
  with checkpoints.make_manager(folder, keep=3) as manager:
    got, position, step = checkpoints.restore_checkpoint(manager, example)
  assert (position, step) == (v0_checkpoints.POSITION, 7)
  assert all(leaf.sharding == placed for leaf in jax.tree.leaves(got))
  chex.assert_trees_all_equal_structs(got, v0_checkpoints.state(0))
  np.testing.assert_array_equal(
    got.params['embed'],
    [
      [7.0, 7.125, 7.25, 7.375],
      [7.5, 7.625, 7.75, 7.875],
      [8.0, 8.125, 8.25, 8.375],
    ],
  )
  np.testing.assert_array_equal(
    got.opt_state[1][0].nu['layer_0']['scale'], [21, 24, 27, 30]
  )
  chex.assert_trees_all_equal(got, v0_checkpoints.state(7))


@pytest.mark.parametrize('step', [3, 5, 7])
def test_parameters_of_each(folder, step):
  wanted = v0_checkpoints.state(step).params
  example = jax.eval_shape(lambda: wanted)
  got = checkpoints.restore_params(folder / str(step), example)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(got))
  chex.assert_trees_all_equal(got, wanted)
  got = checkpoints.restore_params(
    folder / str(step), {'layer_0': example['layer_0']}, partial=True
  )
  chex.assert_trees_all_equal(got, {'layer_0': wanted['layer_0']})


def test_names_and_flags(folder):
  assert checkpoints.stored_params(folder / '3') == (
    {'embed', 'layer_0/scale'},
    v0_checkpoints.FLAGS,
  )


def test_other_parameters_are_named(folder):
  example = jax.eval_shape(lambda: v0_checkpoints.state(0).params)
  example['embed'] = jax.ShapeDtypeStruct((3, 5), 'float32')
  with pytest.raises(
    checkpoints.CheckpointError,
    match=r'params/embed is float32\[3, 4\], expected float32\[3, 5\]',
  ):
    checkpoints.restore_params(folder, example)


@pytest.mark.parametrize('file', ['position/metadata', 'state/_METADATA'])
def test_damage_is_named(folder, file):
  path = folder / '7' / file
  path.write_bytes(path.read_bytes()[:10])
  with (
    pytest.raises(checkpoints.CheckpointError, match='Delete that folder'),
    checkpoints.make_manager(folder, keep=3) as manager,
  ):
    checkpoints.restore_checkpoint(manager, v0_checkpoints.state(0))


def test_the_best_of_old_and_new_stays(folder):
  def save(manager, step, metrics):
    checkpoints.save_checkpoint(
      manager,
      step,
      v0_checkpoints.state(step),
      position={},
      flags={},
      metrics=metrics,
    )
    manager.wait_until_finished()

  with checkpoints.make_manager(
    folder, keep=1, best_metric='accuracy'
  ) as manager:
    save(manager, 9, {'accuracy': 0.8})
    assert _kept(folder) == [3, 9]
    save(manager, 11, {'loss': 0.1})
    assert _kept(folder) == [3, 11]
    save(manager, 13, {'accuracy': 0.95})
    assert _kept(folder) == [13]
    got, _, step = checkpoints.restore_checkpoint(
      manager, v0_checkpoints.state(0)
    )
  assert step == 13
  chex.assert_trees_all_equal(got, v0_checkpoints.state(13))


def test_without_a_best_among_old_and_new_only_the_last_stays(folder):
  for step in (9, 11):  # The second process reads what the first one wrote.
    with checkpoints.make_manager(
      folder, keep=1, best_metric='loss'
    ) as manager:
      checkpoints.save_checkpoint(
        manager, step, v0_checkpoints.state(step), position={}, flags={}
      )
    assert _kept(folder) == [step]


def test_the_helper_writes_what_was_written_then(tmp_path, folder):
  new = tmp_path / 'new'
  with checkpoints.make_manager(new, keep=1) as manager:
    checkpoints.save_checkpoint(
      manager,
      7,
      v0_checkpoints.state(7),
      position=v0_checkpoints.POSITION,
      flags=v0_checkpoints.FLAGS,
      metrics={'accuracy': 0.5},
    )
  v0_checkpoints.rewrite(new / '7')

  def named(path):  # But for the names that Orbax draws for its data.
    files = {
      str(file.relative_to(path))
      for file in path.rglob('*')
      if file.is_file() and file.parent.name != 'd'
    }
    contents = [
      (path / name).read_text()
      for name in ('state/_METADATA', 'position/metadata', 'flags/metadata')
    ]
    metrics = json.loads((path / 'metrics' / 'metrics').read_text())
    return files, contents, metrics['accuracy']

  assert named(new / '7') == named(folder / '7')
