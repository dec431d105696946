"""Calls are read from model output, whatever it holds."""

import itertools
import json
import time

import pytest

from awpo_jax.evaluation import call_parsing

CALL = '{"name": "f", "parameters": {"a": 1}}'


@pytest.mark.parametrize(
  ('text', 'calls'),
  [
    ('no call', []),
    (f'<tool_call>\n{CALL}\n</tool_call>', [{'f': {'a': 1}}]),
    # The last section counts, and what is never closed counts to the end.
    (f'<tool_call>\n{{}}\n</tool_call><tool_call>{CALL}', [{'f': {'a': 1}}]),
    (
      f'<tool_call>\nnot JSON\n{CALL}\n[]\n{{"name": "g"}}\n5',
      [{'f': {'a': 1}}],
    ),
    ('<tool_call>{"name": "None", "parameters": {}}', []),
    ('<tool_call>{"name": 5, "parameters": {}}', []),
    ('<tool_call>{"name": "f", "parameters": 5}', [{'f': 5}]),
    ('<tool_call>{"name": "f", "parameters": null}', [{'f': {}}]),
    ('<tool_call>{"name": "f", "parameters": ""}', [{'f': {}}]),
    # What a thought weighs is not called.
    (f'<think> <tool_call>\n{CALL}\n</tool_call> </think> No.', []),
    (f'maybe <tool_call>\n{CALL}\n</tool_call> </think> No.', []),
    (f'<think> <tool_call>\n{CALL}\n</tool_call>', []),
    (
      f'<think> x </think> <think> <tool_call>{CALL}</tool_call> </think>\n'
      '<tool_call>\n{"name": "g", "parameters": {}}\n</tool_call>',
      [{'g': {}}],
    ),
  ],
)
def test_rlla(text, calls):
  assert call_parsing.decode_rlla(text) == calls


@pytest.mark.parametrize(
  ('text', 'calls'),
  [
    ('<tool_call>{"name": "f", "arguments": {}}</tool_call>', [{'f': {}}]),
    (
      '<think> <tool_call> </think>\n<tool_call>\n{"name": "f",\n"arguments": '
      '{"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}\n'
      '</tool_call>',
      [{'f': {'a': 1}}, {'g': {}}],
    ),
    (f'<tool_call>\n{CALL}\n{CALL}\n</tool_call>', [{'f': {'a': 1}}] * 2),
    ('<tool_call>never closed', None),
    (f'<|python_tag|>{CALL}', [{'f': {'a': 1}}]),
    (f'[TOOL_CALLS][{CALL}]', [{'f': {'a': 1}}]),
    ('{"name": "f", "arguments": "{\\"a\\": 1}"}', [{'f': {'a': 1}}]),
    ('[f(a=1)]', [{'f': {'a': 1}}]),
    ('{"a": 1}', None),
    ('words', None),
    ('', None),
    ('[]', []),
    # Words in front of a template's mark.
    (f'I will look.<|python_tag|>{CALL}', [{'f': {'a': 1}}]),
    (f'I will look.\n[TOOL_CALLS] [{CALL}]', [{'f': {'a': 1}}]),
    (f'I will look. {CALL}', None),
    # A section without its end; one that was cut.
    (f'<tool_call>\n{CALL}', [{'f': {'a': 1}}]),
    (f'<tool_call>\n{CALL[:-1]}', None),
    # What a thought weighs is not called.
    (f'<think> {CALL} </think>', None),
    (f'<think> <tool_call>{CALL}</tool_call>', None),
    (f'<think> a </think> {CALL} <think> b </think> No.', None),
    (f'{CALL} </think> No.', None),
  ],
)
def test_template(text, calls):
  assert call_parsing.decode_template(text) == calls


STYLES = (
  '{}',
  '<|python_tag|>{}',
  '[TOOL_CALLS]{}',
  '[TOOL_CALLS] {}',
  '<tool_call>\n{}\n</tool_call>',
  '<think> x </think>\n\n<tool_call>{}',
)
# All that separates calls may stand in a string, and is text there.
HARD = {
  's': 'a; b, c\n}] [{"name": "x"}; <|python_tag|> [TOOL_CALLS] \u2028 \\"'
}
THREE = [{'f': {'a': 1}}, {'g.h': HARD}, {'now': {}}]
SEPARATORS = ('; ', ';', ', ', ',', '\n', '\n\n', ';\n', ',\n  ', ' ', '')


