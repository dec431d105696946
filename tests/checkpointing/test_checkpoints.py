"""Checkpoints: snapshots, kills, damage, mismatches, what is kept."""

import ctypes
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from awpo_jax import types
from awpo_jax.checkpointing import checkpoints

FLAGS = {'width': 4}


@types.record
class State:
  params: types.ArrayTree
  opt_state: types.ArrayTree
  step: types.Array


def make_state(step: int, *, width: int = 4, dtype: str = 'float32') -> State:
  rng = np.random.default_rng(step)
  params = {
    'embed': jnp.asarray(rng.normal(size=(3, width)), dtype),
    'layer_0': {'scale': jnp.asarray(rng.normal(size=width), 'bfloat16')},
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  return State(params=params, opt_state=tx.init(params), step=jnp.int32(step))


def save(manager, step, state=None, metrics=None):
  checkpoints.save_checkpoint(
    manager,
    step,
    make_state(step) if state is None else state,
    position={'phase': 'rl', 'prompts': 8 * step},
    flags=FLAGS,
    metrics=metrics,
  )


def steps_on_disk(folder):
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def test_restores_state_position_and_step(tmp_path):
  with checkpoints.make_manager(tmp_path, keep=3) as manager:
    assert manager.latest_step() is None
    save(manager, 1)
    save(manager, 2)
    assert manager.latest_step() == 2
  with checkpoints.make_manager(tmp_path, keep=3) as manager:
    got, position, step = checkpoints.restore_checkpoint(manager, make_state(0))
    chex.assert_trees_all_equal(got, make_state(2))
    assert isinstance(got.opt_state[1][0], optax.ScaleByAdamState)
    assert (position, step) == ({'phase': 'rl', 'prompts': 16}, 2)


def test_no_checkpoint(tmp_path):
  with (
    checkpoints.make_manager(tmp_path, keep=1) as manager,
    pytest.raises(FileNotFoundError, match='no checkpoint yet'),
  ):
    checkpoints.restore_checkpoint(manager, make_state(0))


def test_donated_state_is_saved_as_it_was(tmp_path):
  """The next step overwrites the state's memory while orbax still writes."""
  overwrite = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0
  )
  rng = np.random.default_rng(0)
  values = rng.normal(size=(8, 256, 512)).astype(np.float32)
  state = {f'layer_{i}': jnp.array(value) for i, value in enumerate(values)}
  overwrite(jax.tree.map(jnp.copy, state))  # Compile before the race.
  with checkpoints.make_manager(tmp_path, keep=1) as manager:
    save(manager, 1, state)
    for _ in range(3):
      state = overwrite(state)
    jax.block_until_ready(state)
    got, _, _ = checkpoints.restore_checkpoint(manager, state)
  for i, value in enumerate(values):
    np.testing.assert_array_equal(got[f'layer_{i}'], value)


def test_saved_state_shares_no_memory_with_the_given_one(tmp_path):
  values = np.arange(2**20, dtype=np.float32)
  state = {'jax': jnp.array(values), 'numpy': values.copy()}
  with checkpoints.make_manager(tmp_path, keep=1) as manager:
    save(manager, 1, state)
    for pointer in (
      state['jax'].unsafe_buffer_pointer(),
      state['numpy'].ctypes.data,
    ):
      ctypes.memset(pointer, 255, values.nbytes)
    got, _, _ = checkpoints.restore_checkpoint(manager, state)
  np.testing.assert_array_equal(got['jax'], values)
  np.testing.assert_array_equal(got['numpy'], values)


def test_saves_under_a_transfer_guard(tmp_path):
  state = make_state(1)
  with (
    checkpoints.make_manager(tmp_path, keep=1) as manager,
    jax.transfer_guard('disallow'),
  ):
    save(manager, 1, state)
    manager.wait_until_finished()
  assert steps_on_disk(tmp_path) == [1]


def test_keeps_the_last_and_the_best(tmp_path):
  figures = {1: 0.9, 2: 0.5, 3: 0.1, 4: None, 5: 0.3, 6: 0.2, 7: None}

  def run(steps):
    with checkpoints.make_manager(
      tmp_path, keep=2, best_metric='accuracy'
    ) as manager:
      for step in steps:
        value = figures[step]
        save(manager, step, metrics=value and {'accuracy': value, 'loss': 1})

  run([1, 2, 3, 4])
  assert steps_on_disk(tmp_path) == [1, 3, 4]
  run([5, 6, 7])  # A restarted process knows the metrics of the old ones.
  assert steps_on_disk(tmp_path) == [1, 6, 7]


