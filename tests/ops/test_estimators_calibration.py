"""When not to divide by the standard deviation (arXiv:2508.11800).

With a stochastic outcome and a proper score for a stated probability, the norm
by the group's standard deviation drives predictions to 0 and 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from awpo_jax.ops import estimators
from awpo_jax.ops import samples as samples_lib
from tests.helpers import flags

CATEGORIES, QUESTIONS, SAMPLES, STEPS = 20, 2000, 10, 300
PROBABILITIES = np.arange(1, 100) / 100


def _samples():
  group = (QUESTIONS, SAMPLES)
  one = np.ones((*group, 1), np.float32)
  return samples_lib.Samples(
    valid=np.ones(group, bool),
    mask=one > 0,
    correct=np.zeros(group, bool),
    logprobs=one,
    entropy=one,
  )


@functools.partial(jax.jit, static_argnames='estimator')
def _train(key, estimator):
  """Logits [20, 99] after training, and how often each category comes true."""
  first, key = jax.random.split(key)
  rates = jax.random.uniform(first, (CATEGORIES,))
  tx = optax.adam(0.05)
  logits = jnp.zeros((CATEGORIES, len(PROBABILITIES)))
  shape = (CATEGORIES, QUESTIONS // CATEGORIES, SAMPLES)
  look_up = jax.vmap(functools.partial(jnp.searchsorted, method='scan'))

  def step(carry, key):
    logits, state = carry
    happens, says = jax.random.split(key)
    true = jax.random.uniform(happens, shape[:2]) < rates[:, None]
    total = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    drawn = jax.random.uniform(says, (CATEGORIES, shape[1] * SAMPLES))
    said = jnp.minimum(look_up(total, drawn), len(PROBABILITIES) - 1)
    p = jnp.asarray(PROBABILITIES, jnp.float32)[said].reshape(shape)
    rewards = jnp.where(true[..., None], jnp.log(p), jnp.log1p(-p))
    scores = estimators.estimate(
      rewards.reshape(QUESTIONS, SAMPLES),
      _samples(),
      **flags.section('advantage', estimator=estimator),
    ).reshape(said.shape)

    def loss(logits):
      table = jax.nn.log_softmax(logits)
      return -jnp.mean(scores * jnp.take_along_axis(table, said, axis=1))

    updates, state = tx.update(jax.grad(loss)(logits), state)
    return (optax.apply_updates(logits, updates), state), None

  keys = jax.random.split(key, STEPS)
  (logits, _), _ = jax.lax.scan(step, (logits, tx.init(logits)), keys)
  return logits, rates


def _calibration_error(logits, rates):
  """Expected calibration error over ten equal bins, in float64."""
  policy = np.exp(np.float64(logits))
  policy /= policy.sum(axis=1, keepdims=True)
  weight = policy / CATEGORIES
  bins = np.minimum((PROBABILITIES * 10).astype(int), 9)
  error = 0.0
  for number in range(10):
    inside = bins == number
    said = (weight[:, inside] * PROBABILITIES[inside]).sum()
    true = (weight[:, inside].sum(axis=1) * np.float64(rates)).sum()
    error += abs(said - true)
  return error


@pytest.mark.parametrize(
  ('estimator', 'low', 'high'),
  [('grpo', 0.08, 1.0), ('dr_grpo', 0.0, 0.03), ('rloo', 0.0, 0.03)],
)
def test_only_the_norm_by_the_deviation_is_overconfident(estimator, low, high):
  error = _calibration_error(*_train(jax.random.key(0), estimator))
  assert low < error < high
