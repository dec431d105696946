"""A bad update leaves no trace, and replicas that drift apart are seen."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from awpo_jax.config import phases
from awpo_jax.distributed import sharding
from awpo_jax.models import lora
from awpo_jax.training.update import objectives, optimizer, train_step
from tests.helpers import adapted_training, row_by_row, tiny_training


def _copy(tree):
  """On the host, and not the memory that the next update is given."""
  return jax.tree.map(np.array, tree)


def _spoil(batch, name, value):
  """The batch with one number replaced, of the last sample that counts."""
  used = batch.policy_mask.any(axis=-1)
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
  mapped, batch = tiny_training.mapped(4, 2), row_by_row.random_batch(0)
  state, _ = mapped(mapped.place(tiny_training.initial_state()), batch)
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
  assert tiny_training.distance(state.params, before.params) > 0.01


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
  mapped, batch = tiny_training.mapped(4, 2), row_by_row.random_batch(0)
  old = mapped.place(tiny_training.initial_state())
  mapped(old, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))


def test_replicas_that_disagree_are_seen():
  mapped, batch = tiny_training.mapped(4, 2), row_by_row.random_batch(0)
  state = tiny_training.initial_state()
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


def test_accumulate_adds_bfloat16_gradients_as_float32():
  # bfloat16 has no number between 256 and 258: 256 + 1 + 1 + 1 stays 256.
  def terms(params, batch):
    return params * batch, objectives.Terms(sums={}, maxima={})

  grads, _ = train_step.accumulate(
    terms, jnp.bfloat16(1), jnp.bfloat16([256, 1, 1, 1])
  )
  assert grads == 259 and grads.dtype == jnp.float32


def _linear_step(params, *, learning_rate):
  """An update of f(x) = sum x: Adam's first step is the learning rate."""

  def terms(params, batch):
    value = sum(jnp.sum(x) for x in jax.tree.leaves(params)) * batch
    return value, objectives.Terms(sums={'loss': value}, maxima={})

  flags = phases.OptimizerConfig(max_grad_norm=1e9)
  tx = optimizer.make_optimizer(lambda _: learning_rate, flags)
  return train_step.train_step(
    train_step.init_state(params, tx),
    jnp.float32([1]),
    weigh=lambda b, _: b,
    terms=terms,
    tx=tx,
  )


@pytest.mark.parametrize(
  ('learning_rate', 'new', 'lost'),
  [
    # Below 1, bfloat16 has steps of 2^-8, below 1/4 of 2^-10: half a step of
    # the first is 0.00195, of the second 0.00049, and 0 takes anything.
    (1e-4, [1, 0.25, -1e-4], 2 / 3),
    (1e-3, [1, 0.25 - 2**-10, -1e-3], 1 / 3),
    (1e-2, [1 - 3 * 2**-8, 0.25 - 10 * 2**-10, -1e-2], 0),
  ],
)
def test_what_bfloat16_parameters_lose_is_told(learning_rate, new, lost):
  params = {'x': jnp.bfloat16([1, 0.25, 0])}
  state, metrics = _linear_step(params, learning_rate=learning_rate)
  assert state.params['x'].dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(state.params['x']), new, rtol=2**-8)
  np.testing.assert_array_equal(np.float32(state.params['x'])[:2], new[:2])
  np.testing.assert_allclose(metrics.rounded_away, lost, rtol=1e-6)


def test_float32_parameters_and_adapters_lose_nothing_and_say_nothing():
  state, metrics = _linear_step({'x': jnp.float32([1])}, learning_rate=1e-4)
  np.testing.assert_allclose(state.params['x'], 1 - 1e-4, rtol=1e-6)
  assert metrics.rounded_away is None
  # Nor does a frozen base of bfloat16, which is no float32 but not trained.
  params = {'kernel': jnp.bfloat16([1]), 'lora_a': jnp.float32([1])}
  state, metrics = _linear_step({'q_proj': params}, learning_rate=1e-4)
  layer = state.params['q_proj']
  np.testing.assert_allclose(layer['lora_a'], 1 - 1e-4, rtol=1e-6)
  assert layer['kernel'] == 1 and layer['kernel'].dtype == jnp.bfloat16
  assert metrics.rounded_away is None


def test_a_share_that_was_rounded_away_is_a_metric_of_the_step():
  params = {'x': jnp.bfloat16([1, 0.25, 0])}
  updates = []
  for rate in (1e-4, 1e-2):
    _, metrics = _linear_step(params, learning_rate=rate)
    sums = metrics.sums | {'weight': 1.0, 'entropy': 1.0}
    updates.append(jax.device_get(metrics).replace(sums=sums))
  got = train_step.update_metrics(updates)['update/rounded_away']
  np.testing.assert_allclose(got, 1 / 3, rtol=1e-6)


def test_adapters_alone_are_trained():
  before = adapted_training.initial_state()
  state, metrics = tiny_training.update(
    before, adapted_training.batch(), terms=adapted_training.TERMS
  )
  old, base = lora.split(before.params)
  new, frozen = lora.split(state.params)
  tiny_training.assert_equal(frozen, base)
  for x, y in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
    assert np.all(x != y)
  assert metrics.finite
  # Moments and the gradient that `tiny.make_tx` keeps are of them alone.
  sizes = jax.tree.map(np.size, (state.opt_state, new))
  opt, count = (sum(jax.tree.leaves(x)) for x in sizes)
  assert 3 * count <= opt <= 3 * count + 5


def _kernels_made(state, terms, decoder_kernels):
  """Products whose result has the shape of a kernel, in a compiled update."""
  batch = sharding.split(adapted_training.batch(), 1)
  (batch,) = sharding.cut(batch, minibatches=1, micro=8)
  batch = jax.tree.map(lambda x: x[0], batch)
  step = jax.jit(lambda s, b: tiny_training.step(s, b, 0, terms=terms))
  # What XLA was given may hold more: what nobody reads is not computed.
  text = (
    step.lower(state, batch)
    .compile(compiler_options=tiny_training.quick())
    .as_text()
  )
  shapes = {frozenset(x.shape) | {x.ndim} for x in decoder_kernels}
  found = []
  for sizes in re.findall(r'= f32\[([\d,]*)\]\S* dot\(', text):
    shape = [int(x) for x in sizes.split(',')]
    found.append(frozenset(shape) | {len(shape)})
  assert found
  return [shape for shape in found if shape in shapes]


def test_no_kernel_has_a_gradient_or_is_merged():
  kernels = [
    x
    for path, x in jax.tree_util.tree_leaves_with_path(tiny_training.params())
    if path[-1].key == 'kernel'
  ]
  assert not _kernels_made(
    adapted_training.initial_state(), adapted_training.TERMS, kernels
  )
  # Without adapters each of them has one, in either pass or in both.
  assert len(
    _kernels_made(
      tiny_training.initial_state(), tiny_training.RL_TERMS, kernels
    )
  ) >= len(kernels)


def test_what_is_not_finite_changes_no_adapter():
  before = adapted_training.initial_state()
  bad = _spoil(adapted_training.batch(), 'advantages', np.nan)
  state, metrics = tiny_training.update(
    before, bad, terms=adapted_training.TERMS
  )
  assert not metrics.finite
  tiny_training.assert_equal(state, before)
