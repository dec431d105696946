"""A judge that checks the steps of a thought, where the request implies them.

It knows no gold answer: the states that a right thought passes are computed
from the text of the request alone, by a reader of the task.
"""

import functools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from awpo_jax import types
from awpo_jax.rollout.datasets.gym import steps
from awpo_jax.rollout.datasets.links import facts
from awpo_jax.rollout.datasets.quickstart import requests as requests_lib
from awpo_jax.rollout.text import tool_calls

# (user text, thought) -> share of the states, None: the text is no such task.
Reader: TypeAlias = Callable[[str, str], float | None]

MAX_THOUGHT = 1 << 14
_MAX_SHOWN = 200
_WORD = re.compile(r'[a-z_]+')


def links(user: str, thought: str) -> float | None:
  """Share of the k names along the path that a thought names in order.

  Read are those words of the thought that are names of the request; the start
  may stand in front, and a name may be repeated at once. Up to the first that
  is not the next of the path counts. A thought that goes on behind the last has
  not got the last right.

  Args:
    user: text of the request.
    thought: of the answer, anything.

  Returns:
    In {0, 1 / k, .., 1}; None where the request is no riddle of `facts`.
  """
  riddle = facts.read(user)
  path = riddle and riddle.path()
  if not riddle or not path:
    return None
  known = {name for name, _ in riddle.links} | set(riddle.links.values())
  names = [riddle.start]
  for word in _WORD.findall(thought):
    if word in known and word != names[-1]:
      names.append(word)
  return _share(names[1:], path)


def generated(name: str, user: str, thought: str) -> float | None:
  """Share of the steps of a generator's task that a thought gets right.

  Read is what stands behind equals signs, see `steps.said`; as with `links` up
  to the first mistake, of which one value too many is one.

  Args:
    name: of the generator, a key of `steps.READERS`.
    user: text of the request.
    thought: of the answer, anything.

  Returns:
    In {0, 1 / k, .., 1}; None where the request is none of this generator.
  """
  found = steps.READERS[name](user)
  if found is None:
    return None
  return _share(steps.said(thought), found.states, steps.same)


def two_calls(user: str, thought: str) -> float | None:
  """Share of the tools and arguments of two calls that a thought says in order.

  A quickstart's right thought says of each of its requests which tool it needs,
  and each argument of it (`requests.said`); read up to the first mistake, as
  with `links`. A number that is quoted is a mistake.

  Args:
    user: text of the request.
    thought: of the answer, anything.

  Returns:
    In {0, 1 / k, .., 1}, k from 4 to 8; None where the request is none of the
    quickstart's for two calls.
  """
  path = requests_lib.states(user)
  return None if path is None else _share(requests_lib.said(thought), path)


def _share(
  said: Sequence[str],
  path: Sequence[str],
  same: Callable[[str, str], bool] = operator.eq,
) -> float:
  """Share of the path that is said in order, up to a mistake."""
  pairs = zip(said, path, strict=False)
  right = next((i for i, x in enumerate(pairs) if not same(*x)), None)
  if right is None:
    right = min(len(said), len(path))
  if right < len(path):
    return right / len(path)
  return 1.0 if len(said) == len(path) else 1.0 - 1.0 / len(path)


READERS: Mapping[str, Reader] = {
  'links': links,
  'quickstart_hard:two': two_calls,
  **{
    f'reasoning_gym:{name}': functools.partial(generated, name)
    for name in steps.READERS
  },
}
"""Task -> its reader; the first that knows a request scores its answer."""


def process(requests: Sequence[types.JudgeRequest]) -> list[float]:
  """Shares of the intermediate states that thoughts get right, up to a mistake.

  An answer without a closed thought gets nothing right.

  Args:
    requests: with the text of a task that has a reader.

  Returns:
    A score in [0, 1] for each.

  Raises:
    types.BadReturn: a request is no task with a reader.
  """
  scores = []
  for request in requests:
    # Behind the limit it is as if the thought were cut.
    thought = tool_calls.section(request.response, 'think') or ''
    score = _read(request.user, thought[:MAX_THOUGHT])
    if score is None:
      raise types.BadReturn(_refusal(request.user))
    scores.append(score)
  return scores


def check(tasks: Sequence[types.Task]) -> None:
  """Raises `ValueError` where a task has no reader, so that no run begins."""
  for task in tasks:
    if _read(task.user, '') is None:
      raise ValueError(_refusal(task.user))


def _read(user: str, thought: str) -> float | None:
  read = (reader(user, thought) for reader in READERS.values())
  return next((score for score in read if score is not None), None)


def _refusal(user: str) -> str:
  return (
    '--judge=process knows the intermediate states of no such request: '
    f'{user[:_MAX_SHOWN]!r}. It has readers of: {", ".join(READERS)}. Choose '
    'the --dataset of one of these, or another --judge.'
  )
