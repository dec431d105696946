"""The loop's own decisions: when to pause, what to write, how to end."""

import dataclasses
import pathlib
import signal
import types as python_types
from unittest import mock

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.checkpointing import initial_params
from awpo_jax.config import experiment as config_lib
from awpo_jax.evaluation import held_out
from awpo_jax.rollout.sampling import sampler as sampler_lib
from awpo_jax.training import bookkeeping, loop, signals
from awpo_jax.training.update import optimizer, train_step
from tests.helpers import tiny_dataset, tiny_run

# For the four devices of this process.
_HERE = ('--cpu_devices=1', '--prompts_per_step=8', '--sft_batch=8')


def _config(folder, *flags):
  return config_lib.parse(
    tiny_dataset.flags(folder, '--compilation_cache=', *_HERE, *flags)
  )


def test_programs_are_kept_unless_that_is_turned_off(monkeypatch):
  kept = {}
  monkeypatch.setattr(jax.config, 'update', kept.__setitem__)
  default = config_lib.Config().run.compilation_cache
  initial_params.use_compilation_cache(default)
  folder = pathlib.Path(kept.pop('jax_compilation_cache_dir'))
  assert folder == pathlib.Path.home() / '.cache' / 'awpo_jax' / 'xla'
  initial_params.use_compilation_cache('')
  assert not kept


@pytest.mark.parametrize('judge', [tiny_dataset.judge, None])
def test_names_are_those_that_an_evaluation_reports(judge):
  tasks = tiny_dataset.load(seed=0).evals['held_out'][:]
  metrics, _ = held_out.score(
    tasks, ['b'] * len(tasks), reward=tiny_dataset.reward, judge=judge
  )
  had = {name for name, value in metrics.items() if value is not None}
  assert had == set(held_out.metric_names(tasks, judged=judge is not None))


def test_schedules_end_with_their_phase(tmp_path):
  schedules = optimizer.make_schedules(
    _config(
      tmp_path / 'run',
      '--sft_schedule=linear',
      '--sft_learning_rate=8',
      '--schedule=linear',
      '--learning_rate=12',
    )
  )
  # 4 updates of SFT; 3 steps of 2 updates.
  np.testing.assert_allclose(
    [schedules['sft'](i) for i in (0, 2, 4)], [8, 4, 0]
  )
  np.testing.assert_allclose(
    [schedules['rl'](i) for i in (0, 3, 6)], [12, 6, 0]
  )
  config = _config(tmp_path / 'run', '--sft_steps=0')
  assert set(optimizer.make_schedules(config)) == {'rl'}
  assert set(optimizer.make_optimizers(config)) == {'rl'}


def _update(loss, weight, fraction, ratio, largest):
  return train_step.StepMetrics(
    sums={
      'loss': np.float32(loss),
      'weight': np.float32(weight),
      'entropy': np.float32(3 * weight),
      'clip_fraction': np.float32(fraction * weight),
      'ratio_abs_log': np.float32(ratio * weight),
    },
    maxima={'ratio_abs_log_max': np.float32(largest)},
    updates=np.int32(1),
    grad_norm=np.float32(loss + 1),
    finite=np.bool_(True),
    replica_spread=np.float32(0),
  )


def test_metrics_of_a_step_are_means_under_each_updates_weights():
  updates = [_update(1, 2, 0, 0.5, 0.75), _update(2, 4, 0.5, 0.25, 0.5)]
  assert train_step.update_metrics(updates) == {
    'loss': 1.5,
    'grad_norm': 2.5,
    'policy_entropy': 3.0,
    'clip/fraction': 0.25,
    'ratio/abs_log_mean': 0.375,
    'ratio/first_abs_log_mean': 0.5,
    'ratio/abs_log_max': 0.75,
  }


def test_an_update_in_which_nothing_counted():
  metrics = train_step.update_metrics([_update(0, 0, 0, 0, 0)])
  assert metrics['clip/fraction'] == metrics['policy_entropy'] == 0


