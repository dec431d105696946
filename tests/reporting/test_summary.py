"""Summary, table and example of a run, on rows made by hand."""

import json
import types

import pytest

from awpo_jax.reporting import curves
from awpo_jax.reporting import summary as summary_lib
from awpo_jax.rollout.rewards.judges import rubric


def _row(step, phase, accuracy=None, easy=None, hard=None, other=None, **more):
  row = {'step': step, 'phase': phase, 'time/elapsed': 10.0 * step}
  if accuracy is not None:
    row |= {
      'eval/main/accuracy': accuracy,
      'eval/main/outcome': 2.5,
      'eval/main/reasoning': None,
      'eval/main/accuracy/easy': easy,
      'eval/main/accuracy/hard': hard,
      'eval/other/accuracy': other,
      'time/eval': 2.0,
    }
  return row | more


def _times(**seconds):
  return {f'time/{part}': value for part, value in seconds.items()}


ROWS = [
  _row(
    1,
    'sft',
    **_times(setup=4.0, compile=6.0, step=3.0),
    **{'data/left_out/main': 3},
  ),
  _row(2, 'sft', 0.25, 0.5, 0.0, 0.1, **_times(step=2.5)),
  # Here the process was another, which had to compile as well. The step of RL
  # is the sum of its parts.
  _row(
    3, 'rl', **_times(setup=1.0, compile=2.0, step=2.0, sample=1.5, update=0.5)
  ),
  _row(
    4,
    'rl',
    0.5,
    0.75,
    0.25,
    0.2,
    **_times(step=2.0, sample=1.0, score=0.25, prepare=0.75),
  ),
]


def test_summary():
  assert summary_lib.summarize(ROWS) == {
    'main_set': 'main',
    'accuracy_before': 0.25,
    'accuracy_after': 0.5,
    'accuracy_by_kind': {
      'easy': {'before': 0.5, 'after': 0.75},
      'hard': {'before': 0.0, 'after': 0.25},
    },
    'accuracy_by_set': {
      'main': {'before': 0.25, 'after': 0.5},
      'other': {'before': 0.1, 'after': 0.2},
    },
    'outcome_by_set': {
      'main': {'before': 2.5, 'after': 2.5},
      'other': {'before': None, 'after': None},
    },
    'reasoning_by_set': {
      'main': {'before': None, 'after': None},
      'other': {'before': None, 'after': None},
    },
    'left_out': {'main': 3},
    'step_before': 2,
    'step_after': 4,
    'seconds': 40.0,
    'seconds_by_part': {
      'setup': 5.0,  # 4 + 1.
      'compile': 8.0,  # 6 + 2.
      'sft': 5.5,  # 3 + 2.5.
      'sample': 2.5,  # 1.5 + 1.
      'score': 0.25,
      'prepare': 0.75,
      'update': 0.5,
      'eval': 4.0,  # 2 + 2.
      'rest': 13.5,  # 40 less the 26.5 above.
    },
  }


def test_seconds_after_the_last_line_belong_to_the_rest():
  before, after = (
    summary_lib.summarize(ROWS),
    summary_lib.summarize(ROWS, since=2.5),
  )
  assert after['seconds'] == 42.5
  parts = after['seconds_by_part']
  assert parts == before['seconds_by_part'] | {'rest': 16.0}
  assert sum(parts.values()) == 42.5


@pytest.mark.parametrize(
  ('phases', 'before', 'after'),
  [
    # SFT, then RL: where SFT ended; a new run's start counts as that.
    (['sft', 'sft', 'rl', 'rl'], 2, 4),
    (['start', 'rl', 'rl'], 1, 3),
    # One phase alone: the first and the last.
    (['sft', 'sft', 'sft'], 1, 3),
    (['rl', 'rl'], 1, 2),
    (['rl'], 1, 1),
  ],
)
def test_which_evaluations_are_compared(phases, before, after):
  rows = [_row(i, phase, 0.5) for i, phase in enumerate(phases, start=1)]
  first, last = summary_lib.evaluations(rows)
  assert (first['step'], last['step']) == (before, after)


def test_no_evaluation():
  with pytest.raises(ValueError, match='no evaluation'):
    summary_lib.evaluations([_row(1, 'sft'), _row(2, 'rl')])


