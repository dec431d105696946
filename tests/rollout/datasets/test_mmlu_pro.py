"""The rows of MMLU-Pro: small files and the real ones."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from awpo_jax.rollout.datasets import mmlu_pro
from tests.helpers import shared_data

QUESTION = {
  'question_id': 70,
  'question': 'Why?',
  'options': ['x', 'y'],
  'answer': 'B',
  'category': 'law',
}


def _lines(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


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


def test_a_line_that_is_not_json_hides_no_later_row(tmp_path):
  path = _lines(tmp_path / 'test.jsonl', [QUESTION])
  path.write_text('{"question_id": \n' + path.read_text() * 2)
  skipped = []
  assert len(mmlu_pro.read(str(path), skipped)) == 1
  assert ['test.jsonl:1: not JSON' in skipped[0], len(skipped)] == [True, 2]
  assert "test.jsonl:3: a second row 'mmlu_pro_70'" in skipped[1]


@pytest.mark.parametrize('data', [None, 'nowhere'])
def test_nothing_there(data):
  with pytest.raises(ValueError, match=f'--data.*{data or "missing"}'):
    mmlu_pro.read(data)


def test_an_empty_folder(tmp_path):
  with pytest.raises(ValueError, match='expected'):
    mmlu_pro.read(str(tmp_path))


def test_the_real_rows():
  assert len(mmlu_pro.read(str(shared_data.path('mmlu_pro')))) == 1400
