"""Kinds of functions as tools: awaited, or refused by name; their defaults."""

import functools
import json
import math

import jsonschema
import pytest

from awpo_jax import types
from awpo_jax.rollout.environments import callables, episodes, sandbox
from awpo_jax.rollout.text import chat_template, prompts, tool_calls
from tests.helpers import kinds

LIMITS = sandbox.Limits(seconds=2.0, megabytes=128, chars=200, workers=1)
RUN = (
  kinds.lookup,
  kinds.never,
  kinds.refuse,
  kinds.loop_number,
  kinds.wrapped,
  kinds.hidden_stream,
  kinds.thing,
)


@pytest.fixture(scope='module')
def environment():
  made = callables.CallablesEnvironment(RUN, LIMITS)
  yield made
  made.close()


def run(environment, *names):
  task = types.Task('t', '', '', environment.tools, '', 'any')
  calls = [tool_calls.ToolCall(name, {'city': 'Oslo'}) for name in names]
  step = environment.step(environment.reset(task), calls)
  return [observation.text for observation in step.observations]


def test_coroutines_are_awaited_in_their_worker(environment):
  assert run(environment, 'lookup', 'wrapped') == ['Oslo: 5', 'Oslo: 5']
  assert run(environment, 'refuse') == ['Error during execution: no Oslo']
  # One loop for all calls: clients that a tool keeps belong to theirs.
  assert run(environment, 'loop_number', 'lookup', 'loop_number') == [
    'Oslo 0 of 1',
    'Oslo: 5',
    'Oslo 0 of 1',
  ]


def test_the_time_limit_holds_for_what_is_awaited(environment):
  assert run(environment, 'never', 'lookup') == [
    'Error during execution: took longer than 2 s',
    'Oslo: 5',
  ]


def test_a_coroutine_as_the_reference_solves_its_task(environment):
  call = tool_calls.render_answer('t', [('lookup', {'city': 'Oslo'})])
  texts = (call, tool_calls.render_answer('t', response='5'))
  task = types.Task(
    't', '', 'u', environment.tools, call, 'any', references=texts
  )
  episode = episodes.replay(environment, task, texts)
  assert environment.outcome(task, episode.state, episode.turns).solved


def test_results_are_the_same_each_time(environment):
  (error,) = run(environment, 'hidden_stream')
  assert error.startswith('Error during execution: the tool returned a gen')
  assert run(environment, 'thing') == ["[<object object>, 'Oslo']"]


@pytest.mark.parametrize(
  ('function', 'name', 'problem'),
  [
    (kinds.stream, 'stream', 'generator function'),
    (functools.partial(kinds.stream), 'stream', 'generator function'),
    (kinds.async_stream, 'async_stream', 'asynchronous generator'),
    (kinds.Klass, 'Klass', 'a class'),
    (dict, 'dict', 'a class'),
    (kinds.many, 'many', "'cities' is a parameter for any number"),
    (kinds.named, 'named', "'cities' is a parameter for arguments of any"),
    (kinds.positional, 'positional', "'city' is a positional-only"),
    (len, 'len', "'obj' is a positional-only"),
    (max, 'max', 'no signature'),
    (kinds.Klass('x').method, 'Klass.method', 'another function'),
    (kinds.Klass('x'), 'Klass object', 'is not a callable'),
    ('lookup', 'lookup', 'is not a callable'),
    (functools.partial(kinds.lookup, city='x'), 'lookup', 'cannot be a tool'),
  ],
)
def test_other_kinds_are_refused_by_name(function, name, problem):
  with pytest.raises(ValueError) as error:
    callables.CallablesEnvironment([function], LIMITS)
  assert name in str(error.value) and problem in str(error.value)


def test_defaults_stand_in_the_schema_as_json():
  (tool,) = callables.tools_of([kinds.defaults])
  shown = {
    k: v['default'] for k, v in tool.parameters.items() if 'default' in v
  }
  expected = {
    'days': 3,
    'unit': None,
    'metric': True,
    'share': 0.5,
    'note': '',
    'names': ['a', 'b'],
    'table': {'k': [1, None]},
    'colour': 3,
  }
  assert json.dumps(shown) == json.dumps(expected)  # True is not 1.
  (schema,) = chat_template.tool_schemas([tool])
  parameters = schema['function']['parameters']
  assert parameters['required'] == ['city']
  assert len(parameters['properties']) == 16
  json.dumps(schema, allow_nan=False)
  jsonschema.validate({'city': 'Oslo', **expected}, parameters)
  # RLLA's text says the same as the schema.
  (read,) = prompts.parse_tools(prompts.rlla_system([tool]))
  assert chat_template.tool_schemas([read]) == [schema]


def test_a_default_copied_from_the_schema_is_taken_back():
  environment = callables.CallablesEnvironment([kinds.defaults], LIMITS)
  (tool,) = environment.tools
  values = {
    name: tool.parameters[name]['default']
    for name in ('days', 'unit', 'metric')
  }
  task = types.Task('t', '', '', (tool,), '', 'any')
  call = tool_calls.ToolCall('defaults', {'city': 'Oslo', **values})
  step = environment.step(environment.reset(task), [call])
  environment.close()
  assert step.observations[0].text == '3 None True'


def test_nan_that_a_tool_makes_is_written_down():
  state = {'log': [{'result': math.nan, 'by': {1: object}}]}
  written = episodes.to_json(episodes.Episode((), state))
  assert written['state'] == {
    'log': [{'result': 'NaN', 'by': {'1': "<class 'object'>"}}]
  }
