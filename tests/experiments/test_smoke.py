"""`smoke.flags` in a process of its own: every part of the quickstart once."""

import json

import matplotlib.image
import pytest

from tests.helpers import whole_runs

KINDS = ('single', 'parallel', 'none')
SETS = ('values', 'phrasings')
TASKS = 8


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  """The folder of a run and how its process ended."""
  base = tmp_path_factory.mktemp('smoke')
  result = whole_runs.forked(
    [
      '--flagfile=experiments/smoke.flags',
      f'--output_dir={base / "run"}',
      '--compilation_cache=',
      f'--eval_tasks={TASKS}',
      f'--eval_batch={TASKS}',
      '--sft_steps=2',
      '--rl_steps=1',
      '--prompts_per_step=4',
      '--samples=4',
      '--minibatches=2',
    ],
    base,
    drawn=True,
  )
  assert result.returncode == 0, result.stderr
  return base / 'run', result


def test_the_summary_holds_what_is_promised(smoke):
  folder, _ = smoke
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary['main_set'] == 'values'
  assert tuple(summary['accuracy_by_set']) == SETS
  assert set(summary['accuracy_by_kind']) == set(KINDS)
  for moment in ('before', 'after'):
    accuracy = summary[f'accuracy_{moment}']
    assert accuracy == summary['accuracy_by_set']['values'][moment]
    # A share of eight tasks.
    assert (TASKS * accuracy).is_integer() and 0 <= accuracy <= 1
    for name in SETS:
      assert -3 <= summary['outcome_by_set'][name][moment] <= 4
      assert 0 <= summary['reasoning_by_set'][name][moment] <= 1
  parts = summary['seconds_by_part']
  assert sum(parts.values()) == pytest.approx(summary['seconds'], rel=1e-6)


def test_it_ends_with_a_table_a_transcript_and_where_the_pictures_lie(smoke):
  folder, result = smoke
  words = [line.split() for line in result.stdout.splitlines()]
  first = {line[0]: line[1:] for line in words if line}
  assert first['accuracy'] == ['before', 'after']
  for name in (*SETS, *KINDS):
    assert [x[-1] for x in first[name]] == ['%', '%'], name
  assert 'quickstart_values_0_0:' in first
  assert ['before:'] in words and ['after:'] in words
  picture = folder / 'curves.png'
  assert first['curves:'] == [str(picture)]
  assert matplotlib.image.imread(picture).ndim == 3


def test_the_rewards_are_those_of_the_quickstart(smoke):
  folder, _ = smoke
  *demonstrated, rollout = whole_runs.rows(folder)
  assert [row['phase'] for row in demonstrated] == ['sft', 'sft']
  assert rollout['phase'] == 'rl'
  # ToolRL's parts, and every sample judged.
  assert 0 <= rollout['reward/format'] <= 1
  assert -3 <= rollout['reward/correctness'] <= 3
  assert rollout['reward/valid'] == 1
  assert 0 <= rollout['reward/reasoning'] <= 1
  assert rollout['reward/outcome'] == pytest.approx(
    rollout['reward/format'] + rollout['reward/correctness'], abs=1e-5
  )
