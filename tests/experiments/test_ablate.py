"""A grid in processes of its own: resumed, paired, with a cell that fails."""

import os
import subprocess
import sys

import pytest

from awpo_jax.analysis.ablations import grid as grid_lib
from tests.helpers import tiny_dataset, whole_runs


def _ablate(*flags):
  return subprocess.run(
    [sys.executable, whole_runs.ROOT / 'experiments/ablate.py', *flags],
    cwd=whole_runs.ROOT,
    env=whole_runs.environment(),
    capture_output=True,
    text=True,
    timeout=500,
    check=False,
  )


@pytest.mark.slow
def test_a_grid(tmp_path):
  base = tiny_dataset.flags(
    tmp_path / 'unused', f'--compilation_cache={tmp_path / "cache"}'
  )
  base = [x for x in base if not x.startswith('--output_dir')]
  base += ['--rl_steps=1', '--cpu_devices=1', '--sft_steps=0']
  flags = tmp_path / 'grid.flags'
  flags.write_text(
    f"""# A grid of three cells.
--output_dir={tmp_path / 'grid'}
--base={' '.join(base)}
--warm_start=--sft_steps=1 --rl_steps=0
--seeds=3,4
--cell=grpo: --flagfile=experiments/algorithms/grpo.flags
--cell=broken x1: --dataset=no.such:function
--baseline=grpo
--jobs=2
"""
  )
  done = _ablate(f'--flagfile={flags}')
  folder = tmp_path / 'grid'
  assert done.returncode == 1, done.stderr  # A cell failed.
  assert done.stdout.endswith(f'experiments/view.py --runs={folder}\n')
  report = (folder / 'report.md').read_text()
  assert '| grpo | 2 |' in report and '| broken | 0, **1 failed** |' in report
  assert '- broken, seed 3: exit 1: ' in report
  assert 'Minus warm_start, row by row:' in report
  for name in (
    'runs.csv',
    'rows.csv',
    'curves.png',
    'scores.png',
    'overview.png',
  ):
    assert (folder / name).stat().st_size > 0
  for seed in (3, 4):
    run = (folder / f'cells/grpo/seed_{seed}/run.flags').read_text()
    assert f'--seed={seed}' in run and '--gate=none' in run
    assert f'--init_from={folder}/warm_starts/seed_{seed}' in run
  # What has ended is not run again; what failed is.
  done = _ablate(f'--flagfile={flags}')
  started = [x for x in done.stdout.splitlines() if x.endswith('started')]
  assert started == ['broken, seed 3: started']
  assert (folder / 'report.md').read_text() == report


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    (['--cell=a: --x=1', '--baseline=a'], '--output_dir'),
    (['--output_dir=x', '--baseline=a'], '--cell'),
    (['--output_dir=x', '--cell=a', '--baseline=a'], '`name: flags`'),
    (['--output_dir=x', '--cell=a x3: ', '--baseline=a'], '--seeds has 1'),
    (['--output_dir=x', '--cell=a:', '--cell=a:', '--baseline=a'], 'twice'),
    (['--output_dir=x', '--cell=a: ', '--baseline=b'], "one of ['a']"),
  ],
)
@pytest.mark.slow
def test_what_is_wrong_is_named(flags, named):
  done = _ablate(*flags)
  assert done.returncode == 1 and named in done.stderr


def test_cells_and_their_seeds(tmp_path):
  cell = grid_lib.parse_cell(" dr-grpo x2: --a=1 --b='x y' ", 3)
  assert cell == grid_lib.Cell('dr-grpo', ('--a=1', '--b=x y'), 2)
  grid = grid_lib.Grid(
    tmp_path, ('--c=2',), (cell, grid_lib.Cell('all', (), 3)), (5, 6, 7)
  )
  warm, runs = grid_lib.runs(grid)
  assert warm == []
  # Seed by seed: a grid stopped early can be compared in pairs.
  names = [(run.name, run.seed) for run in runs]
  assert names == [
    *(('dr-grpo', 5), ('all', 5), ('dr-grpo', 6), ('all', 6), ('all', 7))
  ]
  assert runs[0].flags[:3] == ('--c=2', '--a=1', '--b=x y')


def test_flags_files_of_cells_are_found_from_any_folder(tmp_path, monkeypatch):
  programs, here = tmp_path / 'project/experiments', tmp_path / 'here'
  for folder in (programs, here / 'experiments'):
    folder.mkdir(parents=True)
  program = programs / 'say.py'
  program.write_text('import sys\nprint(*sys.argv[1:])\n')
  for file in (programs / 'a.flags', programs / 'b.flags'):
    file.touch()
  (here / 'experiments/b.flags').touch()
  names = ('a', 'b', 'c')
  flags = tuple(f'--flagfile=experiments/{name}.flags' for name in names)
  monkeypatch.chdir(here)
  cells = (grid_lib.Cell('x', flags, 1),)
  grid_lib.execute(grid_lib.Grid(here, ('--d=1',), cells, (0,)), program)
  said = (here / 'cells/x/seed_0.ablate.log').read_text().split()
  # Here first, as of a file that another names; then where the program lies.
  found = f'--flagfile={programs / "a.flags"}'
  assert said[:4] == ['--d=1', found, *flags[1:]]


def test_a_cell_that_takes_too_long_has_failed(tmp_path):
  program = tmp_path / 'sleep.py'
  program.write_text('import time\ntime.sleep(60)\n')
  grid = grid_lib.Grid(
    tmp_path / 'grid', (), (grid_lib.Cell('a', (), 1),), (1,), (), 0.5
  )
  failed = grid_lib.execute(grid, program)
  assert list(failed) == [('a', 1)] and 'more than 0.5 s' in failed['a', 1]


@pytest.mark.skipif(
  len(getattr(os, 'sched_getaffinity', lambda _: ())(0)) < 2,
  reason='one core has no two shares',
)
def test_each_of_two_processes_has_half_of_the_cores(tmp_path):
  program = tmp_path / 'cores.py'
  program.write_text(
    """import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[-1].removeprefix('--output_dir='))
folder.mkdir()
time.sleep(0.5)  # Until the other one has started too.
(folder / 'cores').write_text(' '.join(map(str, os.sched_getaffinity(0))))
(folder / 'summary.json').write_text('{}')
"""
  )
  grid = grid_lib.Grid(tmp_path / 'g', (), (grid_lib.Cell('a', (), 2),), (1, 2))
  assert not grid_lib.execute(grid, program, jobs=2)
  files = sorted((tmp_path / 'g').rglob('cores'))
  first, second = (set(map(int, x.read_text().split())) for x in files)
  assert first and second and not first & second
  assert first | second == os.sched_getaffinity(0)  # This process keeps all.
