"""Attention over parts against one softmax over all keys in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.models import attention

N, S, H, K, C = 6, 3, 4, 2, 8
SCALE = 0.3


def make_part(seed, *, rows, keys, queries, seen=0.6):
  """Keys, values and a mask in which every query sees the first key."""
  rng = np.random.default_rng(seed)
  k, v = rng.normal(0, 1.5, (2, rows, K, keys, C)).astype(np.float32)
  mask = rng.random((rows, queries, keys)) < seen
  mask[..., 0] = True
  return k, v, mask


def as_part(part):
  k, v, mask = part
  return attention.Part(keys=k, values=v, bias=attention.mask_bias(mask))


def make_query(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(0, 1.5, (N, S, H, C)).astype(np.float32)


def reference(query, parts):
  """f64 outputs and log-sum-exp of a softmax over all visible keys."""
  out, lse = np.zeros(query.shape), np.zeros(query.shape[:3])
  for n, s, h in np.ndindex(N, S, H):
    scores, values = [], []
    for k, v, mask in parts:
      samples = N // len(k)
      row = n // samples
      # A mask over all queries of a group lists its rows one after another.
      seen = mask[row, 0]
      if mask.shape[1] > 1:
        seen = mask[row, n % samples * S + s]
      for t in np.flatnonzero(seen):
        key = np.float64(k[row, h // (H // K), t])
        scores.append(SCALE * (np.float64(query[n, s, h]) @ key))
        values.append(np.float64(v[row, h // (H // K), t]))
    top = max(scores)
    weights = np.exp(np.array(scores) - top)
    out[n, s, h] = weights / weights.sum() @ np.array(values)
    lse[n, s, h] = top + np.log(weights.sum())
  return out, lse


def output_and_lse(output, total, top):
  """As `reference`, of the sums that `attend_part` gives."""
  return output / total, (np.log(total) + top)[..., 0]


OWN = functools.partial(make_part, 1, rows=N, keys=5, queries=S)
SHARED = functools.partial(make_part, 2, rows=2, keys=7, queries=1)
PER_QUERY = functools.partial(make_part, 3, rows=2, keys=4, queries=3 * S)


class AttendTest(chex.TestCase):
  @chex.variants(with_jit=True)
  @parameterized.named_parameters(
    ('one_part', (OWN,)),
    ('shared_prompt', (OWN, SHARED)),
    ('mask_of_all_queries_of_a_group', (PER_QUERY,)),
    ('three_parts', (OWN, SHARED, PER_QUERY)),
  )
  def test_one_softmax_over_all_keys(self, makers):
    query, parts = make_query(), [make() for make in makers]
    attend = self.variant(functools.partial(attention.attend, scale=SCALE))
    got = attend(query, tuple(as_part(part) for part in parts))
    want, _ = reference(query, parts)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_log_sum_exp(self):
    query, part = make_query(), OWN()
    fn = self.variant(functools.partial(attention.attend_part, scale=SCALE))
    out, lse = output_and_lse(*fn(query, as_part(part)))
    want, want_lse = reference(query, [part])
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)

  @chex.variants(with_jit=True)
  def test_agrees_with_jax(self):
    query, (k, v, mask) = make_query(), OWN()
    fn = self.variant(functools.partial(attention.attend_part, scale=SCALE))
    out, lse = output_and_lse(*fn(query, as_part((k, v, mask))))
    want, want_lse = jax.nn.dot_product_attention(
      query,
      k.swapaxes(1, 2),
      v.swapaxes(1, 2),
      mask=mask[:, None],
      scale=SCALE,
      return_residual=True,
    )
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)

  def test_merge_by_hand(self):
    # Scores ln 1, ln 3 in one part and ln 4 in the other; values 8, 16, -8:
    # (1 * 8 + 3 * 16 + 4 * -8) / 8 = 3
    query = np.ones((1, 1, 1, 1), np.float32)

    def part(scores, values):
      shape = (1, 1, len(scores), 1)
      return attention.Part(
        keys=np.log(np.float32(scores)).reshape(shape),
        values=np.float32(values).reshape(shape),
        bias=np.zeros((1, 1, len(scores)), np.float32),
      )

    parts = [part([1, 3], [8, 16]), part([4], [-8])]
    got = attention.attend(query, parts, scale=1.0)
    np.testing.assert_allclose(got, np.full((1, 1, 1, 1), 3.0), rtol=1e-6)

  @chex.variants(with_jit=True)
  def test_large_scores(self):
    # Scores 300 and 299 overflow float32 without their maximum taken off;
    # softmax(300, 299) = 1 / (1 + 1/e), and the part far below adds nothing.
    query = np.full((1, 1, 1, 2), 10.0, np.float32)
    keys = np.float32([[30, 0], [29.9, 0]]).reshape(1, 1, 2, 2)
    values = np.float32([[1, 0], [0, 1]]).reshape(1, 1, 2, 2)
    bias = np.zeros((1, 1, 2), np.float32)
    near = attention.Part(keys=keys, values=values, bias=bias)
    far = attention.Part(keys=-keys, values=5 * values, bias=bias)
    fn = self.variant(functools.partial(attention.attend, scale=1.0))
    got = fn(query, (near, far))[0, 0, 0]
    first = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(got, [first, 1 - first], rtol=1e-4)


class MaskedQueryTest(chex.TestCase):
  def _gradients(self, empty_shared):
    query, own, shared = make_query(), OWN(), SHARED()
    own[2][0, 1] = False  # Query 1 of row 0 sees no key of its own.
    shared[2][0] = shared[2][0] & ~empty_shared

    def loss(query, keys, values):
      parts = [
        attention.Part(keys=k, values=v, bias=attention.mask_bias(part[2]))
        for k, v, part in zip(keys, values, (own, shared), strict=True)
      ]
      out = attention.attend(query, parts, scale=SCALE)
      return jnp.sum(jnp.sin(out)), out

    arrays = query, (own[0], shared[0]), (own[1], shared[1])
    fn = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, out), gradients = fn(*arrays)
    return out, gradients, reference, (query, own, shared)

  def test_nothing_visible_is_finite(self):
    out, gradients, *_ = self._gradients(True)
    for x in jax.tree.leaves((out, gradients)):
      self.assertTrue(np.isfinite(x).all())

  def test_one_empty_part_adds_nothing(self):
    out, gradients, ref, (query, own, shared) = self._gradients(False)
    want, _ = ref(query, [own, shared])
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    for x in jax.tree.leaves(gradients):
      self.assertTrue(np.isfinite(x).all())

  def test_gradients_of_parts_by_differences_in_float64(self):
    query, own, shared = make_query(), OWN(), SHARED()
    masks = own[2], shared[2]
    arrays = query, (own[0], shared[0]), (own[1], shared[1])
    rng = np.random.default_rng(5)
    along = jax.tree.map(lambda x: rng.normal(size=x.shape), arrays)

    def loss(query, keys, values):
      parts = [as_part(x) for x in zip(keys, values, masks, strict=True)]
      return jnp.sum(jnp.sin(attention.attend(query, parts, scale=SCALE)))

    def moved(step):
      query, keys, values = jax.tree.map(
        lambda x, y: np.float64(x) + step * y, arrays, along
      )
      parts = list(zip(keys, values, masks, strict=True))
      return np.sin(reference(query, parts)[0]).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(along), strict=True)
    got = sum(np.sum(np.float64(x) * y) for x, y in pairs)
    want = (moved(1e-5) - moved(-1e-5)) / 2e-5
    self.assertGreater(abs(want), 1)
    np.testing.assert_allclose(got, want, rtol=1e-4)

  def test_a_key_nobody_sees_has_no_gradient(self):
    query, (k, v, mask) = make_query(), OWN()
    mask[:, :, 3] = False

    def loss(k, v):
      part = as_part((k, v, mask))
      return jnp.sum(jnp.sin(attention.attend(query, [part], scale=SCALE)))

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(k, v):
      np.testing.assert_array_equal(gradient[:, :, 3], 0.0)
      seen = np.abs(gradient)[:, :, 0].max(axis=-1)
      self.assertGreater(seen.min(), 0.0)

  def test_mask_bias(self):
    got = attention.mask_bias(np.array([[[True, False]]]))
    self.assertEqual(got.dtype, jnp.float32)
    np.testing.assert_array_equal(got, np.float32([[[0.0, -1e30]]]))


class PrecisionTest(chex.TestCase):
  def test_bfloat16_in_and_out_float32_within(self):
    query, (k, v, mask) = make_query(), OWN()
    low = [jnp.asarray(x, jnp.bfloat16) for x in (query, k, v)]
    part = as_part((low[1], low[2], mask))
    got = attention.attend(low[0], [part], scale=SCALE)
    self.assertEqual(got.dtype, jnp.bfloat16)
    sums = attention.attend_part(low[0], part, scale=SCALE)
    self.assertEqual({x.dtype for x in sums}, {jnp.dtype('float32')})
    rounded = [np.asarray(x, np.float32) for x in low]
    want, _ = reference(rounded[0], [(rounded[1], rounded[2], mask)])
    # bfloat16 keeps 8 bits: 2^-8 of weights, values and output each.
    np.testing.assert_allclose(np.float32(got), want, rtol=0.02, atol=0.05)
