"""The record of a run: each step once, whatever kills the process."""

import io
import json
import os
import subprocess
import sys
import types as python_types

import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.reporting import metrics, progress
from tests.helpers import whole_runs


def write_run(folder, steps, *, resume_step=0):
  with metrics.MetricsLog(folder, resume_step=resume_step) as log:
    for step in steps:
      log.write(step, {'phase': 'rl', 'loss': step / 4, 'eval/a/b': None})
      log.write_transcripts(step, [{'text': f'{step}a'}, {'text': 'é'}])


def read_files(folder):
  return {
    'metrics': (folder / 'metrics.jsonl').read_bytes(),
    'transcripts': (folder / 'transcripts.jsonl').read_bytes(),
    'events': whole_runs.events(folder),
  }


def test_writes_lines_events_and_transcripts(tmp_path):
  write_run(tmp_path, [1, 3])
  assert (tmp_path / 'metrics.jsonl').read_text() == (
    '{"step": 1, "phase": "rl", "loss": 0.25, "eval/a/b": null}\n'
    '{"step": 3, "phase": "rl", "loss": 0.75, "eval/a/b": null}\n'
  )
  assert (tmp_path / 'transcripts.jsonl').read_text() == (
    '{"step": 1, "text": "1a"}\n{"step": 1, "text": "é"}\n'
    '{"step": 3, "text": "3a"}\n{"step": 3, "text": "é"}\n'
  )
  assert whole_runs.events(tmp_path) == {
    ('loss', 1): [0.25],
    ('loss', 3): [0.75],
  }


def test_a_line_is_on_disk_before_the_next(tmp_path):
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    log.write(1, {'loss': 1.0})
    log.write_transcripts(1, [{'text': 'a'}])
    assert metrics.read_metrics(tmp_path / 'metrics.jsonl') == [
      {'step': 1, 'loss': 1.0}
    ]
    assert len(metrics.read_metrics(tmp_path / 'transcripts.jsonl')) == 1


def test_resumed_run_equals_the_unbroken_one(tmp_path):
  write_run(tmp_path / 'unbroken', range(1, 8))
  write_run(tmp_path / 'killed', range(1, 6))
  for name in ('metrics.jsonl', 'transcripts.jsonl'):
    with (tmp_path / 'killed' / name).open('a') as file:
      file.write('{"step": 6, "lo')  # The kill tears a line.
  # Event files are named by the second; this one was started in another.
  (events,) = (tmp_path / 'killed' / 'tensorboard').iterdir()
  events.rename(events.with_name('events.out.tfevents.1.host'))
  write_run(tmp_path / 'killed', range(4, 8), resume_step=3)
  assert read_files(tmp_path / 'killed') == read_files(tmp_path / 'unbroken')


@pytest.mark.parametrize('torn', ['{"step": 4, "lo', '{"step": 4\n', '3\n'])
def test_torn_last_line_is_cut(tmp_path, torn):
  write_run(tmp_path, [1, 2])
  whole = (tmp_path / 'metrics.jsonl').read_text()
  (tmp_path / 'metrics.jsonl').write_text(whole + torn)
  write_run(tmp_path, [], resume_step=9)
  assert (tmp_path / 'metrics.jsonl').read_text() == whole


def test_without_a_checkpoint_nothing_stays(tmp_path):
  """Not even step 0, the evaluation before the first update."""
  write_run(tmp_path, [0, 1])
  write_run(tmp_path, [0])
  files = read_files(tmp_path)
  assert files['metrics'].count(b'\n') == 1
  assert files['transcripts'].count(b'\n') == 2
  assert files['events'] == {('loss', 0): [0.0]}


def test_cut_is_atomic(tmp_path, monkeypatch):
  write_run(tmp_path, [1, 2, 3])
  before = (tmp_path / 'metrics.jsonl').read_bytes()

  def fail(*unused_args):
    raise KeyboardInterrupt

  monkeypatch.setattr(metrics.os, 'replace', fail)
  with pytest.raises(KeyboardInterrupt):
    metrics.MetricsLog(tmp_path, resume_step=1)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_damaged_line_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
  with pytest.raises(ValueError, match=r'metrics.jsonl, line 2 .*Remove that'):
    metrics.read_metrics(path)
  with pytest.raises(ValueError, match='line 2'):
    metrics.MetricsLog(tmp_path, resume_step=3)


