"""Shares and disagreements by hand."""

import numpy as np

from awpo_jax.analysis import diagnostics
from tests.helpers import awpo_cases as cases


def test_what_came_from_the_reasoning():
  # mixed: d w (A_mix - A_out) = A - 1.5 A_out; without a gate nothing.
  made = cases.advantages(*cases.GROUPS)
  change = diagnostics.reasoning_change(made)
  want = np.array([1.163553, -0.191194, -2.048509, 1.076150]) - [
    *(1.5 * 0.753778, 1.5 * -0.150756, 1.5 * -1.356801, 1.5 * 0.753778)
  ]
  np.testing.assert_allclose(change[cases.MIXED], want, atol=1e-5)
  share = np.asarray(diagnostics.reasoning_share(made))
  outcome = np.abs(1.5 * made.outcome_advantages[cases.MIXED])
  np.testing.assert_allclose(
    share[cases.MIXED], np.abs(want) / (np.abs(want) + outcome), atol=1e-5
  )
  # All wrong: nothing but the reasoning, where it says anything.
  np.testing.assert_array_equal(share[1] > 0, made.advantages[1] != 0)
  assert set(share[1]) == {0, 1}
  none = cases.advantages(*cases.GROUPS, gate='none')
  assert not np.asarray(diagnostics.reasoning_share(none)).any()


def test_where_rewards_disagree():
  # Pairs that both order: (0, 1) alike, (0, 2) and (1, 2) oppositely; then of
  # two valid samples the same; then equal outcomes.
  got = diagnostics.disagreement(
    np.float32([[0, 1, 2], [0, np.nan, 2], [1, 1, 1]]),
    np.float32([[0.5, 0.6, 0.1], [0.5, 0.9, 0.6], [0.1, 0.2, 0.3]]),
    np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool),
  )
  np.testing.assert_allclose(got, [2 / 3, 0, 0], rtol=1e-6)


def test_cosine_with_solved():
  # Solved less its mean: (1/2, -1/2, .), (-1/3, 2/3, -1/3), nothing. The third
  # of the first group is not known.
  solved = np.float32([[1, 0, np.nan], [0, 1, 0], [1, 1, 1]])
  made = np.float32([[2, -2, 5], [-1, 1, 0], [3, -1, 0]])
  # 2 + 1 over sqrt((8 + 2 + 10) (1/2 + 2/3)).
  got = diagnostics.solved_cosine(made, solved)
  assert abs(got - 3 / np.sqrt(20 * 7 / 6)) < 1e-12
  assert diagnostics.solved_cosine(-made, solved) == -got
  centred = np.array([[0.5, -0.5, 0], [-1 / 3, 2 / 3, -1 / 3], [0, 0, 0]])
  assert abs(diagnostics.solved_cosine(7 * centred, solved) - 1) < 1e-12
  assert diagnostics.solved_cosine(0 * made, solved) is None
  assert diagnostics.solved_cosine(made, np.ones((3, 3))) is None
  assert diagnostics.solved_cosine(made, np.full((3, 3), np.nan)) is None
