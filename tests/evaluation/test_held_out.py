"""Accuracy on held-out tasks, by hand."""

import functools

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.evaluation import held_out
from awpo_jax.rollout.rewards import exact, toolrl

# kind, answer, best outcome; an answer is its outcome.
CASES = [
  ('single', '4', 4.0),
  ('single', '3.5', 4.0),
  ('parallel', '4', 4.0),
  ('reply', '1', 1.0),
  ('reply', 'down', 1.0),
  ('single', '-3', 4.0),
]


def make_tasks():
  return [
    types.Task(
      task_id=f'task_{i}',
      system='',
      user=f'user_{i}',
      tools=(types.Tool('f', 'd', {'x': {}}),),
      ground_truth=str(best),
      kind=kind,
    )
    for i, (kind, _, best) in enumerate(CASES)
  ]


def reward(response, task):
  if response == 'down':
    raise types.RewardUnavailable
  return types.Score(float(response), -3.0, float(task.ground_truth), {})


ANSWERS = [text for _, text, _ in CASES]


def test_by_hand():
  metrics, rows = held_out.score(
    make_tasks(), ANSWERS, reward=reward, judge=None
  )
  # Right: tasks 0, 2 and 3 of six; of single 1 of 3, of reply 1 of 2. The
  # one that could not be scored counts as not solved, and in no mean outcome:
  # (4 + 3.5 + 4 + 1 - 3) / 5 = 1.9.
  assert metrics == pytest.approx(
    {
      'accuracy': 1 / 2,
      'accuracy/single': 1 / 3,
      'accuracy/parallel': 1.0,
      'accuracy/reply': 1 / 2,
      'outcome': 1.9,
      'reasoning': None,
    }
  )
  solved = [True, False, True, True, False, False]
  assert [row['solved'] for row in rows] == solved
  assert rows[1] == {
    'task_id': 'task_1',
    'kind': 'single',
    'user': 'user_1',
    'tools': [{'name': 'f', 'description': 'd', 'parameters': {'x': {}}}],
    'ground_truth': '4.0',
    'response': '3.5',
    'outcome': 3.5,
    'parts': {},
    'reasoning': None,
    'solved': False,
  }


CALL = '<tool_call>\n{"name": "a", "parameters": {}}\n</tool_call>'


@pytest.mark.parametrize(
  ('response', 'solved'),
  [
    ('<think> x </think>\n<response> hi </response>', True),
    (f'<think> {CALL} </think>\n<response> hi </response>', False),
    (f'<think> x </think>\n<response> {CALL} </response>', False),
  ],
  ids=['no_call', 'in_the_thought', 'in_the_reply'],
)
def test_a_reply_that_calls_a_tool_is_not_solved(response, solved):
  task = types.Task(
    task_id='reply',
    system='',
    user='',
    tools=(),
    ground_truth='<think> y </think>\n<response> no </response>',
    kind='none',
  )
  metrics, (row,) = held_out.score(
    [task], [response], reward=toolrl.toolrl, judge=None
  )
  # The outcome knows the format of the reply only, and is the best it can be.
  assert metrics == {
    'accuracy': float(solved),
    'accuracy/none': float(solved),
    'outcome': 1.0,
    'reasoning': None,
    'format': 1.0,
  }
  assert row['solved'] is solved


def test_layout_and_calls():
  def task(truth):
    return types.Task('t', '', '', (), truth, 'k')

  called = f'<think> y </think>\n{CALL}'
  tasks = [task(called)] * 3 + [task('<think> y </think>\n<response> n')]
  responses = [
    called,
    CALL,  # The right call, without a thought.
    called.replace('"a"', '"b"'),
    '<think> x </think>\n<response> hi </response>',
  ]
  metrics, rows = held_out.score(
    tasks, responses, reward=toolrl.toolrl, judge=None
  )
  assert [row['parts']['format'] for row in rows] == [1, 0, 1, 1]
  # Layouts of answers 0, 2 and 3; calls of 0 and 1 of the three that want any.
  assert metrics['format'] == 3 / 4
  assert metrics['exact_calls'] == pytest.approx(2 / 3)
  assert metrics['accuracy'] == 2 / 4
  sparse, _ = held_out.score(tasks, responses, reward=exact.exact, judge=None)
  assert sparse == {**metrics, 'outcome': 2 / 4}
  # Another reward may call other things so.
  metrics, _ = held_out.score(
    tasks,
    responses,
    reward=functools.partial(toolrl.toolrl),
    judge=None,
  )
  assert 'format' not in metrics and 'exact_calls' not in metrics
  names = held_out.metric_names(tasks, judged=False, laid_out=True)
  assert set(names) == {*metrics, 'format', 'exact_calls'} - {'reasoning'}
  assert 'exact_calls' not in held_out.metric_names(
    tasks[3:], judged=False, laid_out=True
  )


def test_reasoning_is_of_the_judged_answers():
  metrics, _ = held_out.score(
    make_tasks(),
    ANSWERS,
    reward=reward,
    judge=lambda requests: [0.5, None, 1.0, None, 0.0, 0.25],
  )
  assert metrics['reasoning'] == pytest.approx(1.75 / 4)
  assert metrics['accuracy'] == pytest.approx(1 / 2)


def test_nothing_could_be_scored():
  metrics, rows = held_out.score(
    make_tasks()[:2], ['down'] * 2, reward=reward, judge=None
  )
  assert metrics == {
    'accuracy': 0.0,
    'accuracy/single': 0.0,
    'outcome': None,
    'reasoning': None,
  }
  assert not any(row['solved'] for row in rows)


def test_plain_numbers_for_json():
  metrics, rows = held_out.score(
    make_tasks(), ANSWERS, reward=reward, judge=None
  )
  for value in (*metrics.values(), *(row['solved'] for row in rows)):
    assert value is None or type(value) in (float, bool)
  assert not any(isinstance(v, np.generic) for v in metrics.values())
