"""Rows of the transcripts: prompts, answers and rewards.

A row is made when its answer has been scored. What its group came to is known
a moment later, and joins it then.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import processes
from awpo_jax.rollout.environments import episodes
from awpo_jax.rollout.rewards import scoring
from awpo_jax.training.collection import sample

Row = dict[str, Any]
Reasons = Callable[[Sequence[types.JudgeRequest]], Sequence[str | None]]


def rows(
  config: config_lib.Config,
  sampled: sample.Sampled,
  rewards: types.Rewards,
  parts: Mapping[str, np.ndarray],
  reasons: Reasons,
) -> list[tuple[int, Row]]:
  """Rows of the first prompts of a batch, each with its prompt's number.

  Args:
    config: of the run.
    sampled: the answers or episodes.
    rewards: of them.
    parts: name -> f32[P, G], of the outcome, `solved` among them: 1, 0, or NaN
      where not known.
    reasons: what the judge said of some answers, None where it said nothing.
  """
  made = []
  for p, task in enumerate(sampled.tasks):
    number = int(sampled.prompts.ids[p])
    if number % config.rl.prompts_per_step >= config.run.transcripts:
      continue
    texts = sampled.texts[p]
    said = reasons(scoring.judge_requests([texts], [task]))
    for g, text in enumerate(texts):
      row = {
        'prompt': number,
        'sample': g,
        **episodes.transcript(task, text),
        'finished': bool(sampled.completions.finished[p, g]),
        'outcome_bounds': bounds(rewards, p),
        **scoring.of_answer(rewards, parts, p, g),
      }
      made.append((number, row if said[g] is None else row | {'said': said[g]}))
  return made


def bounds(rewards: types.Rewards, p: int) -> list[float]:
  """The worst and the best outcome that a prompt allows."""
  return [float(rewards.outcome_min[p]), float(rewards.outcome_max[p])]


def with_advantages(
  written: Sequence[Row], ids: np.ndarray, groups: Mapping[str, np.ndarray]
) -> list[Row]:
  """Rows with what their groups came to, of all processes.

  Args:
    written: rows of `rows`; a group of another round of sampling, which is not
      trained on, stays as it is.
    ids: i32[P], the prompts of this process.
    groups: name -> f32[P] or f32[P, G], of these prompts.
  """
  wanted = {row['prompt'] for row in written}
  own = {
    int(number): {name: x[p].tolist() for name, x in groups.items()}
    for p, number in enumerate(ids)
    if int(number) in wanted
  }
  told: dict[int, dict[str, Any]] = {}
  for some in processes.gather(own):
    told |= {int(number): numbers for number, numbers in some.items()}
  return [
    row
    | {
      name: value[row['sample']] if isinstance(value, list) else value
      for name, value in told.get(row['prompt'], {}).items()
    }
    for row in written
  ]
