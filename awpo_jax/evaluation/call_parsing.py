"""Calls in model output, in the layouts that policies write.

What is read here was written by a model: its size and nesting are bounded, it
is parsed and never evaluated, and nothing in it makes a function raise.
"""

import ast
import itertools
import operator
import re
from collections.abc import Iterator
from typing import Any

from awpo_jax.rollout.text import tool_calls

MAX_PYTHON_CHARS = 1 << 15
_MAX_NUMBER = 10**64
_MAX_EXPONENT = 64
_MARK = re.compile(tool_calls.MARKS)
_ARITHMETIC = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.FloorDiv: operator.floordiv,
  ast.Mod: operator.mod,
  ast.Pow: operator.pow,
}

# Calls as BFCL has them, `{name: parameters}`; None: not decodable.
Calls = list[dict[str, Any]]


def decode_rlla(text: str) -> Calls:
  """Calls of an answer in RLLA's layout, as ToolRL reads them for BFCL.

  After the thought the JSON lines between the last `<tool_call>` and the next
  `</tool_call>`; lines without name or parameters and calls of a tool named
  none are passed over, and so is what follows `tool_calls.MAX_CALLS` values.
  Parameters that are null or an empty string are none.
  """
  text = tool_calls.strip_thought(text)
  if '<tool_call>' not in text:
    return []
  block = text.rpartition('<tool_call>')[2].partition('</tool_call>')[0]
  calls = []
  for value in itertools.islice(parse_lines(block), tool_calls.MAX_CALLS):
    if isinstance(value, dict) and {'name', 'parameters'} <= set(value):
      name = value['name']
      if isinstance(name, str) and name.lower() != 'none':
        given = tool_calls.given_arguments(value['parameters'])
        calls.append({name: given})
  return calls


def parse_lines(block: str) -> Iterator[Any]:
  """The JSON values of those lines that hold one."""
  for line in block[: tool_calls.MAX_CHARS].split('\n'):
    value = tool_calls.parse_json_lines(line)
    if isinstance(value, list):
      yield value[0]


def decode_template(text: str) -> Calls | None:
  """Calls as the chat templates of other models write them.

  After the thought: `<tool_call>` sections, each with JSON (Qwen, Hermes), of
  which the last may lack its end; else JSON alone (Llama, Mistral); else a list
  of calls in Python. Several calls of JSON may form a list, closed or not, or
  be separated by `;`, `,` or line breaks, wherever they stand. Values stand
  under `arguments` or `parameters`, perhaps as JSON in a string; a call may
  have none.

  Returns:
    The calls; None where the text is none of these.
  """
  if len(text) > tool_calls.MAX_CHARS:
    return None
  text = tool_calls.strip_thought(text).strip()
  if '<tool_call>' in text:
    return _tagged(text)
  if not text:
    return None
  calls = _json_calls(text)
  if calls is None and (found := _MARK.search(text)):
    # Words may come before the calls.
    text = text[found.end() :].strip()
    calls = _json_calls(text)
  if calls is None and text.startswith('['):
    return decode_python(text)
  return calls


def _tagged(text: str) -> Calls | None:
  calls: Calls = []
  blocks = list(tool_calls.sections(f'{text}</tool_call>', 'tool_call'))
  for block in blocks[: tool_calls.MAX_CALLS]:
    found = _json_calls(block)
    if found is None:
      # Some of its lines may be calls.
      found = [x for line in block.split('\n') for x in _json_calls(line) or []]
    calls += found
  return calls if 0 < len(calls) <= tool_calls.MAX_CALLS else None


def _json_calls(text: str) -> Calls | None:
  """JSON calls and nothing else, see `tool_calls.parse_objects`."""
  values = tool_calls.parse_objects(text)
  if isinstance(values, tool_calls.ParseFailure):
    return None
  calls = [_call(value) for value in values]
  known = [call for call in calls if call is not None]
  return known if len(known) == len(calls) else None


def _call(value: dict[str, Any]) -> dict[str, Any] | None:
  keys = [key for key in ('arguments', 'parameters') if key in value]
  if not isinstance(value.get('name'), str):
    return None
  if not keys and not tool_calls.is_bare(value):
    return None
  given = (tool_calls.arguments(value[key]) for key in keys)
  return {value['name']: next((x for x in given if x != {}), {})}


