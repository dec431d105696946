"""Without gate, difficulty and dynamic clip AWPO is GRPO."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from awpo_jax.ops import awpo, estimators
from tests.helpers import row_by_row, tiny_training


@functools.cache
def _rollout():
  return tiny_training.rollout(2)


def _plain_advantages(rewards):
  """GRPO in float64: one group at a time, valid samples only."""
  result = np.zeros(rewards.outcome.shape)
  for p, valid in enumerate(rewards.outcome_valid):
    group = np.float64(rewards.outcome[p][valid])
    if len(group) > 1 and group.std() > 0:
      centered = group - group.mean()
      spread = np.sqrt(np.sum(centered**2) / (len(group) - 1))
      result[p][valid] = centered / (spread + 1e-6)
  return result.astype(np.float32)


@functools.cache
def _apply():
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(1e-2, eps=1e-3, weight_decay=0.0),
  )

  def apply(params, grads, state):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return tx.init(tiny_training.params()), tiny_training.jit(apply)


def _plain_grpo(rollout):
  """Parameters after four updates; nothing of the library's step in it."""
  parts = tiny_training.minibatches(
    row_by_row.batch_of(
      rollout,
      advantages=_plain_advantages(rollout.rewards),
      clip_radius=np.full(tiny_training.PROMPTS, 0.2, np.float32),
      old_logprobs=rollout.completions.logprobs,
    )
  )
  # The policy before the first update is the old one of all four.
  old = [row_by_row.scores(tiny_training.params(), part)[0] for part in parts]
  params, (state, apply), clipped = tiny_training.params(), _apply(), []
  for part, logprobs in zip(parts, old, strict=True):
    grads, metrics = row_by_row.rl(params, part.replace(old_logprobs=logprobs))
    params, state = apply(params, grads, state)
    clipped.append(float(metrics['clip_fraction']))
  assert clipped[0] == 0 and clipped[-1] > 0.1, clipped
  return jax.device_get(params)


def test_four_updates_equal_plain_grpo():
  batch = tiny_training.prepared(_rollout(), **tiny_training.GRPO).batch
  state, metrics = tiny_training.updates(tiny_training.initial_state(), batch)
  assert state.step == len(metrics) == 4
  want = _plain_grpo(_rollout())
  moved = jax.tree.map(np.subtract, want, tiny_training.params())
  tiny_training.assert_close(state.params, want, scale=moved, rtol=1e-4)
  full = tiny_training.prepared(_rollout()).batch
  state, _ = tiny_training.updates(tiny_training.initial_state(), full)
  assert tiny_training.distance(state.params, want) > 0.1 * tiny_training.norm(
    moved
  )


def _grpo(rewards, samples, **_):
  """The place of `rollout_advantages`, with GRPO in it."""
  outcome, valid = rewards.outcome, samples.valid
  return awpo.Advantages(
    advantages=estimators.standardize(outcome, valid, ddof=1, eps=1e-6),
    counted=valid.sum(axis=1) >= 2,
    solve_rate=np.zeros(outcome.shape[0], np.float32),
  )


@functools.cache
def _grpo_state():
  run = functools.partial(
    tiny_training.make_prepare(),
    algorithm=dataclasses.replace(
      tiny_training.make_algorithm(**tiny_training.GRPO),
      advantages=_grpo,
      clip_radius=lambda *_, **__: np.float32(0.2),
    ),
  )
  batch = jax.device_get(
    tiny_training.jit(run)(tiny_training.params(), _rollout()).batch
  )
  return tiny_training.updates(tiny_training.initial_state(), batch)[0]


@pytest.mark.parametrize('garbage', [None, 0.7, -1e30, np.inf, np.nan])
def test_reasoning_is_not_read(garbage):
  rollout = _rollout()
  if garbage is not None:
    group = rollout.rewards.outcome.shape
    rollout = tiny_training.with_rewards(
      rollout,
      reasoning=np.full(group, garbage, np.float32),
      reasoning_valid=np.zeros(group, bool),
    )
  batch = tiny_training.prepared(rollout, **tiny_training.GRPO).batch
  state, _ = tiny_training.updates(tiny_training.initial_state(), batch)
  tiny_training.assert_equal(state, _grpo_state())
