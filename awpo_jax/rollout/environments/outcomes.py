"""Functions that the outcomes of environments share."""

import collections
from collections.abc import Sequence

from awpo_jax import types
from awpo_jax.rollout.environments import protocol
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.text import tool_calls

WORST, BEST = toolrl.WORST, toolrl.BEST + 1.0


_SHOWN_NAME = 64


def not_offered(name: str) -> str:
  """The result of a call of a tool that is not offered."""
  return f'Error during execution: there is no tool {name[:_SHOWN_NAME]}'


def reference_calls(
  text: str, task: types.Task
) -> tuple[tool_calls.ToolCall, ...]:
  """Calls of a reference answer; raises `ValueError` if it cannot be read."""
  answer = tool_calls.parse(text)
  if isinstance(answer, tool_calls.ParseFailure):
    raise ValueError(f'{task.task_id}: reference answer: {answer.reason}')
  return answer.calls


def share_contained(results: Sequence[str], expected: Sequence[str]) -> float:
  """Share of the expected results among the results, each used once."""
  if not expected:
    return 1.0
  found = collections.Counter(expected) & collections.Counter(results)
  return found.total() / len(expected)


def score(
  turns: Sequence[protocol.Turn],
  progress: float,
  parts: dict[str, float] | None = None,
) -> types.Score:
  """An episode's outcome on the scale of a single answer's.

    format + 6 progress - 3,  in [-3, 4]

  Args:
    turns: of the episode; the format is right if that of each is.
    progress: in [0, 1], 1 where the task is solved.
    parts: further numbers to log.
  """
  form = float(
    bool(turns) and all(toolrl.has_layout(turn.text) for turn in turns)
  )
  span = toolrl.BEST - toolrl.WORST
  return types.Score(
    value=form + span * progress + toolrl.WORST,
    minimum=WORST,
    maximum=BEST,
    parts={
      'format': form,
      'progress': progress,
      'turns': float(len(turns)),
      **(parts or {}),
    },
    solved=progress >= 1.0 and form == 1.0,
  )
