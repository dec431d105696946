"""Estimators of one reward: published numbers, by hand, at their edges."""

import functools

import jax
import numpy as np
import pytest

from awpo_jax.ops import collectives, estimators
from awpo_jax.ops import samples as samples_lib
from tests.helpers import flags
from tests.helpers import reference_batch as reference

TOTAL = reference.OUTCOME + reference.FORMAT


def make_samples(valid, lengths, **fields):
  """Samples of those lengths [P, G]; `fields` replace the others."""
  valid, lengths = np.asarray(valid, bool), np.asarray(lengths)
  mask = np.arange(max(lengths.max(), 1)) < lengths[..., None]
  zeros = np.zeros(mask.shape, np.float32)
  return samples_lib.Samples(
    **{
      'valid': valid,
      'mask': mask,
      'correct': np.zeros(valid.shape, bool),
      'logprobs': zeros,
      'entropy': zeros,
      **fields,
    }
  )


REFERENCE = make_samples(reference.VALID, reference.LENGTHS.reshape(2, 4))


def _estimate(rewards, samples, estimator, std_floor=0.0, **changed):
  numbers = flags.section('advantage', estimator=estimator, **changed)
  return np.asarray(
    estimators.estimate(rewards, samples, std_floor=std_floor, **numbers)
  )


@pytest.mark.parametrize(
  ('estimator', 'want'),
  [
    (
      'grpo',
      [0.783349, -0.261116, -1.305581, 0.783349, 0, -1.224743, 0, 1.224743],
    ),
    ('rloo', [1, -0.333333, -1.666667, 1, 0, -1.333333, 0, 1.333333]),
    (
      'reinforce_pp_baseline',
      [
        *(0.861406, -0.448902, -1.759209, 0.861406),
        *(-0.121325, -1.431632, -0.121325, 1.188983),
      ],
    ),
    (
      'opo',
      [
        *(0.785714, -0.214286, -1.214286, 0.785714),
        *(-0.230769, -1.230769, -0.230769, 0.769231),
      ],
    ),
  ],
)
def test_reference_numbers(estimator, want):
  got = _estimate(TOTAL, REFERENCE, estimator)
  np.testing.assert_allclose(got.reshape(8), want, atol=1e-5)


# One group of three valid samples, one whose only valid sample is the first;
# rewards 1, 3, 5 and 4. Lengths 1, 2, 1 and 3.
REWARDS = np.float32([[1, 3, 5, np.nan], [4, np.nan, np.inf, np.nan]])
SAMPLES = make_samples(
  [[1, 1, 1, 0], [1, 0, 0, 0]],
  [[1, 2, 1, 4], [3, 1, 1, 1]],
  correct=np.array([[0, 0, 1, 1], [1, 0, 0, 0]], bool),
)
HAND = {
  # mu = 3, s = 2
  'grpo': [-1, 0, 1],
  'dr_grpo': [-2, 0, 2],
  # Over the batch: mean 13/4, squares (81 + 1 + 49 + 9) / 16, var 35/12
  'batch_std': [-2 / np.sqrt(35 / 12), 0, 2 / np.sqrt(35 / 12)],
  # 1 - 4, 3 - 3, 5 - 2
  'rloo': [-3, 0, 3],
  # (1 + 6 + 5) / 4 = 3
  'opo': [-2, 0, 2],
  # 4 of 4 rewards are not 0
  'gpg': [-2, 0, 2],
  'sign': [-1, -1, 1],
  # Right are 0 0 1, a third.
  'maxrl': [-1, -1, 2],
  # 3 (r - mu) / (4 + 1e-4), and the only group that differs weighs 1.
  'dgpo': [-6 / 4.0001, 0, 6 / 4.0001],
}


@pytest.mark.parametrize('estimator', HAND)
def test_by_hand(estimator):
  got = _estimate(REWARDS, SAMPLES, estimator)
  np.testing.assert_allclose(got[0], [*HAND[estimator], 0], atol=1e-5)
  np.testing.assert_array_equal(got[1], [0, 0, 0, 0])


# What a floor of 4 makes of them: what divides is 2, and over the batch
# sqrt(35 / 12) by row or 1.27 by token, by which REINFORCE++ is whitened.
@pytest.mark.parametrize(
  ('estimator', 'norm', 'want'),
  [
    ('grpo', 'none', [-0.5, 0, 0.5]),
    ('batch_std', 'none', [-0.5, 0, 0.5]),
    # Less their mean over the batch, 13/4, and weighed by tokens, 24/7.
    ('reinforce_pp', 'row', [-9 / 16, -1 / 16, 7 / 16]),
    ('reinforce_pp', 'token', [-17 / 28, -3 / 28, 11 / 28]),
    # Nothing divides these.
    ('dr_grpo', 'none', [-2, 0, 2]),
    ('rloo', 'none', [-3, 0, 3]),
  ],
)
def test_floor_of_what_divides(estimator, norm, want):
  got = _estimate(REWARDS, SAMPLES, estimator, batch_norm=norm, std_floor=4.0)
  np.testing.assert_allclose(got[0], [*want, 0], rtol=1e-5)
  # One below what divides changes nothing.
  low, none = (
    _estimate(REWARDS, SAMPLES, estimator, batch_norm=norm, std_floor=floor)
    for floor in (0.5, 0.0)
  )
  np.testing.assert_array_equal(low, none)


