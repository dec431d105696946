"""Log-probabilities in chunks: float64 NumPy, gradients, and what is held."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.extend import core

from awpo_jax.ops import logprobs

N, T, D, V = 3, 10, 4, 50


def _inputs(seed=0):
  rng = np.random.default_rng(seed)
  hidden = rng.normal(0, 1, (N, T, D)).astype(np.float32)
  head = rng.normal(0, 1, (D, V)).astype(np.float32)
  targets = rng.integers(0, V, (N, T)).astype(np.int32)
  return hidden, head, targets


def _reference(hidden, head, targets, temperature):
  """Values in float64, and gradients of sum(a logp + b H) in closed form.

  With z = logits / temperature and p = softmax(z):
    d logp_y / d z_v = 1[v = y] - p_v,   d H / d z_v = -p_v (log p_v + H)
  """
  z = np.float64(hidden) @ np.float64(head) / temperature
  log_p = z - z.max(-1, keepdims=True)
  log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
  p = np.exp(log_p)
  chosen = np.zeros((N, T))
  one_hot = np.zeros_like(p)
  for n in range(N):
    for t in range(T):
      chosen[n, t] = log_p[n, t, targets[n, t]]
      one_hot[n, t, targets[n, t]] = 1.0
  entropy = -(p * log_p).sum(-1)
  a, b = _cotangents()
  d_z = a[..., None] * (one_hot - p)
  d_z -= b[..., None] * p * (log_p + entropy[..., None])
  d_z /= temperature
  d_hidden = d_z @ np.float64(head).T
  d_head = np.einsum('ntd,ntv->dv', np.float64(hidden), d_z)
  return chosen, entropy, d_hidden, d_head


def _cotangents():
  rng = np.random.default_rng(9)
  a, b = rng.normal(0, 1, (2, N, T)).astype(np.float32)
  return a, b


def _scores(logits, targets, temperature=1.0):
  log_p = logprobs.log_distribution(logits, temperature=temperature)
  return logprobs.score_targets(log_p, targets)


def _weighted(hidden, head, targets, *, chunk, temperature=1.0):
  got = logprobs.token_logprobs(
    hidden, head, targets, chunk=chunk, temperature=temperature
  )
  a, b = _cotangents()
  return jnp.sum(a * got.logprobs) + jnp.sum(b * got.entropy), got


def _largest(jaxpr):
  """Number of elements of the largest array anywhere in a jaxpr."""
  sizes = [0]
  for equation in jaxpr.eqns:
    sizes += [getattr(x.aval, 'size', 0) for x in equation.outvars]
    for inner in core.jaxprs_in_params(equation.params):
      sizes.append(_largest(inner))
  return max(sizes)


class TokenLogprobsTest(chex.TestCase):
  @chex.all_variants
  def test_by_hand(self):
    # logits ln 1, ln 2, ln 5: p = 1/8, 1/4, 5/8; the target has 1/4
    # H = 1/8 ln 8 + 1/4 ln 4 + 5/8 ln(8/5) = .9002561
    # temperature 1/2 squares and normalises: 1/30, 4/30, 25/30
    # H = 1/30 ln 30 + 4/30 ln 7.5 + 25/30 ln 1.2 = .5339616
    logits = np.log(np.float32([[1, 2, 5]]))
    for temperature, chosen, entropy in (
      (1.0, np.log(1 / 4), 0.9002561),
      (0.5, np.log(4 / 30), 0.5339616),
    ):
      fn = self.variant(functools.partial(_scores, temperature=temperature))
      got = fn(logits, np.int32([1]))
      np.testing.assert_allclose(got.logprobs, [chosen], rtol=1e-6)
      np.testing.assert_allclose(got.entropy, [entropy], rtol=1e-6)

  @chex.variants(with_jit=True)
  @parameterized.parameters(
    {'chunk': 4},  # 10 positions, padded to 12
    {'chunk': 5, 'temperature': 0.7},
    {'chunk': 128, 'temperature': 1.3},  # longer than the sequence
    {'chunk': 1},
  )
  def test_values_and_gradients(self, chunk, temperature=1.0):
    hidden, head, targets = _inputs()
    fn = self.variant(
      jax.value_and_grad(
        functools.partial(_weighted, chunk=chunk, temperature=temperature),
        argnums=(0, 1),
        has_aux=True,
      )
    )
    (_, got), gradients = fn(hidden, head, targets)
    want = _reference(hidden, head, targets, temperature)
    np.testing.assert_allclose(got.logprobs, want[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.entropy, want[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradients[0], want[2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], want[3], rtol=1e-4, atol=1e-5)

  def test_never_holds_all_logits(self):
    def traced(chunk):
      loss = functools.partial(_weighted, chunk=chunk)
      step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
      return [
        _largest(jax.make_jaxpr(fn)(*_inputs()).jaxpr) for fn in (loss, step)
      ]

    for size in traced(chunk=4):
      self.assertLess(size, N * T * V)
      # The logits of one chunk are there, and nothing larger.
      self.assertEqual(size, N * 4 * V)
    # The same look finds them where there is but one chunk.
    self.assertEqual(traced(chunk=T), [N * T * V] * 2)

  def test_bfloat16_hidden_states_score_in_float32(self):
    hidden, head, targets = _inputs()
    low = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(head, jnp.bfloat16)
    run = functools.partial(logprobs.token_logprobs, chunk=4, temperature=1.0)
    got = jax.jit(run)(*low, targets)
    self.assertEqual(got.logprobs.dtype, jnp.float32)
    self.assertEqual(got.entropy.dtype, jnp.float32)
    # Exact inputs are the rounded ones; the product is summed in float32.
    exact = [np.asarray(x, np.float32) for x in low]
    want = _reference(*exact, targets, 1.0)
    np.testing.assert_allclose(got.logprobs, want[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.entropy, want[1], rtol=1e-5, atol=1e-5)

  def test_impossible_tokens_leave_entropy_and_gradient_finite(self):
    # p = 1/2, 1/2, 0: H = ln 2, d logp_0 / d z = 1 - 1/2, -1/2, 0
    logits = jnp.float32([0, 0, -jnp.inf])

    def score(logits):
      got = _scores(logits, jnp.int32(0))
      return got.logprobs + got.entropy, got

    gradient, got = jax.grad(score, has_aux=True)(logits)
    np.testing.assert_allclose(got.entropy, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [0.5, -0.5, 0], atol=1e-6)

  @parameterized.parameters((0, 1.0), (1, 0.0))
  def test_out_of_range_is_refused(self, chunk, temperature):
    with self.assertRaisesRegex(ValueError, 'chunk=.*temperature='):
      logprobs.token_logprobs(*_inputs(), chunk=chunk, temperature=temperature)
