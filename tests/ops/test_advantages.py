"""Joint advantages of two rewards: reference numbers, by hand, and AWPO's."""

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.ops import advantages, awpo, estimators, gates
from awpo_jax.ops import difficulty as difficulty_lib
from awpo_jax.training.programs import from_flags
from tests.helpers import awpo_cases, flags
from tests.helpers import reference_batch as reference
from tests.ops.test_estimators import REFERENCE, make_samples


def _rewards(outcome, reasoning, low=0, high=1):
  outcome = np.float32(outcome)
  prompts = len(outcome)
  return types.Rewards(
    outcome=outcome,
    outcome_valid=np.ones(outcome.shape, bool),
    reasoning=np.float32(reasoning),
    reasoning_valid=np.ones(outcome.shape, bool),
    outcome_min=np.full(prompts, low, np.float32),
    outcome_max=np.full(prompts, high, np.float32),
    wants_call=np.ones(prompts, bool),
  )


def _made(rewards, samples, max_length=128, **changed):
  return advantages.rollout_advantages(
    rewards,
    samples,
    max_length=max_length,
    **flags.section('advantage', **changed),
  )


@pytest.mark.parametrize(
  ('changed', 'want'),
  [
    (
      {'batch_norm': 'token'},
      [
        *(0.812402, -0.379226, -1.755199, 0.812402),
        *(-0.127405, -1.503378, -0.127405, 1.248568),
      ],
    ),
    (
      {'batch_norm': 'row', 'eps': 1e-4},
      [
        *(0.864791, -0.231731, -1.497852, 0.864791),
        *(0, -1.266121, 0, 1.266121),
      ],
    ),
  ],
)
def test_gdpo_reference_numbers(changed, want):
  rewards = _rewards(reference.OUTCOME, reference.FORMAT)
  got = _made(rewards, REFERENCE, advantage='gdpo', **changed)
  np.testing.assert_allclose(np.reshape(got.advantages, 8), want, atol=1e-5)
  assert (got.gate, got.difficulty) == (0, 1)
  np.testing.assert_allclose(got.solve_rate, [0.5, 0.25])


@pytest.mark.parametrize(
  ('changed', 'want'),
  [
    (
      {'batch_norm': 'token'},
      [
        *(0.812402, -0.379226, -1.755199, 0.812402),
        *(-0.127405, -1.503378, -0.127405, 1.248568),
      ],
    ),
    (
      {'batch_norm': 'row', 'eps': 1e-4},
      [
        *(0.864791, -0.231731, -1.497852, 0.864791),
        *(0, -1.266121, 0, 1.266121),
      ],
    ),
  ],
)
def test_gdpo_of_the_outcomes_parts(changed, want):
  # The published numbers, of format and correctness apart; the outcome is their
  # sum, and nobody judged.
  rewards = _rewards(
    reference.OUTCOME + reference.FORMAT, np.full((2, 4), np.nan), 0, 2
  ).replace(
    parts={'format': reference.FORMAT, 'correctness': reference.OUTCOME}
  )
  got = _made(rewards, REFERENCE, advantage='gdpo_parts', **changed)
  np.testing.assert_allclose(np.reshape(got.advantages, 8), want, atol=1e-5)
  np.testing.assert_allclose(got.solve_rate, [1.25 / 2, 1 / 2])


def test_parts_that_are_missing_or_unknown():
  # Of calls alone a correctness is reported: the reply has its format's
  # advantage. -1 / s and 1 / s with s = sqrt(2) of (-3, 3), .7071 of (0, 1).
  parts = {
    'format': np.float32([[0, 1], [0, 1]]),
    'correctness': np.float32([[-3, 3], [np.nan, np.nan]]),
  }
  rewards = _rewards([[-3, 4], [0, 1]], np.zeros((2, 2)))
  samples = make_samples(np.ones((2, 2)), np.ones((2, 2), int))
  parted = {'advantage': 'gdpo_parts', 'batch_norm': 'none'}
  got = _made(rewards.replace(parts=parts), samples, **parted)
  half = np.sqrt(0.5)
  np.testing.assert_allclose(
    got.advantages, [[-2 * half, 2 * half], [-half, half]], rtol=1e-4
  )
  with pytest.raises(ValueError, match="reward_parts='style'.*format, corr"):
    _made(
      rewards.replace(parts=parts), samples, reward_parts=('style',), **parted
    )


