"""Both rewards of a batch: validity, bounds, errors, parts."""

import dataclasses

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout import scoring


def make_task(name, kind='single'):
  return types.Task(
    task_id=name,
    system='system',
    user=f'question of {name}',
    tools=(types.Tool(name='clock', description='Time.', parameters={}),),
    ground_truth=f'truth of {name}',
    kind=kind,
  )


TASKS = [make_task('a'), make_task('b')]
TEXTS = [['4', 'down', '-3'], ['1', '0', '0.5']]
BOUNDS = {'a': (-3.0, 4.0), 'b': (0.0, 1.0)}


def reward(response, task):
  """The number a response says, with the task's bounds."""
  if response == 'down':
    raise types.RewardUnavailable('sandbox is down')
  low, high = BOUNDS[task.task_id]
  parts = {'format': 1.0}
  if task.task_id == 'b':
    parts['names'] = 2 * float(response)
  return types.Score(float(response), low, high, parts)


def score(texts=TEXTS, judge=None, reward=reward):
  return scoring.score(texts, TASKS, reward=reward, judge=judge)


def test_outcome_and_validity():
  got, _ = score()
  np.testing.assert_array_equal(got.outcome, [[4, 0, -3], [1, 0, 0.5]])
  np.testing.assert_array_equal(
    got.outcome_valid, [[True, False, True], [True, True, True]]
  )
  np.testing.assert_array_equal(got.outcome_min, [-3, 0])
  np.testing.assert_array_equal(got.outcome_max, [4, 1])
  assert got.outcome.dtype == got.outcome_min.dtype == np.float32


CALL = '<think> a </think>\n<tool_call>\n{}\n</tool_call>'
REPLY = '<think> no <tool_call> </think>\n<response> b </response>'


@pytest.mark.parametrize(
  ('fields', 'want'),
  [
    ({'ground_truth': CALL}, True),
    # A thought may mention the tag.
    ({'ground_truth': REPLY}, False),
    ({'ground_truth': '42'}, False),
    # Of an episode any turn counts.
    ({'ground_truth': REPLY, 'references': (REPLY, CALL)}, True),
    ({'ground_truth': REPLY, 'references': (REPLY,)}, False),
    # What the task says goes before what its references look like.
    ({'ground_truth': '42', 'wants_call': True}, True),
    ({'ground_truth': CALL, 'wants_call': False}, False),
  ],
)
def test_whether_a_call_is_wanted(fields, want):
  # Whatever the reward's bounds: those of `a` are (-3, 4), of `b` (0, 1).
  tasks = [dataclasses.replace(task, **fields) for task in TASKS]
  got, _ = scoring.score(TEXTS, tasks, reward=reward, judge=None)
  np.testing.assert_array_equal(got.wants_call, [want, want])
  assert got.wants_call.dtype == bool


def test_bounds_of_a_prompt_without_valid_answers_differ():
  got, parts = score([['down'], ['1']])
  np.testing.assert_array_equal(got.outcome_valid, [[False], [True]])
  assert got.outcome_min[0] < got.outcome_max[0]
  np.testing.assert_array_equal(parts['format'], [[np.nan], [1]])
  np.testing.assert_array_equal(parts['solved'], [[np.nan], [1]])


def test_no_judge():
  got, _ = score()
  assert not got.reasoning_valid.any()
  np.testing.assert_array_equal(got.reasoning, np.zeros((2, 3)))


def test_parts_are_nan_where_missing():
  _, parts = score()
  assert sorted(parts) == ['format', 'names', 'solved']
  np.testing.assert_array_equal(parts['format'], [[1, np.nan, 1], [1, 1, 1]])
  np.testing.assert_array_equal(parts['names'], [[np.nan] * 3, [2, 0, 1]])


def test_solved_is_what_the_reward_says_or_the_best_outcome():
  said = {'4': False, '-3': True, '1': None, '0.5': True}

  def telling(response, task):
    return reward(response, task)._replace(solved=said.get(response))

  _, parts = score(reward=telling)
  # Where nothing is said, of b: 1 is the maximum and 0 is not.
  np.testing.assert_array_equal(parts['solved'], [[0, np.nan, 1], [1, 0, 1]])
  _, parts = score()
  np.testing.assert_array_equal(parts['solved'], [[1, np.nan, 0], [1, 0, 0]])


def test_solved_is_there_without_any_score():
  got, parts = score([['down'], ['down']])
  assert not got.outcome_valid.any()
  np.testing.assert_array_equal(parts['solved'], [[np.nan], [np.nan]])


def test_a_sum_that_misses_its_maximum_by_a_rounding_is_solved():
  def summed(response, task):
    return types.Score(0.3 + 0.6 + 0.1, 0.0, 1.0, {})

  # Not by `sum`, which makes up for rounding from Python 3.12 on.
  assert 0.3 + 0.6 + 0.1 < 1
  _, parts = score(reward=summed)
  assert parts['solved'].all()


@pytest.mark.parametrize('text', ['nan', 'inf', '-inf', '4.5', '-3.5'])
def test_a_reward_that_is_no_reward(text):
  with pytest.raises(ValueError, match='reward of task a .*RewardUnavailable'):
    score([[text], ['1']])


def test_infinity_is_no_best_reward():
  def boundless(response, task):
    return types.Score(float('inf'), 0.0, float('inf'), {})

  with pytest.raises(ValueError, match='must be finite'):
    score(reward=boundless)


def test_bounds_must_differ():
  def flat(response, task):
    return types.Score(1.0, 1.0, 1.0, {})

  with pytest.raises(ValueError, match='bounds that differ'):
    score(reward=flat)


def test_bounds_of_a_task_are_the_same_for_all_its_answers():
  def moving(response, task):
    return types.Score(float(response), -3.0, max(float(response), 1.0), {})

  score([['1', '0.5'], ['0', '1']], reward=moving)
  with pytest.raises(ValueError, match=r'task b has bounds .*1.0. for one'):
    score([['4', '4'], ['1', '4']], reward=moving)


def test_other_errors_are_not_hidden():
  with pytest.raises(ValueError, match='could not convert'):
    score([['seven'], ['1']])


def test_judge_sees_all_answers_once_and_no_gold():
  calls = []

  def judge(requests):
    calls.append(requests)
    return [0.25, None, 0, 1, 0.5, None]

  got, _ = score(judge=judge)
  (requests,) = calls
  assert [r.response for r in requests] == [*TEXTS[0], *TEXTS[1]]
  assert [r.user for r in requests[::3]] == ['question of a', 'question of b']
  assert requests[0].tools == TASKS[0].tools
  assert 'truth' not in repr(requests)
  np.testing.assert_array_equal(
    got.reasoning_valid, [[True, False, True], [True, True, False]]
  )
  np.testing.assert_array_equal(got.reasoning, [[0.25, 0, 0], [1, 0.5, 0]])
  # A reward that could not be had says nothing about the other.
  np.testing.assert_array_equal(
    got.outcome_valid, [[True, False, True], [True, True, True]]
  )


@pytest.mark.parametrize('count', [0, 5, 7])
def test_judge_must_score_each(count):
  with pytest.raises(ValueError, match=f'{count} scores for 6 answers'):
    score(judge=lambda requests: [0.5] * count)


@pytest.mark.parametrize('value', [1.01, -0.01, float('nan')])
def test_judge_out_of_range(value):
  scores = [0.5, 0.5, 0.5, 0.5, value, None]
  with pytest.raises(ValueError, match=f'gave {value} .*task b: .*None'):
    score(judge=lambda requests: scores)
