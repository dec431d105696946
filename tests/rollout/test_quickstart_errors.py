"""Tests of the quickstart's demonstrations and of their errors."""

import collections

import pytest

from awpo_jax.rollout import rewards, tool_calls
from awpo_jax.rollout.datasets import quickstart, quickstart_errors


@pytest.fixture(scope='module')
def demonstrations():
  return quickstart.demonstrations(3, count=4000)


def test_demonstrations_are_wrong_as_often_as_asked():
  demonstrations = quickstart.load(seed=3).demonstrations
  kinds = collections.Counter(one.error for one in demonstrations)
  assert len(demonstrations) == 1000
  assert kinds.pop('') == 600
  assert set(kinds) == set(quickstart_errors.KINDS)
  # 400 errors of 7 kinds: 57 each, were every kind possible everywhere.
  assert min(kinds.values()) >= 50
  assert max(kinds.values()) <= 65
  right = quickstart.demonstrations(0, count=50, error_rate=0.0)
  assert {one.error for one in right} == {''}


def test_errors_lower_the_outcome_and_nothing_else_does(demonstrations):
  for one in demonstrations:
    truth = one.task.ground_truth
    best = rewards.outcome_reward(truth, truth).total
    got = rewards.outcome_reward(one.response, truth).total
    assert (got < best) if one.error else (got == best), one


def test_every_demonstration_has_exactly_its_error(demonstrations):
  for one in demonstrations:
    if one.error == 'format':
      outcome = rewards.outcome_reward(one.response, one.task.ground_truth)
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
    assert made[:-1] == gold
    assert made[-1].name in {tool.name for tool in one.task.tools}
    return
  if one.error == 'dropped_call':
    assert len(made) == len(gold) - 1
    assert [call for call in gold if call in made] == list(made)
    return
  ((right, wrong),) = [
    pair for pair in zip(gold, made, strict=True) if pair[0] != pair[1]
  ]
  if one.error == 'wrong_tool':
    assert wrong.name != right.name
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
  assert 0.1 * len(right) < lazy < 0.35 * len(right)
