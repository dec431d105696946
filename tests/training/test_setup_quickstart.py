"""Every text of the quickstart fits the lengths that are compiled for."""

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.ops import advantages
from awpo_jax.rollout.environments import episodes
from awpo_jax.rollout.text import demonstrations
from awpo_jax.training import setup as setup_lib
from tests.helpers import whole_runs

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
  experiment = setup_lib.make_experiment(config)
  tasks = [
    *experiment.data.dataset.train[: TRAIN // 2],
    *experiment.data.dataset.evals['values'],
  ]
  shown = [
    episodes.demonstrate(experiment.rules.environment, task, task.references)
    for task in tasks
  ]
  fit = demonstrations.fits(
    experiment.codec,
    tasks,
    shown,
    prompt_buckets=config.data.prompt_buckets,
    response_buckets=config.data.response_buckets,
  )
  assert fit.all(), [tasks[i].task_id for i in (~fit).nonzero()[0]]
  turns = max(len(task.references) for task in tasks)
  assert turns <= config.environment.max_turns


def test_solved_can_be_the_only_reward_of_episodes(tmp_path, monkeypatch):
  monkeypatch.chdir(whole_runs.ROOT)
  flags = [
    '--flagfile=experiments/quickstart_turns_solved.flags',
    f'--output_dir={tmp_path / "run"}',
  ]
  experiment = setup_lib.make_experiment(config_lib.parse(flags))
  assert experiment.scorer.judge is None
  tasks = {task.kind: task for task in experiment.data.dataset.train[:50]}
  assert tasks.keys() == {'chain', 'retry', 'report'}
  for task in tasks.values():
    first, *rest = task.references
    for answers, right in (
      ([first, *rest], 1.0),
      # Half of the way, and a layout that is broken in one turn, earn nothing.
      ([first], 0.0),
      ([first.replace('<think>', ''), *rest], 0.0),
    ):
      episode = episodes.replay(experiment.rules.environment, task, answers)
      score = experiment.scorer.reward(episode, task)
      assert (score.value, score.minimum, score.maximum) == (right, 0.0, 1.0)
      assert score.solved == bool(right)


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
  experiment = setup_lib.make_experiment(config)
  dataset = experiment.data.dataset
  shown = dataset.demonstrations
  tasks = [*dataset.train[:TRAIN], *(x.task for x in shown)]
  responses = [
    *(types.Demonstration(x, x.ground_truth) for x in tasks[:TRAIN]),
    *shown,
  ]
  for held_out in dataset.evals.values():
    tasks += held_out
    responses += [types.Demonstration(x, x.ground_truth) for x in held_out]
  assert len(shown) == 1000 and len(tasks) == len(responses) >= 2512
  fit = demonstrations.fits(
    experiment.codec,
    tasks,
    responses,
    prompt_buckets=config.data.prompt_buckets,
    response_buckets=config.data.response_buckets,
  )
  assert fit.all(), [tasks[i].task_id for i in (~fit).nonzero()[0]]


def test_a_prompt_that_is_too_long_does_not_end_the_run(tmp_path, monkeypatch):
  monkeypatch.chdir(whole_runs.ROOT)
  config = config_lib.parse(
    [
      '--flagfile=experiments/quickstart.flags',
      '--dataset=quickstart_hard:two',
      '--seed=3',
      f'--output_dir={tmp_path / "run"}',
    ]
  )
  experiment, data = setup_lib.make_experiment(config), config.data
  codec = experiment.codec
  # Of the prompts without end one of 194 tokens, which a run came upon.
  task = experiment.data.dataset.train[1_041_027_318]
  assert len(codec.encode(task)) > data.prompt_buckets[-1]
  made = codec.prompts(
    [task], [0], buckets=data.prompt_buckets, overlong=data.overlong
  )
  assert made.tokens.shape == (1, data.prompt_buckets[-1]) and made.mask.all()


@pytest.mark.parametrize('dataset', ['quickstart', 'quickstart_hard'])
def test_overlong_shaping_of_dapo_takes_nothing_from_gold(
  dataset, tmp_path, monkeypatch
):
  monkeypatch.chdir(whole_runs.ROOT)
  config = config_lib.parse(
    [
      '--flagfile=experiments/quickstart.flags',
      '--flagfile=experiments/algorithms/dapo.flags',
      f'--dataset={dataset}',
      f'--output_dir={tmp_path / "run"}',
    ]
  )
  experiment = setup_lib.make_experiment(config)
  tasks = [
    *experiment.data.dataset.train[: 2 * TRAIN],
    *(
      task
      for held_out in experiment.data.dataset.evals.values()
      for task in held_out
    ),
  ]
  shown = [types.Demonstration(task, task.ground_truth) for task in tasks]
  lengths = np.array(
    [demonstrations.shown_length(experiment.codec, x) for x in shown]
  )

  def lost(buffer):
    return advantages.overlong_penalty(
      lengths,
      max_length=config.data.response_buckets[-1],
      buffer=buffer,
      penalty=config.advantage.length_penalty,
    )

  assert config.advantage.length_buffer > 0
  assert not np.any(lost(config.advantage.length_buffer))
  # The paper's fifth of the limit would punish one in eight of two calls.
  two = np.array([task.kind == 'parallel' for task in tasks])
  assert 0.08 < np.mean(lost(24)[two] < 0) < 0.18
