"""The evaluations of a run: what they report, and what they are asked for."""

from typing import Any

import jax

from awpo_jax import config as config_lib
from awpo_jax import types
from awpo_jax.evaluation import held_out
from awpo_jax.rollout.judges import judging
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import phases, processes
from awpo_jax.training import programs as programs_lib
from awpo_jax.training import scored as scored_lib


def check_best_metric(experiment: experiment_lib.Experiment) -> None:
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
    raise config_lib.ConfigError(
      f'--best_metric={run.best_metric} is not measured; there are: '
      f'{", ".join(known)}.'
    )


def evaluate(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
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
    texts = phases.answer(experiment, programs, mesh, params, tasks)
    scored = None
    with scored_lib.ending_together():
      if processes.is_first():
        scorers = experiment.scorers(name)
        if isinstance(scorers['judge'], judging.Judging):
          scorers['judge'] = scorers['judge'].leniently
        scored = held_out.score(tasks, texts, **scorers)
    values, answers = processes.gather(scored)[0]
    metrics |= {f'eval/{name}/{key}': value for key, value in values.items()}
    rows += [{'set': name, **row} for row in answers]
  return metrics, rows
