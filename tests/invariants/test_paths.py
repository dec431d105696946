"""A test is found where the code is: the same folder, the module's name."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Properties of many modules, of whole programs, and of the tests' own helpers.
APART = ('invariants', 'experiments', 'notebooks', 'helpers')


def _has_code(test: pathlib.PurePath, modules: set[str]) -> bool:
  """Whether `test_NAME.py` or `test_NAME_ASPECT.py` is of a module NAME."""
  words = test.stem.removeprefix('test_').split('_')
  names = ('_'.join(words[:i]) for i in range(1, len(words) + 1))
  return any(str(test.parent / name) in modules for name in names)


def _modules() -> set[str]:
  """Files and packages below `awpo_jax`, without their ending."""
  top = ROOT / 'awpo_jax'
  packages = (x.parent for x in top.glob('**/*/__init__.py'))
  paths = [*top.rglob('*.py'), *packages]
  return {str(x.relative_to(top).with_suffix('')) for x in paths}


TESTS = sorted(
  test
  for x in (ROOT / 'tests').rglob('test_*.py')
  if (test := x.relative_to(ROOT / 'tests')).parts[0] not in APART
  and len(test.parts) > 1
)


@pytest.mark.parametrize('test', TESTS, ids=str)
def test_a_test_lies_beside_its_code(test):
  assert _has_code(test, _modules())


@pytest.mark.parametrize(
  ('test', 'found'),
  [
    ('ops/test_awpo.py', True),
    ('ops/test_awpo_edges.py', True),
    ('ops/test_edges_awpo.py', False),
    ('ops/test_awp.py', False),
    ('models/test_awpo.py', False),
    ('analysis/test_page.py', True),
  ],
)
def test_a_test_of_nothing_is_seen(test, found):
  modules = {'ops/awpo', 'models/layers', 'analysis/page'}
  assert _has_code(pathlib.PurePath(test), modules) == found


def test_every_room_is_looked_at():
  rooms = {x.parent.name for x in (ROOT / 'awpo_jax').glob('*/__init__.py')}
  assert {test.parts[0] for test in TESTS} == rooms
