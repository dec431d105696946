"""Reads a request for two calls back into the calls, and what a thought says.

It knows how requests are phrased and which values they hold, and no reference
answer. A request for one thing is not read: whether its tool is on offer does
not stand in it.
"""

import functools
import itertools
import json
import re
import string
from collections.abc import Mapping

from awpo_jax.rollout.datasets.quickstart import tasks
from awpo_jax.rollout.environments import quickstart_tools as tables
from awpo_jax.rollout.environments import quickstart_values
from awpo_jax.rollout.text import tool_calls

_MAX_CHARS = 1 << 12
_USER = re.compile(r'<user> ([^<\n]+) </user>')
_MONTHS = (
  'January|February|March|April|May|June|July|August|September|October|'
  'November|December'
)
_SCALARS: Mapping[str, str] = {
  'integer': r'\d{1,3}',
  'float': r'\d{2}\.\d',
  'date': rf'(?:{_MONTHS}) \d{{1,2}}',
}
_NEEDS = 'This needs '
_TOOL = re.compile(r'(\w+): ')
_STATED = re.compile(
  r'(\w+ is (?:"[^"\n]*"|\[[^\[\]\n]*\]|\w+(?:\.\w+)*))(?:, )?'
)


def read(user: str) -> tuple[tool_calls.ToolCall, ...] | None:
  """The two calls that a request asks for, in order.

  Args:
    user: text with a request of `tasks`, anything around it.

  Returns:
    The calls with values as the tools' types have them; None where it is no
    request for two calls.
  """
  found = _USER.findall(user[:_MAX_CHARS])
  sentences = found[0].split(f' {tasks.JOINER} ') if len(found) == 1 else []
  if len(sentences) != 2:
    return None
  calls = tuple(call for x in sentences if (call := _call(x)) is not None)
  return calls if len(calls) == 2 else None


def states(user: str) -> tuple[str, ...] | None:
  """What a right thought says of the two calls, as `said` reads it.

  Returns:
    The name of the first tool, each of its arguments as `minutes is 40`, and
    the same of the second; None as in `read`.
  """
  calls = read(user)
  if calls is None:
    return None
  each = ((name, *_stated(values)) for name, values in calls)
  return tuple(itertools.chain.from_iterable(each))


def said(thought: str) -> list[str]:
  """Tools and arguments that a thought says are needed, in its order.

  Read is what stands behind `This needs TOOL: `, up to where it no longer reads
  as `name is value`, in time linear in the thought.
  """
  words = []
  for part in thought.split(_NEEDS)[1:]:
    tool = _TOOL.match(part)
    if tool is None:
      continue
    words.append(tool[1])
    at = tool.end()
    while stated := _STATED.match(part, at):
      words.append(stated[1])
      at = stated.end()
  return words


def _stated(values: Mapping[str, quickstart_values.Value]) -> list[str]:
  return [f'{name} is {json.dumps(value)}' for name, value in values.items()]


def _call(sentence: str) -> tool_calls.ToolCall | None:
  """What one sentence asks for; None where no tool or several would fit."""
  sentence = sentence[:1].lower() + sentence[1:]
  calls: list[tool_calls.ToolCall] = []
  for pattern, request in _patterns():
    match = pattern.fullmatch(sentence)
    if match:
      values = {
        one.name: _value(one, match[one.name]) for one in request.arguments
      }
      call = tool_calls.ToolCall(request.name, values)
      if call not in calls:
        calls.append(call)
  return calls[0] if len(calls) == 1 else None


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], tables.Request], ...]:
  """What each phrasing of each tool looks like, its first letter small."""
  found = []
  for request in tables.TOOLS:
    of = {one.name: one for one in request.arguments}
    for phrasing in request.phrasings:
      parts = string.Formatter().parse(phrasing[:1].lower() + phrasing[1:])
      pattern = ''.join(
        re.escape(text) + (f'(?P<{name}>{_pattern(of[name])})' if name else '')
        for text, name, _, _ in parts
      )
      found.append((re.compile(pattern), request))
  return tuple(found)


def _pattern(argument: tables.Argument) -> str:
  """Of an argument as requests say it."""
  if argument.type == 'enum':
    return '|'.join(argument.choices)
  if argument.source:
    first, second = quickstart_values.WORDS[argument.source]
    one = f'(?:{_any(first)}) (?:{_any(second)})'
  else:
    one = _SCALARS.get(argument.type, _SCALARS['integer'])
  return f'{one}(?:, {one})? and {one}' if argument.type == 'list' else one


def _any(words: str) -> str:
  return '|'.join(words.split())


def _value(argument: tables.Argument, text: str) -> quickstart_values.Value:
  if argument.type == 'list':
    items = text.replace(' and ', ', ').split(', ')
    return items if argument.source else [int(x) for x in items]
  if argument.type == 'integer':
    return int(text)
  return float(text) if argument.type == 'float' else text
