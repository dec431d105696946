"""Losses by hand, against published reference numbers, and at their edges."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.ops import aggregation as aggregation_lib
from awpo_jax.ops import collectives, surrogate
from tests.helpers import reference_batch
from tests.helpers.reference_batch import MASK, NEW, OLD, REF, SCORES


class ReferenceNumbersTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.2, 3.0, 'token-mean', 0.303096, 0.449945),
    (0.2, 3.0, 'seq-mean-token-mean', 0.289637, 0.432208),
    (0.2, 3.0, 'seq-mean-token-sum', 1.022950, 1.518566),
    (0.2, 3.0, 'seq-mean-token-sum-norm', 0.204590, 0.303713),
    (0.28, 10.0, 'token-mean', 0.371846, 0.738173),
    (0.2, None, 'seq-mean-token-sum-norm', 0.259192, 0.498267),
  )
  def test_surrogate(self, clip_high, dual_clip, aggregation, value, size):
    def per_token(logprobs):
      return surrogate.clipped_surrogate(
        surrogate.log_ratio(logprobs, OLD, MASK),
        SCORES,
        clip_low=0.2,
        clip_high=clip_high,
        dual_clip=dual_clip,
      )

    got = reference_batch.value_and_gradient(
      per_token, aggregation=aggregation, max_length=5
    )
    np.testing.assert_allclose(got, (value, size), atol=1e-5)

  @parameterized.parameters(
    ('k1', -0.075556, 1.0),
    ('k2', 0.492933, 0.865185),
    ('k3', 0.605973, 1.168973),
    # The value of k3, the gradient of k2.
    ('k3+', 0.605973, 0.865185),
    ('k1+', -0.075556, 0.865185),
  )
  def test_kl(self, kind, value, size):
    def per_token(logprobs):
      return surrogate.kl_estimate(logprobs, REF, MASK, kind=kind)

    got = reference_batch.value_and_gradient(
      per_token, aggregation='token-mean'
    )
    np.testing.assert_allclose(got, (value, size), atol=1e-5)


class LogRatioTest(chex.TestCase):
  @chex.all_variants
  def test_by_hand(self):
    # -1 - (-1.5) = .5; masked: 0; -1 - (-50) = 49, clamped to 20
    # -60 - (-1) = -59, clamped to -20; masked twice: 0
    got = self.variant(surrogate.log_ratio)(
      np.float32([[-1, np.nan, -1], [-60, 0, -np.inf]]),
      np.float32([[-1.5, -1, -50], [-1, np.nan, -np.inf]]),
      np.array([[1, 0, 1], [1, 0, 0]], bool),
    )
    np.testing.assert_allclose(got, [[0.5, 0, 20], [-20, 0, 0]], rtol=1e-6)

  def test_masked_gradient_is_zero_and_finite(self):
    def total(logprobs):
      mask = np.array([[True, False, True]])
      ratio = surrogate.log_ratio(logprobs, np.zeros((1, 3), np.float32), mask)
      return jnp.sum(jnp.exp(ratio))

    # exp' = exp(0) = 1 inside, 0 where masked, 0 beyond the clamp
    gradient = jax.grad(total)(np.float32([[0, np.nan, 1000]]))
    np.testing.assert_array_equal(gradient, [[1, 0, 0]])

  def test_bfloat16_in_float32_out(self):
    got = surrogate.log_ratio(
      jnp.ones((1, 2), jnp.bfloat16), jnp.zeros((1, 2)), np.ones((1, 2), bool)
    )
    self.assertEqual(got.dtype, jnp.float32)


class ClippedSurrogateTest(chex.TestCase):
  @chex.all_variants
  def test_by_hand(self):
    # clip to [0.8, 1.3]; r =      1     2    1/2
    # A = +1: -min(r, clip(r))    -1   -1.3  -1/2
    # A = -1: max(r, clip(r))      1     2    0.8
    fn = self.variant(
      functools.partial(
        surrogate.clipped_surrogate, clip_low=0.2, clip_high=0.3
      )
    )
    got = fn(np.log(np.float32([[1, 2, 0.5]] * 2)), np.float32([1, -1]))
    np.testing.assert_allclose(got, [[-1, -1.3, -0.5], [1, 2, 0.8]], rtol=1e-6)

  @chex.all_variants
  def test_dual_clip_by_hand(self):
    # clip to [0.8, 1.2], c = 3; r =    1    2    5
    # A = +2: -2 min(r, clip(r))       -2  -2.4 -2.4
    # A = -2: min(2 max(r, clip(r)), 3 * 2): 2, 4, not 10 but 6
    fn = self.variant(
      functools.partial(
        surrogate.clipped_surrogate, clip_low=0.2, clip_high=0.2, dual_clip=3.0
      )
    )
    got = fn(np.log(np.float32([[1, 2, 5]] * 2)), np.float32([2, -2]))
    np.testing.assert_allclose(got, [[-2, -2.4, -2.4], [2, 4, 6]], rtol=1e-6)

  @chex.all_variants
  def test_radius_of_each_row(self):
    # r = 2, A = 1; rows clipped at 1.1, 1.5, 3: -1.1, -1.5, -2
    # r = 1/2, A = -1; rows clipped at 0.9, 0.5, 0: .9, .5, .5
    def both(radius):
      ratio = jnp.log(jnp.float32([[2.0], [2.0], [2.0]]))
      ones = jnp.ones(3)
      up = surrogate.clipped_surrogate(
        ratio, ones, clip_low=radius, clip_high=radius
      )
      down = surrogate.clipped_surrogate(
        -ratio, -ones, clip_low=radius, clip_high=radius
      )
      return jnp.concatenate([up, down], axis=1)

    got = self.variant(both)(np.float32([0.1, 0.5, 2.0]))
    np.testing.assert_allclose(
      got, [[-1.1, 0.9], [-1.5, 0.5], [-2, 0.5]], rtol=1e-6
    )

  def test_gradient(self):
    # d loss / d log r = -r A, and 0 where A pushes r further outside
    #      r =    1    2   1/2
    # A = +1     -1    0  -1/2
    # A = -1      1    2    0
    def total(log_ratio, scores):
      return jnp.sum(
        surrogate.clipped_surrogate(
          log_ratio, scores, clip_low=0.2, clip_high=0.3
        )
      )

    log_ratio = np.log(np.float32([[1, 2, 0.5]] * 2))
    scores = np.float32([1, -1])
    gradients = jax.grad(total, argnums=(0, 1))(log_ratio, scores)
    np.testing.assert_allclose(
      gradients[0], [[-1, 0, -0.5], [1, 2, 0]], rtol=1e-6
    )
    # Advantages are constants.
    np.testing.assert_array_equal(gradients[1], np.zeros(2))
    # Clipped are just the tokens with a gradient of 0.
    clipped = surrogate.is_clipped(
      log_ratio, scores, clip_low=0.2, clip_high=np.float32([0.3, 0.3])
    )
    np.testing.assert_array_equal(clipped, gradients[0] == 0)

  def test_no_radius_matters_at_ratio_one(self):
    scores = np.float32([1.5, -0.5])
    same = np.zeros((2, 3), np.float32)
    for radius in (0.1, 0.2):
      got = surrogate.clipped_surrogate(
        same, scores, clip_low=radius, clip_high=radius
      )
      np.testing.assert_array_equal(got, [[-1.5] * 3, [0.5] * 3])

  @parameterized.parameters(1.0, 0.5, float('nan'))
  def test_dual_clip_must_be_above_one(self, dual_clip):
    with self.assertRaisesRegex(ValueError, 'dual_clip.*above 1'):
      surrogate.clipped_surrogate(
        np.zeros((1, 1)),
        np.zeros(1),
        clip_low=0.2,
        clip_high=0.2,
        dual_clip=dual_clip,
      )


class KlEstimateTest(chex.TestCase):
  @chex.all_variants
  @parameterized.parameters(
    # u = ln 2, -ln 2: ln 2 = .6931472
    ('k1', [0.6931472, -0.6931472]),
    ('k2', [0.2402265, 0.2402265]),  # .6931472^2 / 2
    ('k3', [0.1931472, 0.3068528]),  # 1/2 + .6931472 - 1, 2 - .6931472 - 1
    ('k3+', [0.1931472, 0.3068528]),
    ('k1+', [0.6931472, -0.6931472]),
  )
  def test_by_hand(self, kind, want):
    fn = self.variant(functools.partial(surrogate.kl_estimate, kind=kind))
    got = fn(
      np.float32([[np.log(2), 0, np.nan]]),
      np.float32([[0, np.log(2), -1]]),
      np.array([[True, True, False]]),
    )
    np.testing.assert_allclose(got, [[*want, 0]], rtol=1e-6)

  def test_clamps(self):
    # u = -30 and 30, clamped to -20 and 20: k1 -20, 20; k2 200;
    # k3 min(exp(20) - 21, 10) = 10 and exp(-20) + 19, also above 10
    got = {
      kind: surrogate.kl_estimate(
        np.float32([[-30, 30]]),
        np.zeros((1, 2)),
        np.ones((1, 2), bool),
        kind=kind,
      )
      for kind in surrogate.KL_ESTIMATORS
    }
    np.testing.assert_array_equal(got['k1'], [[-20, 20]])
    np.testing.assert_array_equal(got['k2'], [[200, 200]])
    np.testing.assert_array_equal(got['k3'], [[10, 10]])
    np.testing.assert_array_equal(got['k3+'], [[10, 10]])

  def test_k3_keeps_its_digits_near_zero(self):
    # u^2/2 - u^3/6 with u = 1e-3; exp(-u) + u - 1 in float32 is 15% off or 0
    got = surrogate.kl_estimate(
      np.float32([[1e-3]]), np.zeros((1, 1)), np.ones((1, 1), bool), kind='k3'
    )
    np.testing.assert_allclose(got, [[5e-7 - 1e-9 / 6]], rtol=1e-3)

  def test_reference_is_constant(self):
    def total(reference):
      return jnp.sum(surrogate.kl_estimate(NEW, reference, MASK, kind='k2'))

    np.testing.assert_array_equal(jax.grad(total)(REF), np.zeros((8, 5)))

  def test_unknown_kind_is_refused(self):
    with self.assertRaisesRegex(ValueError, "kl='k4'.*k1, k2, k3"):
      surrogate.kl_estimate(NEW, REF, MASK, kind='k4')


# Lengths 3, 1, 0: 4 tokens, 2 rows with a token.
WEIGHTS = {
  'token-mean': [[1 / 4] * 3, [0, 1 / 4, 0], [0] * 3],
  'seq-mean-token-mean': [[1 / 6] * 3, [0, 1 / 2, 0], [0] * 3],
  'seq-mean-token-sum': [[1 / 2] * 3, [0, 1 / 2, 0], [0] * 3],
  'seq-mean-token-sum-norm': [[1 / 20] * 3, [0, 1 / 20, 0], [0] * 3],
  'token-sum': [[1] * 3, [0, 1, 0], [0] * 3],
}


class TokenWeightsTest(chex.TestCase):
  def _mask(self):
    return np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)

  def _weigh(self, aggregation, axis_name=None):
    return functools.partial(
      aggregation_lib.token_weights,
      aggregation=aggregation,
      all_sum=collectives.make_all_sum(axis_name),
      max_length=10,
    )

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  @parameterized.parameters(*aggregation_lib.AGGREGATIONS)
  def test_by_hand(self, aggregation):
    got = self.variant(self._weigh(aggregation))(self._mask())
    np.testing.assert_allclose(got, WEIGHTS[aggregation], rtol=1e-6)
    self.assertEqual(got.dtype, jnp.float32)

  @parameterized.parameters(*aggregation_lib.AGGREGATIONS)
  def test_leading_axes_are_rows(self, aggregation):
    # Two microbatches of 3 and 1 rows, the second of one group with 2 + 0
    # tokens, equal the same rows in one flat batch.
    mask = np.zeros((2, 1, 3, 4), bool)
    mask[0, 0, 0, :3] = mask[0, 0, 1, 1:] = mask[1, 0, 2, 2:] = True
    mask[0, 0, 2, 3] = True
    got = self._weigh(aggregation)(mask)
    flat = self._weigh(aggregation)(mask.reshape(6, 4))
    np.testing.assert_array_equal(np.reshape(got, (6, 4)), flat)
    # 3 + 3 + 1 + 2 tokens in 4 rows
    total = {
      'token-mean': 1,
      'seq-mean-token-mean': 1,
      'seq-mean-token-sum': 9 / 4,
      'seq-mean-token-sum-norm': 9 / 40,
      'token-sum': 9,
    }
    np.testing.assert_allclose(np.sum(got), total[aggregation], rtol=1e-6)

  @parameterized.parameters(*aggregation_lib.AGGREGATIONS)
  def test_over_devices(self, aggregation):
    # One row a device, 3, 1, 0 and 0 tokens.
    mask = np.concatenate([self._mask(), np.zeros((1, 3), bool)])
    chex.assert_devices_available(4, 'cpu')
    got = jax.pmap(self._weigh(aggregation, 'data'), axis_name='data')(
      mask[:, None]
    )
    np.testing.assert_allclose(got[:3, 0], WEIGHTS[aggregation], rtol=1e-6)
    np.testing.assert_array_equal(got[3], np.zeros((1, 3)))

  @parameterized.parameters(*aggregation_lib.AGGREGATIONS)
  def test_empty_mask(self, aggregation):
    got = self._weigh(aggregation)(np.zeros((3, 3), bool))
    np.testing.assert_array_equal(got, np.zeros((3, 3)))

  @parameterized.parameters(*aggregation_lib.AGGREGATIONS)
  def test_masked_equals_removed(self, aggregation):
    # A column of padding and an invalid row change no weight that is left.
    padded = np.zeros((5, 5), bool)
    padded[:3, :3] = self._mask()
    got = self._weigh(aggregation)(padded)
    np.testing.assert_allclose(got[:3, :3], WEIGHTS[aggregation], rtol=1e-6)

  @parameterized.parameters(None, 0)
  def test_sum_norm_needs_a_length(self, max_length):
    with self.assertRaisesRegex(ValueError, 'needs max_length'):
      aggregation_lib.token_weights(
        MASK,
        aggregation='seq-mean-token-sum-norm',
        all_sum=collectives.identity,
        max_length=max_length,
      )

  def test_unknown_aggregation_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'token-mean, seq-mean-token-mean'):
      aggregation_lib.token_weights(
        MASK, aggregation='mean', all_sum=collectives.identity
      )
