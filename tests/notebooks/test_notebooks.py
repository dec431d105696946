"""The notebooks run from a fresh clone, and hold neither output nor maths."""

import ast
import os
import pathlib

import jupyter_client
import matplotlib
import nbclient
import nbformat
import pytest
from matplotlib import pyplot

from tests.helpers import tiny_dataset, whole_runs

FOLDER = whole_runs.ROOT / 'notebooks'
FILES = sorted(FOLDER.glob('*.ipynb'))
NAMES = ['clipping', 'gating', 'group_stats', 'tabular', 'theory', 'weighting']
each_file = pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
# This one trains what it shows, and looks at no run.
TABULAR = FOLDER / 'tabular.ipynb'
of_a_run = pytest.mark.parametrize(
  'file', [x for x in FILES if x != TABULAR], ids=lambda file: file.stem
)


def _read(file):
  return nbformat.read(file, as_version=4)


def _code(cells):
  return [x for x in cells if x.cell_type == 'code']


def test_they_are_all_there():
  assert [file.stem for file in FILES] == NAMES


@each_file
def test_no_output_is_stored_and_no_maths_is_their_own(file):
  cells = _code(_read(file).cells)
  for cell in cells:
    assert not cell.outputs and cell.execution_count is None
  tree = ast.parse('\n'.join(cell.source for cell in cells))
  for node in ast.walk(tree):
    assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.While)
    # Arrays are put together and selected, never computed with.
    assert not (isinstance(node, ast.BinOp) and not _plain(node))


def _plain(node):
  """1 / n, the weight of a sample, is all the arithmetic there is."""
  return isinstance(node.op, ast.Div | ast.BitAnd) and (
    isinstance(node.left, ast.Constant) or isinstance(node.op, ast.BitAnd)
  )


@each_file
def test_from_hand_written_groups_to_what_one_learns(file):
  cells = _read(file).cells
  titles = [
    (number, line)
    for number, cell in enumerate(cells)
    if cell.cell_type == 'markdown'
    for line in cell.source.split('\n')
    if line.startswith('#')
  ]
  assert [title for _, title in titles[1:]] == [
    '## Six hand-written groups',
    '## Policies that are tables'
    if file == TABULAR
    else '## The rollouts of a run',
    '## What one learns',
  ]
  groups, run, end = (number for number, _ in titles[1:])
  assert titles[0][0] == 0 and end == len(cells) - 1
  by_hand = '\n'.join(x.source for x in _code(cells[groups:run]))
  assert 'examples.six_groups()' in by_hand and 'plt.show()' in by_hand


@pytest.fixture(scope='module')
def kernel():
  """One for all notebooks: what takes long is its imports."""
  manager = jupyter_client.KernelManager(kernel_name='python3')
  # Its environment alone: what this process has decides of its own devices.
  environment = {**os.environ, **whole_runs.environment()}
  environment.pop('AWPO_RUN', None)
  # As Jupyter does, in the folder of the notebook.
  manager.start_kernel(cwd=str(FOLDER), env=environment)
  yield manager
  manager.shutdown_kernel(now=True)


@each_file
def test_it_runs_on_a_fresh_clone(file, kernel):
  notebook = _read(file)
  # No name is left of the notebook before.
  notebook.cells.insert(0, nbformat.v4.new_code_cell('%reset -f'))
  nbclient.NotebookClient(notebook, km=kernel, timeout=280).execute()
  pictures = [
    output
    for cell in _code(notebook.cells)
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) >= 2
  # Nothing was written into the repository.
  assert not any(cell.outputs for cell in _code(_read(file).cells))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run of seconds that kept its rollouts."""
  base = tmp_path_factory.mktemp('notebooks')
  flags = tiny_dataset.flags(
    base / 'run',
    '--archive',
    '--cpu_devices=1',
    '--compilation_cache=',
    '--sft_steps=2',
  )
  done = whole_runs.forked(
    [*flags, '--sft_steps=2', '--prompts_per_step=8'], base
  )
  assert done.returncode == 0, done.stderr
  return base / 'run'


@of_a_run
def test_it_runs_on_a_run(file, run, monkeypatch):
  # In this process, from the root.
  monkeypatch.chdir(whole_runs.ROOT)
  monkeypatch.setenv('AWPO_RUN', str(run))
  matplotlib.use('Agg')
  monkeypatch.setattr(pyplot, 'show', lambda: None)
  names = {}
  for cell in _code(_read(file).cells):
    exec(cell.source, names)
  assert names['RUN'] == pathlib.Path(run)
  assert len(names['rollouts']) == tiny_dataset.RL_STEPS
  pyplot.close('all')