def _layouts():
  """Three calls in every way that has been seen, bare and as lists."""
  for key, indent in itertools.product(('arguments', 'parameters'), (None, 2)):
    calls = [
      json.dumps({'name': name, key: values}, indent=indent)
      for call in THREE
      for name, values in call.items()
    ]
    for separator in SEPARATORS:
      joined = separator.join(calls)
      yield from (
        joined,
        f'{joined};',
        f'[{joined}]',
        f'[{joined}',
        f'{joined}]',
      )
    yield ''.join(f'[{call}]' for call in calls)
    yield '<|python_tag|>'.join(calls)
    yield '[TOOL_CALLS]'.join(f'[{call}]' for call in calls)


@pytest.mark.parametrize('style', STYLES)
def test_several_calls(style):
  layouts = list(_layouts())
  assert len(layouts) == 4 * (5 * len(SEPARATORS) + 3)
  for layout in layouts:
    text = style.replace('{}', layout)
    assert call_parsing.decode_template(text) == THREE, text


def test_several_sections_of_several_calls():
  lines = [
    json.dumps({'name': n, 'arguments': x}) for c in THREE for n, x in c.items()
  ]
  text = (
    f'<tool_call>\n{lines[0]}; {lines[1]}</tool_call><tool_call>[{lines[2]}'
  )
  assert call_parsing.decode_template(text) == THREE


@pytest.mark.parametrize('style', STYLES[:4])
@pytest.mark.parametrize(
  'text',
  [
    f'{CALL}; {CALL[:-2]}',
    f'[{CALL}, {CALL[:-9]}',
    f'{CALL}; and so on',
    f'{CALL}; 5',
    f'{CALL} | {CALL}',
    f'{CALL}; {{"a": 1}}',
    f'{CALL};' * 65,
    f'[{", ".join([CALL] * 65)}]',
    f'{CALL}; {{"name": "f", "arguments": {"[" * 40}{"]" * 40}}}',
    f'{CALL}; {{"name": "f", "arguments": {{"a": NaN}}}}',
  ],
)
def test_what_is_no_row_of_calls(style, text):
  assert call_parsing.decode_template(style.replace('{}', text)) is None


def test_many_calls_of_rlla():
  line = '{"name": "f", "parameters": {}}'
  for count, want in ((64, 64), (300, 64)):
    text = f'<tool_call>\n{chr(10).join([line] * count)}\n</tool_call>'
    assert call_parsing.decode_rlla(text) == [{'f': {}}] * want


def test_many_calls_in_sections():
  assert (
    len(call_parsing.decode_template(f'<tool_call>{CALL}</tool_call>' * 64))
    == 64
  )
  for block in (CALL, f'{CALL}\n{CALL}', f'x\n{CALL}\n{CALL}'):
    text = f'<tool_call>{block}</tool_call>' * (33 if '\n' in block else 65)
    decoded = call_parsing.decode_template(text)
    assert decoded is None or len(decoded) <= 64


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize(
  'call',
  [
    '{"name": "now"}',
    '{"type": "function", "name": "now"}',
    *(
      f'{{"name": "now", "{key}": {value}}}'
      for key in ('arguments', 'parameters')
      for value in ('""', '" "', 'null', '"null"', '"{}"', '{}')
    ),
    '{"name": "now", "arguments": null, "parameters": {}}',
  ],
)
def test_calls_without_arguments(style, call):
  for text in (call, f'{call}; {call}'):
    decoded = call_parsing.decode_template(style.replace('{}', text))
    assert decoded == [{'now': {}}] * len(text.split('; '))


