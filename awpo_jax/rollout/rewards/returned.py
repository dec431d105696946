"""Reads what the user's rewards and judges return.

None is a score that could not be obtained. A number may be of Python, NumPy or
JAX. Whatever could mean several things is an error that names the function, the
task and the remedy.
"""

import decimal
import functools
import inspect
import math
import numbers
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

from awpo_jax import types

_ROUNDING = 1e-6
_MAX_SHOWN, _MAX_NAMED = 80, 3
_REMEDY = (
  'Return types.Score(value, minimum, maximum, parts); None, or raising '
  'RewardUnavailable, is for a sample that cannot be scored.'
)


def name_of(function: Any) -> str:
  """`module:name` of a function, of what a wrapper wraps, or of a class."""
  while isinstance(function := inspect.unwrap(function), functools.partial):
    function = function.func
  if not hasattr(function, '__qualname__'):
    function = type(function)
  return f'{function.__module__}:{function.__qualname__}'


def is_asynchronous(function: Any) -> bool:
  """Whether a call gives something to be awaited in place of a result."""
  called = function
  if not isinstance(function, type) and not inspect.isroutine(function):
    called = getattr(function, '__call__', function)  # noqa: B004
  return any(
    inspect.iscoroutinefunction(x) or inspect.isasyncgenfunction(x)
    for x in (function, called)
  )


def number(value: Any) -> float:
  """A number of Python, NumPy or JAX, also one in an array of one element.

  Raises:
    ValueError: it is none; says what it is.
  """
  shape = getattr(value, 'shape', None)
  if shape is not None and math.prod(shape) == 1:
    value = np.asarray(value).item()
  if not isinstance(value, numbers.Real | decimal.Decimal):
    raise ValueError(f'{_shown(value)} is no number')
  try:
    return float(value)
  except OverflowError as error:
    raise ValueError(f'{_shown(value)} is too large') from error


def share(value: Any) -> float | None:
  """A score of a judge: in [0, 1], or None if there is none.

  Raises:
    ValueError: it is neither; says what it is.
  """
  if value is None:
    return None
  score = number(value)
  # A mean in float32 may leave its bounds by a rounding.
  if not -_ROUNDING <= score <= 1 + _ROUNDING:
    raise ValueError(f'{score} is not in [0, 1]')
  return min(max(score, 0.0), 1.0)


def scores(result: Any, judge: Any, count: int) -> list[Any]:
  """What a judge returned as a list, its items as they are.

  Args:
    result: None: no score could be obtained.
    judge: that returned it.
    count: of the answers it was given.

  Raises:
    types.BadReturn: it is no list of so many.
  """
  if result is None:
    return [None] * count
  form = (
    f'Return a list of {count} numbers in [0, 1] in the order of the answers, '
    'with None for one that could not be obtained.'
  )
  if isinstance(result, jax.Array):
    result = jax.device_get(result)
  try:
    if isinstance(result, str | bytes | Mapping | Set):
      raise TypeError('no sequence')
    items = list(result)
  except TypeError as error:
    raise types.BadReturn(
      f'The judge {name_of(judge)} returned {_shown(result)}. {form}'
    ) from error
  if len(items) != count:
    raise types.BadReturn(
      f'The judge {name_of(judge)} returned {len(items)} scores for {count} '
      f'answers. {form}'
    )
  return items


def judged(
  judge: types.Judge,
  requests: Sequence[types.JudgeRequest],
  answers: Sequence[str],
) -> list[float | None]:
  """Asks a judge for scores in [0, 1], None for missing ones.

  Args:
    judge: perhaps around one of the user's.
    requests: to it.
    answers: what is judged, in words, as many.

  Raises:
    types.BadReturn: it returns no list of so many, or one of something else.
  """
  try:
    items = scores(judge(requests), judge, len(answers))
  except types.BadReturn as error:
    names = ', '.join(dict.fromkeys(answers[:_MAX_NAMED]))
    raise types.BadReturn(f'{error} Given were {names}, ...') from error
  read = []
  for item, answer in zip(items, answers, strict=True):
    try:
      read.append(share(item))
    except ValueError as error:
      raise types.BadReturn(
        f'The judge {name_of(judge)} gave {item!r:.80} to {answer}: {error}. '
        'Scores lie in [0, 1]; None stands for a missing one.'
      ) from error
  return read


def outcome(result: Any, reward: Any, task: types.Task) -> types.Score | None:
  """What a reward returned, its numbers as floats.

  Args:
    result: a `types.Score`, or another object with its attributes.
    reward: that returned it.
    task: that the answer was to.

  Returns:
    A `types.Score`, `solved` True, False or None; None where the reward could
    not be had.

  Raises:
    types.BadReturn: it cannot be read, or is not finite and within bounds.
  """
  if result is None:
    return None
  problem = f'The reward of task {task.task_id} by {name_of(reward)}'
  fields = ('value', 'minimum', 'maximum')
  if not all(hasattr(result, name) for name in fields):
    raise types.BadReturn(
      f'{problem} is {_shown(result)}, which has no bounds. {_REMEDY}'
    )
  if result.value is None:
    return None
  where = ''
  try:
    read = {}
    for where in fields:
      read[where] = number(getattr(result, where))
    where = 'solved'
    solved = _solved(getattr(result, 'solved', None))
    where = 'parts'
    parts = _parts(getattr(result, 'parts', None))
  except ValueError as error:
    raise types.BadReturn(
      f'{problem} has a wrong `{where}`: {error}. {_REMEDY}'
    ) from error
  _check_bounds(problem, **read)
  return types.Score(**read, parts=parts, solved=solved)


def _check_bounds(
  problem: str, value: float, minimum: float, maximum: float
) -> None:
  """Raises unless a reward is one in float32, as it is trained on."""
  with np.errstate(over='ignore'):
    given = np.array([value, minimum, maximum], np.float32)
  v, low, high = given.tolist()
  if not (np.isfinite(given).all() and low <= v <= high and low < high):
    raise types.BadReturn(
      f'{problem} is {value} with bounds [{minimum}, {maximum}]: all must be '
      f'finite in float32, and it within bounds that differ. {_REMEDY}'
    )


def _solved(value: Any) -> bool | None:
  if value is None:
    return None
  flag = number(value)
  if flag not in (0.0, 1.0):
    raise ValueError(f'{flag} is neither True nor False')
  return bool(flag)


def _parts(parts: Any) -> dict[str, float]:
  """Numbers by name; NaN for one that is missing."""
  if parts is None:
    return {}
  if not isinstance(parts, Mapping):
    raise ValueError(f'{_shown(parts)} is no dict of numbers by name')
  read = {}
  for name, value in parts.items():
    try:
      read[str(name)] = math.nan if value is None else number(value)
    except ValueError as error:
      raise ValueError(f'of `{name}`, {error}') from error
  return read


def _shown(value: Any) -> str:
  """A value with its type, for a message."""
  if inspect.isawaitable(value) or inspect.isasyncgen(value):
    getattr(value, 'close', lambda: None)()  # Else Python warns of it later.
    return (
      f'a {type(value).__name__}, which nobody awaits (call it by a plain '
      'function that runs it, by asyncio.run, say)'
    )
  shape = getattr(value, 'shape', None)
  kind = type(value).__name__
  if shape is not None:
    return f'a {kind} of shape {tuple(shape)}'
  text = repr(value)
  if len(text) > _MAX_SHOWN:
    text = text[:_MAX_SHOWN] + '...'
  return f'{text} (a {kind})'
