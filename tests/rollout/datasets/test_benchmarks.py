"""Readers of the rows that models are scored on: small files and real ones."""

import collections
import json
import math

import pyarrow
import pyarrow.parquet
import pytest

from awpo_jax.rollout import datasets
from awpo_jax.rollout.datasets import api_bank, files, mmlu_pro
from awpo_jax.rollout.datasets.bfcl import episodes
from awpo_jax.rollout.datasets.bfcl import rows as rows_lib
from tests.helpers import bfcl_cases, shared_data

QUESTION = {
  'question_id': 70,
  'question': 'Why?',
  'options': ['x', 'y'],
  'answer': 'B',
  'category': 'law',
}
STEP = {
  'id': 'Level1_3',
  'system': 'system',
  'user': 'user',
  'answer': [{'name': 'Find', 'parameters': {'city': 'Oslo'}}],
}


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


def test_a_line_that_is_not_json_hides_no_later_row(tmp_path):
  path = _lines(tmp_path / 'test.jsonl', [QUESTION])
  path.write_text('{"question_id": \n' + path.read_text() * 2)
  skipped = []
  assert len(mmlu_pro.read(str(path), skipped)) == 1
  assert ['test.jsonl:1: not JSON' in skipped[0], len(skipped)] == [True, 2]
  assert "test.jsonl:3: a second row 'mmlu_pro_70'" in skipped[1]


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
@pytest.mark.parametrize('read', [rows_lib.read, api_bank.read, mmlu_pro.read])
def test_nothing_there(read, data):
  with pytest.raises(ValueError, match=f'--data.*{data or "missing"}'):
    read(data)


@pytest.mark.parametrize('read', [rows_lib.read, api_bank.read, mmlu_pro.read])
def test_an_empty_folder(read, tmp_path):
  with pytest.raises(ValueError, match='expected'):
    read(str(tmp_path))


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


def test_api_bank(tmp_path):
  bare = {**STEP, 'answer': STEP['answer'][0]}
  del bare['id']
  (tmp_path / 'level-1-api_processed.json').write_text(
    json.dumps([STEP], indent=1)
  )
  (tmp_path / 'level-2-api_processed.json').write_text(json.dumps([bare, bare]))
  one, two, three = api_bank.read(str(tmp_path))
  assert [one.row_id, two.row_id, three.row_id] == [
    'Level1_3',
    'Level2_0',
    'Level2_1',
  ]
  assert one.answer == two.answer == ('Find', {'city': 'Oslo'})


@pytest.mark.parametrize(
  'given', [{}, {'parameters': ''}, {'parameters': None}, {'parameters': {}}]
)
def test_an_answer_of_api_bank_without_parameters(tmp_path, given):
  (tmp_path / 'level-1-api_processed.json').write_text(
    json.dumps([STEP | {'answer': [{'name': 'Now', **given}]}])
  )
  (row,) = api_bank.read(str(tmp_path))
  assert row.answer == ('Now', {})


@pytest.mark.parametrize(
  ('change', 'problem'),
  [
    ({'answer': []}, '"answer" is not one call'),
    ({'answer': [{'name': 'Find', 'x': 1}]}, 'no field "parameters"'),
    ({'user': ''}, '"user" is empty'),
  ],
)
def test_bad_rows_of_api_bank_are_named(tmp_path, change, problem):
  path = tmp_path / 'level-1-api_processed.json'
  # The second object begins on a line of its own.
  path.write_text(f'[\n{json.dumps(STEP)},\n{json.dumps(STEP | change)}\n]')
  with pytest.raises(ValueError, match=f'processed.json:3: {problem}'):
    api_bank.read(str(tmp_path))
  skipped = []
  assert len(api_bank.read(str(tmp_path), skipped)) == 1 == len(skipped)


def test_an_array_that_breaks_off_is_refused(tmp_path):
  path = tmp_path / 'level-1-api_processed.json'
  path.write_text(f'[\n{json.dumps(STEP)},\n')
  with pytest.raises(ValueError, match='processed.json:3: not JSON'):
    api_bank.read(str(tmp_path), [])


def test_mmlu_pro(tmp_path):
  rows = [QUESTION, QUESTION | {'question_id': 71, 'cot_content': 'A: So.'}]
  path = _lines(tmp_path / 'questions.jsonl', rows)
  one, two = mmlu_pro.read(str(path))
  assert (one.row_id, one.answer, one.options) == (
    'mmlu_pro_70',
    'B',
    ('x', 'y'),
  )
  assert two.worked == 'A: So.'
  with pytest.raises(ValueError, match='mmlu_pro_70 has no "cot_content"'):
    mmlu_pro.read_examples(str(path))
  # The files of the hub: parquet, one a part.
  for part, row in zip(('test', 'validation'), rows, strict=True):
    pyarrow.parquet.write_table(
      pyarrow.Table.from_pylist([row]), tmp_path / f'{part}-0.parquet'
    )
  assert mmlu_pro.read(str(tmp_path)) == [one]
  (example,) = mmlu_pro.read_examples(str(tmp_path / 'validation-0.parquet'))
  assert example == two


@pytest.mark.parametrize(
  ('change', 'problem'),
  [
    ({'answer': 'C'}, "the answer 'C' is none of the 2"),
    ({'answer': 'AB'}, "the answer 'AB'"),
    ({'options': ['x'] * 11}, '11 options'),
    ({'options': [1, 2]}, 'not a list of texts'),
    ({'question_id': '70'}, '"question_id" is of type str'),
  ],
)
def test_bad_questions_are_named(tmp_path, change, problem):
  path = _lines(tmp_path / 'q.jsonl', [QUESTION | change])
  with pytest.raises(ValueError, match=f'q.jsonl:1: .*{problem}'):
    mmlu_pro.read(str(path))


def test_the_real_rows():
  rows = rows_lib.read(str(shared_data.path('bfcl')))
  assert len(rows) == 2225 and len({row.row_id for row in rows}) == 2225
  assert len(api_bank.read(str(shared_data.path('apibank')))) == 291
  assert len(mmlu_pro.read(str(shared_data.path('mmlu_pro')))) == 1400


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
