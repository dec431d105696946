"""Calls in model output, in the layouts that policies write.

What is read here was written by a model: its size and nesting are bounded, it
is parsed and never evaluated, and nothing in it makes a function raise.
"""

import ast
import operator
import re
from collections.abc import Iterator
from typing import Any

from awpo_jax.rollout import tool_calls

MAX_PYTHON_CHARS = 1 << 15
_MAX_NUMBER = 10**64
_MAX_EXPONENT = 64
# What other templates put in front of JSON calls.
_MARKS = re.compile(r'\A\s*(?:<\|python_tag\|>|\[TOOL_CALLS\])\s*')
_LINE_END = re.compile(r'\r\n?|\n')
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

  The JSON lines between the last `<tool_call>` and the next `</tool_call>`;
  lines that are no call and calls of a tool named none are passed over.
  """
  if '<tool_call>' not in text:
    return []
  block = text.rpartition('<tool_call>')[2].partition('</tool_call>')[0]
  calls = []
  for value in parse_lines(block):
    if isinstance(value, dict) and {'name', 'parameters'} <= set(value):
      name = value['name']
      if isinstance(name, str) and name.lower() != 'none':
        calls.append({name: value['parameters']})
  return calls


def parse_lines(block: str) -> Iterator[Any]:
  """The JSON values of those lines that hold one."""
  for line in block[: tool_calls.MAX_CHARS].split('\n'):
    value = tool_calls.parse_json_lines(line)
    if isinstance(value, list):
      yield value[0]


def one_line(text: str) -> str:
  """A text of several lines in one; no other separator is touched."""
  return _LINE_END.sub(' ', text)


def decode_template(text: str) -> Calls | None:
  """Calls as the chat templates of other models write them.

  After the thought: `<tool_call>` sections, each with JSON (Qwen, Hermes); else
  JSON alone, perhaps a list (Llama, Mistral); else a list of calls in Python.
  Values stand under `arguments` or `parameters`.

  Returns:
    The calls; None where the text is none of these.
  """
  if len(text) > tool_calls.MAX_CHARS:
    return None
  text = text.rpartition('</think>')[2]
  if '<tool_call>' in text:
    return _tagged(text)
  bare = _MARKS.sub('', text).strip()
  if bare.startswith(('{', '[')):
    calls = _json_calls(bare)
    return decode_python(bare) if calls is None else calls
  return None


def _tagged(text: str) -> Calls | None:
  calls: Calls = []
  blocks = list(tool_calls.sections(text, 'tool_call'))
  for block in blocks[: tool_calls.MAX_CALLS]:
    found = _json_calls(block.strip())
    if found is None:
      found = [
        call
        for value in parse_lines(block)
        for call in [_call(value)]
        if call is not None
      ]
    calls += found
  return calls or None


def _json_calls(text: str) -> Calls | None:
  """A JSON object or list, over several lines perhaps."""
  value = tool_calls.parse_json_lines(one_line(text))
  if isinstance(value, tool_calls.ParseFailure):
    return None
  values = value[0] if isinstance(value[0], list) else value
  calls = [_call(item) for item in values]
  known = [call for call in calls if call is not None]
  return known if len(known) == len(calls) else None


def _call(value: Any) -> dict[str, Any] | None:
  if not isinstance(value, dict) or not isinstance(value.get('name'), str):
    return None
  for key in ('arguments', 'parameters'):
    if key in value:
      values = value[key]
      if isinstance(values, str):  # Some write JSON in a string.
        parsed = tool_calls.parse_json_lines(one_line(values))
        values = parsed[0] if isinstance(parsed, list) else values
      return {value['name']: values}
  return None


def decode_python(text: str) -> Calls | None:
  """Calls in Python's syntax, `[f(a=1), g.h(b='x')]`, the leaderboard's way.

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
    body = ast.parse(text.strip("[]'"), mode='eval').body
    nodes = getattr(body, 'elts', [body])
    if len(nodes) > tool_calls.MAX_CALLS:
      return None
    return [_python_call(node) for node in nodes]
  except (SyntaxError, ValueError, TypeError, ArithmeticError, MemoryError):
    return None
  except RecursionError:
    return None


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