def test_table():
  assert summary_lib.table(ROWS[1], ROWS[3]).splitlines() == [
    'accuracy                  before   after',
    'main                       25.0%   50.0%',
    '  easy                     50.0%   75.0%',
    '  hard                      0.0%   25.0%',
    '  outcome reward            2.50    2.50',
    'other                      10.0%   20.0%',
  ]


def test_a_run_that_was_evaluated_once_has_no_before():
  assert summary_lib.table(ROWS[3], ROWS[3]).splitlines()[:2] == [
    'accuracy                  step 4',
    'main                       50.0%',
  ]
  lines = summary_lib.example(ANSWERS, 4, 4)
  assert lines == ['a: question a', '', 'a after', '']
  summary = summary_lib.summarize(ROWS[3:])
  assert (summary['step_before'], summary['step_after']) == (None, 4)
  assert (summary['accuracy_before'], summary['accuracy_after']) == (None, 0.5)
  assert summary['accuracy_by_set']['other'] == {'before': None, 'after': 0.2}


def test_table_of_a_set_that_was_not_there_before():
  lines = summary_lib.table(_row(1, 'sft'), ROWS[3]).splitlines()
  assert lines[1].split() == ['main', '-', '50.0%']


def _answer(step, task, solved, text, **more):
  return {
    'step': step,
    'set': 'main',
    'task_id': task,
    'user': f'question {task}',
    'response': text,
    'solved': solved,
  } | more


ANSWERS = [
  _answer(2, 'a', True, 'a before'),
  _answer(2, 'b', False, 'b before'),
  _answer(2, 'c', False, 'c before'),
  {'step': 3, 'task_id': 'b', 'response': 'a sample'},
  _answer(3, 'b', True, 'b between'),
  _answer(4, 'a', True, 'a after'),
  _answer(4, 'b', False, 'b after'),
  _answer(4, 'c', True, 'c after'),
]


def test_example_is_a_task_that_was_learnt():
  lines = summary_lib.example(ANSWERS, 2, 4)
  assert lines == [
    'c: question c',
    '',
    'before:',
    'c before',
    '',
    'after:',
    'c after',
    '',
  ]


def test_example_where_nothing_was_learnt():
  assert summary_lib.example(ANSWERS[:-1], 2, 4)[0] == 'a: question a'
  assert summary_lib.example(ANSWERS[:3], 2, 4) == []


def _write_files(folder):
  for name, rows in (('metrics', ROWS), ('transcripts', ANSWERS)):
    lines = [json.dumps(row) + '\n' for row in rows]
    (folder / f'{name}.jsonl').write_text(''.join(lines))


def test_finish_writes_the_files_it_names(tmp_path):
  _write_files(tmp_path)
  text = summary_lib.finish(tmp_path)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary == summary_lib.summarize(ROWS)
  assert (tmp_path / 'curves.png').stat().st_size > 1000
  for shown in ('50.0%', 'c after', 'seconds: 40', str(tmp_path)):
    assert shown in text


@pytest.mark.parametrize(('score', 'said'), [(0.5, True), (None, False)])
def test_where_reasoning_scores_are_shown_a_note_says_what_they_are(
  tmp_path, score, said
):
  _write_files(tmp_path)
  rows = [*ROWS[:-1], ROWS[-1] | {'eval/main/reasoning': score}]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'metrics.jsonl').write_text(text)
  assert rubric.NOTE not in summary_lib.finish(tmp_path)
  found = summary_lib.finish(tmp_path, reasoning_note=rubric.NOTE)
  assert (rubric.NOTE in found) == said


def test_seconds_last_until_the_summary_and_stay(tmp_path, monkeypatch):
  _write_files(tmp_path)
  now = 1000.0

  def plot(*unused_arguments):
    nonlocal now
    now += 3.0

  clock = types.SimpleNamespace(perf_counter=lambda: now)
  monkeypatch.setattr(summary_lib, 'time', clock)
  monkeypatch.setattr(curves, 'plot_curves', plot)
  # Its last line, at 40 seconds, was written at 995: 5 more, and 3 to plot.
  text = summary_lib.finish(tmp_path, counted=995.0)
  assert 'seconds: 48' in text.splitlines()
  # Another process that only looks at the run adds nothing.
  assert summary_lib.finish(tmp_path) == text
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['seconds'] == 48.0
  assert {x.name for x in tmp_path.iterdir()} == {
    'metrics.jsonl',
    'transcripts.jsonl',
    'summary.json',
  }