@pytest.mark.parametrize(
  ('call', 'decoded'),
  [
    # Many things have a name.
    ('{"name": "Bob", "age": 5}', None),
    ('{"name": 5}', None),
    ('{"name": "f", "arguments": null, "parameters": {"a": 1}}', {'a': 1}),
    ('{"name": "f", "arguments": [1]}', [1]),
    ('{"name": "f", "arguments": "words"}', 'words'),
    ('{"name": "f", "arguments": "{\\"a\\": \\"x\\ny\\"}"}', {'a': 'x\ny'}),
  ],
)
def test_what_stands_for_arguments(call, decoded):
  want = None if decoded is None else [{'f': decoded}]
  assert call_parsing.decode_template(call) == want


@pytest.mark.parametrize(
  ('source', 'value'),
  [
    ('1', 1),
    ('-1.5', -1.5),
    ('None', None),
    ("'x'", 'x'),
    ('[1, (2, 3)]', [1, (2, 3)]),
    ("{'a': [True]}", {'a': [True]}),
    ('name', 'name'),
    ('2 * 3 + 1', 7),
    ('2 ** 10', 1024),
    ("'a' + 'b'", 'ab'),
    ('g(b=2)', {'g': {'b': 2}}),
    ('g(2)', 'g(2)'),
    ('x[0]', 'x[0]'),
    ('...', '...'),
  ],
)
def test_python_values(source, value):
  assert call_parsing.decode_python(f'[m.f(a={source})]') == [
    {'m.f': {'a': value}}
  ]


def test_python_calls():
  two = [{'f': {}}, {'g': {'a': 1}}]
  for text in ('[f(), g(a=1)]', '`f(5), g(7, a=1)`', "'[f(), g(a=1)]\n"):
    assert call_parsing.decode_python(text) == two


@pytest.mark.parametrize('separator', [', ', ',\n  ', '; ', '\n', ';\n'])
def test_several_python_calls(separator):
  calls = ["f(a='x; y], z')", 'g(b=[1, (2, 3)])', 'h()']
  want = [{'f': {'a': 'x; y], z'}}, {'g': {'b': [1, (2, 3)]}}, {'h': {}}]
  joined = separator.join(calls)
  for text in (f'[{joined}]', f'[{joined}', joined):
    assert call_parsing.decode_python(text) == want
  assert call_parsing.decode_template(f'[{joined}') == want


HOSTILE = [
  '[]',
  'words',
  'f(a=lambda: 1)',
  'f(a=__import__("os").x)',
  'f(a=9**9**9)',
  'f(a="x"*10**9)',
  'f(a=1/0)',
  'f(a=1e999)',
  'f(a=b"x")',
  'f(a="\\ud800")',
  'f(a={[]: 1})',
  'f(a={(1,): 1})',
  'f(**x)',
  'f(a={**x})',
  'f(a=' + '[' * 5000,
  'f(a=' + '-' * 20000 + '1)',
  'a.' * 12000 + 'f()',
  'f(), ' * 5000,
  'f(a=' + '1' * 9000 + ')',
  'f(a="' + 'x' * 10**6 + '")',
  '\x00f()',
  'f(); import os',
  'f()\nx = 1',
  'f()\ng',
  'f(); ' * 5000,
]


@pytest.mark.parametrize('text', HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_output_is_no_call(text):
  begun = time.process_time()
  assert call_parsing.decode_python(text) is None
  json.dumps(call_parsing.decode_template(f'[{text}]'))
  assert call_parsing.decode_rlla(text) == []
  assert time.process_time() - begun < 2


@pytest.mark.parametrize(
  'unit',
  ['{', '[', '];', '{"name":"f"}\n', '{"a":', '{\n', '<tool_call>', '"', '\\'],
)
def test_much_of_anything_takes_no_time(unit):
  text = unit * ((1 << 18) // len(unit) - 16)
  begun = time.process_time()
  for style in (*STYLES, '<tool_call>x\n{}'):
    decoded = call_parsing.decode_template(style.replace('{}', text))
    assert decoded is None or len(decoded) <= 64
  assert time.process_time() - begun < 10


def test_nothing_is_evaluated(tmp_path):
  target = tmp_path / 'touched'
  text = f"[f(a=open('{target}', 'w'), b=open(file='{target}', mode='w'))]"
  assert call_parsing.decode_python(text)[0]['f']['a'].startswith('open(')
  assert not target.exists()
