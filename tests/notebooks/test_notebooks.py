"""The notebooks run on a small archive, and hold neither output nor maths."""

import ast
import os

import nbclient
import nbformat
import pytest

from awpo_jax.reporting import rollout_archive
from tests.helpers import tiny_dataset, whole_runs

FILES = sorted((whole_runs.ROOT / 'notebooks').glob('*.ipynb'))
NAMES = ['clipping', 'gating', 'group_stats', 'theory', 'weighting']


def _read(file):
  return nbformat.read(file, as_version=4)


def _code(notebook):
  return [x for x in notebook.cells if x.cell_type == 'code']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run of seconds that kept its rollouts."""
  base = tmp_path_factory.mktemp('notebooks')
  flags = tiny_dataset.flags(
    base / 'run', '--archive', '--cpu_devices=1', '--compilation_cache='
  )
  done = whole_runs.forked(
    [*flags, '--sft_steps=2', '--prompts_per_step=8'], base
  )
  assert done.returncode == 0, done.stderr
  return base / 'run'


def test_they_are_all_there():
  assert [file.stem for file in FILES] == NAMES


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_no_output_is_stored_and_no_maths_is_their_own(file):
  cells = _code(_read(file))
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


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_it_runs(file, run, monkeypatch):
  for name, value in whole_runs.environment().items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('AWPO_RUN', str(run))
  assert rollout_archive.open_archive(run).steps
  notebook = _read(file)
  client = nbclient.NotebookClient(
    notebook,
    timeout=280,
    kernel_name='python3',
    resources={'metadata': {'path': str(whole_runs.ROOT)}},
  )
  client.execute()
  pictures = [
    output
    for cell in _code(notebook)
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) >= 1
  # Nothing was written into the repository.
  assert not any(cell.outputs for cell in _code(_read(file)))
  assert os.environ['AWPO_RUN'] == str(run)