def test_gpg_counts_rewards_that_are_not_zero():
  # mu = 1/4; 4 samples, one reward that is not 0.
  samples = make_samples(np.ones((1, 4)), np.ones((1, 4), int))
  got = _estimate(np.float32([[0, 0, 0, 1]]), samples, 'gpg')
  np.testing.assert_allclose(got, [[-1, -1, -1, 3]], rtol=1e-6)


# Right are one of four, three of four, none, and all.
SHARES = np.float32([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])


def test_maxrl_by_hand():
  # (1 - 1/4) / (1/4) = 3 and -1; (1 - 3/4) / (3/4) = 1/3 and -1; nothing.
  samples = make_samples(
    np.ones((4, 4)), np.ones((4, 4), int), correct=SHARES == 1
  )
  for rewards in (SHARES, 7 * SHARES - 3):  # However it is counted.
    got = _estimate(rewards, samples, 'maxrl')
    np.testing.assert_allclose(got[0], [3, -1, -1, -1], rtol=1e-6)
    np.testing.assert_allclose(got[1], [1 / 3] * 3 + [-1], rtol=1e-6)
    np.testing.assert_array_equal(got[2:], np.zeros((2, 4)))


def test_dgpo_by_hand():
  # sum |r - mu| = 3/4 + 3/4 in both: 4 (3/4) / 1.5 = 2 and -2/3; 2/3 and -2.
  # Two groups differ; their weights 2 softmax(-1/8, -3/8) are 2 / (1 + e^-1/4)
  # = 1.124353 for the harder one and .875647.
  samples = make_samples(np.ones((4, 4)), np.ones((4, 4), int))
  got = _estimate(SHARES, samples, 'dgpo')
  hard, easy = 1.124353, 0.875647
  want = [[2] + [-2 / 3] * 3, [2 / 3] * 3 + [-2]]
  np.testing.assert_allclose(
    got[:2], np.array(want) * [[hard], [easy]], rtol=1e-4
  )
  np.testing.assert_array_equal(got[2:], np.zeros((2, 4)))


def test_reinforce_pp_by_hand():
  # By tokens 1, 3 3, 5 and 4 4 4: mean 24/7; squares of the distances
  # (17^2 + 2 3^2 + 11^2 + 3 4^2) / 49 = 476/49, over 6: 1.6190476
  got = _estimate(REWARDS, SAMPLES, 'reinforce_pp')
  want = (np.array([1, 3, 5, 4]) - 24 / 7) / np.sqrt(476 / 49 / 6)
  np.testing.assert_allclose(got[0], [*want[:3], 0], rtol=1e-5)
  np.testing.assert_allclose(got[1], [want[3], 0, 0, 0], rtol=1e-5)
  # By rows 1, 3, 5 and 4: mean 13/4, var 35/12.
  got = _estimate(REWARDS, SAMPLES, 'reinforce_pp', batch_norm='row')
  want = (np.array([1, 3, 5, 4]) - 13 / 4) / np.sqrt(35 / 12)
  np.testing.assert_allclose(got[0], [*want[:3], 0], rtol=1e-5)
  # And as it is.
  got = _estimate(REWARDS, SAMPLES, 'reinforce_pp', batch_norm='none')
  np.testing.assert_array_equal(got[0], [1, 3, 5, 0])


PENALTY = np.float32([[[0.5, 0.25], [1, np.nan]], [[0, 0.5], [0.25, 0.25]]])


def test_kl_in_the_reward_is_taken_from_it():
  # 1 - .75, 2 - 1; 0 - .5, 1 - .5: of two, -+ half the difference.
  samples = make_samples(np.ones((2, 2)), [[2, 1], [2, 2]], penalty=PENALTY)
  got = _estimate(np.float32([[1, 2], [0, 1]]), samples, 'dr_grpo')
  np.testing.assert_allclose(got, [[-0.375, 0.375], [-0.5, 0.5]], rtol=1e-6)


