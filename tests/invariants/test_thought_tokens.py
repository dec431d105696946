"""The gated part on the thought alone, and a radius for each group.

Advantages by the plain AWPO of `awpo_reference`, gradients by plain code on
every row.
"""

import functools

import jax
import numpy as np
import pytest

from awpo_jax.ops import policy_losses
from awpo_jax.training.update import objectives
from tests.helpers import awpo_reference, row_by_row, tiny_training

THOUGHT = {'reasoning_tokens': 'thought'}


@functools.cache
def _rollout():
  """With thoughts in the middle of answers; every fourth answer has none."""
  rollout = tiny_training.rollout(4)
  shape = rollout.completions.mask.shape
  rng = np.random.default_rng(0)
  begin = rng.integers(0, 3, shape[:2])
  end = begin + rng.integers(1, 4, shape[:2])
  end[:, 1] = begin[:, 1]
  column = np.arange(shape[-1])
  thought = (column >= begin[..., None]) & (column < end[..., None])
  return rollout.replace(thinking=thought & rollout.completions.mask)


def _plain(rollout, **settings):
  """float64 advantages [P, G, T] and gates [P], a group and a token at a time.

  Where A = d (1 - w) A_out + d w A_mix, what is not of the thought has the
  first part alone.
  """
  rewards = rollout.rewards
  inside = rollout.thinking & rollout.completions.policy_mask
  result = np.zeros(rollout.completions.mask.shape)
  gates = np.zeros(len(result))
  for p, answers in enumerate(result):
    valid = rewards.outcome_valid[p] & rewards.reasoning_valid[p]
    group = (
      rewards.outcome[p],
      rewards.reasoning[p],
      valid,
      rewards.outcome_min[p],
      rewards.outcome_max[p],
      rewards.wants_call[p],
    )
    whole, w, d = awpo_reference.group(*group, **settings)
    grpo, _, _ = awpo_reference.group(*group, gate='none', difficulty='none')
    own = 1 if settings.get('combine') == 'additive' else 1 - w
    gates[p] = w
    for g, t in np.ndindex(answers.shape):
      answers[g, t] = whole[g] if inside[p, g, t] else d * own * grpo[g]
  return result, gates


@pytest.mark.parametrize('combine', ['convex', 'additive'])
@pytest.mark.parametrize('gate', ['ratio', 'share', 'always'])
def test_advantages_of_tokens(gate, combine):
  settings = {'gate': gate, 'combine': combine}
  batch = tiny_training.prepared(_rollout(), **settings, **THOUGHT).batch
  want, _ = _plain(_rollout(), **settings)
  np.testing.assert_allclose(batch.advantages, want, atol=1e-4)
  # An answer without a thought has one advantage, the outcome's part.
  assert np.ptp(batch.advantages[:, 1], axis=-1).max() == 0
  assert np.ptp(batch.advantages[:, 0], axis=-1).max() > 0.1


def test_worked_group():
  # Outcomes 0 1: A_out = -.707107 .707107; reasoning .8 .2: A_rea the other way
  # round. w = .424264 / (.707107 + .424264) = .375, d = 1. In the thought -.25
  # of .707107, outside of it -.625.
  rollout = _rollout()
  group = rollout.rewards.outcome.shape
  two = np.broadcast_to(np.arange(4) < 2, group)
  rollout = tiny_training.with_rewards(
    rollout,
    outcome=np.broadcast_to(np.float32([0, 1, 9, 9]), group),
    reasoning=np.broadcast_to(np.float32([0.8, 0.2, 0, 0]), group),
    outcome_valid=two,
    reasoning_valid=two,
    outcome_min=np.zeros(group[0], np.float32),
    outcome_max=np.ones(group[0], np.float32),
  )
  made = tiny_training.prepared(
    rollout,
    gate='share',
    mix_advantage='reasoning',
    difficulty='none',
    **THOUGHT,
  ).batch.advantages
  policy = rollout.completions.policy_mask
  inside = rollout.thinking & policy
  root = 0.5**0.5
  want = np.where(inside[:, 0], -0.25 * root, -0.625 * root)
  np.testing.assert_allclose(made[:, 0], want, rtol=1e-4)
  np.testing.assert_allclose(made[:, 1], 0.625 * root, rtol=1e-4)
  np.testing.assert_array_equal(made[:, 2:], np.zeros_like(made[:, 2:]))


