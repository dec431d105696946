"""How many answers to held-out tasks are right."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from awpo_jax import types
from awpo_jax.evaluation import benchmarks
from awpo_jax.rollout.environments import episodes
from awpo_jax.rollout.rewards import exact, scoring, toolrl


def score(
  tasks: Sequence[types.Task],
  responses: Sequence[str],
  *,
  reward: types.Reward,
  judge: types.Judge | None,
) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
  """Scores one answer to each task.

  A task is solved when the reward says so; where it does not say, when its
  outcome is the best it allows. One that cannot be scored is not solved.

  Args:
    tasks: at least one.
    responses: one to each.
    reward: outcome of an answer.
    judge: of the reasoning; None: no reasoning is reported.

  Returns:
    `accuracy`, `accuracy/<kind>`, `outcome` and `reasoning` (None where no
    answer could be scored); of a reward with `in_parts` also `format`, the
    share of the answers that have the right layout, and `exact_calls`, that of
    the tasks that want calls whose answer has exactly these, in any layout, or
    has calls that the benchmark takes; and a row for each task.
  """
  rewards, parts = scoring.score(
    [[response] for response in responses], tasks, reward=reward, judge=judge
  )
  solved = parts['solved'][:, 0] == 1
  kinds = collections.defaultdict(list)
  for task, right in zip(tasks, solved, strict=True):
    kinds[task.kind].append(right)
  metrics = {
    'accuracy': float(solved.mean()),
    'outcome': _mean(rewards.outcome, rewards.outcome_valid),
    'reasoning': _mean(rewards.reasoning, rewards.reasoning_valid),
  }
  if in_parts(reward):
    metrics |= _of_parts(parts, solved, tasks)
  for kind in sorted(kinds):
    metrics[f'accuracy/{kind}'] = float(np.mean(kinds[kind]))
  rows = [
    {
      **episodes.transcript(task, response),
      **scoring.of_answer(rewards, parts, p, 0),
      'solved': bool(solved[p]),
    }
    for p, (task, response) in enumerate(zip(tasks, responses, strict=True))
  ]
  return metrics, rows


def in_parts(reward: types.Reward) -> bool:
  """Whether a reward says what is asked for here: ToolRL's, a benchmark's."""
  return reward in exact.REWARDS.values() or isinstance(
    reward, benchmarks.Reward
  )


def _of_parts(
  parts: Mapping[str, np.ndarray],
  solved: np.ndarray,
  tasks: Sequence[types.Task],
) -> dict[str, float | None]:
  """`format` and `exact_calls`; an answer that has no score has neither."""
  # No part is there if no answer could be scored.
  missing = np.full((len(tasks), 1), np.nan)
  layout = parts.get('format', missing)[:, 0] == 1
  metrics: dict[str, float | None] = {'format': float(layout.mean())}
  wanted = np.array([scoring.wants_call(task) for task in tasks], bool)
  if wanted.any():
    called = solved
    if 'correctness' in parts:
      called = parts['correctness'][:, 0] == toolrl.BEST
    metrics['exact_calls'] = float(called[wanted].mean())
  return metrics


def metric_names(
  tasks: Sequence[types.Task], *, judged: bool, laid_out: bool = False
) -> list[str]:
  """What `score` reports on these tasks.

  Args:
    tasks: as there.
    judged: with a judge.
    laid_out: of a reward with `in_parts`.
  """
  kinds = sorted({task.kind for task in tasks})
  names = ['accuracy', 'outcome', *(['reasoning'] if judged else [])]
  if laid_out:
    calls = any(map(scoring.wants_call, tasks))
    names += ['format', *(['exact_calls'] if calls else [])]
  return names + [f'accuracy/{kind}' for kind in kinds]


def _mean(values: types.Array, valid: types.Array) -> float | None:
  return float(values[valid].mean()) if valid.any() else None
