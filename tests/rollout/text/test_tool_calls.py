import json
import time

import pytest

from awpo_jax.rollout.text import tool_calls
from tests.helpers import mutations, shared_data

CALL = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'


def wrap(block):
  return f'<think> x </think>\n<tool_call>\n{block}\n</tool_call>'


def reason(text):
  answer = tool_calls.parse(text)
  assert isinstance(answer, tool_calls.ParseFailure), answer
  return answer.reason


def test_parse_reads_thought_calls_and_reply():
  answer = tool_calls.parse(
    f'<think> why not </think>\n<tool_call>\n{CALL}\n{CALL}\n</tool_call>\n'
    '<response> done </response>'
  )
  call = tool_calls.ToolCall('get_weather', {'city': 'Oslo'})
  assert answer == tool_calls.Answer('why not', (call, call), 'done')


def test_parse_of_text_without_sections():
  assert tool_calls.parse('hello') == tool_calls.Answer(None, (), None)
  assert tool_calls.parse('') == tool_calls.Answer(None, (), None)


def test_a_thought_may_mention_the_tags():
  thought = 'write <tool_call> and <response>'
  answer = tool_calls.parse(wrap(CALL).replace(' x ', f' {thought} '))
  assert answer.thought == thought
  assert [call.name for call in answer.calls] == ['get_weather']
  assert answer.response is None


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('<think> x', '<think> is not closed'),
    (f'<tool_call>\n{CALL}', '<tool_call> is not closed'),
    ('<think> x </think><response> y', '<response> is not closed'),
    (wrap(''), 'not a line of JSON'),
    (wrap(f'{CALL}\n\n{CALL}'), 'not a line of JSON'),
    (wrap('[1]'), 'not a JSON object'),
    (wrap('"name"'), 'not a JSON object'),
    (wrap('{"parameters": {}}'), 'no "name"'),
    (wrap('{"name": 1, "parameters": {}}'), 'no "name"'),
    (wrap('{"name": "a", "arguments": {}}'), 'no "parameters"'),
    (wrap('{"name": "a", "parameters": "{}"}'), 'no "parameters"'),
    (wrap('{"name": "a", "parameters": [1]}'), 'no "parameters"'),
    (wrap('__import__("os")'), 'not a line of JSON'),
  ],
)
def test_broken_layout_is_a_failure(text, words):
  assert words in reason(text)


def with_value(value):
  return wrap(f'{{"name": "a", "parameters": {{"x": {value}}}}}')


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('x' * (tool_calls.MAX_CHARS + 1), 'longer than'),
    (wrap('\n'.join([CALL] * (tool_calls.MAX_CALLS + 1))), 'lines'),
    # Two levels are the call's own; 100,000 exhaust the parser's stack.
    (
      with_value(
        '[' * (tool_calls.MAX_DEPTH - 1) + ']' * (tool_calls.MAX_DEPTH - 1)
      ),
      'nested deeper',
    ),
    (with_value('[' * 100_000), 'not a line of JSON'),
    (with_value('9' * (tool_calls.MAX_DIGITS + 1)), 'digits'),
    (with_value('9' * 10_000), 'digits'),
    (with_value('1e999'), 'not finite'),
    (with_value('NaN'), 'NaN is not JSON'),
    (with_value('-Infinity'), '-Infinity is not JSON'),
    (with_value('"\\ud800"'), 'surrogates'),
    (with_value('"\ud800"'), 'surrogates'),
    (with_value('{"\\udfff": 1}'), 'surrogates'),
  ],
)
def test_what_exceeds_the_bounds_is_a_failure(text, words):
  assert words in reason(text)


def test_the_bounds_themselves_are_allowed():
  depth = tool_calls.MAX_DEPTH - 2
  nested = tool_calls.parse(with_value('[' * depth + ']' * depth))
  assert isinstance(nested, tool_calls.Answer)
  many = tool_calls.parse(wrap('\n'.join([CALL] * tool_calls.MAX_CALLS)))
  assert len(many.calls) == tool_calls.MAX_CALLS
  digits = '9' * tool_calls.MAX_DIGITS
  long = tool_calls.parse(with_value(digits))
  assert long.calls[0].parameters == {'x': int(digits)}
  # A pair of surrogates is one character.
  pair = tool_calls.parse(with_value('"\\ud83d\\ude00"'))
  assert pair.calls[0].parameters == {'x': '\N{GRINNING FACE}'}


def test_the_last_of_equal_keys_counts():
  answer = tool_calls.parse(
    wrap('{"name": "a", "name": "b", "parameters": {}}')
  )
  assert answer.calls == (tool_calls.ToolCall('b', {}),)


@pytest.mark.parametrize(
  'given', ['', ', "parameters": null', ', "parameters": " "']
)
def test_a_call_without_parameters(given):
  answer = tool_calls.parse(wrap(f'{{"name": "now"{given}}}'))
  assert answer.calls == (tool_calls.ToolCall('now', {}),)


THOUGHTS = {
  'a': 'a',
  '<think> x </think> a': ' a',
  # The template has written the first tag.
  'x </think> a': ' a',
  '<think> x </think> b <think> y </think> a': ' a',
  '<think> <think> x </think> a': ' a',
  '<think> x </think> y </think> a': ' a',
  # Cut within a thought: nothing follows it.
  '<think> x': '',
  '<think> x </think> b <think> y': '',
  '': '',
}


@pytest.mark.parametrize('text', THOUGHTS)
def test_what_follows_the_thought(text):
  assert tool_calls.strip_thought(text) == THOUGHTS[text]


def test_a_call_in_a_second_thought_is_none():
  first = f'<think> x </think>\n<think>\n<tool_call>\n{CALL}\n</tool_call>'
  assert tool_calls.parse(first).calls == ()
  answer = tool_calls.parse(f'{first}\n</think>\n{wrap(CALL)}')
  assert len(answer.calls) == 1


def test_sections_finds_each_pair():
  text = 'a<t>1</t></t><t><t>2</t><t>3'
  assert list(tool_calls.sections(text, 't')) == ['1', '<t>2']


@pytest.mark.parametrize(
  'unit',
  [
    '<think>',
    '</think>',
    '<tool_call>',
    '<tool_call></tool_call>',
    '{',
    '{"a":',
    '9',
    '\n',
    '"\\ud800"\n',
  ],
)
def test_a_megabyte_takes_no_time(unit):
  text = unit * (1_000_000 // len(unit))
  start = time.process_time()
  tool_calls.parse(text)
  tool_calls.parse(wrap(text[: tool_calls.MAX_CHARS // 2]))
  for _ in tool_calls.sections(text, 'tool_call'):
    pass
  assert time.process_time() - start < 0.5


def test_never_raises():
  kinds = {type(tool_calls.parse(t)) for t in mutations.broken_answers(4000)}
  assert kinds == {tool_calls.Answer, tool_calls.ParseFailure}


def test_render_writes_the_layout():
  call = tool_calls.ToolCall('get_weather', {'city': 'Oslo'})
  assert tool_calls.render_answer('x', [call]) == wrap(CALL)
  assert (
    tool_calls.render_answer('x', response='hi')
    == '<think> x </think>\n<response> hi </response>'
  )


@pytest.mark.parametrize('name', ['rlla_sft', 'rlla_rl_test'])
def test_rlla_rows_are_read_and_written_back_exactly(name):
  lines = shared_data.path('rlla', f'{name}.jsonl').read_bytes()
  for line in lines.splitlines():
    output = json.loads(line)['output']
    answer = tool_calls.parse(output)
    assert tool_calls.render_answer(*answer) == output