@pytest.fixture
def bare(tmp_path, monkeypatch):
  """A loop whose steps and files only tell what was asked of them."""

  def make(*flags, first=0, on_write=None):
    config = _config(tmp_path / 'run', *flags)
    manager = python_types.SimpleNamespace(wait_until_finished=lambda: None)
    book = bookkeeping.Book(config, manager, lambda: None, 0.0)
    run = loop._Run(config, None, None, book)
    written, traced = [], []
    run.programs = python_types.SimpleNamespace(
      init={'rl': lambda params: python_types.SimpleNamespace(params=params)},
      reference=None,
    )

    def write(step, report, *, state=None):
      del report
      saves = state is not None and run._saves(step)
      written.append((step, 'saved' if saves else ''))
      if on_write:
        on_write(run, step)

    monkeypatch.setattr(run, '_write', write)
    monkeypatch.setattr(
      jax.profiler, 'start_trace', lambda _: traced.append('start')
    )
    monkeypatch.setattr(
      jax.profiler, 'stop_trace', lambda: traced.append('stop')
    )
    monkeypatch.setattr(jax, 'block_until_ready', traced.append)

    def step(state, index):
      traced.append(index)
      return state, python_types.SimpleNamespace(metrics={})

    state = python_types.SimpleNamespace(params='params')
    steps = {'sft': step, 'rl': step}
    return run, written, traced, lambda: run._steps(state, first, steps)

  return make


def test_every_step_is_written_once_and_what_is_due_is_saved(bare):
  _, written, traced, go = bare('--checkpoint_every=3')
  go()
  assert written == [
    (1, ''),
    (2, ''),
    (3, 'saved'),
    (4, 'saved'),  # SFT ends.
    (5, ''),
    (6, 'saved'),
    (7, 'saved'),  # The run ends.
  ]
  assert traced == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize('during', [1, 2, 5])
def test_a_signal_while_a_step_is_written_is_for_the_next_one(bare, during):
  # What has been written without its state cannot be saved any more.
  def on_write(run, step):
    if step == during:
      run.stop_signal = signal.SIGTERM

  run, written, _, go = bare('--checkpoint_every=2', on_write=on_write)
  with pytest.raises(signals.Stopped, match='SIGTERM after step') as stopped:
    go()
  assert stopped.value.signum == signal.SIGTERM
  last, how = written[-1]
  assert how == 'saved' and f'after step {last},' in str(stopped.value)
  assert [step for step, _ in written] == list(range(1, last + 1))
  assert last - during in (1, 2)


def test_a_signal_in_the_last_step_changes_nothing(bare):
  def on_write(run, step):
    if step == 6:
      run.stop_signal = signal.SIGINT

  _, written, _, go = bare('--checkpoint_every=1', on_write=on_write)
  go()
  assert written[-1] == (7, 'saved')


@pytest.mark.parametrize(
  ('window', 'first', 'traced'),
  [
    ('2,3', 0, [0, 'start', 1, 2, 'params', 'stop', 3, 0, 1, 2]),
    ('6,7', 0, [0, 1, 2, 3, 0, 'start', 1, 2, 'params', 'stop']),
    # The run went on inside of the window, or past it.
    ('2,6', 4, [0, 1, 2]),
    ('2,3', 4, [0, 1, 2]),
  ],
)
def test_the_profile_covers_its_window_and_waits_for_it(
  bare, window, first, traced
):
  _, _, got, go = bare(f'--profile_steps={window}', first=first)
  go()
  assert got == traced


def _without_programs(run, monkeypatch, steps, *, first=0):
  """Lets `run.run()` do nothing but `steps`, what is around them, and mocks."""
  data = python_types.SimpleNamespace(left_out={})
  run.experiment = mock.MagicMock(data=data)
  run.book = mock.MagicMock(once={}, start=lambda *_: (first, 'state'))
  monkeypatch.setattr(loop.judge, 'patient', mock.MagicMock())
  monkeypatch.setattr(run, '_compile', lambda state: None)
  monkeypatch.setattr(run, '_make_steps', dict)
  monkeypatch.setattr(run, '_steps', steps)


def test_a_run_that_ends_in_its_window_writes_the_trace(bare, monkeypatch):
  run, _, traced, _ = bare('--profile_steps=2,6')

  def stopped(state, step, steps):
    run.profiler.before(2)
    raise signals.Stopped('by hand', 1)

  _without_programs(run, monkeypatch, stopped)
  with pytest.raises(signals.Stopped):
    run.run()
  assert traced == ['start', 'stop']


_MEASURED = ['evaluate 0', 'write 0 start', 'steps from 0']


