"""Layers by hand and against the formulas in float64."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.models import attention, layers
from tests.helpers import decoder_reference as reference
from tests.helpers import tiny_decoder


def norm(eps=1e-6, dtype='float32'):
  return layers.RMSNorm(eps, jnp.dtype(dtype), jnp.dtype('float32'))


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class RMSNormTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_by_hand(self):
    # mean(9, 16) = 12.5; 12.5 + 3.5 = 16; (3, 4) / 4 * (2, 10)
    apply = self.variant(norm(eps=3.5).apply)
    params = {'params': {'weight': np.float32([2, 10])}}
    got = apply(params, np.float32([[[3, 4]]]))
    np.testing.assert_allclose(got, [[[1.5, 10.0]]], rtol=1e-6)

  def test_bfloat16_is_rounded_once(self):
    # Float32 within: the result is off by half a unit of bfloat16, 2^-8 at
    # most, and not by the roundings of square, root and product together.
    x = jnp.asarray(normal(5, 1, 64, 32), jnp.bfloat16)
    params = {'params': {'weight': np.ones(32, np.float32)}}
    got = norm(dtype='bfloat16').apply(params, x)
    self.assertEqual(got.dtype, jnp.bfloat16)
    want = reference.rms_norm(np.float32(x), np.ones(32), 1e-6)
    np.testing.assert_allclose(np.float32(got), want, rtol=1.001 * 2**-8)

  def test_zero_vector_is_finite(self):
    def loss(x):
      weight = jnp.ones(4)
      return jnp.sum(norm().apply({'params': {'weight': weight}}, x))

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 1, 4)))
    self.assertEqual(value, 0.0)
    # d/dx of x / sqrt(eps) at 0: 1 / sqrt(1e-6)
    np.testing.assert_allclose(gradient, np.full((1, 1, 4), 1e3), rtol=1e-5)


class RopeTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_by_hand(self):
    # C = 4, theta = 4: frequencies 4^0 = 1 and 4^(-1/2) = 1/2. Position 3
    # turns pair (x0, x2) by 3 and pair (x1, x3) by 1.5.
    def fn(x, positions):
      angles = layers.rope_angles(positions, head_width=4, theta=4.0)
      return layers.apply_rope(x, angles)

    x = np.float32([1, 2, 3, 4]).reshape(1, 1, 1, 4)
    got = self.variant(fn)(x, np.int32([[3]])).reshape(4)
    want = [
      1 * np.cos(3) - 3 * np.sin(3),
      2 * np.cos(1.5) - 4 * np.sin(1.5),
      3 * np.cos(3) + 1 * np.sin(3),
      4 * np.cos(1.5) + 2 * np.sin(1.5),
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_against_rotate_half(self):
    x, positions = normal(0, 2, 3, 2, 6), np.int32([[0, 1, 5], [7, 100, 999]])
    angles = layers.rope_angles(positions, head_width=6, theta=1e4)
    got = layers.apply_rope(x, angles)
    for n, s, h in np.ndindex(2, 3, 2):
      want = reference.rotate(np.float64(x[n, s, h]), positions[n, s], 1e4)
      np.testing.assert_allclose(got[n, s, h], want, rtol=1e-4, atol=2e-4)

  def test_dot_products_depend_on_the_distance_alone(self):
    query, key = normal(1, 1, 1, 1, 6), normal(2, 1, 1, 1, 6)

    def dot(q_position, k_position):
      a, b = (
        layers.apply_rope(
          x, layers.rope_angles(np.int32([[p]]), head_width=6, theta=100.0)
        )
        for x, p in ((query, q_position), (key, k_position))
      )
      return float(jnp.sum(a * b))

    self.assertAlmostEqual(dot(9, 4), dot(25, 20), places=4)
    self.assertGreater(abs(dot(9, 4) - dot(9, 5)), 0.05)

  def test_dtype_is_kept(self):
    angles = layers.rope_angles(np.int32([[1]]), head_width=2, theta=10.0)
    x = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    self.assertEqual(layers.apply_rope(x, angles).dtype, jnp.bfloat16)


class BlocksTest(chex.TestCase):
  @parameterized.parameters(*tiny_decoder.FAMILIES)
  def test_swiglu(self, family):
    hf = tiny_decoder.FAMILIES[family]
    decoder, params = tiny_decoder.make(hf)
    params = params['layers_1']['mlp']
    self.assertEqual('bias' in params['gate_proj'], family == 'llama_biases')
    x = normal(3, 2, 3, 32)
    got = layers.SwiGLU(decoder.config).apply({'params': params}, x)
    np.testing.assert_allclose(
      got, reference.swiglu(x, params), rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters(*tiny_decoder.FAMILIES)
  def test_attention(self, family):
    hf = tiny_decoder.FAMILIES[family]
    decoder, params = tiny_decoder.make(hf)
    params = params['layers_0']['self_attn']
    x = normal(4, 2, 5, 32)
    positions = np.tile(np.arange(5, dtype=np.int32), (2, 1))
    angles = layers.rope_angles(positions, head_width=6, theta=100.0)
    causal = np.tile(np.tril(np.ones((5, 5), bool)), (2, 1, 1))
    bias = attention.mask_bias(causal)
    module = layers.Attention(decoder.config)
    apply = jax.jit(module.apply, static_argnames='tail')
    got, kv = apply({'params': params}, x, angles, bias)
    self.assertEqual(kv.keys.shape, (2, 2, 5, 6))
    for n in range(2):
      want = reference.attention(x[n], params, hf)
      np.testing.assert_allclose(got[n], want, rtol=1e-4, atol=1e-4)
    tail, _ = apply({'params': params}, x, angles, bias, tail=2)
    np.testing.assert_allclose(tail, got[:, -2:], rtol=1e-5, atol=1e-5)


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
    value, gradient = jax.vjp(self.variant(layers.product), x, kernel)
    np.testing.assert_array_equal(value, [[15, 18, 21]])
    d_x, d_kernel = gradient(jnp.float32([[1, 0, 2]]))
    np.testing.assert_array_equal(d_x, [[13, 22]])
    np.testing.assert_array_equal(d_kernel, [[1, 0, 2], [2, 0, 4]])

  @chex.variants(with_jit=True, without_jit=True)
  def test_float64(self):
    x, kernel, g = _inputs()
    value, gradient = jax.vjp(self.variant(layers.product), x, kernel)
    wide = [np.float64(a) for a in (x, kernel, g)]
    np.testing.assert_allclose(value, wide[0] @ wide[1], rtol=1e-5, atol=1e-5)
    d_x, d_kernel = gradient(g)
    np.testing.assert_allclose(d_x, wide[2] @ wide[1].T, rtol=1e-5, atol=1e-5)
    want = np.einsum('nsk,nsm->km', wide[0], wide[2])
    np.testing.assert_allclose(d_kernel, want, rtol=1e-5, atol=1e-5)

  def test_gradients_have_the_dtypes_of_what_they_are_of(self):
    x, kernel, g = (jnp.asarray(a, jnp.bfloat16) for a in _inputs())
    value, gradient = jax.vjp(layers.product, x, kernel)
    for array in (value, *gradient(g)):
      self.assertEqual(array.dtype, jnp.bfloat16)

  def test_dense(self):
    # A layer that calls it has the outputs and gradients of one that does not.
    x, kernel, g = _inputs(1)
    params = {'params': {'kernel': kernel, 'bias': np.ones(7, np.float32)}}
    own = nn.Dense(7, dot_general=layers.dot_general)
    for layer in (own, nn.Dense(7)):
      value, gradient = jax.vjp(layer.apply, params, x)
      got = jax.tree.leaves((value, gradient(g)))
      if layer is own:
        first = got
    for a, b in zip(first, got, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
