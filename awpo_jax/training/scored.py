"""A rollout batch scored: rewards, and rows for whoever reads along."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from awpo_jax import config as config_lib
from awpo_jax import types
from awpo_jax.rollout import episodes, scoring, thinking
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import processes


def score(
  experiment: experiment_lib.Experiment,
  texts: Sequence[Sequence[Any]],
  tasks: Sequence[types.Task],
) -> tuple[types.Rewards, dict[str, np.ndarray]]:
  """`scoring.score`; where one process has no judge, none goes on."""
  scored = unjudged = None
  try:
    scored = scoring.score(
      texts, tasks, reward=experiment.reward, judge=experiment.judge
    )
  except types.JudgeUnavailable as error:
    unjudged = str(error)
  for reason in processes.gather(unjudged):
    if reason:
      raise types.JudgeUnavailable(reason)
  assert scored is not None
  return scored


def transcripts(
  config: config_lib.Config,
  tasks: Sequence[types.Task],
  prompts: types.Prompts,
  texts: Sequence[Sequence[Any]],
  rewards: types.Rewards,
) -> list[tuple[int, dict[str, Any]]]:
  """Rows of the first prompts of a batch, each with its prompt's number."""
  return [
    (
      int(prompts.ids[p]),
      {
        'task_id': task.task_id,
        'user': task.user,
        'tools': [dataclasses.asdict(tool) for tool in task.tools],
        'ground_truth': task.ground_truth,
        **episodes.transcript(texts[p][g]),
        'outcome': _or_none(rewards.outcome, rewards.outcome_valid, p, g),
        'reasoning': _or_none(rewards.reasoning, rewards.reasoning_valid, p, g),
      },
    )
    for p, task in enumerate(tasks)
    if prompts.ids[p] % config.rl.prompts_per_step < config.run.transcripts
    for g in range(len(texts[p]))
  ]


def sum_and_count(values: np.ndarray) -> tuple[float, int]:
  """Of the numbers that are finite."""
  had = values[np.isfinite(values)]
  return float(had.sum(dtype=np.float64)), had.size


def _or_none(values, valid, p: int, g: int) -> float | None:
  return float(values[p, g]) if valid[p, g] else None


def mean(total: float, count: float) -> float | None:
  """None of nothing."""
  return float(total) / float(count) if count else None


def thinking_of(
  experiment: experiment_lib.Experiment,
  tasks: Sequence[types.Task],
  completions: types.Completions,
) -> np.ndarray | None:
  """Tokens of the chain of thought, where the algorithm asks for them."""
  if experiment.config.shaping.shaper != 'egpo':
    return None
  return thinking.thinking_mask(
    experiment.tokenizer, completions, experiment.opened(tasks)
  )


def part_means(parts: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Mean of each part of the outcome, where it was had, as `reward/<part>`."""
  told = processes.gather({name: sum_and_count(x) for name, x in parts.items()})
  names = dict.fromkeys(name for some in told for name in some)
  return {
    f'reward/{name}': mean(
      *np.sum([some.get(name, (0, 0)) for some in told], axis=0)
    )
    for name in names
  }
