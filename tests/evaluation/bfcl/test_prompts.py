"""BFCL's rows as prompts, and answers made from their ground truth."""

import pytest

from awpo_jax.evaluation import benchmarks, call_parsing
from awpo_jax.evaluation.bfcl import checker, ground_truth, prompts
from awpo_jax.rollout.datasets.bfcl import rows
from awpo_jax.rollout.text import chat_template
from awpo_jax.rollout.text import prompts as prompts_lib
from tests.helpers import bfcl_cases, shared_data


@pytest.fixture(scope='module')
def items(tmp_path_factory):
  folder = bfcl_cases.write(tmp_path_factory.mktemp('rows') / 'bfcl')
  return {
    style: {
      item.row_id: item
      for item in benchmarks.load_bfcl(
        benchmarks.Source(str(folder), chat_template.Style(style))
      )
    }
    for style in ('rlla', 'template', 'rlla_template')
  }


def test_rlla(items):
  item = items['rlla']['simple_java_0']
  system, user = item.talk.messages
  assert user['content'] == (
    f'**Dialogue Records History**\n<user> Open /a.\n{prompts.REQUEST} </user>'
  )
  (tool,) = prompts_lib.parse_tools(system['content'])
  assert tool.name == 'Store.open'
  assert tool.description == (
    'Opens a store. Note that the provided function is in Java 8 SDK syntax.'
  )
  assert tool.parameters['tags'] == {
    'type': 'string',
    'description': 'Its tags. A Java value of type ArrayList, written as a '
    'string. Its elements are of type String.',
  }
  assert item.task.system == system['content'] and not item.talk.tools


def test_template(items):
  item = items['template']['parallel_multiple_0']
  assert [dict(x) for x in item.talk.messages] == [
    {'role': 'user', 'content': 'Both.'}
  ]
  weather, _ = (tool['function'] for tool in item.talk.tools)
  properties = weather['parameters']['properties']
  assert weather['name'] == 'weather.get'
  assert weather['parameters']['type'] == 'object'
  assert weather['parameters']['required'] == ['city']
  assert [
    properties[name]['type'] for name in ('city', 'wind', 'hours', 'area')
  ] == ['string', 'number', 'array', 'object']
  assert properties['stops']['items'] == {'type': 'object'}
  # Scoring goes by the documentation as it was.
  assert (
    bfcl_cases.WEATHER['parameters']['properties']['wind']['type'] == 'float'
  )


def test_rlla_with_tools_for_the_template(items):
  item = items['rlla_template']['parallel_0']
  system, user = item.talk.messages
  assert user == items['rlla']['parallel_0'].talk.messages[1]
  assert '1. Name: clock' not in system['content']
  assert '<tool_call>' in system['content']
  assert [tool['function']['name'] for tool in item.talk.tools] == ['clock']


def test_turns_of_a_dialogue():
  messages = [
    {'role': 'system', 'content': 'passed over'},
    {'role': 'user', 'content': 'one'},
    {'role': 'assistant', 'content': '<think> so </think>'},
    {'role': 'user', 'content': 'two'},
  ]
  row = rows.Row('x_0', 'live_simple', (tuple(messages),), (), ())
  request = prompts.REQUEST
  assert prompts.task(row, '').user == (
    '**Dialogue Records History**\n'
    f'<user> one\n{request} </user>\n<think> so </think>\n'
    f'<user> two\n{request} </user>'
  )


@pytest.mark.parametrize('style', ['rlla', 'template', 'rlla_template'])
def test_ground_truth_passes_but_for_rows_that_nothing_passes(items, style):
  failed = {
    name
    for name, item in items[style].items()
    if not item.score(item.gold, 0).correct
  }
  assert failed == {'live_simple_1'} and len(items[style]) == 11


def test_written_calls_are_read_as_they_were(items):
  for item in items['rlla'].values():
    calls = call_parsing.decode_rlla(item.gold[0])
    text = benchmarks.written_calls(calls, item.gold[0])
    assert (call_parsing.decode_template(text) or []) == calls
  text = '<think> <tool_call> </think> said <tool_call>\nno JSON'
  assert benchmarks.written_calls([], text) == 'said \nno JSON'


CALL = '<tool_call>\n{"name": "clock", "parameters": {}}\n</tool_call>'


@pytest.mark.parametrize('style', ['rlla', 'template', 'rlla_template'])
@pytest.mark.parametrize(
  ('text', 'calls'),
  [
    (CALL, True),
    (f'<think> x </think>\n{CALL}', True),
    (f'<think> {CALL} </think>\nNo tool fits.', False),
    (f'{CALL} or not? </think>\nNo tool fits.', False),
    (f'<think> x </think> <think> {CALL} </think> No tool fits.', False),
    (f'<think> {CALL}', False),
  ],
)
def test_a_call_weighed_in_the_thought_is_none(items, style, text, calls):
  scored = {
    item.category: item.score([text], 0).correct
    for item in items[style].values()
    if 'relevance' in item.category
  }
  assert scored == {
    'irrelevance': not calls,
    'live_irrelevance': not calls,
    'live_relevance': calls,
  }


def test_ground_truth_of_the_real_rows_passes_but_for_known_ones():
  folder = str(shared_data.path('bfcl'))
  known = rows.read(folder, (*rows.NON_LIVE, *rows.LIVE))
  failed = set()
  for row in known:
    calls = call_parsing.decode_rlla(ground_truth.answer(row))
    verdict = checker.check_calls(
      calls, row.functions, row.ground_truth, row.category
    )
    if not verdict.valid:
      failed.add(row.row_id)
  here = {row.row_id for row in known}
  assert failed == here & set(ground_truth.UNPASSABLE)
