"""A rollout batch sampled and scored, in as many rounds as it takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from awpo_jax import types
from awpo_jax.ops import algorithms
from awpo_jax.training import clock as clock_lib
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import filling, processes
from awpo_jax.training import scored as scored_lib

Transcripts: TypeAlias = list[dict[str, Any]]
# A batch, its metrics, and transcripts of its first round.
Collected: TypeAlias = tuple[filling.Scored, dict[str, Any], Transcripts]


class Sampled(NamedTuple):
  """A round before it is scored; fields as of `phases.score_rollout`."""

  tasks: Sequence[types.Task]
  prompts: types.Prompts
  samples: np.ndarray
  completions: types.Completions
  texts: Sequence[Sequence[Any]] | None = None


def collect(
  experiment: experiment_lib.Experiment,
  draw: Callable[[int], Sampled],
  score: Callable[..., tuple[filling.Scored, Transcripts]],
  clock: clock_lib.Clock,
) -> Collected:
  """Rounds until enough groups differ, and what stands in the metrics of it.

  Args:
    experiment: the run.
    draw: number of a round, from 0, to what is sampled in it.
    score: `phases.score_rollout`.
    clock: gets the laps `sample` and `score`.
  """
  config = experiment.config
  judged = algorithms.reads_reasoning(
    advantage=config.advantage.advantage, gate=config.advantage.gate
  )
  rounds: list[filling.Scored] = []
  useful: list[np.ndarray] = []
  transcripts: Transcripts = []
  sampled = 0
  for number in range(config.selection.sampling_rounds):
    drawn = draw(number)
    sampled += int(drawn.completions.policy_mask.sum())
    clock.lap('sample')
    scored, shown = score(experiment, *drawn)
    transcripts = transcripts or shown
    rounds.append(scored)
    useful.append(filling.differs(scored.rollout.rewards, judged=judged))
    clock.lap('score')
    if sum(map(np.sum, useful)) >= len(drawn.tasks):
      break
  filled = filling.fill(rounds, useful, pad_id=experiment.pad_id)
  metrics = scored_lib.part_means(
    {**filled.parts, 'differs': np.concatenate(useful)}
  )
  metrics['selection/differs'] = metrics.pop('reward/differs')
  metrics['selection/rounds'] = len(rounds)
  rate = sum(processes.gather(sampled)) / clock.laps['time/sample']
  return filled, metrics | {'tokens/sampled_per_second': rate}, transcripts
