"""`lengths.py` on a few rows of our own."""

import json

import pytest

from tests.helpers import tiny_run, whole_runs
from tests.rollout.datasets import test_rlla

ROWS = 30


def thought(index):
  """Three answers in four are short."""
  return 'word ' * (40 if index % 4 == 0 else 2)


@pytest.fixture(scope='module')
def result(tmp_path_factory):
  folder = tmp_path_factory.mktemp('lengths')
  model = folder / 'model.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  rows = [test_rlla.make_row(i, thought(i)) for i in range(ROWS)]
  data = test_rlla.write(folder / 'rows.jsonl', rows)
  found = whole_runs.forked(
    [
      '--flagfile=experiments/benchmarks/lengths.flags',
      f'--model={model}',
      f'--data={data}',
      '--vocab_size=320',
      '--prompt_buckets=256',
      '--response_buckets=130',
      '--prompts_per_step=4',
      '--samples=4',
      '--slots=4',
      '--slots_shared=1',
      '--eval_tasks=2',
      '--eval_batch=2',
      '--repeats=1',
      '--compilation_cache=',
      f'--json={folder / "out.json"}',
    ],
    folder,
    program='experiments/benchmarks/lengths.py',
  )
  assert found.returncode == 0, found.stderr[-2000:]
  return json.loads((folder / 'out.json').read_text())


def test_lengths_are_those_of_the_rows(result):
  # Those that are not held out, about 85%.
  assert 20 <= result['rows'] <= 29
  low, middle, _, longest = result['length_percentiles_10_50_90_100']
  assert low <= middle < longest - 30  # 38 words more.
  assert longest <= 130
  for kind in ('own', 'shuffled'):
    ways = result[kind]
    assert list(ways) == ['all at once', '1 prompts at once', '4 slots']
    assert len({way['tokens'] for way in ways.values()}) == 1
    for way, rows in zip(ways.values(), (16, 4, 4), strict=True):
      assert way['rows_a_token'] == rows * way['steps'] / way['tokens'] >= 1
      assert way['tokens_per_second'] * way['seconds'] == pytest.approx(
        way['tokens']
      )


def test_slots_take_fewer_steps(result):
  # As many rows a step, and none waits for another but at the end.
  slots, few = (result['shuffled'][x] for x in ('4 slots', '1 prompts at once'))
  longest = result['length_percentiles_10_50_90_100'][-1]
  assert slots['steps'] < 0.8 * few['steps']
  assert slots['steps'] <= slots['tokens'] / 4 + longest
