"""The batch that the published reference numbers belong to.

Eight rows of two groups of four, five positions. Rows i and positions t from 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax.ops import aggregation as aggregation_lib
from awpo_jax.ops import collectives

_I, _T = np.arange(8)[:, None], np.arange(5)[None, :]
LENGTHS = np.array([5, 3, 4, 2, 5, 1, 3, 4])
MASK = LENGTHS[:, None] > _T
OLD = np.float32(-1.6 - 0.1 * (1 + (3 * _I + 2 * _T) % 7))
NEW = np.float32(OLD + 0.3 * ((5 * _I + 3 * _T) % 11 - 5))
REF = np.float32(OLD - 0.02 * ((_I + _T) % 5 - 2))
ROLL = np.float32(OLD - 0.3 * ((2 * _I + _T) % 9 - 4))
ENTROPY = np.float32(0.1 * (1 + (_I + 2 * _T) % 6))
OUTCOME = np.float32([[1, 0, 0, 1], [0, 0, 0, 1]])
FORMAT = np.float32([[1, 1, 0, 1], [1, 0, 1, 1]])
VALID = np.ones((2, 4), bool)


def _grpo(rewards):
  """Of two groups, in float64."""
  centered = rewards - rewards.mean(axis=1, keepdims=True, dtype=np.float64)
  return centered / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-6)


SCORES = np.float32(_grpo(OUTCOME)).reshape(8)


def value_and_gradient(per_token, *, aggregation, max_length=None):
  """The weighted loss at `NEW`, and the summed size of its gradient."""
  weights = aggregation_lib.token_weights(
    MASK,
    aggregation=aggregation,
    all_sum=collectives.identity,
    max_length=max_length,
  )

  def loss(logprobs):
    return jnp.sum(weights * per_token(logprobs))

  value, gradient = jax.jit(jax.value_and_grad(loss))(NEW)
  return value, jnp.sum(jnp.abs(gradient))
