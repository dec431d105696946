"""Benchmarks as evaluation sets: which rows, which reward, in the curves."""

import functools
import json
import shutil

import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.evaluation import benchmarks, held_out
from tests.helpers import benchmark_rows, tiny_dataset, whole_runs


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return benchmark_rows.write(tmp_path_factory.mktemp('data'))


def make_config(tmp_path, *further):
  return config_lib.parse(tiny_dataset.flags(tmp_path / 'run', *further))


def load(tmp_path, *further):
  config = make_config(tmp_path, *further)
  return benchmarks.with_benchmarks(config, tiny_dataset.load(seed=0))


def test_without_the_flag_nothing_changes(tmp_path):
  dataset, rewards = load(tmp_path)
  assert set(dataset.evals) == {'held_out'} and not rewards


def test_a_fixed_subset_with_the_benchmark_as_its_reward(tmp_path, data):
  flags = (
    '--eval_benchmarks=bfcl,apibank,mmlu_pro',
    f'--eval_data={data}',
    '--eval_tasks=3',
  )
  dataset, rewards = load(tmp_path, *flags)
  assert list(dataset.evals) == ['held_out', 'bfcl', 'apibank', 'mmlu_pro']
  assert [len(tasks) for tasks in dataset.evals.values()] == [4, 3, 2, 3]
  again, _ = load(tmp_path, *flags)
  assert again.evals['bfcl'] == dataset.evals['bfcl']
  for name, reward in rewards.items():
    for task in dataset.evals[name]:
      passes = task.task_id != 'live_simple_1'
      assert reward(task.ground_truth, task) == types.Score(
        float(passes), 0, 1, {'format': 1.0}, passes
      )
      nothing = reward('I cannot tell.', task)
      assert nothing.parts == {'format': name == 'mmlu_pro'}  # A letter: I.
      assert not (name == 'apibank' and nothing.solved)


def test_layout_and_calls_of_a_benchmark(tmp_path, data):
  flags = ['--eval_benchmarks=apibank,mmlu_pro', f'--eval_data={data}']
  dataset, rewards = load(tmp_path, *flags)
  score = functools.partial(held_out.score, judge=None)
  (call, other), reward = dataset.evals['apibank'], rewards['apibank']
  bare = call.ground_truth.split('</think>')[1]  # Right, without a thought.
  metrics, _ = score([call, other], [bare, 'Oslo'], reward=reward)
  assert (metrics['format'], metrics['exact_calls']) == (0, 1 / 2)
  asked, reward = dataset.evals['mmlu_pro'], rewards['mmlu_pro']
  replies = ['The answer is (C).', *['nothing'] * (len(asked) - 1)]
  metrics, _ = score(asked, replies, reward=reward)
  assert metrics['format'] == 1 / len(asked)
  assert 'exact_calls' not in metrics  # No row wants a call.


@pytest.mark.parametrize(
  ('flags', 'problem'),
  [
    (['--eval_benchmarks=x', '--eval_data=d'], '--eval_benchmarks=x: choose'),
    (['--eval_benchmarks=bfcl'], 'needs --eval_data'),
    (['--eval_benchmarks=bfcl', '--eval_data=nowhere'], '--data=nowhere'),
  ],
)
def test_mistakes(tmp_path, flags, problem):
  with pytest.raises(ValueError, match=problem):
    load(tmp_path, *flags)


def test_in_the_curves_of_a_run(tmp_path, data):
  flags = tiny_dataset.flags(
    tmp_path / 'run',
    f'--compilation_cache={tmp_path / "cache"}',
    '--eval_benchmarks=apibank,mmlu_pro',
    f'--eval_data={data}',
    '--eval_every=2',
    '--eval_tasks=4',
    '--prompt_buckets=256',
    '--rl_steps=0',
    '--best_metric=eval/apibank/accuracy',
  )
  result = whole_runs.forked(flags, tmp_path)
  assert result.returncode == 0, result.stderr
  lines = whole_runs.rows(tmp_path / 'run')
  steps = [line['step'] for line in lines if 'eval/apibank/accuracy' in line]
  assert steps == [2, 4]
  for name in ('held_out', 'apibank', 'mmlu_pro'):
    assert lines[-1][f'eval/{name}/accuracy'] is not None
  # This policy has no words: no call is right, letters are drawn.
  assert lines[-1]['eval/apibank/accuracy/level-1'] == 0
  sets = {
    row['set']
    for row in whole_runs.rows(tmp_path / 'run', 'transcripts.jsonl')
    if 'set' in row
  }
  assert sets == {'held_out', 'apibank', 'mmlu_pro'}


def test_a_type_that_no_value_has_is_found_before_any_answer(tmp_path, data):
  source = tmp_path / 'bfcl'
  shutil.copytree(data / 'bfcl', source)
  file = source / 'BFCL_v4_simple_python.json'
  row, _, rest = file.read_text().partition('\n')
  changed = json.loads(row)
  (function,) = changed['function']
  name = next(iter(function['parameters']['properties']))
  function['parameters']['properties'][name] = {'type': 'number'}
  file.write_text(f'{json.dumps(changed)}\n{rest}')
  flags = ('--eval_benchmarks=bfcl', f'--eval_data={source}')
  dataset, skipped = tiny_dataset.load(seed=0), []
  with pytest.raises(ValueError, match=f"{changed['id']}: .*'number' is none"):
    benchmarks.with_benchmarks(make_config(tmp_path, *flags), dataset)
  made, _ = benchmarks.with_benchmarks(
    make_config(tmp_path, *flags), dataset, skipped
  )
  assert made.evals['bfcl'] and len(skipped) == 1


def test_bad_rows_are_refused_or_left_out(tmp_path, data):
  for source in (data / 'mmlu_pro').iterdir():
    rows = source.read_bytes()
    (tmp_path / source.name).write_bytes(rows + b'{"question_id": NaN}\n')
  config = make_config(
    tmp_path, '--eval_benchmarks=mmlu_pro', f'--eval_data={tmp_path}'
  )
  dataset = tiny_dataset.load(seed=0)
  with pytest.raises(ValueError, match='no field "options"'):
    benchmarks.with_benchmarks(config, dataset)
  skipped = []
  made, _ = benchmarks.with_benchmarks(config, dataset, skipped)
  assert made.evals['mmlu_pro'] and len(skipped) == 1
