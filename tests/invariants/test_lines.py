"""A line ends with a line feed: no text is split where others see an end."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = [
  path
  for top in ('awpo_jax', 'experiments')
  for path in (ROOT / top).rglob('*.py')
]


def _splits(source):
  """Lines that call `splitlines`, which also splits at U+2028 and the like."""
  return [
    node.lineno
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Attribute) and node.attr == 'splitlines'
  ]


def test_a_call_is_seen():
  assert _splits('x = 1\ny = path.read_text().splitlines()[1:]') == [2]
  assert not _splits("text.split('\\n')  # not splitlines")


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.stem)
def test_no_text_is_split_by_splitlines(path):
  assert not _splits(path.read_text(encoding='utf-8')), path


def test_sources_are_looked_at():
  assert len(SOURCES) > 50