@pytest.mark.parametrize('thought', ['none', 'all'])
def test_nothing_and_everything_as_a_thought(thought):
  whole = _rollout().completions.mask
  thinking = whole & (thought == 'all')
  rollout = _rollout().replace(thinking=thinking)
  settings = {'combine': 'additive', 'difficulty': 'none', 'clip': 'fixed'}
  got = tiny_training.prepared(rollout, **settings, **THOUGHT).batch
  other = {**settings, 'gate': 'none'} if thought == 'none' else settings
  if thought == 'none':
    # GRPO on the samples that have been judged, too.
    rollout = tiny_training.with_rewards(
      rollout,
      outcome_valid=rollout.rewards.outcome_valid
      & rollout.rewards.reasoning_valid,
    )
  want = tiny_training.prepared(rollout, **other).batch
  policy = rollout.completions.policy_mask
  np.testing.assert_array_equal(
    np.where(policy, got.advantages, 0),
    np.where(policy, want.advantages[..., None], 0),
  )
  states = [
    tiny_training.updates(tiny_training.initial_state(), batch)[0]
    for batch in (got, want)
  ]
  moved = jax.tree.map(np.subtract, states[1].params, tiny_training.params())
  tiny_training.assert_close(
    states[0].params, states[1].params, scale=moved, rtol=1e-4
  )


def test_gradients_of_tokens():
  # Before the first update every ratio is 1, so that the loss of a token has
  # the gradient -weight A in its log-probability.
  batch = tiny_training.prepared(_rollout(), **THOUGHT).batch
  weights = np.float32(row_by_row.weights(batch, 'token-mean'))

  def loss(logprobs):
    tokens = objectives._tokens(batch, logprobs, 1.0)
    return policy_losses.weighted_loss(
      tokens,
      weights.reshape(tokens.mask.shape),
      samples=batch.tokens.shape[1],
      correction=None,
      **tiny_training.RL_FLAGS,
    )

  want, _ = _plain(_rollout())
  got = jax.grad(loss)(batch.old_logprobs)
  np.testing.assert_allclose(got, -weights * want, atol=1e-6)
  outside = weights * ~_rollout().thinking
  assert np.abs(outside * want).max() > 1e-3


@functools.cache
def _prepared():
  return tiny_training.prepared(
    _rollout(), gate='share', clip_scope='group', trainer=False, **THOUGHT
  ).batch


def batch():
  """The second mini-batch, where more is valid than in the first."""
  return tiny_training.minibatches(_prepared())[1]


@functools.cache
def plain_update():
  """Gradient and metrics of an update by plain code."""
  advantages, gates = _plain(_rollout(), gate='share')
  plain = _prepared().replace(
    advantages=np.float32(advantages),
    clip_radius=np.float32(0.2 - 0.1 * gates),
  )
  np.testing.assert_allclose(
    _prepared().clip_radius, plain.clip_radius, rtol=1e-5
  )
  assert np.ptp(plain.clip_radius) > 0.05
  plain = tiny_training.minibatches(plain)[1]
  grads, metrics = row_by_row.rl(tiny_training.params(), plain)
  assert metrics['clip_fraction'] > 0.1
  return grads, metrics


@pytest.mark.parametrize(
  ('devices', 'micro'), [(1, 1), (1, 2), (1, 4), (2, 2), (4, 1), (4, 2)]
)
def test_an_update_is_that_of_plain_code_on_every_row(devices, micro):
  state = tiny_training.initial_state()
  if devices == 1:
    state, metrics = tiny_training.update(state, batch(), micro=micro)
  else:
    # Not the program that other tests share: tokens have advantages here.
    mapped = tiny_training.Mapped(devices, micro)
    state, metrics = jax.device_get(mapped(mapped.place(state), batch()))
  grads, want = plain_update()
  tiny_training.assert_close(state.opt_state[0], grads, scale=grads, rtol=1e-4)
  for name in ('surrogate', 'clip_fraction'):
    np.testing.assert_allclose(metrics.sums[name], want[name], rtol=1e-4)


def test_without_a_gate_thoughts_are_not_asked_for():
  rollout = tiny_training.rollout(4)
  assert rollout.thinking is None
  got, want = (
    tiny_training.prepared(rollout, **flags, **tiny_training.GRPO)
    for flags in (THOUGHT, {})
  )
  tiny_training.assert_equal(got, want)
  with pytest.raises(ValueError, match='needs the tokens of the chain'):
    tiny_training.prepared(rollout, **THOUGHT)
