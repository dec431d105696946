"""Benchmarks as evaluation sets of a run: a few rows, always the same."""

from collections.abc import Mapping, Sequence

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.evaluation import benchmarks
from awpo_jax.evaluation import items as items_lib


def with_benchmarks(
  config: config_lib.Config,
  dataset: types.Dataset,
  skipped: list[str] | None = None,
) -> tuple[types.Dataset, Mapping[str, types.Reward]]:
  """The data set with those of `--eval_benchmarks` among its evaluation sets.

  Of each benchmark `--eval_tasks` rows, those whose hashed ids are smallest, so
  that all categories are there in proportion. Nothing is trained on them. The
  prompts are in RLLA's layout, or as `--prompt_style` has it.

  Args:
    config: of the run.
    dataset: what it trains on.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Returns:
    The data set, and the reward of each benchmark: 1 where the answer is right.

  Raises:
    ValueError: an unknown benchmark, no rows, or a bad one.
  """
  if not config.run.eval_benchmarks:
    return dataset, {}
  if config.environment.environment != 'none':
    raise ValueError(
      f'--environment={config.environment.environment} has episodes, '
      '--eval_benchmarks single answers: leave out one of them.'
    )
  evals, rewards = dict(dataset.evals), {}
  for name in config.run.eval_benchmarks:
    if name not in benchmarks.BENCHMARKS:
      raise ValueError(
        f'--eval_benchmarks={name}: choose among '
        f'{", ".join(benchmarks.BENCHMARKS)}.'
      )
    if not config.run.eval_data:
      raise ValueError(
        f'--eval_benchmarks={name} needs --eval_data: the folder of its rows.'
      )
    if name in evals:
      raise ValueError(
        f'--eval_benchmarks={name}: the data set has an evaluation set of that '
        'name.'
      )
    place = benchmarks.place(config.run.eval_data, name)
    source = benchmarks.Source(place, skipped=skipped)
    items = benchmarks.BENCHMARKS[name].load(source)
    items.sort(key=lambda item: items_lib.hashed(item.row_id))
    items = items[: config.run.eval_tasks]
    evals[name] = [item.task for item in items]
    rewards[name] = make_reward(items)
  return types.Dataset(dataset.demonstrations, dataset.train, evals), rewards


def make_reward(items: Sequence[items_lib.Item]) -> types.Reward:
  """A reward of 1 for a right answer to a single-turn row, 0 for others."""
  known = {item.row_id: item for item in items}

  def reward(response: str, task: types.Task) -> types.Score:
    correct = known[task.task_id].score([response], 0).correct
    return types.Score(float(correct), 0.0, 1.0, {}, correct)

  return reward
