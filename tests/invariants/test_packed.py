"""A packed mini-batch has the update of plain code that reads row by row."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.ops import collectives
from awpo_jax.training.update import (
  microbatches,
  objectives,
  packed_forward,
  packing,
)
from tests.helpers import row_by_row, tiny_training
from tests.helpers import tiny_decoder as models_tiny
from tests.invariants import (
  test_sharded,
  test_thought_tokens,
  test_whole_losses,
)


def _pack(batch, parts=1, *, columns=40, block=4):
  """A batch [P, ...] as a packed mini-batch [parts, 1, P / parts, ...]."""
  # Not by `sharding.cut`, for which this stands in below.
  batch = jax.tree.map(lambda x: x[:, None], sharding.split(batch, parts))
  return packing.pack(batch, columns=columns, block=block)


def _packing(**how):
  """Packs what `tiny` and others would cut into microbatches."""

  def cut(tree, *, minibatches, micro):
    del minibatches, micro  # One, and however many there are.
    return [_pack(sharding.merge(tree), len(tree.tokens), **how)]

  return mock.patch.object(tiny_training.sharding, 'cut', cut)


def _check(state, metrics, grads, want):
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


@functools.cache
def _batch():
  batch = row_by_row.random_batch(0)
  # From one token to all there is room for, some samples and a group invalid.
  lengths = batch.mask.sum(axis=-1)
  assert lengths.min() == 1 and lengths.max() == tiny_training.RESPONSE
  used = batch.policy_mask.any(axis=-1)
  assert not used[0].any() and not used.all()
  return batch


# Two groups in a row; some that fit into none; one row for all of them.
@pytest.mark.parametrize(
  ('columns', 'block', 'alone'), [(40, 4, 0), (20, 4, 2), (256, 16, 0)]
)
def test_one_device(columns, block, alone):
  rows = _pack(_batch(), columns=columns, block=block).layout
  assert (rows.groups >= 0).sum() == 8 - alone == 8 - (rows.alone >= 0).sum()
  assert rows.groups[..., 1:].max(initial=-1) >= 0 or alone
  want = row_by_row.rl(tiny_training.params(), _batch())
  with _packing(columns=columns, block=block):
    _check(
      *tiny_training.update(tiny_training.initial_state(), _batch()), *want
    )


def test_demonstrations():
  with _packing():
    got = tiny_training.update(
      tiny_training.initial_state(), _batch(), terms=tiny_training.SFT_TERMS
    )
  _check(*got, *row_by_row.sft(tiny_training.params(), _batch()))


def test_pmap():
  mapped = tiny_training.Mapped(2, 1)
  with _packing():
    got = mapped(mapped.place(tiny_training.initial_state()), _batch())
  want = row_by_row.rl(tiny_training.params(), _batch())
  _check(*jax.device_get(got), *want)


def test_mesh():
  # Its vocabulary and its heads divide over two devices.
  start, terms = test_sharded.start(), test_sharded.TERMS
  want, expected = tiny_training.update(start, _batch(), micro=2, terms=terms)
  mapped = tiny_training.Mapped(4, 1, terms, model=2)
  with _packing():
    got = jax.device_get(mapped(mapped.place(start), _batch()))
  _check(*got, want.opt_state[0], expected.sums | expected.maxima)


@pytest.mark.parametrize('loss', test_whole_losses.NUMBERS)
def test_losses_of_answers_and_groups(loss):
  value, gradient = test_whole_losses.plain(loss)
  with _packing():
    state, metrics = jax.device_get(test_whole_losses.cut(loss, 1, 8))
  tiny_training.assert_close(
    state.opt_state[0], gradient, scale=gradient, rtol=1e-5
  )
  np.testing.assert_allclose(metrics.sums['loss'], value, rtol=1e-5)


def test_advantages_of_tokens_and_radii_of_groups():
  grads, want = test_thought_tokens.plain_update()
  with _packing():
    state, metrics = tiny_training.update(
      tiny_training.initial_state(), test_thought_tokens.batch()
    )
  tiny_training.assert_close(state.opt_state[0], grads, scale=grads, rtol=1e-4)
  for name in ('surrogate', 'clip_fraction'):
    np.testing.assert_allclose(metrics.sums[name], want[name], rtol=1e-4)


def test_several_updates_of_a_rollout():
  rollout = tiny_training.rollout(1)
  prepared = tiny_training.prepared(rollout)
  want, expected = tiny_training.updates(
    tiny_training.initial_state(), prepared.batch
  )
  with _packing():
    got, metrics = tiny_training.updates(
      tiny_training.initial_state(), prepared.batch
    )
  change = jax.tree.map(np.subtract, want.params, tiny_training.params())
  tiny_training.assert_close(got.params, want.params, scale=change, rtol=1e-4)
  assert len(metrics) == 4 == got.step
  for new, old in zip(metrics, expected, strict=True):
    assert new.sums.keys() == old.sums.keys()
    for name, value in (old.sums | old.maxima).items():
      found = (new.sums | new.maxima)[name]
      np.testing.assert_allclose(found, value, rtol=2e-4, atol=1e-5)
  assert expected[-1].sums['clip_fraction'] > 0


@functools.cache
def _row_gradient():
  def loss(params, batch):
    def add(total, micro):
      return total + tiny_training.RL_TERMS(params, micro)[0]

    return microbatches.fold(add, jnp.zeros(()), batch)

  # A loop of as many turns as are needed is not differentiable, its body is.
  def first(params, batch):
    return tiny_training.RL_TERMS(params, packed_forward.row(batch, 0))[0]

  return tiny_training.jit(loss), tiny_training.jit(jax.grad(first))


def test_padding_has_no_gradient_and_no_effect():
  batch = jax.tree.map(lambda x: x[0], _pack(_batch(), columns=64))
  batch = objectives.weigh(
    batch, collectives.identity, aggregation='token-mean'
  )
  rows = batch.layout
  unused = tiny_training.VOCAB - 1
  tokens = np.where(rows.tokens == unused, 1, rows.tokens)
  empty = rows.segments == 0
  assert empty[0].any() and (rows.groups[0, 0, 1] >= 0).all()
  plain = batch.replace(layout=rows.replace(tokens=tokens))
  # A token that nothing but padding has, at positions that nothing else has.
  spoiled = batch.replace(
    layout=rows.replace(
      tokens=np.where(empty, unused, tokens),
      positions=np.where(empty, 999, rows.positions),
    )
  )
  loss, gradient = _row_gradient()
  tiny_training.assert_equal(
    loss(tiny_training.params(), plain), loss(tiny_training.params(), spoiled)
  )
  got = gradient(tiny_training.params(), spoiled)
  tiny_training.assert_equal(got, gradient(tiny_training.params(), plain))
  embedding = np.asarray(got['embed_tokens']['embedding'])
  assert (embedding[unused] == 0).all()
  assert np.abs(embedding).max() > 1e-3


def test_layers_that_see_the_last_tokens_only():
  decoder, params = models_tiny.make(models_tiny.LOCAL['qwen3'])
  assert isinstance(decoder, decoder_lib.Decoder) and decoder.config.window == 3
  run = functools.partial(
    objectives.completion_logprobs, decoder=decoder, temperature=1.0, chunk=3
  )
  batch = _batch()
  want = run(params, batch)
  whole = jax.tree.map(lambda x: x[0], _pack(batch, columns=256))
  row = packed_forward.row(whole, 0)
  got = run(params, row)
  order = np.asarray(whole.layout.groups[0, 0])
  assert sorted(order) == list(range(8))
  for new, old in zip(got, want, strict=True):
    np.testing.assert_allclose(
      np.asarray(new)[batch.mask[order]],
      np.asarray(old)[order][batch.mask[order]],
      rtol=1e-5,
      atol=1e-5,
    )


def test_one_program_takes_however_many_rows_are_filled():
  batch = _batch()
  short = batch.mask & (np.arange(tiny_training.RESPONSE) < 2)
  filled, results = [], []
  step = tiny_training.jit(tiny_training.step)
  for mask in (batch.mask, short):
    cut = batch.replace(mask=mask, policy_mask=batch.policy_mask & mask)
    made = jax.tree.map(lambda x: x[0], _pack(cut, columns=40))
    filled.append(int((made.layout.groups >= 0).any(axis=(1, 2)).sum()))
    _, metrics = step(tiny_training.initial_state(), made, 0)
    results.append(float(metrics.sums['weight']))
  assert filled[1] < filled[0] < 8
  assert step._cache_size() == 1
  np.testing.assert_allclose(results, 1, rtol=1e-6)
