"""`evaluate.py` from rows to tables: oracle, silence, a model, a kill."""

import json
import re
import shutil

import pytest

from awpo_jax.evaluation import mmlu_pro
from awpo_jax.rollout.datasets import mmlu_pro as questions
from tests.helpers import benchmark_rows, hf_models, whole_runs

EVALUATE = 'experiments/evaluate.py'
ALL = '--flagfile=experiments/eval_all.flags'
ANSWERS = 'answers.jsonl'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return benchmark_rows.write(tmp_path_factory.mktemp('data'))


@pytest.fixture
def evaluate(tmp_path, data, cache):
  def run(*flags, folder='results', **options):
    place = tmp_path / folder
    return whole_runs.forked(
      (ALL, f'--data={data}', f'--output_dir={place}', cache, *flags),
      tmp_path,
      program=EVALUATE,
      **options,
    )

  return run


def scores(folder):
  read = json.loads((folder / 'scores.json').read_text())
  return read['benchmarks']


def right(summary):
  """Category -> how many rows are right."""
  return {
    name: round(each['rows'] * each['mean@k']['value'])
    for name, each in summary['categories'].items()
  }


def test_the_oracle_is_right_wherever_an_answer_can_be(evaluate, tmp_path):
  result = evaluate('--policy=oracle', '--resamples=10')
  assert result.returncode == 0, result.stderr
  got = scores(tmp_path / 'results')
  # The second row of live_simple takes no answer.
  assert got['bfcl']['errors'] == {
    'live_simple': {'simple_function_checker:missing_required': 1}
  }
  assert sum(right(got['bfcl']).values()) == 10
  assert got['bfcl']['columns']['Non-Live']['value'] == 1
  assert got['bfcl']['columns']['Irrelevance']['value'] == 1
  assert got['bfcl']['columns']['Overall'] is None
  for name in ('apibank', 'mmlu_pro'):
    assert got[name]['columns']['Overall']['value'] == 1, got[name]
  table = (tmp_path / 'results' / 'table.md').read_text()
  assert table in result.stdout and '| live_simple | 2 | 50.00' in table


def test_silence_scores_what_it_should(evaluate, tmp_path):
  result = evaluate('--policy=silent')
  assert result.returncode == 0, result.stderr
  got = scores(tmp_path / 'results')
  assert {name for name, n in right(got['bfcl']).items() if n} == {
    'irrelevance',
    'live_irrelevance',
  }
  assert got['bfcl']['columns']['Relevance']['value'] == 0
  assert got['apibank']['columns']['Overall']['value'] == 0
  # No letter is read: an option is drawn for each question.
  rows = [
    questions.Row(f'mmlu_pro_{i}', '', '', ('x', 'y', 'z'), 'ABC'[i % 3])
    for i in range(5)
  ]
  expected = sum(mmlu_pro.drawn_option(row) == row.answer for row in rows)
  assert sum(right(got['mmlu_pro']).values()) == expected


def test_files_of_the_leaderboard(evaluate, tmp_path):
  evaluate('--policy=oracle', '--benchmarks=bfcl', '--result_name=a/b')
  folder = tmp_path / 'results' / 'bfcl'
  live = 'a_b/live/BFCL_v4_live_simple'
  results = whole_runs.rows(folder, f'result/{live}_result.json')
  assert [row['id'] for row in results] == ['live_simple_0', 'live_simple_1']
  assert results[0]['result'] == (
    '<tool_call>\n{"name": "clock", "arguments": {"zone": "CET"}}\n</tool_call>'
  )
  head, failure = whole_runs.rows(folder, f'score/{live}_score.json')
  assert head == {'accuracy': 0.5, 'correct_count': 1, 'total_count': 2}
  assert failure['id'] == 'live_simple_1' and not failure['valid']
  assert (
    folder / 'result/a_b/non_live/BFCL_v4_simple_java_result.json'
  ).exists()
  page = (folder / 'failures.html').read_text()
  assert 'live_simple_1' in page and 'live_simple_0' not in page


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model') / 'qwen3'
  hf_models.save_qwen3(folder)
  return folder