@pytest.mark.parametrize(
  ('value', 'name'), [(float('nan'), 'NaN'), (np.float32('inf'), 'Infinity')]
)
def test_what_json_lacks_ends_no_run(tmp_path, caplog, value, name):
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    for step in (1, 2):
      log.write(step, {'loss': 1.0, 'clip/radius': value})
    log.write_transcripts(1, [{'state': {'reward': [value]}, 'by': object}])
  assert metrics.read_metrics(tmp_path / 'metrics.jsonl') == [
    {'step': step, 'loss': 1.0, 'clip/radius': None} for step in (1, 2)
  ]
  (row,) = metrics.read_metrics(tmp_path / 'transcripts.jsonl')
  assert row == {
    'step': 1,
    'state': {'reward': [name]},
    'by': "<class 'object'>",
  }
  assert caplog.text.count('metric clip/radius is') == 1  # Said once.
  assert ('clip/radius', 1) not in whole_runs.events(tmp_path)


def test_arrays_are_written_and_a_metric_called_step_is_refused(tmp_path):
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    log.write(1, {'loss': np.zeros(2), 'big': 10**400})
    with pytest.raises(ValueError, match='called `step`'):
      log.write(2, {'step': 4})
  (row,) = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert row == {'step': 1, 'loss': '[0.0, 0.0]', 'big': 10**400}


def test_lines_survive_whatever_a_text_holds(tmp_path):
  text = 'a\u2028b\u2029c\x85d\x0ce\x1cf\rg\ud800h'
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    log.write(1, {'phase': text})
    log.write_transcripts(1, [{'text': text}])
  for name, key in (('metrics', 'phase'), ('transcripts', 'text')):
    path = tmp_path / f'{name}.jsonl'
    (row,) = metrics.read_metrics(path)
    assert row[key] == text
    # Another program may split lines in the way of `str.splitlines`.
    assert len(path.read_text(encoding='utf-8').splitlines()) == 1


class Broken:
  """A view whose every method fails."""

  def __getattr__(self, name):
    def method(*_, **__):
      raise RuntimeError(f'{name} failed')

    return method


@pytest.mark.parametrize('init_fails', [False, True])
def test_a_view_that_fails_ends_no_run(
  tmp_path, monkeypatch, caplog, init_fails
):
  module = python_types.ModuleType('wandb')
  module.init = Broken().init if init_fails else lambda **_: Broken()
  monkeypatch.setitem(sys.modules, 'wandb', module)
  monkeypatch.setattr(
    'tensorboardX.SummaryWriter',
    Broken().open if init_fails else lambda _: Broken(),
  )
  with metrics.MetricsLog(tmp_path, resume_step=0, wandb_project='p') as log:
    for step in (1, 2):
      log.write(step, {'loss': 0.5})
  rows = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert [row['loss'] for row in rows] == [0.5, 0.5]
  assert caplog.text.count('Weights & Biases fails, and the run goes on') == 1
  assert caplog.text.count('TensorBoard fails, and the run goes on') == 1


