"""The seconds that the loop writes, on a clock that the test moves."""

import types as python_types

import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.training import bookkeeping, loop, steps
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import train_step
from tests.helpers import tiny_dataset


class _Clock:
  """`time` of the loop: `perf_counter` says what it was set to."""

  now = 0.0

  def perf_counter(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = _Clock()
  for module in (loop, bookkeeping):
    monkeypatch.setattr(module, 'time', clock)
  return clock


@pytest.fixture
def make_run(tmp_path):
  """A loop whose seconds count from 10, and the lines it writes."""

  def make():
    config = config_lib.parse(tiny_dataset.flags(tmp_path / 'run'))
    experiment = python_types.SimpleNamespace(
      decoder=None, codec=python_types.SimpleNamespace(stop_ids=(), pad_id=0)
    )
    book, lines = bookkeeping.Book(config, None, lambda: None, 10.0), []
    run = loop._Run(config, experiment, None, book)
    book.log = python_types.SimpleNamespace(
      write=lambda step, metrics: lines.append({'step': step, **metrics})
    )
    return run, lines

  return make


def _report(started):
  names = ('loss', 'weight', 'entropy', 'clip_fraction', 'ratio_abs_log')
  update = train_step.StepMetrics(
    sums=dict.fromkeys(names, np.float32(1)),
    maxima={'ratio_abs_log_max': np.float32(1)},
    updates=np.int32(1),
    grad_norm=np.float32(1),
    finite=np.bool_(True),
    replica_spread=np.float32(0),
  )
  return steps.Report(
    phase='sft',
    updates=[update],
    metrics={},
    ids=[],
    transcripts=[],
    started=started,
  )


def test_each_second_of_sft_belongs_to_one_step(clock, make_run):
  # Step   prepared at   fetched at   seconds
  #    1        20            25      5
  #    2        23            30      5: the devices ran step 1 until 25.
  #    3        70            77      7: the loop paused from 30 to 70.
  #    4        75            79      2
  run, _ = make_run()
  got, times = [], [(20, 25), (23, 30), (70, 77), (75, 79)]
  for step, (started, fetched) in enumerate(times, start=1):
    clock.now = fetched
    got.append(run.book.metrics(step, _report(started))['time/step'])
  assert got == [5, 5, 7, 2]


def test_what_is_shown_of_a_step_has_its_own_seconds(make_run, monkeypatch):
  run, _ = make_run()
  shown = []
  for name, value in {
    'log': python_types.SimpleNamespace(
      write_transcripts=lambda *_: None, write=lambda *_: None
    ),
    'archive': None,
    'keep_folder': lambda: None,
    'bar': python_types.SimpleNamespace(
      update=lambda step, text, *, seconds: shown.append((step, seconds))
    ),
  }.items():
    monkeypatch.setattr(run.book, name, value, raising=False)
  metrics = {'phase': 'sft', 'loss': 0.5, 'time/step': 7.0}
  run.book.write(3, _report(20), metrics)
  assert shown == [(3, 7.0)]


def test_seconds_count_from_the_start_and_go_on_after_a_restart(
  clock, make_run, monkeypatch
):
  # From 10 to 14 the imports and the data, until 20 compilation; lines at 25
  # and 31. The process before took 100.
  def compile_programs(*unused_arguments, **unused):
    clock.now = 20.0
    return 'programs'

  monkeypatch.setattr(compile_lib, 'compile_programs', compile_programs)
  run, lines = make_run()
  run.book.elapsed, clock.now = 100.0, 14.0
  run._compile(None)
  assert run.programs == 'programs'
  for step, now in (5, 25.0), (6, 31.0):
    clock.now = now
    run.book.line(step, {'loss': 0.5})
  for line in lines:
    assert line.pop('compile/count') >= 0
  assert lines == [
    {
      'step': 5,
      'loss': 0.5,
      'time/elapsed': 115.0,
      'time/setup': 4.0,
      'time/compile': 6.0,
    },
    {'step': 6, 'loss': 0.5, 'time/elapsed': 121.0},
  ]
  assert run.book.clock == 31.0
