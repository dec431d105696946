"""The bounds of an update hold on a tabular softmax policy, exactly."""

import itertools

import jax
import numpy as np
import pytest

from awpo_jax.analysis import theory

ACTIONS = 5


def _policy(seed):
  """Logits, probabilities, rewards and scores Z [A, A] of one state."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=ACTIONS)
  pi = _softmax(logits)
  return logits, pi, rng.uniform(0, 1, ACTIONS), np.eye(ACTIONS) - pi


def _softmax(logits):
  p = np.exp(logits - logits.max())
  return p / p.sum()


def _found(z, a, pi):
  return theory.signal(*(np.float32(x) for x in (z, a, pi)))


@pytest.mark.parametrize('seed', range(6))
def test_signal_against_the_pseudo_inverse(seed):
  _, pi, rewards, z = _policy(seed)
  a = rewards - pi @ rewards
  got = _found(z, a, pi)
  fisher = np.einsum('n,nk,nl->kl', pi, z, z)
  gradient = (pi * a) @ z
  rank = np.linalg.matrix_rank(fisher, tol=1e-9)
  v = pi @ a**2
  # The scores sum to 0: one direction is lost.
  assert rank == ACTIONS - 1 == got.rank
  rho = np.sqrt(gradient @ np.linalg.pinv(fisher) @ gradient / (rank * v))
  np.testing.assert_allclose(got.correlation, rho, rtol=1e-4)
  np.testing.assert_allclose(got.second_moment, v, rtol=1e-5)
  np.testing.assert_allclose(got.gradient, gradient, atol=1e-6)
  # An advantage that is a function of the action lies in the span of Z: the
  # projection loses nothing, and rho^2 = 1 / d.
  np.testing.assert_allclose(rho, rank**-0.5, rtol=1e-6)


@pytest.mark.parametrize('seed', range(6))
def test_bound_of_the_signal(seed):
  _, pi, rewards, z = _policy(seed)
  for a in (rewards - pi @ rewards, rewards, np.sign(rewards - 0.5)):
    got = _found(z, a, pi)
    gradient = (pi * a) @ z
    assert 0 <= got.correlation <= 1
    assert gradient @ gradient <= theory.signal_bound(got) * (1 + 1e-4)


def _batches(pi, batch):
  """Every batch of actions with its probability."""
  for actions in itertools.product(range(ACTIONS), repeat=batch):
    yield list(actions), np.prod(pi[list(actions)])


@pytest.mark.parametrize('batch', [1, 2, 3])
@pytest.mark.parametrize('seed', range(3))
def test_bounds_of_noise_and_improvement(seed, batch):
  logits, pi, rewards, z = _policy(seed)
  a = rewards - pi @ rewards
  got = _found(z, a, pi)
  mean, square, gain = np.zeros(ACTIONS), 0.0, 0.0
  step, smoothness = 0.4, 2.5  # Of rewards in [0, 1] under softmax.
  for actions, probability in _batches(pi, batch):
    estimate = (a[actions, None] * z[actions]).mean(axis=0)
    mean += probability * estimate
    square += probability * estimate @ estimate
    new = _softmax(logits + step * estimate)
    gain += probability * (new - pi) @ rewards
  variance = square - mean @ mean
  np.testing.assert_allclose(mean, (pi * a) @ z, atol=1e-12)
  assert 0 < variance <= theory.noise_bound(got, batch=batch) * (1 + 1e-5)
  bound = theory.improvement_bound(
    got, batch=batch, step_size=step, smoothness=smoothness
  )
  assert 0 < gain <= bound * (1 + 1e-5)


def test_scores_of_a_table_are_gradients():
  rng = np.random.default_rng(1)
  logits = np.float32(rng.normal(size=(2, 3)))
  policy = np.stack([_softmax(x) for x in logits])
  want = jax.jacobian(
    lambda x: jax.nn.log_softmax(x.reshape(2, 3), axis=-1).reshape(-1)
  )(logits.reshape(-1))
  np.testing.assert_allclose(theory.tabular_scores(policy), want, atol=1e-6)


def test_second_moment_by_hand():
  # 1/2 2^2 + 1/4 (-4)^2 = 6; a sample of no weight counts for nothing.
  got = theory.second_moment(
    np.float32([2, -4, 0, 9]), np.float32([0.5, 0.25, 0.25, 0])
  )
  np.testing.assert_allclose(got, 6, rtol=1e-6)


def test_without_variance_there_is_no_potential():
  _, pi, _, z = _policy(0)
  got = _found(z, np.zeros(ACTIONS), pi)
  assert theory.potential(got) == theory.signal_bound(got) == 0
  assert theory.noise_bound(got, batch=4) == 0
