"""Every text of the quickstart fits the lengths that are compiled for."""

import pytest

from awpo_jax import config as config_lib
from awpo_jax.rollout import demonstrations, episodes
from awpo_jax.training import experiment as experiment_lib
from tests import whole_runs

TRAIN = 1000  # Of prompts without end.


@pytest.mark.parametrize('seed', [0, 1])
def test_texts_of_several_turns_fit(seed, tmp_path, monkeypatch):
  monkeypatch.chdir(whole_runs.ROOT)
  config = config_lib.parse(
    [
      '--flagfile=experiments/quickstart_turns.flags',
      f'--seed={seed}',
      f'--output_dir={tmp_path / "run"}',
    ]
  )
  # It refuses demonstrations and held-out prompts that are too long.
  experiment = experiment_lib.make_experiment(config)
  tasks = [
    *experiment.dataset.train[: TRAIN // 2],
    *experiment.dataset.evals['values'],
  ]
  shown = [
    episodes.demonstrate(experiment.environment, task, task.references)
    for task in tasks
  ]
  fit = demonstrations.fits(
    experiment.tokenizer,
    tasks,
    shown,
    prompt_buckets=config.data.prompt_buckets,
    response_buckets=config.data.response_buckets,
    reader=experiment.reader,
  )
  assert fit.all(), [tasks[i].task_id for i in (~fit).nonzero()[0]]
  turns = max(len(task.references) for task in tasks)
  assert turns <= config.environment.max_turns


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_texts_of_the_quickstart_fit(seed, tmp_path, monkeypatch):
  monkeypatch.chdir(whole_runs.ROOT)
  config = config_lib.parse(
    [
      '--flagfile=experiments/quickstart.flags',
      f'--seed={seed}',
      f'--output_dir={tmp_path / "run"}',
    ]
  )
  experiment = experiment_lib.make_experiment(config)
  dataset = experiment.dataset
  shown = dataset.demonstrations
  tasks = [*dataset.train[:TRAIN], *(x.task for x in shown)]
  responses = [x.ground_truth for x in tasks[:TRAIN]]
  responses += [x.response for x in shown]
  for held_out in dataset.evals.values():
    tasks += held_out
    responses += [x.ground_truth for x in held_out]
  assert len(shown) == 1000 and len(tasks) == len(responses) >= 2512
  fit = demonstrations.fits(
    experiment.tokenizer,
    tasks,
    responses,
    prompt_buckets=config.data.prompt_buckets,
    response_buckets=config.data.response_buckets,
  )
  assert fit.all(), [tasks[i].task_id for i in (~fit).nonzero()[0]]
