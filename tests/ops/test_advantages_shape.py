"""Shaping of advantages: reference numbers and by hand."""

import numpy as np
import pytest

from awpo_jax.ops import advantages as advantages_lib
from awpo_jax.ops import estimators
from tests.helpers import flags
from tests.helpers import reference_batch as reference
from tests.ops import test_estimators


def _shape(advantages, samples, **changed):
  numbers = flags.section('shaping', **changed)
  return advantages_lib.shape(advantages, samples, **numbers)


def _egpo_reference():
  samples = test_estimators.REFERENCE
  shape = (2, 4, 5)
  return samples.replace(
    entropy=reference.ENTROPY.reshape(shape),
    thinking=reference.MASK.reshape(shape),
  )


def test_egpo_reference_numbers():
  samples = _egpo_reference()
  scores = estimators.standardize(
    reference.OUTCOME, samples.valid, ddof=1, eps=1e-6
  )
  got = _shape(scores, samples, shaper='egpo')
  want = [
    *(0.970024, -0.706024, -0.746024, 1.039229),
    *(-0.399999, -0.399999, -0.399999, 1.639997),
  ]
  np.testing.assert_allclose(np.reshape(got, 8), want, atol=1e-5)


def test_egpo_looks_at_thoughts_alone_and_leaves_zeros():
  # H = (.1 + .2) / 2 of the thought; without one 0. A = 0 stays 0.
  samples = test_estimators.make_samples(
    np.ones((1, 3)),
    [[3, 3, 3]],
    entropy=np.float32([[[0.1, 0.2, 9]] * 3]),
    thinking=np.array([[[1, 1, 0], [0, 0, 0], [1, 1, 0]]], bool),
  )
  got = _shape(
    np.float32([[2, -2, 0]]), samples, shaper='egpo', egpo_lambda=0.4
  )
  np.testing.assert_allclose(got, [[2 + 0.4 * 0.15, -2, 0]], rtol=1e-6)


def _arm_samples():
  # Two groups: one sample of the first is correct, none of the second.
  logprobs = np.log(np.float32([0.5, 0.1, 0.9, 0.8, 0.4, 0.7]))
  lengths = [[6, 2], [6, 6]]
  return test_estimators.make_samples(
    np.ones((2, 2)),
    lengths,
    correct=np.array([[1, 0], [0, 0]], bool),
    logprobs=np.tile(logprobs, (2, 2, 1)),
    prompt_logprob=np.log(np.float32([0.6, 0.6])),
  )


def test_arm_by_hand():
  # Of six tokens the ceil(1.2) = 2 least likely, .1 and .4: sqrt(.04) = .2; of
  # two, ceil(.4) = 1: .1. The prompt has .6.
  one = np.float32([[1, -1], [1, -1]])
  got = _shape(one, _arm_samples(), shaper='arm', arm_alpha=0.5)
  np.testing.assert_allclose(
    got, [[1 + 0.5 * 0.4, -1 + 0.5 * 0.5], [1, -1]], rtol=1e-5
  )


def test_what_is_not_valid_stays_zero():
  samples = _egpo_reference()
  valid = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)
  got = _shape(
    np.full((2, 4), np.nan),
    samples.replace(valid=~valid & False),
    shaper='egpo',
  )
  np.testing.assert_array_equal(got, np.zeros((2, 4)))


def test_unknown_shaper_is_refused():
  with pytest.raises(ValueError, match='none, egpo, arm'):
    _shape(np.zeros((1, 1)), _arm_samples(), shaper='sharp')
