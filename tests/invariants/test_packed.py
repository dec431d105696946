"""A packed mini-batch has the update of plain code that reads row by row."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.models import decoder as decoder_lib
from awpo_jax.ops import collectives
from awpo_jax.training import objectives, packed, packing, sharding
from tests.invariants import test_sharded, test_whole_losses
from tests.models import tiny as models_tiny
from tests.training import row_by_row, tiny


def _pack(batch, parts=1, *, columns=40, block=4):
  """A batch [P, ...] as a packed mini-batch [parts, 1, P / parts, ...]."""
  # Not by `sharding.cut`, for which this stands in below.
  batch = jax.tree.map(lambda x: x[:, None], sharding.split(batch, parts))
  return packing.pack(batch, columns=columns, block=block)


def _packing(**how):
  """Packs what `tiny` and others would cut into microbatches."""

  def cut(tree, *, minibatches, micro):
    del minibatches, micro  # One, and however many there are.
    return [_pack(sharding.merge(tree), len(tree.valid), **how)]

  return mock.patch.object(tiny.sharding, 'cut', cut)


def _check(state, metrics, grads, want):
  tiny.assert_close(state.opt_state[0], grads, scale=grads, rtol=1e-5)
  np.testing.assert_allclose(metrics.grad_norm, tiny.norm(grads), rtol=1e-5)
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
  assert lengths.min() == 1 and lengths.max() == tiny.RESPONSE
  assert not batch.valid[0].any() and not batch.valid.all()
  return batch


# Two groups in a row; some that fit into none; one row for all of them.
@pytest.mark.parametrize(
  ('columns', 'block', 'alone'), [(40, 4, 0), (20, 4, 2), (256, 16, 0)]
)
def test_one_device(columns, block, alone):
  rows = _pack(_batch(), columns=columns, block=block).rows
  assert (rows.groups >= 0).sum() == 8 - alone == 8 - (rows.alone >= 0).sum()
  assert rows.groups[..., 1:].max(initial=-1) >= 0 or alone
  want = row_by_row.rl(tiny.params(), _batch())
  with _packing(columns=columns, block=block):
    _check(*tiny.update(tiny.initial_state(), _batch()), *want)


def test_demonstrations():
  with _packing():
    got = tiny.update(tiny.initial_state(), _batch(), terms=tiny.SFT_TERMS)
  _check(*got, *row_by_row.sft(tiny.params(), _batch()))


def test_pmap():
  mapped = tiny.Mapped(2, 1)
  with _packing():
    got = mapped(mapped.place(tiny.initial_state()), _batch())
  want = row_by_row.rl(tiny.params(), _batch())
  _check(*jax.device_get(got), *want)


def test_mesh():
  # Its vocabulary and its heads divide over two devices.
  start, terms = test_sharded.start(), test_sharded.TERMS
  want, expected = tiny.update(start, _batch(), micro=2, terms=terms)
  mapped = tiny.Mapped(4, 1, terms, model=2)
  with _packing():
    got = jax.device_get(mapped(mapped.place(start), _batch()))
  _check(*got, want.opt_state[0], expected.sums | expected.maxima)


@pytest.mark.parametrize('loss', test_whole_losses.NUMBERS)
def test_losses_of_answers_and_groups(loss):
  value, gradient = test_whole_losses.plain(loss)
  with _packing():
    state, metrics = jax.device_get(test_whole_losses.cut(loss, 1, 8))
  tiny.assert_close(state.opt_state[0], gradient, scale=gradient, rtol=1e-5)
  np.testing.assert_allclose(metrics.sums['loss'], value, rtol=1e-5)


def test_several_updates_of_a_rollout():
  rollout = tiny.rollout(1)
  prepared = tiny.prepared(rollout)
  want, expected = tiny.updates(tiny.initial_state(), prepared.batch)
  with _packing():
    got, metrics = tiny.updates(tiny.initial_state(), prepared.batch)
  change = jax.tree.map(np.subtract, want.params, tiny.params())
  tiny.assert_close(got.params, want.params, scale=change, rtol=1e-4)
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
      return total + tiny.RL_TERMS(params, micro)[0]

    return packed.fold(add, jnp.zeros(()), batch)

  # A loop of as many turns as are needed is not differentiable, its body is.
  def first(params, batch):
    return tiny.RL_TERMS(params, packed.row(batch, 0))[0]

  return tiny.jit(loss), tiny.jit(jax.grad(first))


def test_padding_has_no_gradient_and_no_effect():
  batch = jax.tree.map(lambda x: x[0], _pack(_batch(), columns=64))
  batch = objectives.weigh(
    batch, collectives.identity, aggregation='token-mean'
  )
  rows = batch.rows
  unused = tiny.VOCAB - 1
  tokens = np.where(rows.tokens == unused, 1, rows.tokens)
  empty = rows.segments == 0
  assert empty[0].any() and (rows.groups[0, 0, 1] >= 0).all()
  plain = batch.replace(rows=rows.replace(tokens=tokens))
  # A token that nothing but padding has, at positions that nothing else has.
  spoiled = batch.replace(
    rows=rows.replace(
      tokens=np.where(empty, unused, tokens),
      positions=np.where(empty, 999, rows.positions),
    )
  )
  loss, gradient = _row_gradient()
  tiny.assert_equal(loss(tiny.params(), plain), loss(tiny.params(), spoiled))
  got = gradient(tiny.params(), spoiled)
  tiny.assert_equal(got, gradient(tiny.params(), plain))
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
  row = packed.row(whole, 0)
  got = run(params, row)
  order = np.asarray(whole.rows.groups[0, 0])
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
  short = batch.mask & (np.arange(tiny.RESPONSE) < 2)
  filled, results = [], []
  step = tiny.jit(tiny.step)
  for mask in (batch.mask, short):
    cut = batch.replace(mask=mask, policy_mask=batch.policy_mask & mask)
    made = jax.tree.map(lambda x: x[0], _pack(cut, columns=40))
    filled.append(int((made.rows.groups >= 0).any(axis=(1, 2)).sum()))
    _, metrics = step(tiny.initial_state(), made, 0)
    results.append(float(metrics.sums['weight']))
  assert filled[1] < filled[0] < 8
  assert step._cache_size() == 1
  np.testing.assert_allclose(results, 1, rtol=1e-6)