def test_without_tensorboardx_the_record_is_written(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    log.write(1, {'loss': 0.5})
  (row,) = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  assert row == {'step': 1, 'loss': 0.5}
  assert caplog.text.count('TensorBoard fails, and the run goes on') == 1


def test_numbers_of_numpy_and_jax(tmp_path):
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    log.write(
      np.int64(1),
      {'a': np.float32(0.5), 'b': jnp.int32(2), 'c': np.bool_(True)},
    )
  line = (tmp_path / 'metrics.jsonl').read_text()
  assert line == '{"step": 1, "a": 0.5, "b": 2, "c": true}\n'


@pytest.mark.parametrize('step', [2, 1, 0])
def test_a_step_is_written_once_and_in_order(tmp_path, step):
  write_run(tmp_path, [1, 2, 3])
  with (
    metrics.MetricsLog(tmp_path, resume_step=2) as log,
    pytest.raises(ValueError, match=f'Step {step} comes after step 2'),
  ):
    log.write(step, {})


def test_wandb_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  write_run(tmp_path, [1])
  with pytest.raises(ModuleNotFoundError, match=r"'p'.*pip install"):
    metrics.MetricsLog(tmp_path, resume_step=0, wandb_project='p')
  assert (tmp_path / 'metrics.jsonl').stat().st_size > 0


def test_wandb_run_goes_on_after_a_restart(tmp_path, monkeypatch):
  calls = []
  run = python_types.SimpleNamespace(
    log=lambda row, step: calls.append((row, step)),
    finish=lambda: calls.append('finish'),
  )
  module = python_types.ModuleType('wandb')
  module.init = lambda **kwargs: calls.append(kwargs) or run
  monkeypatch.setitem(sys.modules, 'wandb', module)
  for resume_step in (0, 1, 0):
    with metrics.MetricsLog(
      tmp_path, resume_step=resume_step, wandb_project='p'
    ) as log:
      log.write(resume_step + 1, {'loss': 0.5})
  first, row, end, second, _, _, third, *_ = calls
  assert (first['project'], first['resume']) == ('p', 'allow')
  assert row == ({'step': 1, 'loss': 0.5}, 1)
  assert end == 'finish'
  assert second['id'] == first['id'] != third['id']


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_progress_in_plain_lines():
  clock, stream = Clock(), io.StringIO()
  shown = progress.Progress(100, 10, stream=stream, clock=clock)
  for step, now in [
    (11, 2),  # The first: 1 step in 2 s, 89 left at 2 s each.
    (12, 3),  # Not yet.
    (31, 12),  # 20 steps in 10 s, 69 left at half a second.
    (32, 32),  # 1 step in 20 s, 68 left at 20 s each.
    (99, 33),  # Not yet.
    (100, 34),  # The last always shows: 68 steps in 2 s.
  ]:
    clock.now = now
    shown.update(step, f'loss {step}')
  shown.close()
  assert stream.getvalue().splitlines() == [
    'step 11/100  0.50 steps/s  02:58 left  loss 11',
    'step 31/100  2.00 steps/s  00:34 left  loss 31',
    'step 32/100  20.0 s/step  22:40 left  loss 32',
    'step 100/100  34.00 steps/s  00:00 left  loss 100',
  ]


def test_the_rate_of_plain_lines_leaves_out_what_was_no_step():
  clock, stream = Clock(), io.StringIO()
  shown = progress.Progress(50, stream=stream, clock=clock)
  for step, now, seconds in [
    (1, 60, 20.0),  # 40 s of something else: 49 left at 20 s each.
    (2, 65, 5.0),  # Not yet.
    (3, 865, 17.0),  # 2 steps in 22 s, and an evaluation: 47 at 11 s each.
    (4, 905, None),  # All that passed: 46 at 40 s each.
  ]:
    clock.now = now
    shown.update(step, seconds=seconds)
  shown.close()
  assert stream.getvalue().splitlines() == [
    'step 1/50  20.0 s/step  16:20 left',
    'step 3/50  11.0 s/step  08:37 left',
    'step 4/50  40.0 s/step  30:40 left',
  ]


def test_the_rate_of_a_bar_leaves_out_what_was_no_step(monkeypatch):
  clock, stream = Clock(), io.StringIO()
  stream.isatty = lambda: True
  monkeypatch.setattr('tqdm.std.time', clock)
  shown = progress.Progress(4, stream=stream, clock=clock)
  clock.now = 500.0
  shown.update(1, seconds=100.0)
  shown.close()
  # 400 of the 500 s are not counted: 3 steps left at 100 s each.
  assert '1/4 [01:40<05:00, 100.00s/step' in stream.getvalue()


def test_a_bar_that_the_user_has_disabled_stays_away():
  code = """
import io
from awpo_jax.reporting import progress
stream = io.StringIO()
stream.isatty = lambda: True
shown = progress.Progress(4, stream=stream)
shown.update(1, 'loss 0.5', seconds=1.0)
shown.close()
print(repr(stream.getvalue()))
"""
  found = subprocess.run(  # tqdm reads the variable when it is imported.
    [sys.executable, '-c', code],
    env={**os.environ, 'TQDM_DISABLE': '1'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.stdout == "''\n", found.stderr


def test_progress_bar_on_a_terminal():
  stream = io.StringIO()
  stream.isatty = lambda: True
  shown = progress.Progress(4, 1, stream=stream)
  shown.update(3, 'loss 0.5')
  shown.message('evaluated')
  shown.update(4)
  shown.close()
  text = stream.getvalue()
  assert '1/4' in text
  assert '4/4' in text
  assert 'evaluated\n' in text


def test_transcripts_keep_their_own_fields(tmp_path):
  row = {'prompt': 'a\nb', 'reward': {'outcome': 1.0}, 'calls': [1, 2]}
  with metrics.MetricsLog(tmp_path, resume_step=0) as log:
    log.write_transcripts(7, [row])
  line = (tmp_path / 'transcripts.jsonl').read_text()
  assert json.loads(line) == {'step': 7, **row}
