"""README.md names what is there, and its two lines are two."""

import importlib
import re

import pytest

from awpo_jax.config import experiment as config_lib
from tests.helpers import whole_runs

ROOT = whole_runs.ROOT
TEXT = (ROOT / 'README.md').read_text('utf-8')
QUICKSTART = '--flagfile=experiments/quickstart.flags'


def _table(header):
  """Rows of cells of the table under that header."""
  _, _, rest = TEXT.partition(f'\n| {header} |\n')
  assert rest, f'no table {header}'
  lines = rest.partition('\n\n')[0].splitlines()[1:]
  # A bar may stand within a formula, never within the last cells.
  return [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines]


def _code(cell):
  return re.findall('`([^`]+)`', cell)


@pytest.mark.parametrize(
  'end',
  [
    f'python experiments/train.py {QUICKSTART}',
    'python -m pytest -q -n 2 --dist loadfile',
  ],
)
def test_one_line_sets_up_and_does_it(end):
  lines = [
    line
    for line in TEXT.splitlines()
    if line.startswith('python3 -m venv .venv && ') and line.endswith(end)
  ]
  assert len(lines) == 1
  _, *steps = lines[0].split(' && ')
  # Nothing but the environment just made, whatever else is active.
  assert all(step.startswith('.venv/bin/') for step in steps)
  assert 'pip install' in steps[0]
  # Nothing else in a block of code sets up.
  assert TEXT.count('python3 -m venv') == 2


FUNCTIONS = _table('what | function | test')


@pytest.mark.parametrize('row', FUNCTIONS, ids=lambda row: row[0])
def test_equation_function_test(row):
  (function,), (test,) = map(_code, row[-2:])
  path, name = test.split(': ')
  assert f'def {name}(' in (ROOT / path).read_text('utf-8')
  path, name = function.split(': ')
  assert (ROOT / 'awpo_jax' / path).is_file()
  module = path.removesuffix('.py').replace('/', '.')
  assert hasattr(importlib.import_module(f'awpo_jax.{module}'), name)


ABLATIONS = [
  flags for row in _table('ablation | flags') for flags in _code(row[-1])
]


@pytest.mark.parametrize('flags', ['', *ABLATIONS])
def test_an_ablation_is_the_quickstart_with_other_flags(flags, monkeypatch):
  monkeypatch.chdir(ROOT)
  plain = config_lib.parse([QUICKSTART])
  changed = config_lib.parse([QUICKSTART, *flags.split()])
  assert (changed != plain) == bool(flags)


def test_the_tables_were_read():
  assert len(FUNCTIONS) >= 15 and len(ABLATIONS) >= 10
