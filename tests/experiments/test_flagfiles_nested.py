"""Every program finds what a flags file names, wherever it is started."""

import pytest

from tests.helpers import whole_runs

PROGRAMS = sorted(
  str(file.relative_to(whole_runs.ROOT))
  for file in (whole_runs.ROOT / 'experiments').rglob('*.py')
  if 'app.run(' in file.read_text()
)


def test_the_programs_that_have_flags_files_are_among_them():
  assert {
    *('experiments/train.py', 'experiments/evaluate.py'),
    *('experiments/ablate.py', 'experiments/tabular.py'),
    'experiments/benchmarks/gpu.py',
    'experiments/benchmarks/iteration.py',
    'experiments/benchmarks/lengths.py',
  } <= set(PROGRAMS)


@pytest.mark.parametrize('program', PROGRAMS)
def test_from_any_folder(tmp_path, program):
  # The file that is typed names another one, as from the root of the project,
  # which ends the program once its flags are read: absl itself, which looks
  # where the command is given, would refuse the first.
  folder = tmp_path / 'project' / 'experiments' / 'deep'
  folder.mkdir(parents=True)
  (folder / 'a.flags').write_text('--flagfile=experiments/b.flags\n')
  (folder.parent / 'b.flags').write_text('--only_check_args\n')
  needed = ['--size=tiny'] if program.endswith('/gpu.py') else []
  done = whole_runs.forked(
    [f'--flagfile={folder / "a.flags"}', *needed],
    tmp_path,
    program=str(whole_runs.ROOT / program),
    folder=tmp_path,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert not done.stdout
