"""JSON: strict where it is data, never a failure where it is a log.

What is written here is read back by any JSON parser, and by any reader of
lines: half a surrogate pair, and the separators that some readers take for the
end of a line (U+0085, U+2028, U+2029), are escaped.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 100
"""Deeper nesting is written as the text of what stands there."""
NOT_FINITE = ('NaN', 'Infinity', '-Infinity')
"""What numbers that JSON does not have are written as."""
_MAX_TEXT = 200
_MAX_ITEMS = 100_000
# Python writes no longer ones as decimal digits (4300 at most).
_MAX_BITS = 14_000
_ESCAPED = re.compile('[\ud800-\udfff\x85\u2028\u2029]')


def _finite(digits: str) -> float:
  value = float(digits)
  if not math.isfinite(value):
    raise ValueError(f'{digits[:40]} is larger than any number')
  return value


def _refuse(name: str) -> float:
  raise ValueError(f'{name} is not JSON')


DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
"""Refuses NaN, Infinity, and numbers that would become infinite."""


def loads(text: str) -> Any:
  """The value of a JSON text, perhaps behind a byte order mark.

  Raises:
    ValueError: it is not JSON; NaN and Infinity are not, nor is 1e999.
  """
  try:
    value = DECODER.decode(text.removeprefix('\ufeff'))
  except RecursionError as error:
    raise ValueError('nested too deep') from error
  check(value)
  return value


def check(value: Any) -> None:
  """Refuses what JSON, written as UTF-8, cannot hold.

  Raises:
    ValueError: a number is not finite, a text holds half a surrogate pair, or
      something is no JSON value at all; says which.
  """
  try:
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(f'not JSON: {error}') from error


def dumps(value: Any, *, indent: int | None = None) -> str:
  """A value as JSON, whatever it holds; see `plain`."""
  text = json.dumps(
    plain(value), ensure_ascii=False, allow_nan=False, indent=indent
  )
  return escaped(text)


def escaped(text: str) -> str:
  """JSON with halves of surrogate pairs and such separators escaped."""
  return _ESCAPED.sub(lambda match: f'\\u{ord(match[0]):04x}', text)


def plain(value: Any) -> Any:
  """The value that JSON has for any Python value; raises nothing.

  Numbers that are not finite become the texts NaN, Infinity and -Infinity;
  arrays become lists, keys texts; what has no JSON becomes its `repr`, cut.
  """
  return _plain(value, ())


def _plain(value: Any, above: tuple[int, ...]) -> Any:
  if value is None or isinstance(value, bool | str):
    return value
  if isinstance(value, int):
    return value if value.bit_length() <= _MAX_BITS else _cut(hex(value))
  if isinstance(value, float):
    return value if math.isfinite(value) else _name(value)
  if id(value) in above or len(above) >= MAX_DEPTH:
    return _text(value)
  try:
    return _of_parts(value, (*above, id(value)))
  except Exception:  # A mapping or an array of somebody else's.
    return _text(value)


def _of_parts(value: Any, above: tuple[int, ...]) -> Any:
  if isinstance(value, Mapping):
    made: dict[str, Any] = {}
    for key, item in value.items():
      name = _key(key)
      if name in made:  # 1 and '1' are two keys.
        name = f'{name} ({type(key).__name__})'
      made[name] = _plain(item, above)
    return made
  if isinstance(value, list | tuple):
    return [_plain(item, above) for item in value]
  if isinstance(value, set | frozenset):
    return [_plain(item, above) for item in sorted(value, key=repr)]
  if hasattr(value, 'tolist') and value.size <= _MAX_ITEMS:
    return _plain(value.tolist(), above)  # NumPy's and JAX's arrays.
  return _text(value)


def _key(key: Any) -> str:
  made = _plain(key, ())
  return made if isinstance(made, str) else json.dumps(made)


def _name(number: float) -> str:
  nan, infinity, negative = NOT_FINITE
  if math.isnan(number):
    return nan
  return infinity if number > 0 else negative


def _text(value: Any) -> str:
  """The value's `repr`; its type where it has none, or a recursive one."""
  try:
    return _cut(repr(value))
  except Exception:
    return f'<{type(value).__name__}>'


def _cut(text: str) -> str:
  return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + '...'
