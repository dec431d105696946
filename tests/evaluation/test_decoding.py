"""Calls are read from model output, whatever it holds."""

import json
import time

import pytest

from awpo_jax.evaluation import decoding

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
  ],
)
def test_rlla(text, calls):
  assert decoding.decode_rlla(text) == calls


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
  ],
)
def test_template(text, calls):
  assert decoding.decode_template(text) == calls


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
  assert decoding.decode_python(f'[m.f(a={source})]') == [{'m.f': {'a': value}}]


def test_python_calls():
  two = [{'f': {}}, {'g': {'a': 1}}]
  for text in ('[f(), g(a=1)]', '`f(5), g(7, a=1)`', "'[f(), g(a=1)]\n"):
    assert decoding.decode_python(text) == two


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
]


@pytest.mark.parametrize('text', HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_output_is_no_call(text):
  begun = time.process_time()
  assert decoding.decode_python(text) is None
  json.dumps(decoding.decode_template(f'[{text}]'))
  assert decoding.decode_rlla(text) == []
  assert time.process_time() - begun < 2


def test_nothing_is_evaluated(tmp_path):
  target = tmp_path / 'touched'
  text = f"[f(a=open('{target}', 'w'), b=open(file='{target}', mode='w'))]"
  assert decoding.decode_python(text)[0]['f']['a'].startswith('open(')
  assert not target.exists()
