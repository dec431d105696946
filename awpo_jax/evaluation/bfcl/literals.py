"""Values of Java and JavaScript rows: the text of a literal, and back.

BFCL asks for these values as strings and converts them by the documented type
before it compares. The rules are upstream's, quirks included (they split at
every comma, for one): `shared/data/bfcl/type_conversion_vectors.json` has
cases. What is no literal of its type stays a string, which then fails on type.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Longer text is no literal that a row asks for; it bounds the search as well.
MAX_CHARS = 1 << 13
# The search for the pairs of a map takes the cube of its length.
_MAX_MAP_CHARS = 1 << 10
_MAX_DIGITS = 128

JAVA_TYPES: Mapping[str, type] = {
  'byte': int,
  'short': int,
  'integer': int,
  'long': int,
  'float': float,
  'double': float,
  'boolean': bool,
  'char': str,
  'String': str,
  'any': str,
  'Array': list,
  'ArrayList': list,
  'Queue': list,
  'Stack': list,
  'HashMap': dict,
  'Hashtable': dict,
}
"""Documented type -> type of the value that is compared."""
JAVASCRIPT_TYPES: Mapping[str, type] = {
  'String': str,
  'any': str,
  'integer': int,
  'Bigint': int,
  'float': float,
  'Boolean': bool,
  'dict': dict,
  'array': list,
}

_INTEGER = re.compile(r'(-?\d+)')
_LONG = re.compile(r'(-?\d+)[lL]')
_BIGINT = re.compile(r'(-?\d+)n')
_DOUBLE = re.compile(r'(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)')
_FLOAT = re.compile(_DOUBLE.pattern + '[fF]')
_DECIMAL = re.compile(r'(-?\d+(?:\.\d+)?)')
_BOOLEANS = {'true': True, 'false': False}

_AS_LIST = re.compile(r'new\s+ArrayList<\w*>\(Arrays\.asList\((.+?)\)\)')
_ADDS = re.compile(r'new\s+ArrayList<\w*>\(\)\s*\{\{(.+?)\}\}', re.DOTALL)
_ADD = re.compile(r'add\((.+?)\)')
_EMPTY_LIST = re.compile(r'new\s+ArrayList<\w*>\(\)')
_ARRAY = re.compile(r'new\s+\w+\[\]\s*\{(.*?)\}')
_PUTS = re.compile(r'new\s+HashMap<.*?>\s*\(\)\s*\{([^}]*)\}', re.DOTALL)
_PUT = re.compile(r'put\("(.*?)",\s*(.*?)\)')
_EMPTY_MAP = re.compile(r'new\s+HashMap<.*?>\s*\(\)')

_JS_MATRIX = re.compile(
  r'\[\s*\[.*?\]\s*\]|\bnew\s+Array\(\s*\[.*?\]\s*\)', re.DOTALL
)
_JS_ROW = re.compile(r'\[(.*?)\]', re.DOTALL)
_JS_ARRAY = re.compile(r'\[(.*?)\]|\bnew\s+Array\((.*?)\)')
_JS_DICT = re.compile(r'\{(.*?)\}')


def convert_java(text: str, kind: str, nested: str | None = None) -> Any:
  """The value of a Java literal.

  Args:
    text: what the model wrote.
    kind: documented type, a key of `JAVA_TYPES`.
    nested: type of the elements of an `Array` or `ArrayList`.

  Returns:
    The value, or `text` where it is no literal of that type.
  """
  if len(text) > MAX_CHARS:
    return text
  if kind in ('byte', 'short', 'integer'):
    return _number(int, text, _INTEGER)
  if kind == 'boolean':
    return _BOOLEANS.get(text, text)
  if kind in _JAVA_NUMBERS:
    pattern, make = _JAVA_NUMBERS[kind]
    return _number(make, text, pattern)
  if kind in _JAVA_COLLECTIONS:
    return _JAVA_COLLECTIONS[kind](text, nested)
  return text


def convert_javascript(text: str, kind: str, nested: str | None = None) -> Any:
  """The value of a JavaScript literal; as `convert_java`."""
  if len(text) > MAX_CHARS:
    return text
  if kind == 'String':
    return text[1:-1] if _quoted(text) else text
  if kind == 'integer':
    return _number(int, text, _INTEGER)
  if kind == 'float':
    return _number(float, text, _DECIMAL)
  if kind == 'Bigint':
    return _number(int, text, _BIGINT)
  if kind == 'Boolean':
    return _BOOLEANS.get(text, text)
  if kind == 'dict':
    return _js_dict(text.strip())
  if kind == 'array':
    return _js_array(text.strip(), nested)
  return text


def _number(
  make: Callable[[str], Any], text: str, pattern: re.Pattern[str]
) -> Any:
  # A line break at the end does not hurt.
  match = pattern.fullmatch(text.removesuffix('\n'))
  return make(match.group(1)) if match and len(text) <= _MAX_DIGITS else text


def _quoted(text: str) -> bool:
  return any(text.startswith(mark) and text.endswith(mark) for mark in '"\'')


def _untyped(text: str, quotes: str) -> Any:
  """A value of no documented type: what it looks like."""
  if text in _BOOLEANS:
    return _BOOLEANS[text]
  if any(text.startswith(mark) and text.endswith(mark) for mark in quotes):
    return text[1:-1]
  if len(text) <= _MAX_DIGITS:
    for make in (int, float):
      try:
        return make(text)
      except ValueError:
        pass
  return text


def _java_value(text: str) -> Any:
  for pattern, make in ((_LONG, int), (_FLOAT, float)):
    if (value := _number(make, text, pattern)) is not text:
      return value
  return _untyped(text, '"')


def _java_element(text: str, nested: str | None) -> Any:
  return convert_java(text, nested) if nested else _java_value(text)


def _java_list(text: str, nested: str | None) -> Any:
  if match := _AS_LIST.search(text):
    parts = match.group(1).split(',')
  elif match := _ADDS.search(text):
    parts = _ADD.findall(match.group(1))
  else:
    return [] if _EMPTY_LIST.search(text) else text
  # Elements of a list lose their quotes, those of an array keep them.
  if nested in ('char', 'String'):
    return [part.strip()[1:-1] for part in parts]
  return [_java_element(part.strip(), nested) for part in parts]


def _java_array(text: str, nested: str | None) -> Any:
  match = _ARRAY.search(text)
  if not match:
    return text
  parts = (part.strip() for part in match.group(1).split(','))
  return [_java_element(part, nested) for part in parts if part]


def _java_map(text: str, nested: str | None) -> Any:
  del nested
  if len(text) > _MAX_MAP_CHARS:
    return text
  if match := _PUTS.search(text):
    pairs = _PUT.findall(match.group(1))
    return {key: _java_value(value.strip()) for key, value in pairs}
  return {} if _EMPTY_MAP.search(text) else text


_JAVA_NUMBERS = {
  'long': (_LONG, int),
  'float': (_FLOAT, float),
  'double': (_DOUBLE, float),
}
# Upstream converts no Queue, Stack or Hashtable; neither does any row ask.
_JAVA_COLLECTIONS = {
  'Array': _java_array,
  'ArrayList': _java_list,
  'HashMap': _java_map,
}


def _js_array(text: str, nested: str | None) -> Any:
  if match := _JS_MATRIX.match(text):
    rows = _JS_ROW.findall(match.group(0))
    if not any('\n' in row for row in rows):
      rows[:1] = [rows[0].strip().removeprefix('[')]
      return [
        [_untyped(part.strip(), '"\'') for part in row.split(',')]
        for row in rows
      ]
  match = _JS_ARRAY.match(text)
  if not match:
    return text
  inside = (match.group(1) or match.group(2) or '').strip()
  parts = [part.strip() for part in inside.split(',')] if inside else []
  if not nested:
    return [_untyped(part, '"\'') for part in parts]
  if nested not in JAVASCRIPT_TYPES:
    return text
  return [convert_javascript(part, nested) for part in parts]


def _js_dict(text: str) -> Any:
  match = _JS_DICT.match(text)
  if not match:
    return text
  return {
    key.strip().strip('\'"'): _js_entry(value.strip())
    for key, value in _js_pairs(match.group(1))
  }


def _js_pairs(content: str) -> Iterator[tuple[str, str]]:
  """`key: value` pairs; a comma ends a value if a key follows it."""
  while content := content.lstrip(':'):
    key, _, rest = content.partition(':')
    first, *parts = rest.split(',')
    values = [first]
    # A part without a colon, or with nothing before it, goes on the value.
    while parts and parts[0].rfind(':') < 1:
      values.append(parts.pop(0))
    if ':' in content:
      yield key, ','.join(values)
    content = ','.join(parts).lstrip()


def _js_entry(value: str) -> Any:
  if value.startswith('[') and value.endswith(']'):
    return _js_array(value, None)
  if value.startswith('{') and value.endswith('}'):
    return _js_dict(value)
  return _untyped(value.strip('\'"').strip(), '"\'')
