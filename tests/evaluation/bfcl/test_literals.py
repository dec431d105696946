"""Java and JavaScript literals; upstream's own cases: test_bfcl_vectors.py."""

import time

import pytest

from awpo_jax.evaluation.bfcl import literals


@pytest.mark.parametrize(
  ('text', 'kind', 'nested', 'value'),
  [
    ('-7', 'byte', None, -7),
    ('7\n', 'integer', None, 7),
    ('7L', 'integer', None, '7L'),
    ('7l', 'long', None, 7),
    ('1e-2F', 'float', None, 0.01),
    ('1.5', 'double', None, 1.5),
    ('.5', 'double', None, '.5'),
    ('9' * 200, 'integer', None, '9' * 200),
    ('false', 'boolean', None, False),
    ('new int[]{}', 'Array', 'integer', []),
    ('new String[]{"a"}', 'Array', 'String', ['"a"']),
    ("new ArrayList<>(Arrays.asList('a'))", 'ArrayList', 'char', ['a']),
    ('new ArrayList<>() {{ add(1L); }}', 'ArrayList', None, [1]),
    ('new HashMap<>() {{ put("a", 2f); }}', 'HashMap', None, {'a': 2.0}),
    ('x', 'Queue', None, 'x'),
  ],
)
def test_java(text, kind, nested, value):
  got = literals.convert_java(text, kind, nested)
  assert repr(got) == repr(value)


@pytest.mark.parametrize(
  ('text', 'kind', 'nested', 'value'),
  [
    ('\'a"', 'String', None, '\'a"'),
    ('1e3', 'float', None, '1e3'),
    ('-5n', 'Bigint', None, -5),
    ('[1, [2]]', 'array', None, [1, '[2']),
    ('new Array([1], [2, "x"])', 'array', None, [[1], [2, 'x']]),
    ('[[1\n], [2]]', 'array', None, '[[1\n], [2]]'),
    ('[1, 2]', 'array', 'float', [1.0, 2.0]),
    ('[1]', 'array', 'unheard', '[1]'),
    ("{a: 'x, y', b: [1,2]}", 'dict', None, {'a': 'x, y', 'b': [1, 2]}),
    ('{u: "http://x", v: 1}', 'dict', None, {'u': 'http://x', 'v': 1}),
    ('{a,: 1}', 'dict', None, {'a,': 1}),
    ('{}', 'dict', None, {}),
    ('{1}', 'dict', None, {}),
  ],
)
def test_javascript(text, kind, nested, value):
  got = literals.convert_javascript(text, kind, nested)
  assert repr(got) == repr(value)


@pytest.mark.parametrize(
  'text',
  [
    'new ArrayList<>(Arrays.asList(' * 2000,
    'new HashMap<' * 2000,
    '[[' + '],[' * 20000,
    '{' + 'a:,' * 20000,
    'put("' * 10000,
    '1' * 100000,
    'new HashMap<>() {' + ' ' * 200,
    'new HashMap<>(){' * 60,
    'new ArrayList<>() {{' + ' ' * 1500,
    'new HashMap<>(){' + 'put("' * 300 + '",' * 600 + '}',
  ],
)
def test_hostile_text_takes_no_time(text):
  begun = time.process_time()
  for part in (text, text[: literals.MAX_CHARS]):
    for kind in literals.JAVA_TYPES:
      literals.convert_java(part, kind, 'String')
    for kind in literals.JAVASCRIPT_TYPES:
      literals.convert_javascript(part, kind, 'String')
  assert time.process_time() - begun < 5
