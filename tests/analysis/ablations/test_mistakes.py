"""What is wrong with the calls of an answer, by hand."""

import json

import pytest

from awpo_jax.analysis.ablations import mistakes
from awpo_jax.rollout.text import tool_calls

OSLO = ('weather', {'place': 'Oslo', 'day': 'today'})
BERGEN = ('weather', {'place': 'Bergen', 'day': 'today'})
ROUTE = ('route', {'to': 'Oslo'})


def _answer(*calls):
  called = [tool_calls.ToolCall(*call) for call in calls]
  return tool_calls.render_answer('A thought.', called)


def _row(response, *wanted):
  return {'response': response, 'ground_truth': _answer(*wanted)}


def _weather(**parameters):
  return _answer(('weather', parameters))


@pytest.mark.parametrize(
  ('response', 'wanted', 'kind'),
  [
    (_answer(OSLO), [OSLO], None),
    (_answer(ROUTE, OSLO), [OSLO, ROUTE], None),
    (_weather(day='today', place='Oslo'), [OSLO], None),
    # A thought may say anything; what follows it counts.
    ('<think> <tool_call> </think>' + _answer(OSLO)[27:], [OSLO], None),
    ('', [OSLO], 'number of calls'),
    ('It rains.', [OSLO], 'number of calls'),
    (_answer(OSLO, OSLO), [OSLO], 'number of calls'),
    (_answer(OSLO), [OSLO, BERGEN], 'number of calls'),
    ('<think> and then', [OSLO], 'unreadable'),
    (_answer(OSLO)[:-5], [OSLO], 'unreadable'),
    (_answer(OSLO).replace('"', "'"), [OSLO], 'unreadable'),
    ('<tool_call>\n[1]\n</tool_call>', [OSLO], 'unreadable'),
    (_answer(ROUTE), [OSLO], 'tool'),
    (_answer(ROUTE, ROUTE), [OSLO, ROUTE], 'tool'),
    (_weather(place='Oslo'), [OSLO], 'parameter missing'),
    (_weather(place='Rome'), [OSLO], 'parameter missing'),
    (_weather(place='Oslo', day='today', hour=3), [OSLO], 'parameter added'),
    (_weather(place='Rome', day='today', hour=3), [OSLO], 'parameter added'),
    (
      _weather(place='Oslo', hour=3),
      [OSLO],
      'parameters missing and added',
    ),
    (_weather(place='oslo', day='today'), [OSLO], 'value'),
    (_answer(('route', {'to': 3.0})), [('route', {'to': 3})], None),
    (_answer(('route', {'to': '3'})), [('route', {'to': 3})], 'value'),
    # The right one of two calls of a tool is not compared with the other.
    (
      _answer(BERGEN, ('weather', {'place': 'Rome'})),
      [OSLO, BERGEN],
      'parameter missing',
    ),
    (
      _answer(('weather', {'place': 'Rome'}), ('route', {'to': 1, 'by': 2})),
      [OSLO, ROUTE],
      'parameters missing and added',
    ),
  ],
)
def test_by_hand(response, wanted, kind):
  got = mistakes.of_transcript(_row(response, *wanted))
  assert tuple(got) == mistakes.KINDS
  assert [name for name, value in got.items() if value] == [kind] * bool(kind)
  assert set(got.values()) <= {0.0, 1.0}


@pytest.mark.parametrize(
  'row',
  [
    {},
    {'response': _answer(OSLO), 'ground_truth': 'It rains.'},
    {'response': _answer(OSLO), 'ground_truth': '<tool_call>\n{'},
    {'response': _answer(OSLO), 'ground_truth': None},
    _row(_answer(OSLO), OSLO) | {'episode': {'turns': []}},
  ],
)
def test_rows_without_calls_to_compare_with_have_none(row):
  assert mistakes.of_transcript(row) == {}


def test_a_hostile_answer_is_unreadable():
  deep = '[' * 100 + ']' * 100
  line = f'{{"name": "weather", "parameters": {{"x": {deep}}}}}'
  json.loads(line)
  for text in (f'<tool_call>\n{line}\n</tool_call>', 'x' * (1 << 19)):
    assert mistakes.of_transcript(_row(text, OSLO))['unreadable'] == 1.0