def test_keeps_the_last_without_a_metric(tmp_path):
  with checkpoints.make_manager(tmp_path, keep=1) as manager:
    for step in (1, 2, 3):
      save(manager, step, metrics={'accuracy': -step})
  assert steps_on_disk(tmp_path) == [3]


def test_refuses_a_second_save(tmp_path):
  with checkpoints.make_manager(tmp_path, keep=2) as manager:
    save(manager, 1)
    with pytest.raises(FileExistsError, match='Step 1 already exists'):
      save(manager, 1)


@pytest.mark.parametrize('first', ['save', 'wait_until_finished', 'close'])
def test_a_save_that_failed_is_told_by_what_comes_first(
  tmp_path, monkeypatch, first
):
  rename = os.rename

  def full(source, target):
    if str(target) == str(tmp_path / '2'):
      raise OSError(errno.ENOSPC, 'No space left on device')
    rename(source, target)

  monkeypatch.setattr(os, 'rename', full)
  manager = checkpoints.make_manager(tmp_path, keep=3)
  save(manager, 1)
  save(manager, 2)
  with pytest.raises(OSError, match='No space left'):
    if first == 'save':
      save(manager, 3)
    else:
      getattr(manager, first)()
  manager.close()
  assert steps_on_disk(tmp_path) == [1]


def test_saves_leave_no_thread_and_no_open_file(tmp_path):
  def held():
    return threading.active_count(), len(os.listdir('/proc/self/fd'))

  with checkpoints.make_manager(tmp_path, keep=1) as manager:
    save(manager, 0)
    manager.wait_until_finished()
    before = held()
    for step in range(1, 6):
      save(manager, step)
    manager.wait_until_finished()
    # Fewer: what an earlier test left may end meanwhile.
    assert all(now <= then for now, then in zip(held(), before, strict=True))


KILLED = """
  import os, signal, sys
  from awpo_jax.checkpointing import checkpoints
  from tests.checkpointing import test_checkpoints as t
  manager = checkpoints.make_manager(sys.argv[1], keep=2)
  t.save(manager, 1)
  manager.wait_until_finished()
  # Step 2 is written in full, but its folder has not got its name yet.
  def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
  os.rename = os.replace = kill
  t.save(manager, 2)
  manager.wait_until_finished()
"""


