"""The evaluations of a run: what they report, and what they are asked for."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import processes, sharding
from awpo_jax.evaluation import held_out
from awpo_jax.rollout.rewards.judges import patient
from awpo_jax.rollout.sampling import sampler
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.collection import collect as collect_lib
from awpo_jax.training.collection import sample
from awpo_jax.training.collection import score as score_lib
from awpo_jax.training.programs import compile as compile_lib


def check_best_metric(experiment: setup_lib.Experiment) -> None:
  """Raises `ConfigError` where `--best_metric` will not be measured."""
  run = experiment.config.run
  known = [
    f'eval/{name}/{key}'
    for name, tasks in experiment.dataset.evals.items()
    for key in held_out.metric_names(
      tasks[: run.eval_tasks], judged=bool(experiment.scorers(name)['judge'])
    )
  ]
  if run.best_metric and run.best_metric not in known:
    raise flags_lib.ConfigError(
      f'--best_metric={run.best_metric} is not measured; there are: '
      f'{", ".join(known)}.'
    )


def evaluate(
  experiment: setup_lib.Experiment,
  programs: compile_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Metrics of every held-out set, and a row for each answer.

  No training hangs on them: a judge that cannot be had leaves its metric None.
  All processes answer, the first one scores.

  Raises:
    types.BadReturn: as `scoring.score`.
  """
  metrics: dict[str, Any] = {}
  rows: list[dict[str, Any]] = []
  for name, every in experiment.dataset.evals.items():
    tasks = every[: experiment.config.run.eval_tasks]
    texts = answer(experiment, programs, mesh, params, tasks)
    scored = None
    with score_lib.ending_together():
      if processes.is_first():
        scorers = experiment.scorers(name)
        if isinstance(scorers['judge'], patient.Judging):
          scorers['judge'] = scorers['judge'].leniently
        scored = held_out.score(tasks, texts, **scorers)
    values, answers = processes.gather(scored)[0]
    metrics |= {f'eval/{name}/{key}': value for key, value in values.items()}
    rows += [{'set': name, **row} for row in answers]
  return metrics, rows


def answer(
  experiment: setup_lib.Experiment,
  programs: compile_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
) -> list[Any]:
  """A greedy answer or episode of each task, `--eval_batch` at a time."""
  size, texts = experiment.config.run.eval_batch, []
  every = np.arange(size).reshape(sharding.parts(mesh), -1)
  rows = every[sharding.own_parts(mesh)].ravel()
  for start in range(0, len(tasks), size):
    chosen = list(tasks[start : start + size])
    # The last batch is filled up with its first task: one shape, one program.
    chosen += chosen[:1] * (size - len(chosen))
    prompts = collect_lib.encode_batch(experiment, chosen, list(range(size)))
    prompts = jax.tree.map(lambda x: x[rows], prompts)
    _, groups = sample.sample_part(
      experiment,
      programs.evaluate[prompts.tokens.shape[-1]],
      mesh,
      params,
      [chosen[i] for i in rows],
      prompts,
      collect_lib.sample_ids(prompts.ids, 1),
      sharding.place_replicated(sampler.facts(0, 'eval', 0, 0), mesh),
    )
    # Every process has the answers to its own tasks.
    found = [[int(i), group[0]] for i, group in zip(rows, groups, strict=True)]
    told = dict(pair for some in processes.gather(found) for pair in some)
    texts += [told[i] for i in range(size)]
  return texts[: len(tasks)]
