"""A rollout batch sampled and scored, in as many rounds as it takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from awpo_jax import types
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
  useful: Callable[[types.Rollout], np.ndarray] | None = None,
) -> Collected:
  """Rounds until enough groups are useful, and what is logged of it.

  Args:
    experiment: the run.
    draw: number of a round, from 0, to what is sampled in it.
    score: `phases.score_rollout`.
    clock: gets the laps `sample` and `score`.
    useful: bool[P] of a rollout, groups with an advantage, see
      `bind.make_useful`; None: there is one round, used as it is.
  """
  rounds: list[filling.Scored] = []
  found: list[np.ndarray] = []
  transcripts: Transcripts = []
  sampled = 0
  for number in range(experiment.config.selection.sampling_rounds):
    drawn = draw(number)
    sampled += int(drawn.completions.policy_mask.sum())
    clock.lap('sample')
    scored, shown = score(experiment, *drawn)
    transcripts = transcripts or shown
    rounds.append(scored)
    found += [useful(scored.rollout)] if useful else []
    clock.lap('score')
    if sum(map(np.sum, found)) >= len(drawn.tasks):
      break
  filled = filling.fill(rounds, found, pad_id=experiment.pad_id)
  metrics = scored_lib.part_means(filled.parts)
  metrics['selection/rounds'] = len(rounds)
  if found:
    metrics['selection/useful'] = float(np.mean(found))
  rate = sum(processes.gather(sampled)) / clock.laps['time/sample']
  return filled, metrics | {'tokens/sampled_per_second': rate}, transcripts
