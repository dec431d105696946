"""Draws of the sampler: keys from facts, and the inverse of the CDF."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.rollout.sampling import sampler


def random_probs(seed, rows, vocab, *, zeros=0.4):
  """f32 rows of uneven probabilities, many of them 0."""
  rng = np.random.default_rng(seed)
  probs = rng.gamma(0.5, size=(rows, vocab))
  probs[rng.random((rows, vocab)) < zeros] = 0.0
  probs[:, 0] = probs[:, -1] = 0.0
  return np.float32(probs / probs.sum(axis=-1, keepdims=True))


class InverseCdfTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_by_hand(self):
    # Cumulative sums .125, .125, .625, 1 in blocks of 2 (.125 and .875).
    probs = np.tile(np.float32([0.125, 0, 0.5, 0.375]), (6, 1))
    uniform = np.float32([0, 0.12, 0.125, 0.62, 0.63, 0.9999])
    fn = self.variant(functools.partial(sampler.inverse_cdf, block=2))
    np.testing.assert_array_equal(fn(probs, uniform), [0, 0, 2, 2, 3, 3])

  @chex.variants(with_jit=True)
  @parameterized.parameters(
    {'vocab': 300, 'block': 128},  # Not a multiple: 84 columns of padding.
    {'vocab': 256, 'block': 128},
    {'vocab': 50, 'block': 128},
    {'vocab': 50, 'block': 7},
  )
  def test_float64(self, vocab, block):
    rows = 4000
    probs = random_probs(0, rows, vocab)
    uniform = np.random.default_rng(1).random(rows, np.float32)
    fn = self.variant(functools.partial(sampler.inverse_cdf, block=block))
    got = np.asarray(fn(probs, uniform))
    self.assertGreater(np.take_along_axis(probs, got[:, None], -1).min(), 0.0)
    # The token's own stretch of the cumulative sum holds the draw; float32
    # may place an edge a little off.
    edges = np.cumsum(np.float64(probs), axis=-1)
    target = uniform * edges[:, -1]
    above = edges[np.arange(rows), got]
    below = above - probs[np.arange(rows), got]
    self.assertGreaterEqual((above - target).min(), -1e-6)
    self.assertGreaterEqual((target - below).min(), -1e-6)
    exact = np.array(
      [
        np.searchsorted(edge, u, side='right')
        for edge, u in zip(edges, target, strict=True)
      ]
    )
    self.assertGreater((got == exact).mean(), 0.999)

  @chex.variants(with_jit=True)
  @parameterized.parameters(0.0, 1e-8, 1 - 2.0**-24)
  def test_ends_of_the_interval(self, edge):
    probs = random_probs(2, 2000, 300, zeros=0.9)
    # Sums that rounding left below and above 1.
    probs *= np.linspace(0.9999, 1.0001, 2000, dtype=np.float32)[:, None]
    uniform = np.full(2000, edge, np.float32)
    got = np.asarray(self.variant(sampler.inverse_cdf)(probs, uniform))
    for row, token in zip(probs, got, strict=True):
      self.assertGreater(row[token], 0.0)
      possible = np.flatnonzero(row)
      mass = row[:token].sum() if edge < 0.5 else row[token + 1 :].sum()
      self.assertLess(mass, 2e-6)
      self.assertIn(token, possible)

  def test_a_certain_token(self):
    for token in (0, 127, 128, 299):
      probs = np.zeros((3, 300), np.float32)
      probs[:, token] = 1.0
      uniform = np.float32([0, 0.5, 1 - 2.0**-24])
      got = sampler.inverse_cdf(probs, uniform)
      np.testing.assert_array_equal(got, [token] * 3)

  def test_frequencies(self):
    # chi-square with 5 degrees of freedom: above 30 once in 70,000.
    count = 20_000
    want = np.array([0.5, 0.2, 0.0, 0.15, 0.1, 0.03, 0.02])
    key = sampler.fact_key(sampler.facts(0, 'train', 0))
    ids = np.arange(count, dtype=np.int32)
    uniform = jax.jit(sampler.uniforms)(key, ids, np.zeros_like(ids))
    with np.errstate(divide='ignore'):
      log_want = np.log(want)
    logits = np.tile(log_want, (count, 1))
    draw = jax.jit(functools.partial(sampler.draw, temperature=1.0))
    token, logprob, entropy = draw(np.float32(logits), uniform)
    counts = np.bincount(token, minlength=7)
    self.assertEqual(counts[2], 0)
    seen = want > 0
    expected = count * want[seen]
    chi_square = np.sum((counts[seen] - expected) ** 2 / expected)
    self.assertLess(chi_square, 30.0)
    np.testing.assert_allclose(logprob, log_want[token], rtol=1e-5)
    np.testing.assert_allclose(
      entropy,
      np.full(count, -np.sum(want[seen] * np.log(want[seen]))),
      rtol=1e-5,
    )


class DrawTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_temperature_by_hand(self):
    # p = 1/8, 2/8, 5/8; temperature 1/2 squares: 1/30, 4/30, 25/30. A draw of
    # .15 takes the second token at 1 (.125 to .375) and at 1/2 (.033 to .167).
    logits = np.log(np.float32([[1, 2, 5]]))
    uniform = np.float32([0.15])
    for temperature, token, probs in (
      (1.0, 1, [1 / 8, 2 / 8, 5 / 8]),
      (0.5, 1, [1 / 30, 4 / 30, 25 / 30]),
      (0.0, 2, [1 / 8, 2 / 8, 5 / 8]),  # Greedy; as of temperature 1.
    ):
      fn = self.variant(
        functools.partial(sampler.draw, temperature=temperature)
      )
      got, logprob, entropy = fn(logits, uniform)
      self.assertEqual(got.dtype, jnp.int32)
      np.testing.assert_array_equal(got, [token])
      np.testing.assert_allclose(logprob, np.log([probs[token]]), rtol=1e-5)
      np.testing.assert_allclose(
        entropy, [-np.sum(probs * np.log(probs))], rtol=1e-5
      )

  def test_impossible_tokens(self):
    logits = np.float32([[-np.inf, 0.0, -np.inf, 0.0]])
    draw = jax.jit(functools.partial(sampler.draw, temperature=1.0))
    for value in (0.0, 0.4, 0.6, 1 - 2.0**-24):
      token, logprob, entropy = draw(logits, np.float32([value]))
      np.testing.assert_array_equal(token, [1 if value < 0.5 else 3])
      np.testing.assert_allclose(logprob, [np.log(0.5)], rtol=1e-6)
      np.testing.assert_allclose(entropy, [np.log(2)], rtol=1e-6)


class FactsTest(chex.TestCase):
  def _uniforms(self, facts, ids=(0, 1, 2, 3), index=(0, 0, 0, 0)):
    key = sampler.fact_key(facts)
    return np.asarray(sampler.uniforms(key, np.int32(ids), np.int32(index)))

  def test_layout(self):
    got = sampler.facts(5, 'eval', 3, 1)
    self.assertEqual(got.dtype, np.int32)
    self.assertEqual(got[0], 5)
    np.testing.assert_array_equal(got[2:], [3, 1])
    with self.assertRaises(KeyError):
      sampler.facts(5, 'test', 3)

  def test_every_fact_counts(self):
    draws = [
      self._uniforms(sampler.facts(7, 'train', 3)),
      self._uniforms(sampler.facts(8, 'train', 3)),
      self._uniforms(sampler.facts(7, 'eval', 3)),
      self._uniforms(sampler.facts(7, 'data', 3)),
      self._uniforms(sampler.facts(7, 'train', 4)),
      self._uniforms(sampler.facts(3, 'train', 7)),
      self._uniforms(sampler.facts(7, 'train', 3), ids=(10, 11, 12, 13)),
      self._uniforms(sampler.facts(7, 'train', 3), index=(1, 2, 3, 4)),
    ]
    flat = np.concatenate(draws)
    self.assertLen(set(flat.tolist()), flat.size)
    self.assertTrue(((flat >= 0) & (flat < 1)).all())

  def test_same_facts_same_draw_in_any_batch(self):
    facts = sampler.facts(7, 'train', 3)
    all_of_them = self._uniforms(facts, (5, 6, 7), (0, 9, 2))
    alone = self._uniforms(facts, (6,), (9,))
    np.testing.assert_array_equal(all_of_them[1:2], alone)

  def test_sample_and_token_do_not_trade_places(self):
    facts = sampler.facts(7, 'train', 3)
    a, b = self._uniforms(facts, (2, 5), (5, 2))
    self.assertNotEqual(a, b)

  def test_threefry_whatever_the_default(self):
    key = sampler.fact_key(sampler.facts(7, 'train', 3))
    self.assertEqual(jax.random.key_impl(key), 'threefry2x32')