def decode_python(text: str) -> Calls | None:
  """Calls in Python's syntax, `[f(a=1), g.h(b='x')]`, the leaderboard's way.

  They may be separated by `;` or line breaks as well, and the list not closed.

  A bare name becomes its text, arithmetic of numbers its result, a subscript
  and a call without keywords their source. Positional arguments are lost.

  Returns:
    The calls; None where the text is no list of calls or too large, nested too
    deep, or holds anything else.
  """
  text = text.strip('`\n ')
  if len(text) > MAX_PYTHON_CHARS or _depth(text) > tool_calls.MAX_DEPTH:
    return None
  try:
    nodes = _expressions(text.strip("[]'"))
    if not 0 < len(nodes) <= tool_calls.MAX_CALLS:
      return None
    return [_python_call(node) for node in nodes]
  except (SyntaxError, ValueError, TypeError, ArithmeticError, MemoryError):
    return None
  except RecursionError:
    return None


def _expressions(text: str) -> list[ast.expr]:
  """Elements of a list without its brackets, or statements one by one."""
  try:
    values: list[Any] = [ast.parse(f'[{text}]', mode='eval').body]
  except SyntaxError:
    values = [getattr(x, 'value', None) for x in ast.parse(text).body]
  return [x for value in values for x in getattr(value, 'elts', [value])]


def _depth(text: str) -> int:
  """Brackets open at once at most, those within strings among them."""
  depth = deepest = 0
  for letter in text:
    depth += (letter in '([{') - (letter in ')]}')
    deepest = max(deepest, depth)
  return deepest


def _python_call(node: ast.AST) -> dict[str, Any]:
  if not isinstance(node, ast.Call):
    raise ValueError('not a call')
  parts, function = [], node.func
  while isinstance(function, ast.Attribute):
    parts.append(function.attr)
    function = function.value
  if isinstance(function, ast.Name):
    parts.append(function.id)
  values = {}
  for keyword in node.keywords:
    if keyword.arg is None:
      raise ValueError('**: not a value')
    values[keyword.arg] = _python_value(keyword.value)
  return {'.'.join(reversed(parts)): values}


def _python_value(node: ast.AST) -> Any:
  match node:
    case ast.Constant(value=value):
      return _constant(value)
    case ast.UnaryOp(op=ast.USub()):
      return -_number(_python_value(node.operand))
    case ast.List():
      return [_python_value(x) for x in node.elts]
    case ast.Tuple():
      return tuple(_python_value(x) for x in node.elts)
    case ast.Dict():
      return {
        _key(key): _python_value(value)
        for key, value in zip(node.keys, node.values, strict=True)
      }
    case ast.Name():
      return node.id
    case ast.BinOp():
      return _arithmetic(node)
    case ast.Call():
      return _python_call(node) if node.keywords else ast.unparse(node)
    case ast.Subscript():
      return ast.unparse(node)
  raise ValueError(f'{type(node).__name__}: not a value')


def _constant(value: Any) -> Any:
  if value is ...:
    return '...'
  if type(value) in (int, float):
    return _number(value)
  if isinstance(value, bytes | complex):
    raise ValueError('not a JSON value')
  if isinstance(value, str):
    value.encode()  # A lone surrogate could not be logged.
  return value


def _key(node: ast.AST | None) -> Any:
  key = None if node is None else _python_value(node)
  if not isinstance(key, str | int | float):
    raise ValueError('not a key of JSON')
  return key


def _arithmetic(node: ast.BinOp) -> Any:
  left, right = _python_value(node.left), _python_value(node.right)
  if type(node.op) not in _ARITHMETIC:
    raise ValueError('not arithmetic')
  if isinstance(node.op, ast.Add) and isinstance(left, str):
    return left + right
  left, right = _number(left), _number(right)
  if isinstance(node.op, ast.Pow) and abs(right) > _MAX_EXPONENT:
    raise ValueError('a huge power')
  return _number(_ARITHMETIC[type(node.op)](left, right))


def _number(value: Any) -> Any:
  if type(value) not in (int, float) or not abs(value) <= _MAX_NUMBER:
    raise ValueError('not a number, or a huge one')
  return value