def test_killed_during_an_asynchronous_save(tmp_path):
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(KILLED), str(tmp_path)],
    cwd=root,
    env=os.environ | {'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  stale = [p for p in tmp_path.iterdir() if not p.name.isdecimal()]
  assert len(stale) == 1, 'the kill came too late to leave anything'
  assert stale[0].name.startswith('2.')
  shutil.copytree(stale[0], tmp_path / stale[0].name.replace('2.', '9.', 1))
  got = checkpoints.restore_params(tmp_path, make_state(0).params)
  chex.assert_trees_all_equal(got, make_state(1).params)
  with checkpoints.make_manager(tmp_path, keep=2) as manager:
    got, _, step = checkpoints.restore_checkpoint(manager, make_state(0))
    assert step == 1
    chex.assert_trees_all_equal(got, make_state(1))
    save(manager, 2)
    got, _, step = checkpoints.restore_checkpoint(manager, make_state(0))
    assert step == 2
    chex.assert_trees_all_equal(got, make_state(2))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['1', '2']


def test_killed_while_an_old_checkpoint_is_deleted(tmp_path):
  with checkpoints.make_manager(tmp_path, keep=2) as manager:
    save(manager, 1)
    save(manager, 2)
  shutil.rmtree(tmp_path / '1' / 'state')
  with checkpoints.make_manager(tmp_path, keep=2) as manager:
    got, _, step = checkpoints.restore_checkpoint(manager, make_state(0))
    assert step == 2
    save(manager, 3)
  assert steps_on_disk(tmp_path) == [2, 3]


def _truncate(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damage_data(folder):
  for path in (folder / 'state').rglob('d/*'):
    _truncate(path)


DAMAGES = {
  'data': _damage_data,
  'tree': lambda folder: _truncate(folder / 'state' / '_METADATA'),
  'no state': lambda folder: shutil.rmtree(folder / 'state'),
  'metrics': lambda folder: (folder / 'metrics' / 'metrics').write_text(''),
  'position': lambda folder: _truncate(folder / 'position' / 'data.json'),
  'no position': lambda folder: shutil.rmtree(folder / 'position'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damage_names_the_folder_and_the_remedy(tmp_path, damage):
  with checkpoints.make_manager(tmp_path, keep=2) as manager:
    save(manager, 1)
    save(manager, 2)
  DAMAGES[damage](tmp_path / '2')
  with (
    pytest.raises(checkpoints.CheckpointError, match='Delete') as caught,
    checkpoints.make_manager(tmp_path, keep=2) as manager,
  ):
    checkpoints.restore_checkpoint(manager, make_state(0))
  assert str(tmp_path / '2') in str(caught.value)
  shutil.rmtree(tmp_path / '2')  # The remedy works.
  with checkpoints.make_manager(tmp_path, keep=2) as manager:
    got, _, step = checkpoints.restore_checkpoint(manager, make_state(0))
  assert step == 1
  chex.assert_trees_all_equal(got, make_state(1))


def _without_scale(state):
  return State(
    params={'embed': state.params['embed']},
    opt_state=state.opt_state,
    step=state.step,
  )


def _more(state):
  return State(
    params=state.params | {'zz': state.step},
    opt_state=state.opt_state,
    step=state.step,
  )


def _sgd(state):
  return State(
    params=state.params,
    opt_state=optax.sgd(1.0, momentum=0.9).init(state.params),
    step=state.step,
  )


@pytest.mark.parametrize(
  ('example', 'message'),
  [
    (
      lambda s: make_state(0, width=5).params,
      r'params/embed is float32\[3, 4\], expected float32\[3, 5\].* model',
    ),
    (
      lambda s: make_state(0, dtype='bfloat16').params,
      r'params/embed is float32\[3, 4\], expected bfloat16\[3, 4\].* dtype',
    ),
    (
      lambda s: _without_scale(s).params,
      r'params/layer_0/scale is bfloat16\[4\], expected absent.* model',
    ),
    (
      lambda s: _more(s).params,
      r'params/zz is absent, expected int32\[\].* model',
    ),
  ],
)
def test_other_parameters_are_named(tmp_path, example, message):
  with checkpoints.make_manager(tmp_path, keep=1) as manager:
    save(manager, 1)
  example = example(make_state(0))
  with pytest.raises(checkpoints.CheckpointError, match=message) as caught:
    checkpoints.restore_params(tmp_path, example)
  flags = pathlib.Path(str(caught.value).split(' in ')[-1].removesuffix('.'))
  assert any('width' in file.read_text() for file in flags.iterdir())


def test_parameters_are_named_before_the_optimizer(tmp_path):
  with checkpoints.make_manager(tmp_path, keep=1) as manager:
    save(manager, 1)
    with pytest.raises(checkpoints.CheckpointError, match=r': params/embed is'):
      checkpoints.restore_checkpoint(manager, make_state(0, width=5))
    with pytest.raises(
      checkpoints.CheckpointError, match=r': opt_state/.* the optimizer'
    ):
      checkpoints.restore_checkpoint(manager, _sgd(make_state(0)))


def test_restored_arrays_take_the_sharding_of_the_example(tmp_path):
  mesh = jax.make_mesh(
    (len(jax.devices()),),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  example = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
    make_state(0),
  )
  state = jax.device_put(make_state(1), everywhere)
  with checkpoints.make_manager(tmp_path, keep=1) as manager:
    save(manager, 1, state)
    got, _, _ = checkpoints.restore_checkpoint(manager, example)
    bare, _, _ = checkpoints.restore_checkpoint(
      manager, jax.tree.map(np.asarray, make_state(0))
    )
  assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(got))
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(bare))
  chex.assert_trees_all_equal(got, make_state(1))
  chex.assert_trees_all_equal(bare, make_state(1))


@pytest.mark.parametrize('where', ['', 'checkpoints', 'checkpoints/3'])
def test_params_alone_from_a_run_or_a_checkpoint(tmp_path, where):
  with checkpoints.make_manager(tmp_path / 'checkpoints', keep=2) as manager:
    save(manager, 3)
    save(manager, 12, make_state(3))
  got = checkpoints.restore_params(tmp_path / where, make_state(0).params)
  chex.assert_trees_all_equal(got, make_state(3).params)


def test_params_of_a_run_are_its_last(tmp_path):
  with checkpoints.make_manager(tmp_path / 'checkpoints', keep=2) as manager:
    save(manager, 9)
    save(manager, 10)
  got = checkpoints.restore_params(tmp_path, make_state(0).params)
  chex.assert_trees_all_equal(got, make_state(10).params)


def test_params_of_nothing(tmp_path):
  with pytest.raises(FileNotFoundError, match='Give the folder of a run'):
    checkpoints.restore_params(tmp_path, make_state(0).params)
