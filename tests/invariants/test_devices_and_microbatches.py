"""However a mini-batch is cut, its update is that of plain code on all rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.distributed import sharding
from awpo_jax.ops import aggregation as aggregation_lib
from tests.helpers import adapted_training, row_by_row, tiny_training

SPEC = jax.sharding.PartitionSpec


@functools.cache
def _batch():
  batch = row_by_row.random_batch(0)
  # Device 0 of four has one valid sample, the others have nearly all.
  assert batch.policy_mask.any(axis=-1).reshape(4, -1).sum(axis=1)[0] == 1
  assert len(set(batch.policy_mask.sum((1, 2)))) > 4
  return batch


@functools.cache
def _want(aggregation):
  return row_by_row.rl(
    tiny_training.params(),
    _batch(),
    aggregation=aggregation,
    max_length=tiny_training.MAX_LENGTH,
  )


def _check(update, aggregation, want=None):
  """Gradient and every metric of an update against the plain ones, `want`."""
  state, metrics = jax.device_get(
    update(tiny_training.initial_state(), _batch(), aggregation=aggregation)
  )
  _compare(state, metrics, *(want or _want(aggregation)))


def _compare(state, metrics, grads, want):
  tiny_training.assert_close(state.opt_state[0], grads, scale=grads, rtol=1e-5)
  np.testing.assert_allclose(
    metrics.grad_norm, tiny_training.norm(grads), rtol=1e-5
  )
  got = metrics.sums | metrics.maxima
  assert got.keys() == want.keys()
  for name, value in got.items():
    np.testing.assert_allclose(value, want[name], rtol=1e-5, err_msg=name)
  assert metrics.finite and metrics.updates == state.step == 1
  assert metrics.replica_spread == 0


@pytest.mark.parametrize('micro', [1, 4])
@pytest.mark.parametrize('aggregation', aggregation_lib.AGGREGATIONS)
def test_one_device(aggregation, micro):
  _check(functools.partial(tiny_training.update, micro=micro), aggregation)


def _pmapped(*how):
  """The update of `tiny.mapped`, from a state on the host."""
  mapped = tiny_training.mapped(*how)

  def update(state, batch, **options):
    return mapped(mapped.place(state), batch, **options)

  return update


@pytest.mark.parametrize(('devices', 'micro'), [(2, 1), (4, 2)])
@pytest.mark.parametrize('aggregation', aggregation_lib.AGGREGATIONS)
def test_pmap(aggregation, devices, micro):
  _check(_pmapped(devices, micro), aggregation)


def test_pmap_on_demonstrations():
  want = row_by_row.sft(tiny_training.params(), _batch())
  _check(_pmapped(2, 2, tiny_training.SFT_TERMS), 'token-mean', want)


@functools.cache
def _sharded():
  mesh = sharding.data_mesh()
  whole = sharding.replicated(mesh)
  rows = jax.sharding.NamedSharding(mesh, SPEC(None, sharding.DATA_AXIS))
  return tiny_training.jit(
    tiny_training.step, in_shardings=(whole, rows, whole), out_shardings=whole
  )


@pytest.mark.parametrize('aggregation', aggregation_lib.AGGREGATIONS)
def test_jit_over_sharded_arrays(aggregation):
  def update(state, batch, aggregation):
    batch = sharding.split(batch, 2)
    (batch,) = sharding.cut(batch, minibatches=1, micro=4)
    batch = jax.tree.map(lambda x: x[:, 0], batch)  # [M, P, ...], global.
    number = tiny_training.AGGREGATIONS.index(aggregation)
    return _sharded()(state, batch, jnp.int32(number))

  _check(update, aggregation)


@functools.cache
def _adapted():
  return adapted_training.plain('token-mean')


@pytest.mark.parametrize(
  ('devices', 'micro'), [(1, 1), (1, 2), (1, 4), (2, 2), (4, 1)]
)
def test_with_adapters_and_a_kl_term(devices, micro):
  state = adapted_training.initial_state()
  if devices == 1:
    state, metrics = tiny_training.update(
      state, adapted_training.batch(), micro=micro, terms=adapted_training.TERMS
    )
  else:
    mapped = tiny_training.Mapped(devices, micro, adapted_training.TERMS)
    state, metrics = mapped(mapped.place(state), adapted_training.batch())
  _compare(*jax.device_get((state, metrics)), *_adapted())
  grads, want = _adapted()
  # Both terms count, or the comparison says little.
  assert adapted_training.KL_COEF * want['kl'] > 0.02 < abs(want['surrogate'])
