"""A bad update leaves no trace, and replicas that drift apart are seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from awpo_jax.training import objectives, sharding, train_step
from tests.training import row_by_row, tiny


def _copy(tree):
  """On the host, and not the memory that the next update is given."""
  return jax.tree.map(np.array, tree)


def _spoil(batch, name, value):
  """The batch with one number replaced, of the last sample that counts."""
  used = (batch.policy_mask & batch.valid[..., None]).any(axis=-1)
  place = tuple(np.argwhere(used)[-1])
  if getattr(batch, name).ndim == 3:
    place += (int(np.argmax(batch.policy_mask[place])),)
  array = getattr(batch, name).copy()
  array[place] = value
  return batch.replace(**{name: array})


@pytest.mark.parametrize(
  ('name', 'value'),
  [('old_logprobs', np.nan), ('advantages', np.inf), ('advantages', np.nan)],
)
def test_what_is_not_finite_changes_nothing(name, value):
  mapped, batch = tiny.mapped(4, 2), row_by_row.random_batch(0)
  state, _ = mapped(mapped.place(tiny.initial_state()), batch)
  before = _copy(state)
  state, metrics = mapped(state, _spoil(batch, name, value))
  for leaf, old in zip(
    jax.tree.leaves(state), jax.tree.leaves(before), strict=True
  ):
    for shard in leaf.addressable_shards:  # One device alone saw it.
      np.testing.assert_array_equal(shard.data, old)
  assert not metrics.finite and metrics.updates == 2
  state, metrics = mapped(state, batch)
  assert metrics.finite and state.step == metrics.updates == 2
  assert tiny.distance(state.params, before.params) > 0.01


def test_an_optimizer_that_overflows_changes_nothing():
  # Finite loss and gradient of f(x) = x a, but an update of 1 / 0.
  def terms(params, batch):
    value = params['x'] * batch
    return value, objectives.Terms(sums={'loss': value}, maxima={})

  tx = optax.stateless(
    lambda grads, _: jax.tree.map(lambda g: jnp.ones_like(g) / 0.0, grads)
  )
  state = train_step.init_state({'x': jnp.float32(3)}, tx)
  got, metrics = train_step.train_step(
    state, jnp.float32([1, 2]), weigh=lambda b, _: b, terms=terms, tx=tx
  )
  assert np.isfinite(metrics.grad_norm) and metrics.grad_norm == 3
  assert not metrics.finite and metrics.replica_spread == 0
  assert got.params['x'] == 3 and got.step == 0


def test_donated_buffers_are_gone():
  mapped, batch = tiny.mapped(4, 2), row_by_row.random_batch(0)
  old = mapped.place(tiny.initial_state())
  mapped(old, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))


def test_replicas_that_disagree_are_seen():
  mapped, batch = tiny.mapped(4, 2), row_by_row.random_batch(0)
  state = tiny.initial_state()
  copies = [state.params['lm_head'].copy() for _ in range(4)]
  copies[2][3, 4] += 0.5
  copies[1][0, 0] -= 0.25
  head = jax.make_array_from_single_device_arrays(
    copies[0].shape,
    sharding.replicated(mapped.mesh),
    [
      jax.device_put(copy, device)
      for copy, device in zip(copies, mapped.mesh.devices.flat, strict=True)
    ],
  )
  placed = mapped.place(state)
  state = placed.replace(params=placed.params | {'lm_head': head})
  _, metrics = mapped(state, batch)
  np.testing.assert_allclose(metrics.replica_spread, 0.75, rtol=1e-3)


def test_accumulate_adds_sums_and_takes_maxima():
  # Three microbatches of f(x) = x a: the gradient is 1 + 2 - 4 = -1.
  def terms(params, batch):
    value = params * batch
    return value, objectives.Terms(
      sums={'loss': value}, maxima={'largest': value}
    )

  grads, metrics = train_step.accumulate(
    terms, jnp.float32(3), jnp.float32([1, 2, -4])
  )
  assert grads == -1
  assert metrics.sums == {'loss': -3} and metrics.maxima == {'largest': 6}
