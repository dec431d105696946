"""The key/value cache: what is written where."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax.models import cache
from tests.helpers import tiny_decoder


def fresh(rows, columns, value):
  """A KV whose keys say `value + column` and whose values say the opposite."""
  keys = np.zeros((rows, 1, columns, 2), np.float32)
  keys += value + np.arange(columns, dtype=np.float32)[:, None]
  return cache.KV(keys=keys, values=-keys)


def filled(rows, columns, value):
  """The same as it lies in a cache."""
  kv = fresh(rows, columns, value)
  return cache.Columns(keys=kv.keys.swapaxes(2, 3), values=kv.values)


class CacheTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_each_row_at_its_own_index(self):
    old, new = filled(3, 4, 10.0), fresh(3, 2, 50.0)
    got = self.variant(cache.write)(old, new, np.int32([0, 1, 2]))
    want = np.float32([[50, 51, 12, 13], [10, 50, 51, 13], [10, 11, 50, 51]])
    for c in range(2):
      np.testing.assert_array_equal(got.keys[:, 0, c], want)
      np.testing.assert_array_equal(got.values[:, 0, :, c], -want)

  @chex.variants(with_jit=True, without_jit=True)
  def test_all_rows_at_one_index(self):
    old, new = filled(3, 4, 10.0), fresh(3, 2, 50.0)
    got = self.variant(cache.write)(old, new, jnp.int32(1))
    want = np.float32([[10, 50, 51, 13]] * 3)
    for c in range(2):
      np.testing.assert_array_equal(got.keys[:, 0, c], want)
      np.testing.assert_array_equal(got.values[:, 0, :, c], -want)

  def test_past_the_end_is_moved_back(self):
    got = cache.write(filled(1, 4, 10.0), fresh(1, 2, 50.0), np.int32([4]))
    np.testing.assert_array_equal(got.keys[0, 0, 0], [10, 11, 50, 51])

  def test_gradient_reaches_what_was_written(self):
    old, new = filled(2, 3, 10.0), fresh(2, 1, 50.0)

    def loss(old, new):
      got = cache.write(old, new, jnp.int32([0, 2]))
      weights = jnp.float32([1, 2, 3])[None, None, None, :]
      return jnp.sum(weights * got.keys)

    from_old, from_new = jax.grad(loss, argnums=(0, 1))(old, new)
    np.testing.assert_array_equal(
      from_old.keys[:, 0, 0], [[0, 2, 3], [1, 2, 0]]
    )
    np.testing.assert_array_equal(from_new.keys[:, 0, :, 0], [[1], [3]])

  @chex.variants(with_jit=True, without_jit=True)
  def test_tokens_first(self):
    # Padding on the left, in between and nowhere.
    mask = np.array([[0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
    layers = (fresh(3, 4, 10.0), fresh(3, 4, 50.0))
    got = self.variant(cache.tokens_first)(cache.Prefix(layers, mask))
    order = np.array([[2, 3, 0, 1], [0, 2, 1, 3], [0, 1, 2, 3]])
    for layer, value in zip(got.layers, (10, 50), strict=True):
      for c in range(2):
        np.testing.assert_array_equal(layer.keys[:, 0, :, c], value + order)
        np.testing.assert_array_equal(layer.values[:, 0, :, c], -value - order)
    want = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(got.mask, np.array(want, bool))

  def test_init_cache(self):
    decoder, _ = tiny_decoder.make_llama(dtype='bfloat16')
    layers = cache.init_cache(decoder.config, 3, 5)
    self.assertLen(layers, 2)
    for kv in layers:
      for x, shape in (kv.keys, (3, 2, 6, 5)), (kv.values, (3, 2, 5, 6)):
        self.assertEqual(x.shape, shape)
        self.assertEqual(x.dtype, jnp.bfloat16)
        np.testing.assert_array_equal(np.float32(x), np.zeros(shape))
    self.assertEqual(cache.length(layers), 5)

  def test_read(self):
    old = fresh(2, 3, 10.0)
    got = cache.read(filled(2, 3, 10.0))
    np.testing.assert_array_equal(got.keys, old.keys)
    np.testing.assert_array_equal(got.values, old.values)

  def test_read_the_columns_in_use(self):
    old = fresh(2, 2, 70.0)
    got = cache.read(filled(2, 5, 70.0), 2)
    np.testing.assert_array_equal(got.keys, old.keys)
    np.testing.assert_array_equal(got.values, old.values)

  def test_head_and_back(self):
    whole = (filled(2, 5, 10.0), filled(2, 5, 70.0))
    first = cache.head(whole, 3)
    self.assertEqual(cache.length(first), 3)
    np.testing.assert_array_equal(first[1].keys[0, 0, 0], [70, 71, 72])
    other = jax.tree.map(lambda x: x + 100, first)
    got = cache.put_head(whole, other)
    np.testing.assert_array_equal(got[1].keys[1, 0, 1], [170, 171, 172, 73, 74])
    np.testing.assert_array_equal(
      got[0].values[1, 0, :, 0], [90, 89, 88, -13, -14]
    )
