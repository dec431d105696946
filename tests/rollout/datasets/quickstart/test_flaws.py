"""Tests of the quickstart's demonstrations and of their errors."""

import collections

import pytest

from awpo_jax.rollout.datasets.quickstart import flaws, tasks
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.text import tool_calls


@pytest.fixture(scope='module')
def demonstrations():
  return tasks.demonstrations(3, count=4000)


def test_demonstrations_are_wrong_as_often_as_asked():
  demonstrations = tasks.load(seed=3).demonstrations
  kinds = collections.Counter(one.error for one in demonstrations)
  assert len(demonstrations) == 1000
  assert kinds.pop('') == 600
  assert set(kinds) == set(flaws.KINDS)
  assert min(kinds.values()) >= 20
  right = tasks.demonstrations(0, count=50, error_rate=0.0)
  assert {one.error for one in right} == {''}


def test_errors_follow_habits(demonstrations):
  # What is wrong with most answers of a sort is what a greedy policy learns.
  sorts = collections.defaultdict(collections.Counter)
  for one in demonstrations:
    calls = tool_calls.parse(one.task.ground_truth).calls
    number = any(
      type(value) in (int, float)
      for call in calls
      for value in call.parameters.values()
    )
    sorts[one.task.kind, number][one.error] += 1
  shares = {
    key: {error: n / counts.total() for error, n in counts.items()}
    for key, counts in sorts.items()
  }
  assert set(shares) == {
    ('single', True),
    ('single', False),
    ('parallel', True),
    ('parallel', False),
    ('none', False),
  }
  assert 0.45 < shares['none', False]['added_call'] < 0.7
  assert 0.45 < shares['single', True]['mistyped_argument'] < 0.7
  assert 0.15 < shares['parallel', True]['mistyped_argument'] < 0.4
  assert shares['single', False][''] > 0.8
  assert shares['parallel', False][''] > 0.8


def test_errors_lower_the_outcome_and_nothing_else_does(demonstrations):
  for one in demonstrations:
    truth = one.task.ground_truth
    best = toolrl.outcome_reward(truth, truth).total
    got = toolrl.outcome_reward(one.response, truth).total
    assert (got < best) if one.error else (got == best), one


def test_every_demonstration_has_exactly_its_error(demonstrations):
  for one in demonstrations:
    if one.error == 'format':
      outcome = toolrl.outcome_reward(one.response, one.task.ground_truth)
      assert outcome.format == 0
      continue
    gold = tool_calls.parse(one.task.ground_truth).calls
    check_error(one, tool_calls.parse(one.response).calls, gold)


def check_error(one, made, gold):
  """Asserts that `made` differs from `gold` as the error's name says."""
  if not one.error:
    assert made == gold
    return
  if one.error == 'added_call':
    assert not gold
    assert len(made) == 1
    assert made[0].name not in {tool.name for tool in one.task.tools}
    return
  if one.error == 'dropped_call':
    assert len(gold) == 2
    assert made == gold[:1]
    return
  ((right, wrong),) = [
    pair for pair in zip(gold, made, strict=True) if pair[0] != pair[1]
  ]
  if one.error == 'wrong_tool':
    assert wrong.name != right.name
    assert wrong.parameters == right.parameters
    assert wrong.name in {tool.name for tool in one.task.tools}
    return
  assert wrong.name == right.name
  missing = set(right.parameters) - set(wrong.parameters)
  assert len(missing) == (one.error == 'missing_argument')
  changed = [
    (right.parameters[name], value)
    for name, value in wrong.parameters.items()
    if right.parameters[name] != value
  ]
  assert len(changed) == (one.error != 'missing_argument')
  for before, after in changed:
    same_type = type(before) is type(after)
    assert same_type == (one.error == 'wrong_value')


def test_some_right_demonstrations_have_a_lazy_thought(demonstrations):
  right = [one for one in demonstrations if not one.error]
  lazy = 0
  for one in right:
    thought = tool_calls.parse(one.response).thought
    named = any(tool.name in thought for tool in one.task.tools)
    lazy += one.task.kind != 'none' and not named
  assert 0.05 * len(right) < lazy < 0.15 * len(right)
