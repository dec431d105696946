"""Both rewards of a batch: validity, bounds, errors, parts."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards import scoring
from awpo_jax.rollout.rewards.judges import patient
from awpo_jax.training.collection import score as score_lib


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


def test_none_is_a_reward_that_could_not_be_had():
  told = []

  def forgetful(response, task):
    if response == '0':
      return types.Score(None, 0.0, 1.0, {})
    return reward(response, task) if response != '4' else None

  got, parts = scoring.score(
    TEXTS, TASKS, reward=forgetful, judge=None, tell=told.append
  )
  np.testing.assert_array_equal(
    got.outcome_valid, [[False, False, True], [True, False, True]]
  )
  np.testing.assert_array_equal(np.isnan(parts['solved']), ~got.outcome_valid)
  name = f'{__name__}:{forgetful.__qualname__} returned None'
  assert told == [name, 'RewardUnavailable: sandbox is down', name]


KINDS = [
  np.float32,
  np.float64,
  np.float16,
  np.array,
  jnp.float32,
  jnp.bfloat16,
  lambda x: np.array([x]),
  lambda x: jnp.float32([[x]]),
  str,  # For the check of this test: no number.
]


@pytest.mark.parametrize('number', range(len(KINDS)))
def test_numbers_of_any_library(number):
  kind = KINDS[number]

  def typed(response, task):
    (_, low, high, parts, _) = reward(response, task)
    parts = {name: kind(value) for name, value in parts.items()}
    solved = kind(float(response) == high)
    value = response if kind is str else float(response)
    return types.Score(kind(value), kind(low), kind(high), parts, solved)

  def judge(requests):
    return [kind(0.25)] * len(requests)

  # As a run has it, in whose loop nothing moves to a device unasked.
  with jax.transfer_guard('disallow'):
    if kind is str:
      with pytest.raises(types.BadReturn, match='a by .*`value`.* no number'):
        score([['4'], ['1']], reward=typed)
      with pytest.raises(types.BadReturn, match="'0.25' to .* task a"):
        score(judge=judge)
      return
    got, parts = score(judge=judge, reward=typed)
  want, want_parts = score()
  np.testing.assert_array_equal(got.outcome, want.outcome)
  np.testing.assert_array_equal(got.outcome_max, [4, 1])
  np.testing.assert_array_equal(got.reasoning, np.full((2, 3), 0.25))
  for name, values in want_parts.items():
    np.testing.assert_array_equal(parts[name], values)


@pytest.mark.parametrize('batch', [np.float32, jnp.float32, iter, tuple])
def test_scores_in_any_sequence(batch):
  with jax.transfer_guard('disallow'):
    got, _ = score(judge=lambda requests: batch([0, 0.5, 1, 0.25, 0.75, 1]))
  np.testing.assert_array_equal(got.reasoning, [[0, 0.5, 1], [0.25, 0.75, 1]])


def test_a_reward_and_a_judge_may_compute_with_jax():
  def computed(response, task):
    return reward(response, task)._replace(value=jnp.float32(1) / 2)

  def judge(requests):
    return jnp.arange(len(requests)) / 8

  with jax.transfer_guard('disallow'):
    got, _ = score([['1'], ['1']], judge=judge, reward=computed)
  np.testing.assert_array_equal(got.outcome, [[0.5], [0.5]])
  np.testing.assert_array_equal(got.reasoning, [[0], [0.125]])


def test_a_score_of_ones_own_class():
  class Own:
    value, minimum, maximum = True, 0, 1

  got, parts = score([['4'], ['1']], reward=lambda response, task: Own())
  np.testing.assert_array_equal(got.outcome, [[1], [1]])
  np.testing.assert_array_equal(parts['solved'], [[1], [1]])


async def awaited():
  return types.Score(1.0, 0.0, 1.0, {})


def scored(**changed):
  return types.Score(0.5, 0.0, 1.0, {})._replace(**changed)


BAD_REWARDS = {
  'no bounds': lambda: 0.5,
  'no bounds, of NumPy': lambda: np.float32(0.5),
  'bool': lambda: True,
  'text': lambda: '0.5',
  'tuple': lambda: (0.5, 0.0, 1.0, {}),
  'dict': lambda: {'value': 0.5},
  'coroutine': awaited,
  'coroutine within': lambda: scored(value=awaited()),
  'value': lambda: scored(value='0.5'),
  'several values': lambda: scored(value=np.array([0.5, 0.5])),
  'complex': lambda: scored(value=0.5j),
  'beyond floats': lambda: scored(value=10**400),
  'beyond float32': lambda: scored(value=1e300, maximum=1e301),
  'bounds that are one in float32': lambda: scored(
    value=1e8, minimum=1e8, maximum=1e8 + 1
  ),
  'no lower bound': lambda: scored(minimum=-np.inf),
  'minimum': lambda: scored(minimum=None),
  'solved': lambda: scored(solved='yes'),
  'solved in part': lambda: scored(solved=0.5),
  'solved, NaN': lambda: scored(solved=np.nan),
  'parts': lambda: scored(parts=[1.0]),
  'a part': lambda: scored(parts={'names': 'many'}),
  'a part in parts': lambda: scored(parts={'names': [1.0]}),
}


@pytest.mark.parametrize('case', BAD_REWARDS)
def test_what_is_no_reward_names_function_task_and_remedy(case):
  def mine(response, task):
    del response, task
    return BAD_REWARDS[case]()

  name = f'{__name__}:{mine.__qualname__}'
  wrapped = functools.wraps(mine)(functools.partial(mine))
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # A coroutine that nobody awaits.
    for each in (mine, wrapped):
      with pytest.raises(types.BadReturn) as raised:
        score([['4'], ['1']], reward=each)
  for word in ('task a ', name, 'Return types.Score(', 'RewardUnavailable'):
    assert word in str(raised.value)


def test_a_part_that_is_not_finite_ends_nothing():
  values = {'x': np.inf, 'y': np.nan, 'z': None, 'w': 1e300, 'v': np.bool_(1)}
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _, parts = score(
      [['4'], ['1']], reward=lambda *_: scored(parts=values, solved=np.True_)
    )
    _, none = score([['4'], ['1']], reward=lambda *_: scored(parts=None))
  wanted = {**values, 'z': np.nan, 'w': np.inf, 'solved': 1}
  assert parts.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_array_equal(parts[name], [[value], [value]])
  assert none.keys() == {'solved'}


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


def test_parts_that_are_not_finite_end_nothing():
  values = iter([np.nan, np.inf, 1.0, -np.inf, 3.0, np.nan])

  def with_part(response, task):
    low, high = BOUNDS[task.task_id]
    return types.Score(0.0, low, high, {'part': next(values)})

  _, parts = score([['0'] * 3] * 2, reward=with_part)
  # As they were in the archive; the mean is that of the others, 1 and 3.
  expected = np.float32([[np.nan, np.inf, 1], [-np.inf, 3, np.nan]])
  np.testing.assert_array_equal(parts['part'], expected)
  assert score_lib.part_means(parts)['reward/part'] == 2.0


def test_how_far_a_judge_tells_answers_of_a_group_apart():
  scores = np.float32([[0.25, 0.75, 1], [0, 1, 0.5], [0.5, 1, 1]])
  valid = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], bool)
  rewards = types.Rewards(
    outcome=np.zeros_like(scores),
    outcome_valid=~valid,
    reasoning=scores,
    reasoning_valid=valid,
    outcome_min=np.zeros(3, np.float32),
    outcome_max=np.ones(3, np.float32),
    wants_call=np.zeros(3, bool),
  )
  # sqrt(2) / 4 of two scores, 1/2 of three, and nothing of one.
  found = score_lib.reasoning_std(rewards)
  assert found == {'reward/reasoning_std': pytest.approx(0.4267766952966369)}
  nothing = dataclasses.replace(rewards, reasoning_valid=~valid & False)
  assert score_lib.reasoning_std(nothing) == {'reward/reasoning_std': None}


def test_a_judge_that_returns_none_has_no_score():
  got, _ = score(judge=lambda requests: None)
  assert not got.reasoning_valid.any()


def test_a_score_may_miss_its_bounds_by_a_rounding():
  scores = [1 + 1e-7, -1e-7, np.float32(1.0000001), 0, 1, True]
  got, _ = score(judge=lambda requests: scores)
  np.testing.assert_array_equal(got.reasoning, [[1, 0, 1], [0, 1, 1]])


@pytest.mark.parametrize(
  'value', ['0.5', [0.5], {}, 0.5j, np.zeros(2), np.array('0.5')]
)
def test_a_judge_whose_score_is_no_number(value):
  def mine(requests):
    return [0.5, 0.5, 0.5, None, 0.5, value]

  with pytest.raises(types.BadReturn) as raised:
    score(judge=mine)
  for word in (
    mine.__qualname__,
    'task b',
    'no number',
    'Scores lie in [0, 1]',
  ):
    assert word in str(raised.value)


BAD_JUDGES = {
  'a number': lambda: 0.5,
  'a number of NumPy': lambda: np.float32(0.5),
  'a number of JAX': lambda: jnp.float32(0.5),
  'a text': lambda: '010101',
  'bytes': lambda: b'010101',
  'a dict': lambda: dict.fromkeys('abcdef', 0.5),
  'a set': lambda: {0.1, 0.2, 0.3, 0.4, 0.5, 0.6},
  'a coroutine': awaited,
  'too few': lambda: [0.5] * 5,
}


@pytest.mark.parametrize('case', BAD_JUDGES)
def test_what_are_no_scores_names_judge_tasks_and_remedy(case):
  def mine(requests):
    del requests
    return BAD_JUDGES[case]()

  with warnings.catch_warnings():
    warnings.simplefilter('error')
    # As a run asks it, too, and for episodes.
    for judge in (mine, patient.Judging(mine)):
      with pytest.raises(types.BadReturn) as raised:
        score(judge=judge)
      for word in (f'{__name__}:{mine.__qualname__}', 'task a', 'a list of 6'):
        assert word in str(raised.value)
