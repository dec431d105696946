"""A rollout batch sampled and scored, in as many rounds as it takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.distributed import processes
from awpo_jax.reporting import stopwatch as stopwatch_lib
from awpo_jax.rollout.sampling import sampler
from awpo_jax.rollout.text import prompts as prompts_lib
from awpo_jax.training import setup as setup_lib
from awpo_jax.training import steps
from awpo_jax.training.collection import dynamic_sampling, sample
from awpo_jax.training.collection import score as score_lib
from awpo_jax.training.programs import compile as compile_lib

Transcripts: TypeAlias = list[dict[str, Any]]
# A batch, its metrics, and transcripts of its first round.
Collected: TypeAlias = tuple[types.Scored, dict[str, Any], Transcripts]


class Sampled(NamedTuple):
  """A round before it is scored; fields as of `score.score_rollout`."""

  tasks: Sequence[types.Task]
  prompts: types.Prompts
  samples: np.ndarray
  completions: types.Completions
  texts: Sequence[Sequence[Any]] | None = None


def collect(
  experiment: setup_lib.Experiment,
  draw: Callable[[int], Sampled],
  score: Callable[..., tuple[types.Scored, Transcripts]],
  clock: stopwatch_lib.Clock,
  useful: Callable[[types.Rollout], np.ndarray] | None = None,
) -> Collected:
  """Rounds until enough groups are useful, and what is logged of it.

  Args:
    experiment: the run.
    draw: number of a round, from 0, to what is sampled in it.
    score: `score.score_rollout`.
    clock: gets the laps `sample` and `score`.
    useful: bool[P] of a rollout, groups with an advantage, see
      `from_flags.make_useful`; None: there is one round, used as it is.
  """
  rounds: list[types.Scored] = []
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
  filled = dynamic_sampling.fill(rounds, found, pad_id=experiment.pad_id)
  metrics = score_lib.part_means(filled.parts)
  metrics['selection/rounds'] = len(rounds)
  if found:
    metrics['selection/useful'] = float(np.mean(found))
  rate = sum(processes.gather(sampled)) / clock.laps['time/sample']
  return filled, metrics | {'tokens/sampled_per_second': rate}, transcripts


def _collect(
  experiment: setup_lib.Experiment,
  programs: compile_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  index: int,
  rows: np.ndarray,
  clock: stopwatch_lib.Clock,
) -> Collected:
  """A rollout batch of prompts `rows`, those of this process."""

  def useful(rollout: types.Rollout) -> np.ndarray:
    return programs.useful[steps._shape(rollout)](rollout)

  return collect(
    experiment,
    lambda number: draw(
      experiment, programs, mesh, params, index, rows, number
    ),
    score_lib.score_rollout,
    clock,
    useful if programs.useful else None,
  )


def draw(
  experiment: setup_lib.Experiment,
  programs: compile_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  index: int,
  rows: np.ndarray,
  number: int = 0,
) -> Sampled:
  """Samples a round of the rollout batch of a step."""
  tasks, prompts = next_prompts(experiment, index, number)
  tasks = [tasks[i] for i in rows]
  prompts = jax.tree.map(lambda x: x[rows], prompts)
  samples = sample_ids(prompts.ids, experiment.config.rl.samples)
  completions, texts = sample.sample(
    experiment,
    programs.sample[prompts.tokens.shape[-1]],
    mesh,
    params,
    tasks,
    prompts,
    samples,
    sampler.facts(experiment.config.run.seed, 'train', index, number),
  )
  return Sampled(tasks, prompts, samples, completions, texts)


def next_prompts(
  experiment: setup_lib.Experiment, index: int, number: int = 0
) -> tuple[list[types.Task], types.Prompts]:
  """Tasks and padded prompts of a rollout batch, by step and round.

  A step has prompts for all its rounds, used or not: what a step sees hangs on
  no other step.
  """
  config = experiment.config
  size = config.rl.prompts_per_step
  first = (index * config.selection.sampling_rounds + number) * size
  order = range(first, first + size)
  tasks = [experiment.dataset.train[experiment.prompt_order[i]] for i in order]
  return tasks, encode_batch(experiment, tasks, list(order))


def encode_batch(
  experiment: setup_lib.Experiment,
  tasks: Sequence[types.Task],
  ids: Sequence[int],
) -> types.Prompts:
  """Prompts of tasks, padded to a bucket."""
  data = experiment.config.data
  return prompts_lib.prompt_batch(
    [experiment.encode_prompt(task) for task in tasks],
    ids,
    buckets=data.prompt_buckets,
    pad_id=experiment.pad_id,
    overlong=data.overlong,
    task_ids=[task.task_id for task in tasks],
  )


def sample_ids(prompt_ids: types.Array, samples: int) -> np.ndarray:
  """i32[P, G]: prompt id * G + g, unique in the run."""
  first = np.asarray(prompt_ids, np.int64)[:, None] * samples
  return (first + np.arange(samples)).astype(np.int32)
