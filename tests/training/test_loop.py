"""The loop's own decisions: folders, refusals, when to pause, what to write."""

import contextlib
import dataclasses
import pathlib
import signal
import sys
import types as python_types
from unittest import mock

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.checkpointing import (
  checkpoints,
  initial_params,
  model_files,
  run_folder,
)
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.evaluation import held_out
from awpo_jax.rollout.sampling import sampler as sampler_lib
from awpo_jax.rollout.text import tokenizers
from awpo_jax.training import bookkeeping, loop, signals
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import optimizer, train_step
from tests.helpers import tiny_dataset, tiny_run

# For the four devices of this process.
_HERE = ('--cpu_devices=1', '--prompts_per_step=8', '--sft_batch=8')


def _config(folder, *flags):
  return config_lib.parse(
    tiny_dataset.flags(folder, '--compilation_cache=', *_HERE, *flags)
  )


class _Reached(Exception):
  """The point where programs are compiled."""


@pytest.fixture(autouse=True)
def no_compilation(monkeypatch):
  """Starts are judged by whether they get to the compilation."""

  def reached(*unused_arguments, **unused):
    raise _Reached

  monkeypatch.setattr(compile_lib, 'compile_programs', reached)


REFUSED = {
  '--reward=no_such': '--reward=no_such',
  '--judge=tests.helpers.tiny_dataset:nothing': '--judge=.*cannot be imported',
  '--dataset=nowhere': '--dataset=nowhere',
  '--model=/nowhere': '/nowhere',
  '--model=/nowhere/x.gguf': 'There is no file /nowhere/x.gguf',
  '--init_weights=induction': '--init_weights=induction: the model has ',
  '--best_metric=eval/held_out/acuracy': 'acuracy is not measured; there are: '
  'eval/held_out/accuracy, eval/held_out/outcome, eval/held_out/reasoning, '
  'eval/held_out/accuracy/even, eval/held_out/accuracy/odd',
  '--prompts_per_step=12': '--prompts_per_step=12 does not divide over 4',
  '--init_from=OLD/checkpoints/599': 'No checkpoint at .*/checkpoints/599',
  '--init_from=OLD/checkpoints/4': 'checkpoints/4 does not fit: params/.*',
}


@pytest.fixture(scope='module')
def old_run(tmp_path_factory):
  """A run whose parameters are those of another model."""
  folder = tmp_path_factory.mktemp('old')
  # It knows the words of the prompts, or they would be too long for the run.
  words = tiny_dataset.load(seed=0)
  texts = [task.system + task.user for task in words.train[:20]]
  tokenizer = tokenizers.train_tokenizer(texts, vocab_size=300)
  tokenizers.save_tokenizer(tokenizer, folder / model_files.TOKENIZER_FOLDER)
  state = {'params': {'embedding': np.zeros((3, 5), np.float32)}}
  with contextlib.closing(
    checkpoints.make_manager(folder / checkpoints.RUN_SUBFOLDER, keep=1)
  ) as manager:
    checkpoints.save_checkpoint(manager, 4, state, position={}, flags={})
  return folder


@pytest.mark.parametrize('existed', [False, True])
@pytest.mark.parametrize('flag', REFUSED)
def test_mistakes_are_told_before_anything_compiles(
  tmp_path, old_run, flag, existed
):
  folder = tmp_path / 'run'
  if existed:
    folder.mkdir()
  with pytest.raises(ValueError, match=REFUSED[flag]):
    loop.train(_config(folder, flag.replace('OLD', str(old_run))))
  # The folder is as it was found, and the corrected command may have it.
  assert folder.exists() == existed and not list(tmp_path.glob('run/*'))
  with pytest.raises(_Reached):
    loop.train(_config(folder))


def test_only_the_start_makes_a_value_error_one_of_flags(tmp_path, monkeypatch):
  with pytest.raises(flags_lib.ConfigError, match='no_such'):
    loop.train(_config(tmp_path / 'run', '--reward=no_such'))

  def broken(*unused_arguments, **unused):
    raise ValueError('in the depths of a compiler')

  monkeypatch.setattr(compile_lib, 'compile_programs', broken)
  with pytest.raises(ValueError, match='in the depths') as raised:
    loop.train(_config(tmp_path / 'run'))
  assert raised.type is ValueError


def test_programs_are_kept_unless_that_is_turned_off(monkeypatch):
  kept = {}
  monkeypatch.setattr(jax.config, 'update', kept.__setitem__)
  default = config_lib.Config().run.compilation_cache
  initial_params.use_compilation_cache(default)
  folder = pathlib.Path(kept.pop('jax_compilation_cache_dir'))
  assert folder == pathlib.Path.home() / '.cache' / 'awpo_jax' / 'xla'
  initial_params.use_compilation_cache('')
  assert not kept


def test_a_mistake_does_not_undo_a_run(tmp_path, monkeypatch):
  folder = tmp_path / 'run'
  config = run_folder.settled(folder, _config(folder), 'cpu')
  assert run_folder.claim_folder(folder, config)
  with pytest.raises(_Reached):
    loop.train(_config(folder))

  def gone(config):
    raise FileNotFoundError('rows.jsonl has moved')

  monkeypatch.setattr(loop.setup_lib, 'make_experiment', gone)
  with pytest.raises(flags_lib.ConfigError, match='rows.jsonl'):
    loop.train(_config(folder))
  assert (folder / run_folder.FLAGS_FILE).exists()
  assert (folder / model_files.TOKENIZER_FOLDER).is_dir()


@pytest.mark.parametrize('name', ['wandb', 'trackio'])
def test_a_tracker_without_its_package(tmp_path, monkeypatch, name):
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(
    flags_lib.ConfigError, match=f'pip install.*--{name}_project'
  ):
    loop.train(_config(tmp_path / 'run', f'--{name}_project=p'))
  assert not (tmp_path / 'run').exists()


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
