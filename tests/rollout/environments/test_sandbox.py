"""Worker processes: limits hold, and only history decides what comes out."""

import pytest

from awpo_jax import types
from awpo_jax.rollout.environments import sandbox
from awpo_jax.rollout.text import tool_calls

HERE = 'tests.helpers.tools'


def call(name, **parameters):
  return tool_calls.ToolCall(name, parameters)


@pytest.fixture(scope='module')
def pool():
  made = sandbox.Pool(sandbox.Limits(seconds=0.5, workers=1))
  yield made
  made.close()


def program(start):
  return sandbox.Program(f'{HERE}:counter', {'start': start})


def test_state_is_what_the_history_makes(pool):
  first = pool.run(program(3), (), [call('increase', by=2)], inspect=True)
  assert (first.texts, first.state) == (('5',), {'value': 5})
  then = pool.run(program(3), first.history, [call('increase')] * 2)
  assert then.texts == ('6', '7')
  # The same history again: the objects behind it have moved on.
  again = pool.run(program(3), first.history, [call('increase', by=10)])
  assert again.texts == ('15',)
  assert pool.run(program(3), (), [call('increase')]).texts == ('4',)


def test_a_lost_worker_changes_no_result():
  pool = sandbox.Pool(sandbox.Limits(workers=1))
  first = pool.run(program(0), (), [call('increase', by=7)])
  pool.close()
  got = pool.run(program(0), first.history, [call('increase')], inspect=True)
  assert (got.texts, got.state) == (('8',), {'value': 8})
  pool.close()


def test_a_call_that_takes_too_long_has_never_run(pool):
  calls = [call('increase'), call('hang'), call('increase')]
  got = pool.run(program(1), (), calls, inspect=True)
  assert got.texts[0] == '2' and got.texts[2] == '3'
  assert got.texts[1] == 'Error during execution: took longer than 0.5 s'
  assert got.state == {'value': 3}
  assert [each.name for each in got.history] == ['increase', 'increase']


def test_unknown_names_and_arguments_are_errors(pool):
  calls = [
    call('decrease'),
    call('increase', by='x'),
    call('increase', to=1),
    call('__class__'),
  ]
  texts = pool.run(program(1), (), calls).texts
  assert all(text.startswith('Error during execution: ') for text in texts)
  assert 'there is no tool __class__' in texts[3]


def test_a_factory_that_fails_makes_the_sample_invalid(pool):
  broken = sandbox.Program(f'{HERE}:broken', {'start': 9})
  with pytest.raises(types.RewardUnavailable, match='no such scenario: 9'):
    pool.run(broken, (), [])
  assert pool.run(program(1), (), [call('increase')]).texts == ('2',)
