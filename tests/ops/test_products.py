"""Products and their gradients, by hand and against float64."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax.ops import products


def _inputs(seed=0):
  rng = np.random.default_rng(seed)
  shapes = (2, 3, 5), (5, 7), (2, 3, 7)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


class ProductTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_by_hand(self):
    # (1, 2) [[3, 4, 5], [6, 7, 8]] = (15, 18, 21). With g = (1, 0, 2):
    # g W^T = (3 + 10, 6 + 16), x^T g = [[1, 0, 2], [2, 0, 4]].
    x, kernel = np.float32([[1, 2]]), np.float32([[3, 4, 5], [6, 7, 8]])
    value, gradient = jax.vjp(self.variant(products.product), x, kernel)
    np.testing.assert_array_equal(value, [[15, 18, 21]])
    d_x, d_kernel = gradient(jnp.float32([[1, 0, 2]]))
    np.testing.assert_array_equal(d_x, [[13, 22]])
    np.testing.assert_array_equal(d_kernel, [[1, 0, 2], [2, 0, 4]])

  @chex.variants(with_jit=True, without_jit=True)
  def test_float64(self):
    x, kernel, g = _inputs()
    value, gradient = jax.vjp(self.variant(products.product), x, kernel)
    wide = [np.float64(a) for a in (x, kernel, g)]
    np.testing.assert_allclose(value, wide[0] @ wide[1], rtol=1e-5, atol=1e-5)
    d_x, d_kernel = gradient(g)
    np.testing.assert_allclose(d_x, wide[2] @ wide[1].T, rtol=1e-5, atol=1e-5)
    want = np.einsum('nsk,nsm->km', wide[0], wide[2])
    np.testing.assert_allclose(d_kernel, want, rtol=1e-5, atol=1e-5)

  def test_gradients_have_the_dtypes_of_what_they_are_of(self):
    x, kernel, g = (jnp.asarray(a, jnp.bfloat16) for a in _inputs())
    value, gradient = jax.vjp(products.product, x, kernel)
    for array in (value, *gradient(g)):
      self.assertEqual(array.dtype, jnp.bfloat16)

  def test_dense(self):
    # A layer that calls it has the outputs and gradients of one that does not.
    x, kernel, g = _inputs(1)
    params = {'params': {'kernel': kernel, 'bias': np.ones(7, np.float32)}}
    own = nn.Dense(7, dot_general=products.dot_general)
    for layer in (own, nn.Dense(7)):
      value, gradient = jax.vjp(layer.apply, params, x)
      got = jax.tree.leaves((value, gradient(g)))
      if layer is own:
        first = got
    for a, b in zip(first, got, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
