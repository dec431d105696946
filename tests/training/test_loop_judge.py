"""How the loop ends where the judge gives no scores."""

import os
import signal
import types as python_types

import pytest

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.training import bookkeeping, loop, signals
from tests.helpers import tiny_dataset

# Four steps of SFT and three of RL.
_FLAGS = ('--compilation_cache=', '--checkpoint_every=50')


@pytest.fixture
def run(tmp_path, monkeypatch):
  """A loop that tells what it does."""
  config = config_lib.parse(tiny_dataset.flags(tmp_path / 'run', *_FLAGS))
  manager = python_types.SimpleNamespace(wait_until_finished=lambda: None)
  done = []
  book = bookkeeping.Book(config, manager, lambda: done.append('kept'), 0.0)
  made = loop._Run(config, None, None, book)
  made.programs = python_types.SimpleNamespace(
    init={'rl': lambda params: python_types.SimpleNamespace(params=params)},
    reference=None,
  )
  made.done = done

  def write(step, report, *, state=None):
    done.append(('write', step))
    if state is not None and made._saves(step):
      book.save(state, step)

  def save(state, step, evaluated=None):
    done.append(('save', step, state.params))
    book.last_saved = step

  monkeypatch.setattr(made, '_write', write)
  monkeypatch.setattr(book, 'save', save)
  return made


def _go(run, fails=None, first=0, error=types.JudgeUnavailable, valid=1.0):
  """Steps whose parameters are their number, up to one without a judge."""

  def step(state, index):
    number = int(state.params) + 1
    if number == fails:
      raise error('The judge http://x is down: start it.')
    metrics = {'reward/valid': valid}
    report = python_types.SimpleNamespace(metrics=metrics, scored=None)
    return python_types.SimpleNamespace(params=str(number)), report

  state = python_types.SimpleNamespace(params=str(first))
  run._steps(state, first, {'sft': step, 'rl': step})


def test_the_step_before_is_written_and_saved(run):
  with pytest.raises(signals.Stopped) as stopped:
    _go(run, 7)
  assert run.done[-3:] == [('write', 6), ('save', 6, '6'), 'kept']
  assert [x[1] for x in run.done if x[0] == 'write'] == [1, 2, 3, 4, 5, 6]
  assert str(stopped.value) == (
    'The judge http://x is down: start it. Step 6 is saved: the same command '
    'goes on from there.'
  )
  assert stopped.value.exit_code == os.EX_TEMPFAIL == 75


def test_what_is_saved_is_not_saved_again(run):
  # SFT ends with step 4, which is always saved.
  with pytest.raises(signals.Stopped, match='Step 4 is saved'):
    _go(run, 5)
  assert run.done == [
    *[('write', step) for step in (1, 2, 3, 4)],
    ('save', 4, '4'),
    'kept',
  ]


def test_what_a_pause_has_written_is_saved(run, monkeypatch):
  # Written because of its evaluation, which saves nothing.
  monkeypatch.setattr(run, '_evaluates', lambda step: step == 6)
  with pytest.raises(signals.Stopped, match='Step 6 is saved'):
    _go(run, 7)
  assert run.done[-3:] == [('write', 6), ('save', 6, '6'), 'kept']


def test_a_signal_while_it_waits_is_what_ended_it(run):
  run.stop_signal = signal.SIGTERM
  run.book.last_saved = 5
  with pytest.raises(signals.Stopped, match='by SIGTERM after step 5') as end:
    _go(run, 6, first=5)
  assert end.value.signum == signal.SIGTERM and end.value.exit_code == 143


def test_the_first_signal_ends_the_waiting(run):
  hurried = []
  run.patient = python_types.SimpleNamespace(hurry=lambda: hurried.append(1))
  run.book.bar = python_types.SimpleNamespace(message=lambda text: None)
  run._on_signal(signal.SIGTERM, None)
  assert hurried == [1] and run.stop_signal == signal.SIGTERM
  with pytest.raises(KeyboardInterrupt):
    run._on_signal(signal.SIGTERM, None)


@pytest.mark.parametrize('error', [types.JudgeRefused, types.BadReturn])
def test_what_waiting_does_not_help_has_another_exit_code(run, error):
  with pytest.raises(signals.Stopped) as stopped:
    _go(run, 7, error=error)
  assert run.done[-3:] == [('write', 6), ('save', 6, '6'), 'kept']
  assert str(stopped.value).endswith(
    'Step 6 is saved: once that is mended the command goes on from there.'
  )
  assert stopped.value.exit_code == 1


def test_steps_that_train_nothing_end_it(run):
  with pytest.raises(signals.Stopped, match='last 3 steps .*Step 3 is') as end:
    _go(run, valid=0.0)
  assert run.done[-2:] == [('write', 3), ('save', 3, '3')]
  assert end.value.exit_code == 1


def test_also_where_they_are_the_last(run):
  with pytest.raises(signals.Stopped, match='last 3 steps .*Step 7 is') as end:
    _go(run, first=4, valid=0.0)
  assert run.done[-2:] == [('write', 7), ('save', 7, '7')]
  assert end.value.exit_code == 1


def test_a_bad_return_in_an_evaluation_comes_after_saving(run, monkeypatch):
  def evaluate(state, step):
    raise types.BadReturn('The reward of task t by mine:f is 0.5.')

  monkeypatch.undo()  # `_write` itself.
  saved = []
  monkeypatch.setattr(run, '_evaluate', evaluate)
  for name, value in {
    'metrics': lambda step, report: {'phase': 'sft', 'time/step': 1.0},
    'save': lambda state, step, evaluated: saved.append((step, evaluated)),
    'line': lambda step, metrics: None,
    'log': python_types.SimpleNamespace(write_transcripts=lambda *_: None),
    'archive': None,
    'bar': python_types.SimpleNamespace(update=lambda *_, **__: None),
  }.items():
    monkeypatch.setattr(run.book, name, value, raising=False)
  metrics = {}
  report = python_types.SimpleNamespace(
    metrics=metrics, scored=None, transcripts=[]
  )
  step = lambda state, index: (state, report)  # noqa: E731
  state = python_types.SimpleNamespace(params='x')
  # SFT ends with step 4, which is evaluated.
  with pytest.raises(signals.Stopped, match='mine:f is 0.5. Step 4 is') as end:
    run._steps(state, 0, {'sft': step, 'rl': step})
  assert saved[-1] == (4, None) and end.value.exit_code == 1
