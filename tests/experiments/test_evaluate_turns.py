"""`evaluate.py` on BFCL's multi-turn rows: oracle, silence, a kill."""

import json

import pytest

from tests.helpers import bfcl_dialogues, whole_runs

pytestmark = bfcl_dialogues.needs_package

ANSWERS = 'answers.jsonl'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return bfcl_dialogues.write(tmp_path_factory.mktemp('data') / 'bfcl')


@pytest.fixture
def evaluate(tmp_path, data, cache):
  def run(*flags, folder='results', **options):
    return whole_runs.forked(
      (
        '--flagfile=experiments/eval_bfcl.flags',
        f'--data={data}',
        f'--output_dir={tmp_path / folder}',
        '--resamples=0',
        cache,
        *flags,
      ),
      tmp_path,
      program='experiments/evaluate.py',
      **options,
    )

  return run


def scores(folder):
  return json.loads((folder / 'scores.json').read_text())['benchmarks']['bfcl']


def test_the_oracle_is_right(evaluate, tmp_path):
  result = evaluate('--policy=oracle')
  assert result.returncode == 0, result.stderr
  got = scores(tmp_path / 'results')
  assert got['columns']['Multi-Turn']['value'] == 1 and not got['errors']
  assert got['categories']['multi_turn_base']['rows'] == 2
  assert '| multi_turn_long_context | 1 | 100.00 |' in result.stdout
  # Scored once more, by the older columns: nothing is asked again.
  before = (tmp_path / 'results' / 'bfcl' / ANSWERS).read_bytes()
  assert evaluate('--policy=oracle', '--aggregation=v3').returncode == 0
  assert scores(tmp_path / 'results')['columns']['Multi-Turn']['value'] == 1
  assert (tmp_path / 'results' / 'bfcl' / ANSWERS).read_bytes() == before


def test_silence_is_wrong(evaluate, tmp_path):
  result = evaluate('--policy=silent')
  assert result.returncode == 0, result.stderr
  got = scores(tmp_path / 'results')
  assert got['columns']['Multi-Turn']['value'] == 0
  kinds = {kind for each in got['errors'].values() for kind in each}
  assert kinds == {'multi_turn:empty_turn_model_response'}
  # It was asked once in every turn.
  folder = tmp_path / 'results' / 'bfcl'
  lengths = {
    row['id']: row['answers'] for row in whole_runs.rows(folder, ANSWERS)
  }
  assert lengths['multi_turn_miss_func_0'] == ['', '']
  assert lengths['multi_turn_long_context_0'] == ['']


def test_a_kill_loses_no_episode_and_repeats_none(evaluate, tmp_path):
  flags = ('--policy=oracle', '--batch=2')
  # Both rows of a category are asked at once; the shorter one has ended.
  killed = evaluate(
    *flags, at=whole_runs.Signal('awpo_jax.evaluation.answers:_step', 3)
  )
  assert killed.returncode == -9
  folder = tmp_path / 'results' / 'bfcl'
  (first,) = whole_runs.rows(folder, ANSWERS)
  assert first['id'] == 'multi_turn_base_1' and len(first['answers']) == 2
  result = evaluate(*flags)
  assert result.returncode == 0, result.stderr
  rows = whole_runs.rows(folder, ANSWERS)
  assert rows[0] == first
  assert sorted(row['id'] for row in rows) == sorted(
    row['id'] for _, row, _ in bfcl_dialogues.ROWS
  )
  assert scores(tmp_path / 'results')['columns']['Multi-Turn']['value'] == 1