def test_a_kill_loses_nothing_and_repeats_nothing(evaluate, model, tmp_path):
  flags = (
    f'--model={model}',
    '--benchmarks=apibank,mmlu_pro',
    '--temperature=1',
    '--max_tokens=4',
    '--prompt_buckets=384',
    '--batch=2',
  )
  whole = evaluate(*flags, folder='whole')
  assert whole.returncode == 0, whole.stderr
  killed = evaluate(
    *flags, at=whole_runs.Signal('awpo_jax.evaluation.answers:_step', 3)
  )
  assert killed.returncode == -9
  path = tmp_path / 'results' / 'mmlu_pro' / ANSWERS
  before = path.read_bytes()
  assert before.count(b'\n') == 2
  path.write_bytes(before[:-3])  # As if killed while writing.
  resumed = evaluate(*flags)
  assert resumed.returncode == 0
  # One of the five is there, four are asked two at a time; of apibank none.
  told = re.findall(r'^answer (\d/\d) .* (\w+)$', resumed.stderr, re.MULTILINE)
  assert told == [('3/5', 'mmlu_pro'), ('5/5', 'mmlu_pro')]
  for name in ('apibank', 'mmlu_pro'):
    wanted, got = (
      [
        (row['id'], row['sample'], row['answers'])
        for row in whole_runs.rows(tmp_path / folder / name, ANSWERS)
      ]
      for folder in ('whole', 'results')
    )
    assert len(got) == len(set(map(str, got))), 'a row was generated twice'
    assert sorted(got) == sorted(wanted)
    assert any(answers != [''] for _, _, answers in got)
  # What stood before the kill was not touched.
  kept = before.rpartition(b'\n')[0].rpartition(b'\n')[0]
  assert path.read_bytes().startswith(kept)
  assert (
    scores(tmp_path / 'results')['mmlu_pro']['categories']
    == (scores(tmp_path / 'whole')['mmlu_pro']['categories'])
  )
  # All is answered: scoring again needs no model.
  shutil.move(model / 'model.safetensors', tmp_path / 'elsewhere')
  try:
    again = evaluate(*flags, '--aggregation=v3', folder='whole')
  finally:
    shutil.move(tmp_path / 'elsewhere', model / 'model.safetensors')
  assert again.returncode == 0, again.stderr
  assert scores(tmp_path / 'whole')['apibank']['aggregation'] == 'v3'


def test_a_model_with_the_tools_of_its_template(evaluate, model, tmp_path):
  result = evaluate(
    f'--model={model}',
    '--benchmarks=bfcl',
    '--categories=parallel,live_irrelevance',
    '--max_tokens=4',
    '--prompt_buckets=1024',
    '--batch=2',
    f'--compilation_cache={tmp_path / "programs"}',
  )
  assert result.returncode == 0, result.stderr
  # Not in the folder of the other tests.
  assert any((tmp_path / 'programs').iterdir())
  assert set(scores(tmp_path / 'results')['bfcl']['categories']) == {
    'parallel',
    'live_irrelevance',
  }
  settings = json.loads((tmp_path / 'results' / 'evaluation.json').read_text())
  assert settings['style'] == ['template', None, '2024-07-26']


@pytest.mark.parametrize(
  ('flags', 'problem'),
  [
    (['--policy=model'], '--model is not set'),
    (['--policy=oracle', '--benchmarks=bfcl,x'], '--benchmarks=bfcl,x'),
    (['--policy=oracle', '--samples=2'], '--samples=2 gives equal answers'),
    (['--policy=oracle', '--data=nowhere'], '--data=nowhere does not exist'),
    (['--policy=oracle', '--categories=x'], '--categories=x'),
    (['--model=/nowhere'], '/nowhere'),
    (['--model=/nowhere/x.gguf'], 'There is no file /nowhere/x.gguf'),
  ],
)
def test_a_mistake_is_one_line(evaluate, flags, problem):
  result = evaluate(*flags)
  assert result.returncode == 2 and not result.stdout
  assert problem in result.stderr.strip().splitlines()[-1]


def test_a_run_without_a_checkpoint_is_named(evaluate, model, tmp_path):
  begun = tmp_path / 'begun'
  (begun / 'checkpoints').mkdir(parents=True)
  shutil.copytree(model, begun / 'tokenizer')
  shutil.copy(model / 'config.json', begun / 'model.json')
  result = evaluate(f'--model={begun}', '--benchmarks=apibank')
  assert result.returncode == 2
  assert f'No checkpoint at {begun}' in result.stderr.splitlines()[-1]


def test_prompts_that_do_not_fit(evaluate, model):
  flags = (
    f'--model={model}',
    '--benchmarks=apibank',
    '--prompt_buckets=8',
    '--max_tokens=4',
  )
  result = evaluate(*flags, '--overlong=error')
  assert result.returncode == 2
  assert '2 of 2 prompts are longer than 8 tokens' in result.stderr
  result = evaluate(*flags, '--overlong=wrong', folder='other')
  assert result.returncode == 0 and '| level-1 | no_call | 2 |' in result.stdout
  assert 'too long, answered by nothing: 2' in result.stdout