def test_gdpo_tells_apart_what_a_sum_does_not():
  # Totals (0, 1) and (0, 2): GRPO has -+.7071 for both.
  outcome = np.float32([[0, 1], [0, 1]])
  reasoning = np.float32([[0, 0], [0, 1]])
  everyone = make_samples(np.ones((2, 2)), np.ones((2, 2), int))
  decoupled = {'advantage': 'gdpo', 'batch_norm': 'none'}
  half = np.sqrt(0.5)
  for weight in (1, 3):  # It counts after the norm.
    got = _made(
      _rewards(outcome, reasoning), everyone, mix_weight=weight, **decoupled
    )
    both = (1 + weight) * half
    np.testing.assert_allclose(
      got.advantages, [[-half, half], [-both, both]], rtol=1e-5
    )
  total = awpo_cases.grpo(outcome + reasoning, everyone.valid)
  np.testing.assert_allclose(total, [[-half, half]] * 2, rtol=1e-5)


def test_papo_by_hand():
  # Outcome 1 1 1 0: mean 3/4, std 1/2: .5 .5 .5 -1.5. Reasoning .2 .4 .6 of
  # the correct ones: mean .4, std .2: -1 0 1, and nothing for the wrong one.
  # The second group has one correct sample, the third three that are equal.
  rewards = _rewards(
    [[1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 0]],
    [[0.2, 0.4, 0.6, 1], [0.9, 0.1, 0.2, 0.3], [0.1, 0.1, 0.1, 0.9]],
  )
  samples = make_samples(
    np.ones((3, 4)), np.ones((3, 4), int), correct=rewards.outcome == 1
  )
  got = _made(rewards, samples, advantage='papo', mix_weight=0.5)
  outcome = np.array([0.5, 0.5, 0.5, -1.5])
  np.testing.assert_allclose(
    got.advantages,
    [outcome + [-0.5, 0, 0.5, 0], [-0.5, -0.5, -0.5, 1.5], outcome],
    atol=1e-5,
  )


@pytest.mark.parametrize('advantage', ['awpo', 'gdpo', 'papo'])
@pytest.mark.parametrize(
  ('floor', 'want'), [(0.0, [-1, 0, 1]), (0.02, [-0.05, 0, 0.05])]
)
def test_floor_of_the_reasonings_standard_deviation(advantage, floor, want):
  # Judge scores .001 apart, s = .001, where outcomes say nothing: of full size,
  # or .001 / .02.
  rewards = _rewards([[1, 1, 1]], [[0.5, 0.501, 0.502]])
  samples = make_samples(
    np.ones((1, 3)), np.ones((1, 3), int), correct=np.ones((1, 3), bool)
  )
  got = _made(
    rewards,
    samples,
    advantage=advantage,
    gate='always',
    trust='none',
    saturation='none',
    difficulty='none',
    batch_norm='none',
    mix_std_floor=floor,
  )
  np.testing.assert_allclose(got.advantages, [want], rtol=5e-3, atol=1e-6)
  # The floor is no business of the outcome's: of .001 apart, too.
  rewards = rewards.replace(
    outcome=rewards.reasoning, reasoning=rewards.outcome
  )
  if advantage == 'gdpo':
    got = _made(
      rewards, samples, advantage='gdpo', batch_norm='none', mix_std_floor=floor
    )
    np.testing.assert_allclose(got.advantages, [[-1, 0, 1]], rtol=5e-3)


def test_reasoning_where_the_outcome_is_correct():
  rewards = _rewards([[1, 1, 0, 0]], [[0.2, 0.4, 0.6, 0.8]])
  samples = make_samples(
    np.ones((1, 4)), np.ones((1, 4), int), correct=rewards.outcome == 1
  )
  always = {'gate': 'always', 'difficulty': 'none', 'saturation': 'none'}
  got = _made(rewards, samples, condition='correct', trust='none', **always)
  want = awpo_cases.grpo(np.float32([[1.2, 1.4, 0, 0]]), np.ones((1, 4), bool))
  np.testing.assert_allclose(got.advantages, want, atol=1e-6)


@pytest.mark.parametrize('estimator', estimators.ESTIMATORS)
def test_without_a_gate_the_estimator_is_left(estimator):
  outcome, reasoning, valid, low, high = awpo_cases.random_groups(4)
  rewards = types.Rewards(outcome, valid, reasoning, valid, low, high, low < 0)
  samples = make_samples(valid, np.full(valid.shape, 2), correct=valid)
  got = _made(
    rewards, samples, gate='none', difficulty='none', estimator=estimator
  )
  want = estimators.estimate(
    outcome, samples, **flags.section('advantage', estimator=estimator)
  )
  counted = valid.sum(axis=1) >= 2
  np.testing.assert_array_equal(got.advantages[counted], want[counted])


