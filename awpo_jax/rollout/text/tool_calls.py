"""The RLLA answer layout, written and read.

An answer is a thought, then calls, one JSON object per line, or a reply:

    <think> .. </think>
    <tool_call>
    {"name": "get_weather", "parameters": {"city": "Oslo"}}
    </tool_call>
    <response> .. </response>

What is read here was written by a model. It is data: bounded, parsed in linear
time, never evaluated, and whatever it holds, no function that reads raises.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MAX_CHARS = 1 << 18
MAX_CALLS = 64
MAX_DEPTH = 32
MAX_DIGITS = 128

MARKS = r'<\|python_tag\|>|\[TOOL_CALLS\]'
"""What chat templates of Llama and Mistral put in front of calls, a pattern."""
_SEPARATORS = re.compile(rf'(?:{MARKS}|[\s,;\[\]])*')


class ToolCall(NamedTuple):
  """One call: a tool's name and JSON values by parameter name."""

  name: str
  parameters: Mapping[str, Any]


class Answer(NamedTuple):
  """A parsed answer; what it does not hold is None or empty.

  Attributes:
    thought: text of the thought, stripped.
    calls: the calls in order.
    response: text of the reply to the user, stripped.
  """

  thought: str | None
  calls: tuple[ToolCall, ...]
  response: str | None


@dataclasses.dataclass(frozen=True)
class ParseFailure:
  """Why a text could not be read, in words for a log."""

  reason: str


def render_answer(
  thought: str,
  calls: Sequence[ToolCall] = (),
  response: str | None = None,
) -> str:
  """Writes an answer exactly as RLLA's reference answers are written."""
  parts = [f'<think> {thought} </think>']
  if calls:
    lines = (
      json.dumps({'name': name, 'parameters': parameters})
      for name, parameters in calls
    )
    parts.append('\n'.join(('<tool_call>', *lines, '</tool_call>')))
  if response is not None:
    parts.append(f'<response> {response} </response>')
  return '\n'.join(parts)


def section(text: str, tag: str) -> str | None:
  """Text between the first `<tag>` and the next `</tag>`, None without both."""
  _, opened, rest = text.partition(f'<{tag}>')
  inside, closed, _ = rest.partition(f'</{tag}>')
  return inside if opened and closed else None


def strip_thought(text: str) -> str:
  """What follows the thought: all that a scorer may look at.

  A thought weighs answers that it does not give, and may mention `<tool_call>`
  or `<response>` without opening one. Of several thoughts the last one counts;
  `</think>` alone ends one, too, whose `<think>` the chat template has written.
  Nothing follows a thought that is never closed: the answer was cut within it.
  Text without a thought is all there.
  """
  rest = text.rpartition('</think>')[2]
  return '' if '<think>' in rest else rest


def has_call(reference: str) -> bool:
  """Whether a reference answer calls a tool, behind its thought."""
  return '<tool_call>' in strip_thought(reference)


def parse(text: str) -> Answer | ParseFailure:
  """Reads an answer; the thought is cut off before the calls are looked for.

  Args:
    text: model output, anything.

  Returns:
    The answer, or a failure where the text or a call breaks the layout or one
    of the bounds. An opened but never closed section is a failure too.
  """
  if len(text) > MAX_CHARS:
    return ParseFailure(f'longer than {MAX_CHARS} characters')
  thought = section(text, 'think')
  if thought is None and '<think>' in text:
    return ParseFailure('<think> is not closed')
  rest = strip_thought(text)
  for tag in ('tool_call', 'response'):
    if f'<{tag}>' in rest and section(rest, tag) is None:
      return ParseFailure(f'<{tag}> is not closed')
  calls = parse_calls(section(rest, 'tool_call'))
  if isinstance(calls, ParseFailure):
    return calls
  response = section(rest, 'response')
  return Answer(
    thought=None if thought is None else thought.strip(),
    calls=calls,
    response=None if response is None else response.strip(),
  )


def parse_calls(block: str | None) -> tuple[ToolCall, ...] | ParseFailure:
  """Reads the inside of a `<tool_call>` section; None holds no call."""
  if block is None:
    return ()
  objects = parse_json_lines(block)
  if isinstance(objects, ParseFailure):
    return objects
  for item in objects:
    if not isinstance(item, dict):
      return ParseFailure('a call is not a JSON object')
    if not isinstance(item.get('name'), str):
      return ParseFailure('a call has no "name" that is a string')
    if not isinstance(filled(item).get('parameters'), dict):
      return ParseFailure('a call has no "parameters" that are an object')
  return tuple(ToolCall(x['name'], filled(x)['parameters']) for x in objects)


def filled(call: Mapping[str, Any]) -> Mapping[str, Any]:
  """A call with `{}` as its parameters where it says that it has none.

  Args:
    call: with `name` and `parameters`; these may be null, an empty string, or
      absent where nothing else could hold them.
  """
  if 'parameters' in call:
    return {**call, 'parameters': given_arguments(call['parameters'])}
  return {**call, 'parameters': {}} if is_bare(call) else call


