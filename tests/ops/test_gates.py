"""Gates besides the usual ones, and what a gate may join: by hand."""

import functools

import chex
import jax
import numpy as np
import pytest

from awpo_jax.ops import collectives
from tests.helpers import awpo_cases as cases

# One group, outcomes of [0, 4]: s = 1 and s = .5.
#   A_out = -1 0 1,  A_rea: mean .5, -.5 .5 0 over .5 = -1 1 0
OUTCOME, REASONING = [[1, 2, 3]], [[0, 1, 0.5]]
OURS = {'gate': 'share', 'mix_advantage': 'reasoning', 'difficulty': 'none'}


def _made(outcome, reasoning, high=4.0, valid=None, **changed):
  outcome, reasoning = np.float32(outcome), np.float32(reasoning)
  if valid is None:
    valid = np.ones(outcome.shape, bool)
  low = np.zeros(len(outcome), np.float32)
  high = np.full(len(outcome), high, np.float32)
  # Nothing is shut where not said, so that edges show the gate itself.
  settings = {'saturation': 'none', **changed}
  return cases.jitted(**settings)(outcome, reasoning, valid, low, high)


@pytest.mark.parametrize(
  ('scale', 'w'),
  # .5 / (1 + .5), and with outcomes over their span of 4: .5 / (.25 + .5)
  [('raw', 1 / 3), ('unit', 2 / 3)],
)
def test_share_by_hand(scale, w):
  got = _made(OUTCOME, REASONING, reward_scale=scale, **OURS)
  np.testing.assert_allclose(got.gate, [w], rtol=1e-5)
  want = (1 - w) * np.array([-1, 0, 1]) + w * np.array([-1, 1, 0])
  np.testing.assert_allclose(got.advantages, [want], atol=1e-5)
  # What is logged as A_mix is that of the reasoning, too.
  np.testing.assert_allclose(got.mix_advantages, [[-1, 1, 0]], atol=1e-5)


def test_share_asks_neither_for_the_unit_of_the_outcome_nor_for_its_zero():
  outcome, noise, valid, low, high = cases.random_groups(0)
  wants = high > 1
  settings = {'reward_scale': 'unit', **OURS}
  run = functools.partial(cases.advantages, wants_call=wants, **settings)
  want = run(outcome, noise, valid, low, high)
  got = run(10 * outcome - 3, noise, valid, 10 * low - 3, 10 * high - 3)
  np.testing.assert_allclose(got.gate, want.gate, rtol=1e-4)
  assert np.asarray(want.gate).std() > 0.1


@pytest.mark.parametrize(
  ('outcome', 'reasoning', 'w'),
  [
    ([[1, 2, 3]], [[0.1] * 3], 0),
    ([[0.1] * 10], [[0.1] * 10], 0),
    ([[0, 1]], [[0.5, 0.5]], 0),
    # Equal outcomes: all of the reasoning, up to eps.
    ([[2, 2, 2]], [[0, 1, 0.5]], 1),
  ],
)
def test_share_at_its_edges(outcome, reasoning, w):
  got = _made(outcome, reasoning, **OURS)
  chex.assert_tree_all_finite(got)
  np.testing.assert_allclose(got.gate, [w], atol=1e-5)
  if not w:
    assert got.gate[0] == 0
  if not w and len(set(outcome[0])) == 1:
    np.testing.assert_array_equal(got.advantages, np.zeros_like(outcome))


# Eight answers, one and two of them right: unbiased variances 1/8 7/8 8/7 =
# .125 and 1/4 3/4 8/7 = .214286. Half of the largest variance of outcomes of
# [0, 1], 1/4, is .125; of [0, 7] it is 6.125.
ONE, TWO = [0] * 7 + [1], [0] * 6 + [1] * 2
JUDGED = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize('scale', ['raw', 'unit'])
@pytest.mark.parametrize('span', [1, 7])
def test_tau_as_a_share_of_the_largest_variance(scale, span):
  outcome = span * np.array([ONE, TWO])
  settings = {'gate': 'binary', 'reward_scale': scale, 'high': span}
  got = _made(outcome, [JUDGED] * 2, tau_of='share', tau=0.5, **settings)
  np.testing.assert_array_equal(got.gate, [1, 0])
  got = _made(outcome, [JUDGED] * 2, tau_of='share', tau=0.9, **settings)
  np.testing.assert_array_equal(got.gate, [1, 1])
  # As a variance .5 is open at every 0/1 outcome, and shut at 49 times as much.
  got = _made(outcome, [JUDGED] * 2, tau=0.5, **settings)
  is_open = span == 1 or scale == 'unit'
  np.testing.assert_array_equal(got.gate, [is_open] * 2)


# Rewards joined, and one advantage made of them.


