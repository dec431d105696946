"""Both rewards of a rollout batch, with their validity."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.rollout.rewards import returned
from awpo_jax.rollout.text import tool_calls

_ROUNDING = 1e-6


def score(
  responses: Sequence[Sequence[str]],
  tasks: Sequence[types.Task],
  *,
  reward: types.Reward,
  judge: types.Judge | None,
  tell: Callable[[str], None] = lambda _: None,
) -> tuple[types.Rewards, dict[str, np.ndarray]]:
  """Scores every answer; one that cannot be scored is invalid, not 0.

  Args:
    responses: texts [P][G].
    tasks: P of them.
    reward: outcome of one answer.
    judge: of the reasoning, called once with all answers; None: no reasoning
      reward is had.
    tell: called with a line for each answer without an outcome.

  Returns:
    `types.Rewards` of NumPy arrays, and each part the reward reports as
    f32[P, G], NaN where it is missing; the part `solved` is there always, 1
    where the task is solved and 0 where not.

  Raises:
    types.BadReturn: a reward is no score, not finite or outside its bounds, the
      bounds of a task's answers differ, or the judge returns another number of
      scores or something that is no number in [0, 1].
  """
  # What the user's functions compute is theirs to place.
  with jax.transfer_guard('allow'):
    outcomes = _outcomes(responses, tasks, reward, tell)
    reasoning, judged = _judge(responses, tasks, judge)
  rewards, parts = outcomes
  return dataclasses.replace(
    rewards, reasoning=reasoning, reasoning_valid=judged
  ), parts


def _outcomes(
  responses: Sequence[Sequence[str]],
  tasks: Sequence[types.Task],
  reward: types.Reward,
  tell: Callable[[str], None],
) -> tuple[types.Rewards, dict[str, np.ndarray]]:
  """`score` without a judge."""
  shape = (len(tasks), len(responses[0]))
  outcome, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
  bounds = np.tile(np.array([0, 1], np.float32), (shape[0], 1))
  parts = {'solved': np.full(shape, np.nan, np.float32)}
  for p, task in enumerate(tasks):
    for g, response in enumerate(responses[p]):
      result = _outcome(reward, response, task, tell)
      if result is None:
        continue
      if valid[p].any():
        _check_bounds(bounds[p], result, task, reward)
      outcome[p, g], valid[p, g] = result.value, True
      bounds[p] = result.minimum, result.maximum
      for name, value in _parts(result).items():
        array = parts.setdefault(name, np.full(shape, np.nan, np.float32))
        with np.errstate(over='ignore'):  # It is only told, perhaps as inf.
          array[p, g] = value
  return types.Rewards(
    outcome=outcome,
    outcome_valid=valid,
    reasoning=np.zeros(shape, np.float32),
    reasoning_valid=np.zeros(shape, bool),
    outcome_min=bounds[:, 0].copy(),
    outcome_max=bounds[:, 1].copy(),
    wants_call=np.array([wants_call(task) for task in tasks], bool),
  ), parts


def wants_call(task: types.Task) -> bool:
  """Whether a right answer to a task calls a tool, see `types.Task`."""
  if task.wants_call is not None:
    return task.wants_call
  return any(map(tool_calls.has_call, (task.ground_truth, *task.references)))


def had(
  values: types.Array, valid: types.Array, at: tuple[int, int]
) -> float | None:
  """The reward [P, G] of one answer; None where it is not valid."""
  return float(values[at]) if valid[at] else None


def of_answer(
  rewards: types.Rewards, parts: Mapping[str, np.ndarray], p: int, g: int
) -> dict[str, Any]:
  """Both rewards of an answer, their parts, and whether it is solved."""
  solved = parts['solved'][p, g] if 'solved' in parts else np.nan
  values = {name: float(part[p, g]) for name, part in parts.items()}
  return {
    'outcome': had(rewards.outcome, rewards.outcome_valid, (p, g)),
    'parts': {
      name: value
      for name, value in values.items()
      if name != 'solved' and np.isfinite(value)
    },
    'reasoning': had(rewards.reasoning, rewards.reasoning_valid, (p, g)),
    'solved': None if np.isnan(solved) else bool(solved),
  }


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
  reward: types.Reward,
  response: str,
  task: types.Task,
  tell: Callable[[str], None],
) -> types.Score | None:
  try:
    result = returned.outcome(reward(response, task), reward, task)
  except types.RewardUnavailable as error:
    tell(f'{type(error).__name__}: {error}')
    return None
  if result is None:
    tell(f'{returned.name_of(reward)} returned None')
  return result


def _check_bounds(
  bounds: np.ndarray, result: types.Score, task: types.Task, reward
) -> None:
  """Refuses bounds that differ within a group: they belong to the task."""
  given = np.asarray([result.minimum, result.maximum], np.float32)
  if np.any(bounds != given):
    raise types.BadReturn(
      f'The reward of task {task.task_id} has bounds {bounds.tolist()} for one '
      f'answer and [{result.minimum}, {result.maximum}] for another: '
      f'{returned.name_of(reward)} must return the same bounds for all answers '
      'to a task.'
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
  answers = [
    f'an answer to task {task.task_id}' for task in tasks for _ in responses[0]
  ]
  scores = returned.judged(judge, requests, answers)
  had = np.array([value is not None for value in scores], bool)
  filled = np.array([value or 0.0 for value in scores], np.float32)
  return filled.reshape(shape), had.reshape(shape)
