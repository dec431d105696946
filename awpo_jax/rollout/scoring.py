"""Both rewards of a rollout batch, with their validity."""

import math
from collections.abc import Sequence

import numpy as np

from awpo_jax import types
from awpo_jax.rollout import tool_calls

_ROUNDING = 1e-6


def score(
  responses: Sequence[Sequence[str]],
  tasks: Sequence[types.Task],
  *,
  reward: types.Reward,
  judge: types.Judge | None,
) -> tuple[types.Rewards, dict[str, np.ndarray]]:
  """Scores every answer; one that cannot be scored is invalid, not 0.

  Args:
    responses: texts [P][G].
    tasks: P of them.
    reward: outcome of one answer.
    judge: of the reasoning, called once with all answers; None: no reasoning
      reward is had.

  Returns:
    `types.Rewards` of NumPy arrays, and each part the reward reports as
    f32[P, G], NaN where it is missing; the part `solved` is there always, 1
    where the task is solved and 0 where not.

  Raises:
    ValueError: a reward is not finite or outside its bounds, the bounds of a
      task's answers differ, or the judge returns another number of scores or
      one outside [0, 1].
  """
  shape = (len(tasks), len(responses[0]))
  outcome, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
  bounds = np.tile(np.array([0, 1], np.float32), (shape[0], 1))
  parts = {'solved': np.full(shape, np.nan, np.float32)}
  for p, task in enumerate(tasks):
    for g, response in enumerate(responses[p]):
      result = _outcome(reward, response, task)
      if result is None:
        continue
      if valid[p].any():
        _check_bounds(bounds[p], result, task)
      outcome[p, g], valid[p, g] = result.value, True
      bounds[p] = result.minimum, result.maximum
      for name, value in _parts(result).items():
        parts.setdefault(name, np.full(shape, np.nan, np.float32))[p, g] = value
  reasoning, judged = _judge(responses, tasks, judge)
  return types.Rewards(
    outcome=outcome,
    outcome_valid=valid,
    reasoning=reasoning,
    reasoning_valid=judged,
    outcome_min=bounds[:, 0].copy(),
    outcome_max=bounds[:, 1].copy(),
    wants_call=np.array([wants_call(task) for task in tasks], bool),
  ), parts


def wants_call(task: types.Task) -> bool:
  """Whether a right answer to a task calls a tool, see `types.Task`."""
  if task.wants_call is not None:
    return task.wants_call
  return any(map(tool_calls.has_call, (task.ground_truth, *task.references)))


def judge_requests(
  responses: Sequence[Sequence[str]], tasks: Sequence[types.Task]
) -> list[types.JudgeRequest]:
  """What `score` asks the judge: [P * G], the answers of a task together."""
  return [
    types.JudgeRequest(user=task.user, tools=task.tools, response=response)
    for task, group in zip(tasks, responses, strict=True)
    for response in group
  ]


def _outcome(
  reward: types.Reward, response: str, task: types.Task
) -> types.Score | None:
  try:
    result = reward(response, task)
  except types.RewardUnavailable:
    return None
  value, low, high = result.value, result.minimum, result.maximum
  if not (math.isfinite(value) and low <= value <= high and low < high):
    raise ValueError(
      f'The reward of task {task.task_id} is {value} with bounds [{low}, '
      f'{high}]: it must be finite and within bounds that differ. Raise '
      'RewardUnavailable for a sample that cannot be scored.'
    )
  return result


def _check_bounds(
  bounds: np.ndarray, result: types.Score, task: types.Task
) -> None:
  """Bounds say how well a group does: they belong to the task."""
  given = np.asarray([result.minimum, result.maximum], np.float32)
  if np.any(bounds != given):
    raise ValueError(
      f'The reward of task {task.task_id} has bounds {bounds.tolist()} for one '
      f'answer and [{result.minimum}, {result.maximum}] for another: return '
      'the same bounds for all answers to a task.'
    )


def _parts(result: types.Score) -> dict[str, float]:
  """What a score is made of, and whether the task is solved."""
  solved = result.solved
  if solved is None:
    # A sum of floats may miss its maximum by a rounding.
    solved = result.value >= result.maximum - _ROUNDING
  return {**result.parts, 'solved': float(solved)}


def _judge(
  responses: Sequence[Sequence[str]],
  tasks: Sequence[types.Task],
  judge: types.Judge | None,
) -> tuple[np.ndarray, np.ndarray]:
  shape = (len(tasks), len(responses[0]))
  if judge is None:
    return np.zeros(shape, np.float32), np.zeros(shape, bool)
  requests = judge_requests(responses, tasks)
  scores = list(judge(requests))
  if len(scores) != len(requests):
    raise ValueError(
      f'The judge returned {len(scores)} scores for {len(requests)} answers.'
    )
  for index, value in enumerate(scores):
    if value is not None and not 0 <= value <= 1:
      raise ValueError(
        f'The judge gave {value} to an answer to task '
        f'{tasks[index // shape[1]].task_id}: scores lie in [0, 1], None for '
        'one that could not be had.'
      )
  had = np.array([value is not None for value in scores], bool)
  filled = np.array([value or 0.0 for value in scores], np.float32)
  return filled.reshape(shape), had.reshape(shape)
