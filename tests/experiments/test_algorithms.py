"""Whole runs under algorithms that ask for more than a batch of rewards."""

import pytest

from tests.helpers import whole_runs

FOLDER = whole_runs.ROOT / 'experiments/algorithms'
ALL = sorted(file.stem for file in FOLDER.glob('*.flags'))


def _train(start, name, *flags):
  result = start(
    '--sft_steps=1',
    '--rl_steps=1',
    '--cpu_devices=1',
    '--minibatches=4',
    f'--flagfile=experiments/algorithms/{name}.flags',
    # Answers of eight tokens, none of them perfect.
    '--correct=0.5',
    # What the reward of these runs reports.
    '--reward_parts=length,solved',
    *flags,
  )
  assert result.returncode == 0, result.stderr


def test_further_rounds_fill_a_batch(start, tmp_path):
  _train(start, 'dapo', '--archive')
  rows = whole_runs.rows(tmp_path / 'run')
  row = rows[-1]
  assert 1 <= row['selection/rounds'] <= 3
  assert 0 < row['selection/useful'] <= 1
  # What finds useful groups was compiled before the first step, too.
  assert len({x['compile/count'] for x in rows}) == 1
  assert 0 < row['selection/tokens'] <= 1


@pytest.mark.slow
@pytest.mark.parametrize('name', ALL)
def test_every_algorithm_trains(start, tmp_path, name):
  _train(start, name)
  row = whole_runs.rows(tmp_path / 'run')[-1]
  assert row['phase'] == 'rl'
  # Of answers that the limit cut nothing is left without them.
  none_left = name == 'overlong_filtering' and row['length/finished'] == 0
  assert none_left or row['grad_norm'] > 0
