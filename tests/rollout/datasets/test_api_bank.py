"""The rows of API-Bank: small files and the real ones."""

import json

import pytest

from awpo_jax.rollout.datasets import api_bank
from tests.helpers import shared_data

STEP = {
  'id': 'Level1_3',
  'system': 'system',
  'user': 'user',
  'answer': [{'name': 'Find', 'parameters': {'city': 'Oslo'}}],
}


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


@pytest.mark.parametrize('data', [None, 'nowhere'])
def test_nothing_there(data):
  with pytest.raises(ValueError, match=f'--data.*{data or "missing"}'):
    api_bank.read(data)


def test_an_empty_folder(tmp_path):
  with pytest.raises(ValueError, match='expected'):
    api_bank.read(str(tmp_path))


def test_the_real_rows():
  assert len(api_bank.read(str(shared_data.path('apibank')))) == 291
