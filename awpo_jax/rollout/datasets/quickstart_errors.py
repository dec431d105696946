"""Flaws of the quickstart's demonstrations: one each, of a known kind."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from awpo_jax.rollout import tool_calls
from awpo_jax.rollout.datasets import quickstart_tools as tables
from awpo_jax.rollout.datasets import quickstart_values

Calls: TypeAlias = tuple[tool_calls.ToolCall, ...]
Offered: TypeAlias = Sequence[tables.Request]

KINDS = (
  'wrong_tool',
  'missing_argument',
  'wrong_value',
  'mistyped_argument',
  'dropped_call',
  'added_call',
  'format',
)


def spread(
  rng: random.Random, answers: Sequence[Calls], count: int
) -> list[str]:
  """Deals out errors to answers, always the rarest kind that applies.

  Args:
    rng: consumed.
    answers: the right calls of each answer; without calls only an added call
      or the format can be wrong.
    count: number of wrong answers.

  Returns:
    For each answer one of `KINDS`, or ''.
  """
  errors = [''] * len(answers)
  used = dict.fromkeys(KINDS, 0)
  for i in rng.sample(range(len(answers)), count):
    kinds = KINDS if answers[i] else ('added_call', 'format')
    fewest = min(used[kind] for kind in kinds)
    errors[i] = rng.choice([kind for kind in kinds if used[kind] == fewest])
    used[errors[i]] += 1
  return errors


def spoil_calls(
  rng: random.Random, calls: Calls, offered: Offered, error: str
) -> Calls:
  """The calls with one error; unchanged for `format` and ''."""
  if error == 'added_call':
    return (*calls, _another_call(rng, calls, offered))
  if error not in ('dropped_call', *_SPOILERS):
    return calls
  at = rng.randrange(len(calls))
  spoiled: Calls = ()
  if error != 'dropped_call':
    spoiled = (_SPOILERS[error](rng, calls[at], offered),)
  return calls[:at] + spoiled + calls[at + 1 :]


def spoil_format(rng: random.Random, answer: str) -> str:
  """The answer with its layout broken in one place."""
  cut = rng.choice(
    (
      lambda text: text.replace('</think>\n', '</think>'),
      lambda text: text.replace(' </think>', ''),
      lambda text: text.partition('</think>\n')[2],
      lambda text: text[: text.rindex('</')].rstrip(),
    )
  )
  return cut(answer)


def _another_call(
  rng: random.Random, calls: Calls, offered: Offered
) -> tool_calls.ToolCall:
  names = {call.name for call in calls}
  request = rng.choice([one for one in offered if one.name not in names])
  return tables.draw_call(rng, request, held_out=False)


def _wrong_tool(
  rng: random.Random, call: tool_calls.ToolCall, offered: Offered
) -> tool_calls.ToolCall:
  """Another offered tool; values of the right types move over to it."""
  wrong = _another_call(rng, (call,), offered)
  spare = {
    argument.type: call.parameters[argument.name]
    for argument in tables.BY_NAME[call.name].arguments
    if argument.type != 'enum'
  }
  parameters = {
    argument.name: spare.pop(argument.type, wrong.parameters[argument.name])
    for argument in tables.BY_NAME[wrong.name].arguments
  }
  return wrong._replace(parameters=parameters)


def _missing_argument(
  rng: random.Random, call: tool_calls.ToolCall, offered: Offered
) -> tool_calls.ToolCall:
  del offered
  parameters = dict(call.parameters)
  del parameters[rng.choice(list(parameters))]
  return call._replace(parameters=parameters)


def _wrong_value(
  rng: random.Random, call: tool_calls.ToolCall, offered: Offered
) -> tool_calls.ToolCall:
  del offered
  argument = rng.choice(tables.BY_NAME[call.name].arguments)
  value = right = call.parameters[argument.name]
  while value == right:
    value = quickstart_values.draw(rng, argument, held_out=False)
  return call._replace(parameters={**call.parameters, argument.name: value})


def _mistyped_argument(
  rng: random.Random, call: tool_calls.ToolCall, offered: Offered
) -> tool_calls.ToolCall:
  """The right value as another type: a number, if there is one, as text."""
  del offered
  arguments = tables.BY_NAME[call.name].arguments
  numbers = [one for one in arguments if one.type in ('integer', 'float')]
  name = rng.choice(numbers or arguments).name
  value = _mistype(call.parameters[name])
  return call._replace(parameters={**call.parameters, name: value})


def _mistype(value: Any) -> Any:
  if isinstance(value, list):
    return ', '.join(map(str, value))
  return [value] if isinstance(value, str) else str(value)


_Spoiler: TypeAlias = Callable[
  [random.Random, tool_calls.ToolCall, Offered], tool_calls.ToolCall
]
_SPOILERS: Mapping[str, _Spoiler] = {
  'wrong_tool': _wrong_tool,
  'missing_argument': _missing_argument,
  'wrong_value': _wrong_value,
  'mistyped_argument': _mistyped_argument,
}
