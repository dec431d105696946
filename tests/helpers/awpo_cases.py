"""Groups of rewards that several tests of the advantages share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.ops import collectives, estimators
from awpo_jax.ops import samples as samples_lib
from tests.helpers import tiny_training

# The six worked groups: mixed, all wrong, solved, hard, flat, last one invalid.
OUTCOME = np.float32(
  [
    [4, 1, -3, 4],
    [-3, -3, -3, -3],
    [4, 4, 4, 4],
    [-3, -3, -2, -3],
    [1, 1, 1, 1],
    [4, 1, -3, 4],
  ]
)
REASONING = np.float32(
  [
    [0.8, 0.6, 0.1, 0.4],
    [0.9, 0.2, 0.4, 0.1],
    [0.8, 0.6, 0.1, 0.4],
    [0.5, 0.5, 0.75, 0.25],
    [0.5, 0.5, 0.5, 0.5],
    [0.8, 0.6, 0.1, 0.4],
  ]
)
VALID = np.ones((6, 4), bool)
VALID[5, 3] = False
LOW, HIGH = np.full(6, -3, np.float32), np.full(6, 4, np.float32)
GROUPS = (OUTCOME, REASONING, VALID, LOW, HIGH)
MIXED, ALL_WRONG, SOLVED = 0, 1, 2


def random_groups(seed, prompts=24, samples=5):
  """Groups of both kinds of prompt, some flat, solved, or partly invalid."""
  rng = np.random.default_rng(seed)
  is_call = rng.random(prompts) < 0.7
  low = np.where(is_call, -3.0, 0.0)
  high = np.where(is_call, 4.0, 1.0)
  outcome = rng.integers(low[:, None], high[:, None] + 1, (prompts, samples))
  outcome = outcome.astype(np.float64)
  outcome[0:3] = low[0:3, None]
  outcome[3:8] = high[3:8, None]
  reasoning = rng.random((prompts, samples))
  reasoning[[1, 4]] = 0.7
  valid = rng.random((prompts, samples)) < 0.85
  valid[9], valid[10] = False, False
  valid[10, 2] = True
  outcome[~valid], reasoning[~valid] = np.nan, np.inf
  # float32 first, so that the reference starts from the same numbers.
  return tuple(
    x.astype(np.float32) if x.dtype == np.float64 else x
    for x in (outcome, reasoning, valid, low, high)
  )


def advantages(
  outcome,
  reasoning,
  valid,
  low,
  high,
  wants_call=None,
  all_sum=collectives.identity,
  **flags,
):
  """`Advantages` by the function that training calls, its flags bound.

  Nothing said, those prompts want a call whose bounds are ToolRL's of one.
  """
  rewards = types.Rewards(
    outcome=outcome,
    outcome_valid=valid,
    reasoning=reasoning,
    reasoning_valid=valid,
    outcome_min=low,
    outcome_max=high,
    wants_call=high > 1 if wants_call is None else wants_call,
  )
  tokens = jnp.zeros((*outcome.shape, 1), jnp.float32)
  samples = samples_lib.Samples(
    valid=valid,
    mask=tokens == 0,
    correct=jnp.zeros(outcome.shape, bool),
    logprobs=tokens,
    entropy=tokens,
  )
  algorithm = tiny_training.make_algorithm(**flags)
  return algorithm.advantages(rewards, samples, all_sum=all_sum)


def grpo(rewards, valid):
  """GRPO's advantages: those of the estimator alone."""
  return estimators.standardize(rewards, valid, ddof=1, eps=1e-6)


@functools.lru_cache
def jitted(**settings):
  return jax.jit(functools.partial(advantages, **settings))
