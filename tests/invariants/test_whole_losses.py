"""Losses of answers and groups: however the mini-batch is cut, one update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.distributed import device_map, sharding
from awpo_jax.ops import aggregation, collectives, policy_losses, surrogate
from awpo_jax.training.update import objectives, train_step
from tests.helpers import flags, row_by_row, tiny_training

# A KL beyond delta, so that the trust region pulls.
NUMBERS = {
  'disco': {'disco_beta': 2.0, 'disco_delta': 1e-3, 'disco_tau': 0.5},
  'gspo': {},
}
AGGREGATION = {'disco': 'token-mean', 'gspo': 'seq-mean-token-mean'}


@functools.cache
def _batch(loss):
  batch = row_by_row.random_batch(0)
  # Where the policy gained, so that the KL to the old one is above 0.
  old = batch.old_logprobs + np.where(batch.policy_mask, 0.3, 0)
  rng = np.random.default_rng(5)
  batch = batch.replace(
    old_logprobs=old.astype(np.float32),
    correction=rng.uniform(0.5, 2, old.shape).astype(np.float32),
    clip_high=rng.uniform(0.1, 0.5, batch.advantages.shape).astype(np.float32),
  )
  if loss == 'gspo':
    return batch
  signs = np.where(rng.random(batch.advantages.shape) < 0.4, 1, -1)
  used = batch.policy_mask.any(axis=-1)
  advantages = np.where(used, signs, 0).astype(np.float32)
  return batch.replace(advantages=advantages, correction=None)


def plain(loss):
  """The loss of the whole mini-batch and its gradient, nothing cut."""
  batch = _batch(loss)
  rows, width = row_by_row.rows_of(batch), batch.tokens.shape[-1]
  used = batch.policy_mask.reshape(-1, width)
  weights = aggregation.token_weights(
    used, aggregation=AGGREGATION[loss], all_sum=collectives.identity
  )

  def total(params):
    logprobs, _ = row_by_row.logprobs_and_entropy(params, *rows, width=width)
    old = batch.old_logprobs.reshape(-1, width)
    tokens = policy_losses.Tokens(
      logprobs=jnp.where(used, logprobs, 0.0),
      log_ratio=surrogate.log_ratio(logprobs, old, used),
      mask=used,
      advantages=batch.advantages.reshape(-1, 1),
      clip_low=jnp.full((len(used), 1), 0.2),
      clip_high=batch.clip_high.reshape(-1, 1),
    )
    if loss == 'gspo':
      corrected = weights * batch.correction.reshape(-1, width)
      return jnp.sum(jnp.sum(corrected, axis=1) * policy_losses.gspo(tokens))
    numbers = flags.section('numbers', **NUMBERS[loss])
    groups = policy_losses.disco(tokens, samples=4, **numbers)
    kl = -jnp.sum(weights * tokens.log_ratio)
    penalty = policy_losses.kl_penalty(kl, beta=2.0, delta=1e-3)
    return jnp.sum(groups) / tiny_training.MINIBATCH + penalty

  return jax.device_get(
    tiny_training.jit(jax.value_and_grad(total))(tiny_training.params())
  )


def _step(loss):
  options = tiny_training.RL_FLAGS | {'loss': loss, **NUMBERS[loss]}
  before = None
  if loss == 'disco':
    before = functools.partial(
      objectives.find_pull, decoder=tiny_training.DECODER, **options
    )
  return functools.partial(
    train_step.train_step,
    weigh=functools.partial(objectives.weigh, aggregation=AGGREGATION[loss]),
    terms=functools.partial(
      objectives.rl_terms, decoder=tiny_training.DECODER, **options
    ),
    before=before,
    tx=tiny_training.make_tx(),
  )


def cut(loss, devices, micro):
  batch = sharding.split(_batch(loss), devices)
  (batch,) = sharding.cut(batch, minibatches=1, micro=micro)
  if devices == 1:
    batch = jax.tree.map(lambda x: x[0], batch)
    return tiny_training.jit(_step(loss))(tiny_training.initial_state(), batch)
  mesh = sharding.data_mesh(jax.devices()[:devices])
  mapped = device_map.mapped(
    _step(loss), mesh, in_axes=(None, 0), out_axes=None, rows_axis=1
  )
  arguments = (
    sharding.place_replicated(tiny_training.initial_state(), mesh),
    sharding.place_split(batch, mesh),
  )
  compiled = mapped.lower(*arguments).compile(
    compiler_options=tiny_training.quick()
  )
  return compiled(*arguments)


@pytest.mark.parametrize('loss', NUMBERS)
def test_however_it_is_cut(loss):
  value, gradient = plain(loss)
  for devices, micro in ((1, 2), (2, 1)):
    state, metrics = jax.device_get(cut(loss, devices, micro))
    tiny_training.assert_close(
      state.opt_state[0], gradient, scale=gradient, rtol=1e-5
    )
    np.testing.assert_allclose(metrics.sums['loss'], value, rtol=1e-5)
    assert metrics.replica_spread == 0
  if loss == 'disco':
    # The trust region is a part of it that matters.
    assert metrics.sums['trust_region'] > 0.01 * abs(value)
    assert 'clip_fraction' not in metrics.sums
