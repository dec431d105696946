"""Whole runs of several turns: nothing recompiles, everything is logged."""

import json

import pytest

from awpo_jax.rollout.environments import episodes
from tests.helpers import tiny_dataset, tiny_turns, whole_runs

STEPS = tiny_turns.SFT_STEPS + tiny_dataset.RL_STEPS


def run(folder, *further, at=None):
  flags = tiny_dataset.flags(folder / 'run', *tiny_turns.FLAGS, *further)
  return whole_runs.forked(flags, folder, at=at)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, cache):
  base = tmp_path_factory.mktemp('turns')
  result = run(base, cache)
  assert result.returncode == 0, result.stderr
  return base / 'run'


def transcripts(folder):
  lines = (folder / 'transcripts.jsonl').read_bytes().splitlines()
  rows = map(json.loads, lines)
  return [row for row in rows if row['task_id'].startswith('train_')]


def test_episodes_have_turns_and_nothing_recompiles(folder):
  rows = whole_runs.rows(folder)
  rollouts = [row for row in rows if row['phase'] == 'rl']
  assert len(rollouts) == tiny_dataset.RL_STEPS
  for row in rollouts:
    assert row['reward/turns'] > 1
    assert row['compile/count'] == rows[0]['compile/count']
    # The ratio starts at 1: trainer and sampler saw the same.
    assert row['ratio/first_abs_log_mean'] < 1e-4


def test_lengths_count_the_policys_tokens_alone(folder):
  for row in whole_runs.rows(folder):
    if row['phase'] != 'rl':
      continue
    logged = [x for x in transcripts(folder) if x['step'] == row['step']]
    # A letter is a token here at least; an observation alone has about 20.
    turns = [len(x['episode']['turns']) for x in logged]
    assert 2 * max(turns) < 96
    assert row['length/mean'] < 96 - 20 * (min(turns) - 1)


def test_a_transcript_can_be_replayed(folder):
  logged = transcripts(folder)
  assert len(logged) >= 8
  environment = tiny_turns.Environment()
  tasks = tiny_turns.load(seed=0).train
  several = 0
  for row in logged:
    task = tasks[int(row['task_id'].removeprefix('train_'))]
    texts = row['episode']['turns']
    again = episodes.replay(environment, task, [turn['text'] for turn in texts])
    assert episodes.to_json(again) == row['episode']
    several += len(texts) > 1
    score = environment.outcome(task, again.state, again.turns)
    assert row['outcome'] == pytest.approx(score.value, abs=1e-6)
  assert several > 0


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(
  folder, tmp_path, cache
):
  at = whole_runs.Signal('awpo_jax.training.collection.score:score', 3)
  assert run(tmp_path, cache, at=at).returncode < 0
  assert run(tmp_path, cache).returncode == 0
  whole_runs.assert_same(tmp_path / 'run', folder, STEPS)


def test_what_does_not_belong_together_is_refused(tmp_path, cache):
  for flag, message in (
    ('--dataset=quickstart', 'has no scenario'),
    ('--environment=none', 'several turns'),
    ('--observation_tokens=96', 'leaves no room'),
    ('--observation_tokens=8', '--observation_tokens=8'),
    ('--environment=nowhere', 'neither a known name'),
  ):
    result = run(tmp_path, cache, flag)
    assert result.returncode == 1
    assert message in result.stderr, (flag, result.stderr)