def is_bare(call: Mapping[str, Any]) -> bool:
  """Whether an object is a call of a tool by its name alone.

  One with other keys has its values under a name that is not known, or is no
  call at all: many things have a name.
  """
  return set(call) <= {'name', 'type', 'id'}


def given_arguments(value: Any) -> Any:
  """Arguments as they were given; none, `{}`, for null and an empty string.

  Endpoints and models write these for a tool without parameters.
  """
  blank = value is None or (isinstance(value, str) and not value.strip())
  return {} if blank else value


def arguments(value: Any) -> Any:
  """`given_arguments`, and what a string holds that is JSON.

  Args:
    value: from a call in template style: an object, JSON in a string, nothing.

  Returns:
    The arguments; not an object where the model wrote none.
  """
  if isinstance(value, str) and value.strip():
    try:
      value = _bounded(_DECODER.decode(value))
    except (ValueError, RecursionError):
      return value
  return given_arguments(value)


def parse_objects(text: str) -> list[dict[str, Any]] | ParseFailure:
  """Reads JSON objects one after another, as templates write several calls.

  Between them may stand `;`, `,`, white space, the brackets of a list, closed
  or not, and what templates put in front of calls; in strings all that is text,
  and so is a line break.

  Returns:
    The objects, perhaps none; a failure where anything else stands there, one
    is cut, or a bound is broken.
  """
  if len(text) > MAX_CHARS:
    return ParseFailure(f'longer than {MAX_CHARS} characters')
  values: list[dict[str, Any]] = []
  position = _between(text, 0)
  try:
    while position < len(text):
      if text[position] != '{':
        return ParseFailure('not a JSON object')
      if len(values) == MAX_CALLS:
        return ParseFailure(f'more than {MAX_CALLS} objects')
      value, position = _DECODER.raw_decode(text, position)
      values.append(_bounded(value))
      position = _between(text, position)
  except (ValueError, RecursionError) as error:
    return ParseFailure(f'not JSON: {error}'[:200])
  return values


def _between(text: str, position: int) -> int:
  """Where what separates calls ends."""
  found = _SEPARATORS.match(text, position)
  assert found  # It may be empty.
  return found.end()


def parse_json_lines(block: str) -> list[Any] | ParseFailure:
  """Reads one JSON value per line, at least one, within the bounds.

  As in Python's `json`, the last of two equal keys counts. NaN and Infinity
  are not JSON; strings must be writable as UTF-8.
  """
  if len(block) > MAX_CHARS:
    return ParseFailure(f'longer than {MAX_CHARS} characters')
  block = block.strip()
  if block.count('\n') >= MAX_CALLS:
    return ParseFailure(f'more than {MAX_CALLS} lines')
  try:
    values = [_parse_json(line) for line in block.split('\n')]
  except (ValueError, RecursionError) as error:
    return ParseFailure(f'not a line of JSON: {error}'[:200])
  return values


def sections(text: str, tag: str) -> Iterator[str]:
  """Every `<tag> .. </tag>` of the text from left to right."""
  opening, closing = f'<{tag}>', f'</{tag}>'
  end = 0
  # By position: cutting the text each time would copy it each time.
  while (start := text.find(opening, end)) >= 0:
    start += len(opening)
    end = text.find(closing, start)
    if end < 0:
      return
    yield text[start:end]


def _parse_json(line: str) -> Any:
  return _bounded(json.loads(line, **_PARSERS))


def _bounded(value: Any) -> Any:
  """The value, if it is shallow and can be written."""
  if not _is_shallow(value, MAX_DEPTH):
    raise ValueError(f'nested deeper than {MAX_DEPTH}')
  # A lone surrogate (UnicodeEncodeError is a ValueError) could not be logged.
  json.dumps(value, ensure_ascii=False).encode()
  return value


def _bounded_int(digits: str) -> int:
  if len(digits) > MAX_DIGITS:
    raise ValueError(f'a number of more than {MAX_DIGITS} digits')
  return int(digits)


def _finite_float(digits: str) -> float:
  value = float(digits)
  if len(digits) > MAX_DIGITS or not math.isfinite(value):
    raise ValueError(f'not finite or of more than {MAX_DIGITS} digits')
  return value


def _refuse_constant(name: str) -> float:
  raise ValueError(f'{name} is not JSON')


def _is_shallow(value: Any, depth: int) -> bool:
  if isinstance(value, dict):
    value = value.values()
  elif not isinstance(value, list):
    return True
  return depth > 0 and all(_is_shallow(item, depth - 1) for item in value)


_PARSERS: dict[str, Any] = {
  'parse_int': _bounded_int,
  'parse_float': _finite_float,
  'parse_constant': _refuse_constant,
}
# Lets line breaks and tabs in strings pass.
_DECODER = json.JSONDecoder(strict=False, **_PARSERS)