def test_a_model_that_has_changed_is_another(evaluate, model, tmp_path):
  changing = tmp_path / 'changing'
  shutil.copytree(model, changing)
  flags = (
    f'--model={changing}',
    '--benchmarks=apibank',
    '--prompt_buckets=8',
    '--overlong=wrong',
  )
  assert evaluate(*flags).returncode == 0
  hf_models.save_qwen3(changing, seed=1)
  result = evaluate(*flags)
  assert result.returncode == 2 and '--model_state' in result.stderr


def test_other_settings_need_another_folder(evaluate, tmp_path):
  flags = ('--policy=oracle', '--benchmarks=apibank')
  assert evaluate(*flags).returncode == 0
  # Others of the same policy join them.
  assert evaluate('--policy=oracle', '--benchmarks=mmlu_pro').returncode == 0
  assert list(scores(tmp_path / 'results')) == ['apibank', 'mmlu_pro']
  # What changes no answer may change.
  result = evaluate(*flags, '--resamples=0', '--batch=7')
  assert result.returncode == 0 and '| level-1 | 2 | 100.00 |' in result.stdout
  result = evaluate(*flags, '--policy=silent')
  assert result.returncode == 2
  assert "--policy: 'oracle' then, 'silent' now" in result.stderr
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').touch()
  assert 'but no evaluation' in evaluate(*flags, folder='full').stderr


def test_beside_an_earlier_evaluation(evaluate, tmp_path):
  both = '--benchmarks=bfcl,apibank'
  assert evaluate('--policy=silent', both, folder='before').returncode == 0
  beside = f'--beside={tmp_path / "before"}'
  result = evaluate('--policy=oracle', both, beside, '--max_tokens=9')
  assert result.returncode == 0, result.stderr
  got = scores(tmp_path / 'results')
  before = scores(tmp_path / 'before')
  assert got['apibank']['beside']['columns']['Overall']['value'] == 1
  bfcl = got['bfcl']['beside']
  assert bfcl['folder'] == str(tmp_path / 'before')
  assert bfcl['other_settings'] == ['--max_tokens: 1024 then, 9 now']
  assert bfcl['categories']['irrelevance']['value'] == 0
  # Of its two rows one takes no answer.
  assert bfcl['categories']['live_simple']['value'] == 0.5
  for name, value in bfcl['columns'].items():
    if value is not None:
      assert value['value'] == pytest.approx(
        got['bfcl']['columns'][name]['value']
        - before['bfcl']['columns'][name]['value']
      )
  table = (tmp_path / 'results' / 'table.md').read_text()
  assert 'Minus ' in table and '| live_simple | 2 | +50.00' in table


def test_beside_what_does_not_fit(evaluate, model, tmp_path):
  silent = ('--policy=silent', '--benchmarks=bfcl', '--limit=1')
  assert evaluate(*silent, folder='before').returncode == 0
  # A model, so that an answer would show: nothing may be asked before.
  result = evaluate(
    f'--model={model}',
    f'--beside={tmp_path / "before"}',
    '--benchmarks=bfcl,apibank',
    '--limit=1',
  )
  assert result.returncode == 2 and not result.stdout
  assert 'has no answers to apibank' in result.stderr.splitlines()[-1]
  assert not list((tmp_path / 'results').glob('*/*'))
  result = evaluate(*silent, f'--beside={tmp_path / "results"}/.')
  assert 'is the --output_dir itself' in result.stderr.splitlines()[-1]


def test_bad_rows_are_refused_or_left_out(tmp_path):
  data = benchmark_rows.write(tmp_path / 'data')
  path = data / 'mmlu_pro' / 'sample.jsonl'
  path.write_text(path.read_text() + '{"question_id": 9}\n')

  def run(*flags):
    return whole_runs.forked(
      [
        ALL,
        '--benchmarks=mmlu_pro',
        '--policy=oracle',
        f'--data={data}',
        f'--output_dir={tmp_path / "results"}',
        *flags,
      ],
      tmp_path,
      program=EVALUATE,
    )

  assert 'sample.jsonl:6: no field' in run().stderr
  assert run('--bad_rows=skip').returncode == 0
  (problem,) = scores(tmp_path / 'results')['mmlu_pro']['skipped_rows']
  assert 'sample.jsonl:6' in problem