def test_returns_of_tokens_by_hand():
  # R_t = r - what is still to be paid: 1 - .75, 1 - .25; 2 - 1; ...
  samples = make_samples(np.ones((2, 2)), [[2, 1], [2, 2]], penalty=PENALTY)
  rewards = np.float32([[1, 2], [0, 1]])
  got = _estimate(rewards, samples, 'reinforce_pp', batch_norm='none')
  want = np.array([[[0.25, 0.75], [1, 0]], [[-0.5, -0.5], [0.5, 0.75]]])
  np.testing.assert_allclose(got, want, rtol=1e-6)
  normed = _estimate(rewards, samples, 'reinforce_pp')
  tokens = want[samples.mask]
  np.testing.assert_allclose(
    normed[samples.mask],
    (tokens - tokens.mean()) / tokens.std(ddof=1),
    rtol=1e-5,
  )
  assert not normed[~samples.mask].any()
  with pytest.raises(ValueError, match='batch_norm=token'):
    _estimate(rewards, samples, 'reinforce_pp', batch_norm='row')


def _split(x):
  return x.reshape(4, -1, *x.shape[1:])


@pytest.mark.parametrize(
  ('estimator', 'batch_norm'),
  [
    ('reinforce_pp', 'token'),
    ('reinforce_pp_baseline', 'row'),
    ('batch_std', 'none'),
    ('gpg', 'none'),
    ('maxrl', 'none'),
    ('dgpo', 'none'),
  ],
)
def test_over_devices(estimator, batch_norm):
  # Eight groups on four devices: statistics are of all of them.
  rng = np.random.default_rng(0)
  rewards = rng.integers(0, 3, (8, 4)).astype(np.float32)
  rewards[0] = 1
  valid = rng.random((8, 4)) < 0.8
  valid[1] = [True, False, False, False]
  samples = make_samples(
    valid, rng.integers(1, 6, (8, 4)), correct=(rewards == 2) & valid
  )
  run = functools.partial(
    estimators.estimate,
    **flags.section('advantage', estimator=estimator, batch_norm=batch_norm),
  )
  want = run(rewards, samples)
  got = jax.pmap(
    functools.partial(run, all_sum=collectives.make_all_sum('data')),
    axis_name='data',
  )(_split(rewards), jax.tree.map(_split, samples))
  np.testing.assert_allclose(np.reshape(got, (8, 4)), want, atol=1e-5)
  assert np.abs(want).max() > 0.5
  assert not np.asarray(want)[~valid].any()


@pytest.mark.parametrize('estimator', estimators.ESTIMATORS)
def test_nothing_to_compare_is_finite(estimator):
  # Nothing valid; one valid; all equal, of rewards float32 cannot add up.
  for valid, reward in (
    (np.zeros((1, 10)), 0.1),
    (np.eye(1, 10), 0.1),
    (np.ones((1, 10)), 0.1),
  ):
    samples = make_samples(valid, np.arange(1, 11)[None])
    got = _estimate(np.full((1, 10), reward, np.float32), samples, estimator)
    # A norm over the batch moves what is equal by the rounding of its mean.
    normed = estimator in ('reinforce_pp', 'reinforce_pp_baseline')
    np.testing.assert_allclose(got, np.zeros((1, 10)), atol=1e-3 * normed)


@pytest.mark.parametrize('right', [False, True])
def test_signs_compare_nothing_in_a_group_of_one_kind(right):
  # Rewards differ, but all are right, or all wrong, by `correct`.
  correct = np.full((1, 3), right)
  samples = make_samples(np.ones((1, 3)), np.ones((1, 3), int), correct=correct)
  got = _estimate(np.float32([[1, 2, 3]]), samples, 'sign')
  np.testing.assert_array_equal(got, np.zeros((1, 3)))


@pytest.mark.parametrize(
  ('lengths', 'reward'),
  [([117, 46, 82, 114], 0.9), ([75, 6, 10, 45], -2.1)],
)
def test_opo_gives_equal_rewards_exactly_nothing(lengths, reward):
  # The mean weighed by these lengths is not the reward, in float32: a residue
  # that looks like an advantage to whoever asks which groups have one.
  lengths, rewards = np.array([lengths]), np.full((1, 4), reward, np.float32)
  total = np.float32(0)
  for length in lengths[0]:
    total += np.float32(length) * rewards[0, 0]
  assert total / np.float32(lengths.sum()) != rewards[0, 0]
  samples = make_samples(np.ones((1, 4)), lengths)
  got = _estimate(rewards, samples, 'opo')
  np.testing.assert_array_equal(got, np.zeros((1, 4)))


def test_unknown_values_are_refused():
  with pytest.raises(ValueError, match="estimator='ppo'.*rloo"):
    _estimate(REWARDS, SAMPLES, 'ppo')
  with pytest.raises(ValueError, match="batch_norm='rows'.*token, row, none"):
    _estimate(REWARDS, SAMPLES, 'reinforce_pp', batch_norm='rows')