@pytest.mark.parametrize(
  ('total', 'first', 'flags', 'did'),
  [
    (7, 0, '--model=x.gguf', _MEASURED),
    (7, 0, '--model=hf', _MEASURED),
    (7, 0, '--model=owner/name', _MEASURED),
    (7, 0, '--init_from=old', _MEASURED),
    (7, 0, '--init_weights=normal', ['steps from 0']),
    (7, 0, '--model=x.gguf --eval_at_start=false', ['steps from 0']),
    (7, 3, '--model=x.gguf', ['steps from 3']),
    (7, 7, '--model=x.gguf', []),
    # A run without steps only evaluates.
    (0, 0, '--model=x.gguf --sft_steps=0 --rl_steps=0', _MEASURED),
    (0, 0, '--model=hf --sft_steps=0 --rl_steps=0', _MEASURED),
  ],
)
def test_trained_weights_are_evaluated_before_the_first_step(
  bare, monkeypatch, tmp_path, capsys, total, first, flags, did
):
  (tmp_path / 'hf').mkdir()
  for name in ('x.gguf', 'hf/model.safetensors'):
    (tmp_path / name).touch()
  got: list[str] = []
  # Relative paths are those of the folder.
  monkeypatch.chdir(tmp_path)
  run, *_ = bare(*flags.split())
  assert run.total == total
  _without_programs(
    run,
    monkeypatch,
    lambda state, step, steps: got.append(f'steps from {step}'),
    first=first,
  )
  run.book.line = lambda step, row: got.append(f'write {step} {row["phase"]}')
  monkeypatch.setattr(
    run, '_evaluate', lambda _, step: got.append(f'evaluate {step}') or {}
  )
  run.run()
  assert got == did
  assert ('Nothing to do' in capsys.readouterr().err) == (not did)


def _interrupted(what, got):
  """Does `what`, in which a SIGINT comes."""
  signal.raise_signal(signal.SIGINT)
  got.append(what)
  return {}


def test_a_signal_in_the_first_evaluation_ends_the_run_at_once(
  bare, monkeypatch
):
  run, *_ = bare()
  got: list[str] = []
  _without_programs(run, monkeypatch, lambda *_: got.append('steps'))
  monkeypatch.setattr(initial_params, 'is_trained', lambda config: True)
  monkeypatch.setattr(run, '_evaluate', lambda *_: _interrupted('all', got))
  with (
    signals.handled_by(signals.stop_at_start),  # As in `loop.train`.
    pytest.raises(signals.Stopped, match='SIGINT at the start'),
  ):
    run.run()
  assert not got


def test_a_signal_in_the_steps_is_theirs_to_look_at(bare, monkeypatch):
  run, *_ = bare('--eval_at_start=false')
  got: list[str] = []
  _without_programs(run, monkeypatch, lambda *_: _interrupted('steps', got))
  with signals.handled_by(signals.stop_at_start):
    run.run()
  assert got == ['steps'] and run.stop_signal == signal.SIGINT


def _echo(params, prompts, sample_ids, facts):
  """A sampler that answers with the prompt, its special tokens left out."""
  del params, sample_ids, facts
  tokens, mask = jax.device_get((prompts.tokens, prompts.mask))
  special = tiny_run.experiment().codec.tokenizer.all_special_ids
  mask = (mask & ~np.isin(tokens, special))[..., None, :]
  tokens = tokens[..., None, :]
  zeros = np.zeros(tokens.shape, np.float32)
  return types.Completions(
    tokens=tokens,
    mask=mask,
    policy_mask=mask,
    positions=tokens,
    turn=tokens,
    logprobs=zeros,
    entropy=zeros,
    finished=np.ones(tokens.shape[:-1], bool),
  )


def test_draws_of_evaluations_hang_on_seed_and_place_alone():
  seen = []

  def program(params, prompts, sample_ids, facts):
    seen.append(jax.device_get((facts, sample_ids)))
    return _echo(params, prompts, sample_ids, facts)

  config = tiny_run.config()
  programs = python_types.SimpleNamespace(
    evaluate=dict.fromkeys(tiny_run.PROMPT_BUCKETS, program)
  )
  run = dataclasses.replace(config.run, seed=7)
  sampler = tiny_run.sampler(
    settings=dataclasses.replace(config, run=run), programs=programs
  )
  sampler.answers(None, [tiny_run.make_task(i) for i in range(8)])
  # Two batches of four, over two devices.
  facts, ids = zip(*seen, strict=True)
  for got in facts:
    np.testing.assert_array_equal(got, sampler_lib.facts(7, 'eval', 0, 0))
  np.testing.assert_array_equal(np.concatenate(ids).ravel(), np.arange(8))


@pytest.mark.parametrize('count', [1, 4, 6])
def test_answers_come_in_order_whatever_the_batch(count):
  # Batches of four over two devices; the last is filled up.
  buckets = tiny_run.PROMPT_BUCKETS
  programs = python_types.SimpleNamespace(
    evaluate=dict.fromkeys(buckets, _echo)
  )
  tasks = [
    dataclasses.replace(tiny_run.make_task(0), user=f'{i}' * (1 + 3 * i))
    for i in range(count)
  ]
  answers = tiny_run.sampler(programs=programs).answers(None, tasks)
  assert [text.split('user')[-1].split()[0] for text in answers] == [
    task.user for task in tasks
  ]
