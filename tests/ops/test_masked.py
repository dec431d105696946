"""Reductions under a mask, and statistics of groups, by hand and by NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.ops import masked

GroupStats = masked.GroupStats

FUNCTIONS = {
  'sum': (masked.sum, np.sum),
  'mean': (masked.mean, np.mean),
  'std': (masked.std, lambda x: np.std(x, ddof=1)),
  'max': (masked.max, np.max),
  'min': (masked.min, np.min),
}


class MaskedTest(chex.TestCase):
  @chex.all_variants
  def test_by_hand(self):
    # values under the mask: 1, 4, 7: sum 12, mean 4,
    # std sqrt(((-3)^2 + 0^2 + 3^2) / 2) = 3, max 7, min 1
    values = np.float32([1, np.nan, 4, 7, np.inf])
    mask = np.array([True, False, True, True, False])
    got = [
      float(self.variant(function)(values, mask))
      for function, _ in FUNCTIONS.values()
    ]
    np.testing.assert_allclose(got, [12, 4, 3, 7, 1], rtol=1e-6)

  @parameterized.parameters(*FUNCTIONS)
  def test_masked_equals_removed(self, name):
    function, reference = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, (6, 4))
    mask = rng.random((6, 4)) < 0.6
    mask[:, :2] = True
    want = [
      reference(row[kept]) for row, kept in zip(values, mask, strict=True)
    ]
    values[~mask] = np.nan
    got = function(values, mask, axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    kept = function(values, mask, axis=1, keepdims=True)
    np.testing.assert_array_equal(kept, got[:, None])

  def test_biased_std(self):
    # deviations -3, 0, 3 over n = 3: sqrt(18 / 3)
    got = masked.std(np.float32([1, 4, 7]), np.ones(3, bool), ddof=0)
    np.testing.assert_allclose(got, np.sqrt(6.0), rtol=1e-6)

  @parameterized.parameters(*FUNCTIONS)
  def test_empty_mask_is_zero_with_a_finite_gradient(self, name):
    function, _ = FUNCTIONS[name]
    values = jnp.float32([np.nan, np.inf, 1.0])
    got, gradient = jax.value_and_grad(function)(values, np.zeros(3, bool))
    self.assertEqual(float(got), 0.0)
    np.testing.assert_array_equal(gradient, np.zeros(3))

  @parameterized.parameters(*FUNCTIONS)
  def test_gradient_ignores_a_masked_nan(self, name):
    function, _ = FUNCTIONS[name]
    values = np.float32([1, 4, 7])
    want = jax.grad(function)(values, np.ones(3, bool))
    self.assertGreater(float(jnp.max(jnp.abs(want))), 0.0)
    padded = np.float32([1, np.nan, 4, 7, -np.inf])
    got = jax.grad(function)(padded, np.array([True, False, True, True, False]))
    np.testing.assert_allclose(got[np.array([0, 2, 3])], want, rtol=1e-6)
    np.testing.assert_array_equal(got[np.array([1, 4])], np.zeros(2))

  def test_square_root_at_zero_has_gradient_zero(self):
    got = jax.vmap(jax.value_and_grad(masked.sqrt))(jnp.float32([0.0, 4.0]))
    # sqrt(4) = 2 and 1 / (2 sqrt(4)) = 1/4
    np.testing.assert_array_equal(got[0], [0.0, 2.0])
    np.testing.assert_array_equal(got[1], [0.0, 0.25])

  def test_std_of_equal_values_has_a_finite_gradient(self):
    gradient = jax.grad(masked.std)(
      jnp.full((4,), 0.5, jnp.float32), np.ones(4, bool)
    )
    np.testing.assert_array_equal(gradient, np.zeros(4))

  def test_counts_past_two_to_the_24(self):
    # A float32 sum of ones stops growing at 16777216.
    count = jax.eval_shape(masked.count, jnp.ones((3, 2), bool)).dtype
    self.assertEqual(count, jnp.float32)
    jaxpr = str(jax.make_jaxpr(masked.count)(jnp.ones((3, 2), bool)))
    self.assertIn('i32[] = reduce_sum', jaxpr)

  def test_float32_even_under_x64(self):
    with jax.enable_x64(True):
      for function, _ in FUNCTIONS.values():
        got = jax.eval_shape(function, np.float64([1, 2, 3]), np.ones(3, bool))
        self.assertEqual(got.dtype, jnp.float32)


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
