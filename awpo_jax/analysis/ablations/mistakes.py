"""What is wrong with the calls of an answer, as one of a few kinds."""

from collections.abc import Mapping
from typing import Any

from awpo_jax.rollout.text import tool_calls

KINDS = (
  'unreadable',
  'number of calls',
  'tool',
  'parameter missing',
  'parameter added',
  'parameters missing and added',
  'value',
)


def mistake(
  response: str, wanted: tuple[tool_calls.ToolCall, ...]
) -> str | None:
  """The first of `KINDS` that applies to an answer.

  Values are compared as parsed JSON by `==`, as ToolRL's reward does. The order
  of calls does not count; calls of one tool that are not exactly right are
  compared in the order in which they stand.

  Args:
    response: model output in RLLA's layout, anything; the thought is not looked
      at.
    wanted: the calls of the reference.

  Returns:
    A kind; `unreadable` is an answer that breaks the layout or a bound of
    `tool_calls.parse`. None where the calls are the reference's.
  """
  answer = tool_calls.parse(response)
  if isinstance(answer, tool_calls.ParseFailure):
    return 'unreadable'
  if len(answer.calls) != len(wanted):
    return 'number of calls'
  made, due = list(answer.calls), []
  for call in wanted:
    if call in made:
      made.remove(call)
    else:
      due.append(call)
  if not due:
    return None
  made.sort(key=lambda call: call.name)
  due.sort(key=lambda call: call.name)
  if [call.name for call in made] != [call.name for call in due]:
    return 'tool'
  names = [
    (set(a.parameters), set(b.parameters))
    for a, b in zip(due, made, strict=True)
  ]
  missing = any(a - b for a, b in names)
  added = any(b - a for a, b in names)
  if missing and added:
    return 'parameters missing and added'
  if missing:
    return 'parameter missing'
  return 'parameter added' if added else 'value'


def of_transcript(row: Mapping[str, Any]) -> dict[str, float]:
  """Kind -> 1 where it is what is wrong with a transcript's answer, else 0.

  Args:
    row: a line of a run's transcripts.

  Returns:
    All of `KINDS`; {} of an episode of several turns, and where the reference
    has no calls that can be read.
  """
  response, reference = row.get('response'), row.get('ground_truth')
  if 'episode' in row or not (
    isinstance(response, str) and isinstance(reference, str)
  ):
    return {}
  wanted = tool_calls.parse(reference)
  if isinstance(wanted, tool_calls.ParseFailure) or not wanted.calls:
    return {}
  found = mistake(response, wanted.calls)
  return {kind: float(kind == found) for kind in KINDS}
