"""The difficulty weight: what p is, and the weight apart from the step."""

import functools

import chex
import jax
import numpy as np
import pytest

from awpo_jax.ops import awpo, collectives, gates
from awpo_jax.ops import difficulty as difficulty_lib
from tests.helpers import awpo_cases as cases

# p of the six worked groups by the mean: .642857 0 1 .035714 .571429 .523810;
# by the share of fours: 2/4, 0, 1, 0, 0 and, of three valid ones, 1/3.
SOLVED = [0.5, 0, 1, 0, 0, 1 / 3]


def test_solved_by_hand():
  got = cases.jitted(difficulty_of='solved')(*cases.GROUPS)
  np.testing.assert_allclose(got.solve_rate, SOLVED, rtol=1e-6)
  # The flat group, all 1 of [-3, 4], is no longer one of medium difficulty.
  np.testing.assert_array_equal(got.difficulty, [1.5, 1, 1, 1, 1, 1.5])
  usual = cases.jitted()(*cases.GROUPS)
  np.testing.assert_array_equal(usual.difficulty, [1.5, 1, 1, 1, 1.5, 1.5])
  np.testing.assert_allclose(got.gate, usual.gate)


def test_both_are_one_where_the_outcome_is_right_or_wrong():
  rng = np.random.default_rng(0)
  outcome = rng.integers(0, 2, (6, 5)).astype(np.float32)
  groups = outcome, rng.random((6, 5), np.float32), rng.random((6, 5)) < 0.8
  bounds = np.zeros(6, np.float32), np.ones(6, np.float32)
  got, want = (
    cases.advantages(*groups, *bounds, difficulty_of=of, difficulty='parabola')
    for of in difficulty_lib.SOLVE_RATES
  )
  chex.assert_trees_all_close(got, want, atol=1e-6)


def test_a_group_that_nobody_could_judge_has_no_share():
  valid = cases.VALID.copy()
  # One answer, a best one; none; two.
  valid[0, 1:], valid[1], valid[2, 2:] = False, False, False
  outcome = np.where(valid, cases.OUTCOME, np.nan)
  groups = outcome, cases.REASONING, valid, cases.LOW, cases.HIGH
  got = cases.advantages(*groups, difficulty_of='solved')
  np.testing.assert_allclose(got.solve_rate, [0, 0, 1, 0, 0, 1 / 3], rtol=1e-6)


def test_mean_by_hand():
  # d = 1.5 1 1 1 1.5 1.5, mean 1.25: 1.2 .8 .8 .8 1.2 1.2.
  got = cases.jitted(difficulty_norm='mean')(*cases.GROUPS)
  np.testing.assert_allclose(
    got.difficulty, [1.2, 0.8, 0.8, 0.8, 1.2, 1.2], rtol=1e-6
  )
  usual = cases.jitted()(*cases.GROUPS)
  np.testing.assert_allclose(
    got.advantages, usual.advantages / 1.25, rtol=1e-5, atol=1e-7
  )


def test_mean_is_of_the_groups_that_count():
  # The first three have no two valid samples: d = 1, 1.5, 1.5, mean 4/3.
  valid = cases.VALID.copy()
  valid[:3, 1:] = False
  groups = cases.OUTCOME, cases.REASONING, valid, cases.LOW, cases.HIGH
  got = cases.advantages(*groups, difficulty_norm='mean')
  want = [0, 0, 0, 0.75, 1.125, 1.125]
  np.testing.assert_allclose(got.difficulty, want, rtol=1e-6)


@pytest.mark.parametrize('scope', awpo.COMBINATIONS['convex'])
@pytest.mark.parametrize('gate', gates.GATES)
def test_the_same_weight_everywhere_is_none(gate, scope):
  # A weight of 1.5 on every group is a learning rate, and with the norm it is
  # gone, bit for bit; without the norm it is not.
  groups = cases.random_groups(0)
  settings = {'gate': gate, 'difficulty_scope': scope}
  same = {**settings, 'base': 1.5, 'priority': 1.5}
  got = cases.jitted(**same, difficulty_norm='mean')(*groups)
  want = cases.jitted(**settings, difficulty='none')(*groups)
  np.testing.assert_array_equal(got.advantages, want.advantages)
  np.testing.assert_array_equal(got.difficulty, want.difficulty)
  if gate != 'none' or scope == 'whole':
    larger = cases.jitted(**same)(*groups).advantages
    assert np.abs(larger - want.advantages).max() > 0.1


@pytest.mark.parametrize('difficulty', difficulty_lib.DIFFICULTIES)
@pytest.mark.parametrize('parts', [2, 4])
def test_mean_over_devices(difficulty, parts):
  # Parts have other means, and count unequally.
  groups = cases.random_groups(1)
  want = cases.advantages(
    *groups, difficulty=difficulty, difficulty_norm='mean'
  )
  counted = groups[2].sum(axis=1) >= 2
  np.testing.assert_allclose(want.difficulty[counted].mean(), 1, rtol=1e-5)
  settings = {'difficulty': difficulty, 'difficulty_norm': 'mean'}
  run = functools.partial(
    cases.advantages, **settings, all_sum=collectives.make_all_sum('data')
  )
  got = jax.pmap(run, axis_name='data')(
    *(x.reshape(parts, -1, *x.shape[1:]) for x in groups)
  )
  np.testing.assert_allclose(
    np.reshape(got.difficulty, -1), want.difficulty, rtol=1e-5
  )
  np.testing.assert_allclose(
    np.reshape(got.advantages, (24, 5)), want.advantages, atol=1e-5
  )


def test_weights_that_are_all_zero_stay_zero():
  # The parabola of an all-wrong and a solved group.
  groups = [x[[1, 2]] for x in cases.GROUPS]
  got = cases.advantages(*groups, difficulty='parabola', difficulty_norm='mean')
  chex.assert_tree_all_finite(got)
  np.testing.assert_array_equal(got.advantages, np.zeros((2, 4)))
