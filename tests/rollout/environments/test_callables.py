"""Functions as tools: schemas, limits, and nothing but what is offered."""

import time

import pytest

from awpo_jax import types
from awpo_jax.rollout.environments import callables, protocol, sandbox
from awpo_jax.rollout.text import tool_calls
from tests.helpers import tools

LIMITS = sandbox.Limits(seconds=1.0, megabytes=64, chars=100, workers=2)
ERROR = 'Error during execution: '


def call(name, **parameters):
  return tool_calls.ToolCall(name, parameters)


@pytest.fixture(scope='module')
def environment():
  made = callables.CallablesEnvironment(tools.ALL, LIMITS)
  yield made
  made.close()


def task(offered, references=()):
  return types.Task(
    't', '', '', callables.tools_of(offered), '', 'any', {}, tuple(references)
  )


def run(environment, *calls, offered=tools.ALL):
  step = environment.step(environment.reset(task(offered)), calls)
  return [observation.text for observation in step.observations]


def test_schemas_by_hand():
  add, describe = callables.tools_of([tools.add, tools.describe])
  assert (add.name, add.description) == ('add', 'Adds two numbers.')
  assert add.parameters == {
    'a': {'type': 'integer', 'description': 'one number.'},
    'b': {'type': 'integer', 'description': 'the other.', 'default': 1},
  }
  assert describe.parameters['word']['type'] == 'string'


def test_what_cannot_be_a_tool_is_refused():
  with pytest.raises(ValueError, match='unhinted cannot be a tool'):
    callables.tools_of([tools.unhinted])

  def local(a: int) -> int:
    """Local.

    Args:
      a: any.
    """
    return a

  with pytest.raises(ValueError, match='top of a module'):
    callables.CallablesEnvironment([local], LIMITS)


def test_results(environment):
  texts = run(
    environment,
    call('add', a=2, b=3),
    call('add', a=2),
    call('describe', word='abc'),
    call('fail', why='no reason'),
    call('stop'),
    call('surrogate'),
  )
  assert texts[:3] == ['5', '3', '{"word": "abc", "letters": 3}']
  assert texts[3:] == [ERROR + 'no reason', ERROR + 'bye', 'a?b']


def test_limits(environment):
  started = time.perf_counter()
  texts = run(
    environment,
    call('spin'),
    call('fill', megabytes=2000),
    call('talk', letters=1000),
    call('leave', code=3),
    call('add', a=1, b=1),
  )
  assert texts[0] == ERROR + 'took longer than 1 s'
  assert texts[1] == ERROR + 'out of memory'
  assert texts[2] == 'x' * 100 + ' ... (900 more characters)'
  assert texts[3] == ERROR + 'the tool ended its process'
  assert texts[4] == '2'
  assert time.perf_counter() - started < 20
  assert run(environment, call('fill', megabytes=8)) == [str(8 << 20)]


def test_workers_take_turns():
  environment = callables.CallablesEnvironment([tools.process], LIMITS)
  calls = [call('process')] * 4
  first, second, *again = run(environment, *calls, offered=[tools.process])
  assert first != second and again == [first, second]
  environment.close()


def test_only_what_is_offered_runs(environment):
  texts = run(
    environment,
    call('leave', code=1),
    tool_calls.ToolCall('__import__', {'name': 'os'}),
    call('add', a=1),
    offered=[tools.add],
  )
  assert texts[0] == ERROR + 'there is no tool leave'
  assert texts[1] == ERROR + 'there is no tool __import__'
  assert texts[2] == '2'


def test_outcome_by_hand(environment):
  reference = tool_calls.render_answer('t', [('add', {'a': 1, 'b': 2})])
  reply = tool_calls.render_answer('t', response='3')
  asked = task([tools.add], [reference, reply])

  def outcome(*calls, last=reply):
    state = environment.reset(asked)
    step = environment.step(state, calls)
    first = protocol.Turn(
      tool_calls.render_answer('t', calls), calls, step.observations
    )
    turns = [first, protocol.Turn(last, (), ())]
    assert state == environment.reset(asked)  # Not changed by the step.
    return environment.outcome(asked, step.state, turns)

  # Format 1; progress (result 1 + reply 1) / 2; 1 + 6 - 3 = 4.
  right = outcome(call('add', a=2, b=1))
  assert (right.value, right.minimum, right.maximum) == (4.0, -3.0, 4.0)
  assert right.solved
  # Another result: progress 1/2, 1 + 3 - 3 = 1.
  wrong = outcome(call('add', a=2, b=2))
  assert (wrong.value, wrong.solved) == (1.0, False)
  # The layout broken at the end: 0 + 6 - 3.
  broken = outcome(call('add', a=2, b=1), last='3')
  assert (broken.value, broken.solved) == (3.0, False)
