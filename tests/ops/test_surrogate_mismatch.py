"""Weights for sampler and trainer, by hand; their reference numbers are in
`test_policy_losses`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.ops import surrogate
from tests.helpers import flags

# w = 1/4, 3, 1; sum of v of the row: log(3/4) and log 1.
TRAINER = np.log(np.float32([[0.1, 0.6, 9], [0.5, 9, 9]]))
SAMPLER = np.log(np.float32([[0.4, 0.2, 1], [0.5, 1, 1]]))
MASK = np.array([[1, 1, 0], [1, 0, 0]], bool)


def _weights(trainer, **changed):
  numbers = flags.section('loss', **changed)
  return surrogate.mismatch_weights(trainer, SAMPLER, MASK, **numbers)


@pytest.mark.parametrize(
  ('changed', 'want'),
  [
    (('none', 'token'), [[1, 1, 0], [1, 0, 0]]),
    (('tis', 'token'), [[0.25, 2, 0], [1, 0, 0]]),
    (('tis', 'token', None, 2.5), [[0.25, 2.5, 0], [1, 0, 0]]),
    (('tis', 'row'), [[0.75, 0.75, 0], [1, 0, 0]]),
    (('icepop', 'token'), [[0, 3, 0], [1, 0, 0]]),
    (('icepop', 'token', 0.2, 2.0), [[0.25, 0, 0], [1, 0, 0]]),
    (('icepop', 'row', 0.8), [[0, 0, 0], [1, 0, 0]]),
  ],
)
def test_by_hand(changed, want):
  names = ('mismatch', 'mismatch_level', 'mismatch_low', 'mismatch_high')
  got = _weights(TRAINER, **dict(zip(names, changed, strict=False)))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_weights_are_constant():
  def total(trainer):
    return jnp.sum(_weights(trainer, mismatch='tis'))

  np.testing.assert_array_equal(jax.grad(total)(TRAINER), np.zeros((2, 3)))


def test_unknown_values_are_refused():
  with pytest.raises(ValueError, match='none, tis, icepop'):
    _weights(TRAINER, mismatch='pop')
  with pytest.raises(ValueError, match='token, row'):
    _weights(TRAINER, mismatch='tis', mismatch_level='group')


def test_what_ratios_start_from():
  def never():
    raise AssertionError('not needed')

  assert surrogate.OLD_LOGPROBS['sampler']('theirs', never) == 'theirs'
  assert surrogate.OLD_LOGPROBS['trainer']('theirs', lambda: 'ours') == 'ours'
