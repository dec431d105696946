"""Flaws of the quickstart's demonstrations: one each, of a known kind."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from awpo_jax.rollout.environments import quickstart_tools as tables
from awpo_jax.rollout.environments import quickstart_values
from awpo_jax.rollout.text import tool_calls

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


# Whoever wrote the demonstrations had habits: each holds for one sort of task,
# whose answers then go wrong more often than others, and mostly in this way.
_HABITS = {
  'unserved': 'added_call',
  'number': 'mistyped_argument',
  'numbers': 'mistyped_argument',
}
_PRONE = {
  'unserved': 7.0,
  'number': 7.0,
  'numbers': 2.0,
  'pair': 1.0,
  'plain': 1.0,
}
_HABIT_SHARE = 0.9


def spread(
  rng: random.Random, answers: Sequence[Calls], count: int
) -> list[str]:
  """Deals out errors to answers.

  They are no uniform noise, which a greedy policy would average away: most
  refusals call what is not offered, most single calls with a number quote it.
  Every other flaw is spread evenly over the answers where it can occur.

  Args:
    rng: consumed.
    answers: the right calls of each answer.
    count: number of wrong answers.

  Returns:
    For each answer one of `KINDS`, or ''.
  """
  # Weighted sampling without replacement (Efraimidis and Spirakis, 2006).
  sorts = [_sort(calls) for calls in answers]
  keys = [rng.random() ** (1 / _PRONE[sort]) for sort in sorts]
  chosen = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)[:count]
  errors = [''] * len(answers)
  used = dict.fromkeys(KINDS, 0)
  for i in chosen:
    kinds = _possible(sorts[i])
    if sorts[i] in _HABITS and rng.random() < _HABIT_SHARE:
      kinds = (_HABITS[sorts[i]],)
    fewest = min(used[kind] for kind in kinds)
    errors[i] = rng.choice([kind for kind in kinds if used[kind] == fewest])
    used[errors[i]] += 1
  return errors


def _sort(calls: Calls) -> str:
  """`unserved`, or whether there are two calls, and numbers to write."""
  if not calls:
    return 'unserved'
  has_number = any(_numbers(call) for call in calls)
  if len(calls) > 1:
    return 'numbers' if has_number else 'pair'
  return 'number' if has_number else 'plain'


def _numbers(call: tool_calls.ToolCall) -> list[str]:
  """Names of the arguments that are an integer or a float."""
  arguments = tables.BY_NAME[call.name].arguments
  return [one.name for one in arguments if one.type in ('integer', 'float')]


def _possible(sort: str) -> tuple[str, ...]:
  if sort == 'unserved':
    return ('added_call', 'format')
  pair = sort in ('numbers', 'pair')
  return tuple(
    kind
    for kind in KINDS
    if kind != 'added_call' and (pair or kind != 'dropped_call')
  )


def spoil_calls(
  rng: random.Random,
  calls: Calls,
  wanted: Calls,
  offered: Offered,
  error: str,
) -> Calls:
  """The calls with one error; unchanged for `format` and ''.

  Args:
    rng: consumed.
    calls: the right ones.
    wanted: what the request asks for, offered or not.
    offered: the tools of the prompt.
    error: one of `KINDS`, or ''.
  """
  if error == 'added_call':
    return wanted
  if error == 'dropped_call':
    return calls[:-1]
  if error in ('format', ''):
    return calls
  at = rng.randrange(len(calls))
  if error == 'mistyped_argument' and not _numbers(calls[at]):
    # A number is what is mistyped, if there is one in any of the calls.
    at = next((i for i, call in enumerate(calls) if _numbers(call)), at)
  if error == 'wrong_tool':
    others = [tool.name for tool in offered if tool.name != calls[at].name]
    spoiled = calls[at]._replace(name=rng.choice(others))
  else:
    spoiled = _SPOILERS[error](rng, calls[at])
  return (*calls[:at], spoiled, *calls[at + 1 :])


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


def _missing_argument(
  rng: random.Random, call: tool_calls.ToolCall
) -> tool_calls.ToolCall:
  parameters = dict(call.parameters)
  del parameters[rng.choice(list(parameters))]
  return call._replace(parameters=parameters)


def _wrong_value(
  rng: random.Random, call: tool_calls.ToolCall
) -> tool_calls.ToolCall:
  argument = rng.choice(tables.BY_NAME[call.name].arguments)
  value = _misread(rng, call.parameters[argument.name], argument)
  return call._replace(parameters={**call.parameters, argument.name: value})


def _misread(
  rng: random.Random,
  value: quickstart_values.Value,
  argument: tables.Argument,
) -> quickstart_values.Value:
  """A value of the same type: another choice, a part, ten times as much."""
  if argument.type == 'enum':
    return rng.choice([one for one in argument.choices if one != value])
  if isinstance(value, list):
    return value[:-1]
  return rng.choice(value.split()) if isinstance(value, str) else value * 10


def _mistyped_argument(
  rng: random.Random, call: tool_calls.ToolCall
) -> tool_calls.ToolCall:
  """The right value as another type: the first number, if any, as text."""
  arguments = tables.BY_NAME[call.name].arguments
  name = [*_numbers(call), rng.choice(arguments).name][0]
  value = _mistype(call.parameters[name])
  return call._replace(parameters={**call.parameters, name: value})


def _mistype(value: Any) -> Any:
  if isinstance(value, list):
    return ', '.join(map(str, value))
  return [value] if isinstance(value, str) else str(value)


_Spoiler: TypeAlias = Callable[
  [random.Random, tool_calls.ToolCall], tool_calls.ToolCall
]
_SPOILERS: Mapping[str, _Spoiler] = {
  'missing_argument': _missing_argument,
  'wrong_value': _wrong_value,
  'mistyped_argument': _mistyped_argument,
}
