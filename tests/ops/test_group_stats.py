"""Group statistics by hand, against NumPy, and where groups degenerate."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.ops import masked

GroupStats = masked.GroupStats


class GroupStatsTest(chex.TestCase):
  @chex.all_variants
  def test_by_hand(self):
    # 1 2 3 6: mean 3, squares 4+1+0+9 = 14, std sqrt(14/3)
    # 5 . . 1: mean 3, squares 4+4 = 8, std sqrt(8/1)
    # 0.9 and 1.7 are no float32 numbers: a third of three of them is another
    # number, yet the std is exactly 0. Then one valid sample, and none.
    rewards = np.float32(
      [
        [1, 2, 3, 6],
        [5, np.nan, np.inf, 1],
        [0.9, 0.9, 0.9, np.nan],
        [1.7, -np.inf, 1.7, 1.7],
        [np.nan, np.inf, 2, -np.inf],
        [np.nan] * 4,
      ]
    )
    got = self.variant(masked.group_stats)(rewards, np.isfinite(rewards))
    want = GroupStats(
      mean=np.float32([3, 3, 0.9, 1.7, 2, 0]),
      std=np.float32([np.sqrt(14 / 3), np.sqrt(8), 0, 0, 0, 0]),
      flat=np.array([False, False, True, True, True, True]),
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    chex.assert_trees_all_close(got, want, rtol=1e-6)
    np.testing.assert_array_equal(got.std[2:], np.zeros(4))
    np.testing.assert_array_equal(got.mean[2:], want.mean[2:])

  @parameterized.parameters(0, 1)
  def test_against_float64_loop(self, ddof):
    rng = np.random.default_rng(1)
    rewards = rng.normal(0.0, 3.0, (6, 4))
    valid = rng.random((6, 4)) < 0.8
    valid[:, :2] = True
    got = masked.group_stats(rewards, valid, ddof=ddof)
    for p in range(6):
      kept = rewards[p][valid[p]]
      np.testing.assert_allclose(got.mean[p], kept.mean(), rtol=1e-4)
      np.testing.assert_allclose(got.std[p], kept.std(ddof=ddof), rtol=1e-5)

  @chex.variants(with_jit=True, with_pmap=True)
  def test_gradients_are_finite(self):
    rewards = np.float32(
      [
        [0.1] * 4,
        [1, 2, 3, np.nan],
        [np.nan, 2, np.inf, np.nan],
        [np.nan] * 4,
        [1 / 3] * 4,
        [1, 2, 3, 4],
      ]
    )
    valid = np.isfinite(rewards)

    def total(rewards):
      stats = masked.group_stats(rewards, valid)
      return jnp.sum(stats.mean) + jnp.sum(stats.std)

    gradient = self.variant(jax.grad(total))(rewards)
    # 1 2 3: 1/3 each from the mean; d std = (r - 2) / (2 std), std = 1
    np.testing.assert_allclose(
      gradient[1], [1 / 3 - 0.5, 1 / 3, 1 / 3 + 0.5, 0], rtol=1e-5
    )
    chex.assert_tree_all_finite(gradient)

  def test_unknown_ddof_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'ddof=2.*0, 1'):
      masked.group_stats(np.ones((1, 2)), np.ones((1, 2), bool), ddof=2)
