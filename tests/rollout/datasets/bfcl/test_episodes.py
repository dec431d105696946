"""BFCL's rows of several turns as episodes to train on."""

import json
import math

import pytest

from awpo_jax.rollout import datasets
from awpo_jax.rollout.datasets.bfcl import episodes


def _lines(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def test_multi_turn_rows_for_training_obey_bad_rows(tmp_path):
  pytest.importorskip('bfcl_eval')
  (tmp_path / 'possible_answer').mkdir()
  rows = [
    {
      'id': f'multi_turn_base_{i}',
      'question': [[{'role': 'user', 'content': 'Go.'}]],
      'initial_config': {'GorillaFileSystem': {}},
      'involved_classes': ['GorillaFileSystem'],
    }
    for i in range(4)
  ]
  rows[0]['initial_config'] = {'GorillaFileSystem': {'size': math.inf}}
  rows[1]['comment'] = math.nan  # Nobody reads it.
  calls = ["cd(folder='x')", "cd(folder='x')", 'cd(folder=1e999)', 'ls()']
  name = 'BFCL_v4_multi_turn_base.json'
  _lines(tmp_path / name, rows)
  _lines(
    tmp_path / 'possible_answer' / name,
    [
      {'id': r['id'], 'ground_truth': [[c]]}
      for r, c in zip(rows, calls, strict=True)
    ],
  )
  with pytest.raises(ValueError, match='base.json:1: "initial_config": not J'):
    episodes.load(seed=0, data=str(tmp_path))
  skipped = []
  dataset = datasets.load('bfcl', seed=0, data=str(tmp_path), skipped=skipped)
  assert [task.task_id for task in dataset.evals['multi_turn_base']] == [
    'multi_turn_base_1',
    'multi_turn_base_3',
  ]
  assert len(skipped) == 2 and 'multi_turn_base_2' in skipped[1]
