"""Multi-turn rows of our own in BFCL's layout, on its simulators."""

import importlib.util
import json

import pytest

needs_package = pytest.mark.skipif(
  importlib.util.find_spec('bfcl_eval') is None
  or importlib.util.find_spec('mpmath') is None,
  reason='pip install --no-deps bfcl-eval && pip install mpmath',
)

_FILES = {
  'GorillaFileSystem': {
    'root': {
      'home': {
        'type': 'directory',
        'contents': {'a.txt': {'type': 'file', 'content': 'one two'}},
      }
    }
  }
}


def _row(name, number, turns, config, **more):
  """A row and its answer; a turn is what is said and the right calls."""
  row = {
    'id': f'{name}_{number}',
    'question': [
      [{'role': 'user', 'content': said}] if said else [] for said, _ in turns
    ],
    'initial_config': config,
    'involved_classes': [*config, 'MathAPI'],
    **more,
  }
  return name, row, {'id': row['id'], 'ground_truth': [x for _, x in turns]}


ROWS = [
  _row(
    'multi_turn_base',
    0,
    [
      ('Copy a.txt to b.txt, then list.', ["cp('a.txt', 'b.txt')", 'ls()']),
      ('How many words?', ["wc(file_name='b.txt', mode='w')"]),
    ],
    _FILES,
  ),
  _row(
    'multi_turn_base',
    1,
    [('Make c, then say what is in a.', ["touch('c')", "cat('a.txt')"])],
    _FILES,
  ),
  _row(
    'multi_turn_miss_func',
    0,
    [('Add 1 and 2.', []), ('', ['add(a=1, b=2)'])],
    _FILES,
    missed_function={'1': ['add']},
  ),
  _row(
    'multi_turn_miss_param',
    0,
    [('Delete a file.', []), ('I mean a.txt.', ["rm('a.txt')"])],
    _FILES,
  ),
  _row('multi_turn_long_context', 0, [('List.', ['ls()'])], _FILES),
]


def write(folder):
  """Adds them to a folder of BFCL; returns it."""
  (folder / 'possible_answer').mkdir(parents=True, exist_ok=True)
  for category in {name for name, _, _ in ROWS}:
    file = f'BFCL_v4_{category}.json'
    for place, index in ((folder, 1), (folder / 'possible_answer', 2)):
      lines = [json.dumps(x[index]) for x in ROWS if x[0] == category]
      (place / file).write_text('\n'.join(lines) + '\n')
  return folder
