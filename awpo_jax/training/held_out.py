"""The evaluations of a run on held-out tasks."""

import functools
from typing import Any

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import processes
from awpo_jax.evaluation import held_out
from awpo_jax.rollout.rewards import scorer as scorer_lib
from awpo_jax.training.collection import sample
from awpo_jax.training.collection import score as score_lib


def check_best_metric(
  config: config_lib.Config, dataset: types.Dataset, scorer: scorer_lib.Scorer
) -> None:
  """Raises `ConfigError` where `--best_metric` will not be measured."""
  run = config.run
  known = [
    f'eval/{name}/{key}'
    for name, tasks in dataset.evals.items()
    for reward, judge in [scorer.of_set(name)]
    for key in held_out.metric_names(
      tasks[: run.eval_tasks],
      judged=judge is not None,
      laid_out=held_out.in_parts(reward),
    )
  ]
  if run.best_metric and run.best_metric not in known:
    raise flags_lib.ConfigError(
      f'--best_metric={run.best_metric} is not measured; there are: '
      f'{", ".join(known)}.'
    )


def evaluate(
  params: types.ArrayTree, sampler: sample.RolloutSampler
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Metrics of every held-out set, and a row for each answer.

  Training does not depend on them: without the judge its metric is None.
  All processes answer, the first one scores.

  Raises:
    types.BadReturn: as `scoring.score`.
  """
  metrics: dict[str, Any] = {}
  rows: list[dict[str, Any]] = []
  for name, every in sampler.data.dataset.evals.items():
    tasks = every[: sampler.config.run.eval_tasks]
    texts: list[Any] = []
    with processes.working(functools.partial(_shown, name, len(tasks), texts)):
      sampler.answers(params, tasks, texts)
    scored = None
    with score_lib.ending_together():
      if processes.is_first():
        reward, judge = sampler.scorer.of_set(name)
        scored = held_out.score(tasks, texts, reward=reward, judge=judge)
    values, answers = processes.gather(scored)[0]
    metrics |= {f'eval/{name}/{key}': value for key, value in values.items()}
    rows += [{'set': name, **row} for row in answers]
  return metrics, rows


def _shown(name: str, asked: int, texts: list[Any]) -> str:
  # A last batch that is not full is filled up.
  return f'Evaluating {name}: {min(len(texts), asked)} of {asked} answered'