def test_reward_level_by_hand():
  # w = 1/3: 2/3 (1 2 3) + 1/3 (0 1 .5) = 2/3 5/3 13/6, mean 3/2; distances
  # -5/6 1/6 2/3, squares 25/36 + 1/36 + 16/36 = 7/6, s = sqrt(7/12).
  got = _made(OUTCOME, REASONING, gate_level='reward', **OURS)
  want = np.array([-5 / 6, 1 / 6, 2 / 3]) / (7 / 12) ** 0.5
  np.testing.assert_allclose(got.advantages, [want], atol=1e-5)
  np.testing.assert_allclose(got.outcome_advantages, [[-1, 0, 1]], atol=1e-5)
  # Added: 1 2 3 + 1/3 (0 1 .5) = 1 7/3 19/6, mean 13/6; distances -7/6 1/6 1,
  # squares 49/36 + 1/36 + 36/36 = 43/18. p = 1/2: d = 1.5.
  settings = {**OURS, 'difficulty': 'banded', 'combine': 'additive'}
  got = _made(OUTCOME, REASONING, gate_level='reward', **settings)
  want = 1.5 * np.array([-7 / 6, 1 / 6, 1]) / (43 / 36) ** 0.5
  np.testing.assert_allclose(got.advantages, [want], atol=1e-5)


@pytest.mark.parametrize('gate', ['none', 'always'])
def test_reward_level_of_a_gate_that_is_no_number_between(gate):
  # Of one reward alone: GRPO's advantage of it, bit for bit with `none`.
  groups = cases.random_groups(1)
  settings = {'gate': gate, 'saturation': 'none', 'difficulty': 'none'}
  settings |= {'mix_advantage': 'reasoning', 'mix_std_floor': 0.0}
  got = cases.jitted(gate_level='reward', **settings)(*groups)
  want = cases.jitted(**settings)(*groups)
  if gate == 'none':
    chex.assert_trees_all_equal(got, want)
  np.testing.assert_allclose(got.advantages, want.advantages, atol=1e-5)


def test_reward_level_has_the_floor():
  # Equal outcomes and reasoning that differs by .001: s = .001, floor .02.
  got = _made([[2, 2, 2]], [[0.5, 0.501, 0.499]], gate_level='reward', **OURS)
  np.testing.assert_allclose(got.advantages, [[0, 0.05, -0.05]], atol=1e-4)
  np.testing.assert_allclose(got.mix_advantages, [[0, 0.05, -0.05]], atol=1e-4)


def test_without_a_gate_no_level_has_the_floor():
  # Outcomes that differ by .001: GRPO's advantages, full size.
  settings = {**OURS, 'gate': 'none', 'gate_level': 'reward'}
  got = _made([[2, 2.001, 1.999]], [[0.5, 0.1, 0.9]], **settings)
  np.testing.assert_allclose(got.advantages, [[0, 1, -1]], atol=5e-3)


@pytest.mark.parametrize('level', ['advantage', 'reward'])
def test_constant_rewards_are_exactly_nothing(level):
  for outcome, reasoning, valid in (
    ([[0.1] * 10], [[0.1] * 10], None),
    ([[0.1, np.nan]], [[0.3, np.nan]], np.array([[True, False]])),
    ([[np.nan] * 2], [[np.nan] * 2], np.zeros((1, 2), bool)),
  ):
    got = _made(outcome, reasoning, valid=valid, gate_level=level, **OURS)
    np.testing.assert_array_equal(got.advantages, np.zeros_like(outcome))
    chex.assert_tree_all_finite(got)


SETTINGS = [
  {'gate': 'share', 'reward_scale': 'unit'},
  {'gate': 'share', 'gate_level': 'reward'},
  {'gate': 'ratio', 'gate_level': 'reward', 'trust': 'agreement'},
  {'gate': 'binary', 'tau_of': 'share'},
]


@pytest.mark.parametrize('settings', SETTINGS)
def test_over_devices_and_without_the_samples_that_failed(settings):
  outcome, noise, valid, low, high = cases.random_groups(2)
  # A judge that is right more often than not, or there is no trust to share.
  share = (outcome - low[:, None]) / (high - low)[:, None]
  reasoning = np.float32(0.5 * share + 0.5 * noise)
  groups = outcome, reasoning, valid, low, high
  want = cases.jitted(**settings)(*groups)
  assert np.abs(want.advantages).max() > 0.5
  for parts in (2, 4):
    each = jax.pmap(
      functools.partial(
        cases.advantages,
        all_sum=collectives.make_all_sum('data'),
        **settings,
      ),
      axis_name='data',
    )(*(x.reshape(parts, -1, *x.shape[1:]) for x in groups))
    got = np.reshape(each.advantages, (24, 5))
    np.testing.assert_allclose(got, want.advantages, atol=1e-5)
  valid[:, -1] = False
  want = cases.advantages(
    outcome[:, :-1], reasoning[:, :-1], valid[:, :-1], low, high, **settings
  )
  outcome[:, -1], reasoning[:, -1] = np.nan, np.inf
  got = cases.advantages(*groups, **settings)
  np.testing.assert_allclose(got.advantages[:, :-1], want.advantages, atol=1e-5)
  np.testing.assert_array_equal(got.advantages[:, -1], np.zeros(24))
