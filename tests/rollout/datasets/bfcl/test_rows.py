"""The rows of BFCL: small files and the real ones."""

import collections
import json

import pytest

from awpo_jax.rollout.datasets import files
from awpo_jax.rollout.datasets.bfcl import rows as rows_lib
from tests.helpers import bfcl_cases, shared_data


def _lines(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def test_bfcl(tmp_path):
  folder = bfcl_cases.write(tmp_path / 'bfcl')
  rows = rows_lib.read(str(folder))
  assert collections.Counter(row.category for row in rows) == {
    name: len(known) for name, known in bfcl_cases.ROWS.items()
  }
  (row,) = rows_lib.read(str(folder), ['parallel'])
  text, functions, truth = bfcl_cases.ROWS['parallel'][0]
  assert row.row_id == 'parallel_0' and row.turns[0][0]['content'] == text
  assert [*row.functions] == functions and [*row.ground_truth] == truth


@pytest.mark.parametrize(
  ('change', 'problem'),
  [
    ({'question': []}, 'not one turn'),
    ({'question': [[{'role': 'system', 'content': 'x'}]]}, 'not one turn'),
    ({'question': [[{'role': 'user'}]]}, '"content" of a message'),
    ({'function': []}, '"function" is empty'),
    ({'function': [bfcl_cases.WEATHER]}, "calls .'clock'."),
    ({'id': 'elsewhere'}, 'no .good. possible answer'),
    ({'function': [{'name': 'clock'}]}, 'no field "description"'),
    ({'function': 5}, '"function" is of type int'),
  ],
)
def test_bad_rows_of_bfcl_are_named_or_left_out(tmp_path, change, problem):
  folder = bfcl_cases.write(tmp_path / 'bfcl')
  path = folder / 'BFCL_v4_live_simple.json'
  first, second = map(json.loads, path.read_bytes().splitlines())
  _lines(path, [first | change, second])
  with pytest.raises(ValueError, match=f'live_simple.json:1.*{problem}'):
    rows_lib.read(str(folder), ['live_simple'])
  skipped = []
  (kept,) = rows_lib.read(str(folder), ['live_simple'], skipped)
  assert kept.row_id == second['id']
  assert len(skipped) == 1 and 'live_simple.json:1' in skipped[0]


def test_multi_turn_rows(tmp_path):
  (tmp_path / 'possible_answer').mkdir()
  row = {
    'id': 'multi_turn_base_1',
    'question': [[{'role': 'user', 'content': 'Go.'}], []],
    'initial_config': {'GorillaFileSystem': {}},
    'involved_classes': ['GorillaFileSystem'],
    'missed_function': {'1': ['ls']},
  }
  name = 'BFCL_v4_multi_turn_base.json'
  answer = {'id': row['id'], 'ground_truth': [["cd(folder='x')"], []]}
  _lines(tmp_path / name, [row])
  _lines(tmp_path / 'possible_answer' / name, [answer])
  (read,) = rows_lib.read(str(tmp_path))
  assert [len(turn) for turn in read.turns] == [1, 0]
  assert read.ground_truth == (["cd(folder='x')"], [])
  assert read.missed_function == {1: ('ls',)}
  _lines(tmp_path / name, [row | {'question': []}])
  with pytest.raises(ValueError, match='0 turns, but an answer to 2'):
    rows_lib.read(str(tmp_path))


@pytest.mark.parametrize('data', [None, 'nowhere'])
def test_nothing_there(data):
  with pytest.raises(ValueError, match=f'--data.*{data or "missing"}'):
    rows_lib.read(data)


def test_an_empty_folder(tmp_path):
  with pytest.raises(ValueError, match='expected'):
    rows_lib.read(str(tmp_path))


def test_unknown_category(tmp_path):
  with pytest.raises(ValueError, match='--categories=simple.*simple_python'):
    rows_lib.read(str(tmp_path), ['simple'])


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
  folder = bfcl_cases.write(tmp_path / 'bfcl')
  asked = []

  def download(name, *, repo_type):
    asked.append((name, repo_type))
    return str(folder)

  monkeypatch.setattr(files.huggingface_hub, 'snapshot_download', download)
  assert len(rows_lib.read('owner/name')) == len(rows_lib.read(str(folder)))
  assert asked == [('owner/name', 'dataset')]


def test_two_answers_to_one_row_of_bfcl_are_refused(tmp_path):
  folder = bfcl_cases.write(tmp_path / 'bfcl')
  path = folder / 'possible_answer' / 'BFCL_v4_live_simple.json'
  rows = [json.loads(line) for line in path.read_bytes().splitlines()]
  _lines(path, [*rows, rows[0] | {'ground_truth': rows[1]['ground_truth']}])
  with pytest.raises(ValueError, match='live_simple.json:3: a second answer'):
    rows_lib.read(str(folder), ['live_simple'])
  skipped = []
  kept = rows_lib.read(str(folder), ['live_simple'], skipped)
  assert len(skipped) == 1
  assert list(kept[0].ground_truth) == rows[0]['ground_truth']


def test_the_real_rows():
  rows = rows_lib.read(str(shared_data.path('bfcl')))
  assert len(rows) == 2225 and len({row.row_id for row in rows}) == 2225
