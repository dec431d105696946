"""Imports point down, and importing changes nothing."""

import ast
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Bottom to top; a module may import its own floor and those before it. The
# flags' choices are the keys of dicts of `ops` and `rollout`, hence `config`
# stands above them.
FLOORS = (
  'types',
  'ops',
  'models',
  'reporting',
  'rollout',
  'config',
  'distributed',
  'checkpointing',
  'evaluation',
  'training',
  'analysis',
  'experiments',
)


def _floor(module: str) -> str | None:
  """Floor of a dotted name; None for the package itself and other packages."""
  parts = module.split('.')
  if parts[0] == 'awpo_jax':
    parts = parts[1:]
  elif parts[0] != 'experiments':
    return None
  return parts[0] if parts else None


def _imported(source: str, package: str) -> list[str]:
  """Dotted names a source imports, also inside functions."""
  names = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = package.split('.')[: 1 - node.level or None] if node.level else []
      base += [node.module] if node.module else []
      names += ['.'.join([*base, alias.name]) for alias in node.names]
  return names


def _upward(source: str, module: str) -> list[str]:
  """Imports of `module` that point to a higher floor than its own."""
  floor = _floor(module)
  package = module.rpartition('.')[0]
  targets = {name: _floor(name) for name in _imported(source, package)}
  return [
    name
    for name, target in targets.items()
    if target in FLOORS
    and (floor not in FLOORS or FLOORS.index(target) > FLOORS.index(floor))
  ]


def _sources() -> dict[str, str]:
  """Source of each module by its dotted name; a package by its own name."""
  sources = {}
  for top in ('awpo_jax', 'experiments'):
    for path in sorted((ROOT / top).rglob('*.py')):
      parts = path.relative_to(ROOT).with_suffix('').parts
      sources['.'.join(parts)] = path.read_text(encoding='utf-8')
  return sources


SOURCES = _sources()


def test_every_floor_is_looked_at():
  assert {_floor(module) for module in SOURCES} >= set(FLOORS)


@pytest.mark.parametrize('module', SOURCES)
def test_imports_point_down(module):
  assert _floor(module) in (*FLOORS, '__init__'), f'{module} is on no floor'
  assert not _upward(SOURCES[module], module)


@pytest.mark.parametrize(
  ('module', 'source', 'upward'),
  [
    ('awpo_jax.ops.surrogate', 'import awpo_jax.models.decoder', 1),
    ('awpo_jax.ops.surrogate', 'from awpo_jax import models', 1),
    ('awpo_jax.ops.surrogate', 'from awpo_jax import types', 0),
    ('awpo_jax.ops.surrogate', 'from awpo_jax.ops import masked', 0),
    ('awpo_jax.ops.surrogate', 'from . import masked', 0),
    ('awpo_jax.ops.surrogate', 'from ..models import decoder', 1),
    ('awpo_jax.rollout.judges.x', 'from ...training import loop', 1),
    ('awpo_jax.rollout.judges.x', 'from ..judges import y', 0),
    ('awpo_jax.models.x', 'def f():\n  from awpo_jax.rollout import y', 1),
    ('awpo_jax.rollout.x', 'from awpo_jax import config', 1),
    ('awpo_jax.config.experiment', 'from awpo_jax.rollout import rewards', 0),
    ('awpo_jax.training.loop', 'from experiments import train', 1),
    ('experiments.train', 'from awpo_jax.training import loop', 0),
    ('awpo_jax.ops.x', 'import jax\nimport types', 0),
  ],
)
def test_an_upward_import_is_seen(module, source, upward):
  assert len(_upward(source, module)) == upward


IMPORT_ALL = """
  import importlib, os, pkgutil, sys
  import absl.flags, chex, grain, jax, orbax.checkpoint, tensorboardX
  import awpo_jax  # The above set variables and define flags of their own.

  def settings():
    return dict(os.environ), dict(jax.config.values), set(absl.flags.FLAGS)

  before = settings()
  for module in pkgutil.walk_packages(awpo_jax.__path__, 'awpo_jax.'):
    importlib.import_module(module.name)
  assert len([name for name in sys.modules if 'awpo_jax' in name]) > 10
  assert settings() == before, (before, settings())
  assert not absl.flags.FLAGS.is_parsed(), 'flags were parsed'
  assert not jax._src.xla_bridge._backends, 'a device was opened'
"""


def test_importing_changes_nothing():
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(IMPORT_ALL)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_programs_import_their_neighbours_by_name():
  """Python finds what lies beside a program, not the folder above it."""
  found = {
    str(file.relative_to(ROOT)): names
    for file in sorted((ROOT / 'experiments').rglob('*.py'))
    if (
      names := [
        name
        for name in _imported(file.read_text(), '')
        if name.startswith('experiments')
      ]
    )
  }
  assert not found