def test_long_answers_lose_outcome():
  # Limit 8, buffer 4: lengths 4, 6, 8 lose 0, 1/2, 1 of 1, 1, 1.
  rewards = _rewards([[1, 1, 1]], np.zeros((1, 3)))
  samples = make_samples(np.ones((1, 3)), [[4, 6, 8]])
  got = _made(
    rewards,
    samples,
    gate='none',
    difficulty='none',
    estimator='dr_grpo',
    max_length=8,
    length_buffer=4,
  )
  np.testing.assert_allclose(got.advantages, [[0.5, 0, -0.5]], atol=1e-6)


def _samples(rewards, **changed):
  """`Samples` of four answers of a token to one prompt."""
  completions = types.Completions(
    tokens=np.zeros((1, 4, 1), np.int32),
    mask=np.ones((1, 4, 1), bool),
    policy_mask=np.ones((1, 4, 1), bool),
    positions=np.zeros((1, 4, 1), np.int32),
    turn=np.zeros((1, 4, 1), np.int32),
    logprobs=np.zeros((1, 4, 1), np.float32),
    entropy=np.zeros((1, 4, 1), np.float32),
    finished=np.ones((1, 4), bool),
  )
  rollout = types.Rollout(
    prompts=None, completions=completions, rewards=rewards, sample_ids=None
  )
  return advantages.make_samples(
    rollout, completions.logprobs, **flags.section('advantage', **changed)
  )


@pytest.mark.parametrize(
  ('share', 'want'),
  [(None, [[0, 0, 0]]), (1.0, [[0, 0, 1]]), (0.5, [[0, 1, 1]])],
)
def test_what_is_correct(share, want):
  # Bounds -3 and 4; half of the way is .5. What is not valid is not correct.
  rewards = _rewards([[-3, 0.5, 4, np.nan]], np.zeros((1, 4)), -3, 4)
  rewards = rewards.replace(outcome_valid=np.isfinite(rewards.outcome))
  samples = _samples(rewards, gate='none', correct=share)
  np.testing.assert_array_equal(samples.correct, [[*want[0], 0]])


@pytest.mark.parametrize('gate', gates.GATES)
def test_samples_have_the_rewards_that_are_needed(gate):
  rewards = _rewards(np.zeros((1, 4)), np.zeros((1, 4))).replace(
    outcome_valid=np.array([[True, True, False, False]]),
    reasoning_valid=np.array([[True, False, True, False]]),
  )
  got = _samples(rewards, gate=gate).valid
  np.testing.assert_array_equal(got, [[True, gate == 'none', False, False]])


def test_one_of_ones_own(monkeypatch):
  # An entry of the dict is a value of the flag; it is given the estimator.
  def total(rewards, samples, *, standardize, mix_weight, **_):
    reward = rewards.outcome + mix_weight * rewards.reasoning
    return awpo.Advantages(
      advantages=standardize(reward),
      counted=samples.comparable,
      solve_rate=difficulty_lib.solve_rate(rewards, samples),
    )

  monkeypatch.setitem(advantages.ADVANTAGES, 'total', total)
  config = config_lib.parse(
    [
      *('--output_dir=x', '--model=y', '--rl_steps=1', '--advantage=total'),
      *('--gate=none', '--difficulty=none', '--clip=fixed', '--mix_weight=2'),
    ]
  )
  rewards = _rewards([[0, 0, 1, 1]], [[0.1, 0.2, 0.3, 0.4]])
  samples = _samples(rewards)
  made = from_flags.make_algorithm(config).advantages(rewards, samples)
  want = awpo_cases.grpo(np.float32([[0.2, 0.4, 1.6, 1.8]]), samples.valid)
  np.testing.assert_allclose(made.advantages, want, rtol=1e-5)
  np.testing.assert_allclose(made.solve_rate, [0.5])


@pytest.mark.parametrize('advantage', advantages.ADVANTAGES)
@pytest.mark.parametrize('gate', ['none', 'ratio'])
def test_who_needs_a_judge(advantage, gate):
  got = advantages.reads_reasoning(advantage=advantage, gate=gate)
  rivals = {'dvao', 'gd2po', 'saw', 'sa_mrpo'}
  judged = {'gdpo', 'papo', *rivals} | ({'awpo'} if gate != 'none' else set())
  assert got == (advantage in judged)


def test_unknown_values_are_refused():
  rewards = _rewards(reference.OUTCOME, reference.FORMAT)
  with pytest.raises(ValueError, match='awpo, gdpo, gdpo_parts, papo'):
    _made(rewards, REFERENCE, advantage='sum')
  with pytest.raises(ValueError, match='none, correct'):
    _made(rewards, REFERENCE, condition='right')
