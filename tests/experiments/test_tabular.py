"""The map of tables from the command line: a small one, and what is refused."""

import csv

import pytest

from tests.helpers import whole_runs

GRPO = '--algorithm=grpo: --flagfile=experiments/algorithms/grpo.flags'
MIX = '--algorithm=mix: --flagfile=experiments/algorithms/naive_mix.flags'


def _tabular(folder, *flags):
  return whole_runs.forked(
    [
      f'--output_dir={folder / "map"}',
      '--base=--flagfile=experiments/quickstart.flags',
      *flags,
    ],
    folder,
    program='experiments/tabular.py',
  )


def test_a_small_map(tmp_path):
  done = _tabular(
    tmp_path,
    *(GRPO, MIX, '--baselines=grpo', '--judges=good,against:0.5'),
    *('--decisions=1,2', '--executed=1', '--seeds=2', '--steps=1'),
    *('--prompts=2', '--samples=2', '--options=2', '--chance=0.5'),
    *('--learning_rate=0', f'--compilation_cache={tmp_path / "cache"}'),
  )
  assert done.returncode == 0, done.stderr
  assert f'{tmp_path}/map/report.md' in done.stdout.splitlines()[-1]
  assert (tmp_path / 'map/over_grpo.png').is_file()
  assert any((tmp_path / 'cache').iterdir())
  rows = list(csv.DictReader((tmp_path / 'map/cells.csv').open()))
  # Nothing is learnt at a rate of 0: 1/2 for each decision, the executed one
  # too, whoever decides and judges.
  cells = [
    (x['algorithm'], x['decisions'], x['judge'], x['noise']) for x in rows
  ]
  assert cells == [
    (name, k, judge, noise)
    for name in ('grpo', 'mix')
    for k in ('1', '2')
    for judge, noise in (('good', '0.0'), ('against', '0.5'))
  ]
  for row in rows:
    assert float(row['success']) == 0.5 ** (int(row['decisions']) + 1)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([GRPO, MIX, '--decisions=2,x'], '--decisions=2,x: expected whole numbers'),
    ([GRPO, MIX, '--decisions=0'], 'decisions=0: must be at least 1'),
    ([GRPO, MIX, '--baselines=gspo'], "choose among ['grpo', 'mix']"),
    ([GRPO, '--baselines=grpo'], 'no other --algorithm to compare'),
    ([GRPO, GRPO], 'a name twice'),
    ([GRPO, '--judges=mild'], "judge 'mild'"),
    ([], '--algorithm is not set'),
    ([f'{GRPO} --kl_coef=0.1'], '--kl_coef=0.1'),
  ],
)
def test_wrong_flags_are_named(tmp_path, flags, message):
  done = _tabular(tmp_path, *flags)
  assert done.returncode == 1 and message in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'map').exists()
