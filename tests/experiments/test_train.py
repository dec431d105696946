"""Whole runs: what they leave, and that no interruption changes a number."""

import json
import pathlib
import re
import signal

import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from tests.helpers import tiny_dataset, v0_checkpoints, whole_runs

FIRST_RL = tiny_dataset.SFT_STEPS + 1


def _steps(folder):
  return [row['step'] for row in whole_runs.rows(folder)]


def _params(folder, step):
  arrays = whole_runs.stored(folder, step)
  return {key: x for key, x in arrays.items() if key.startswith("['params']")}


def _assert_equal(ours, theirs):
  assert ours.keys() == theirs.keys() and ours
  for key, array in ours.items():
    np.testing.assert_array_equal(array, theirs[key], err_msg=key)


def test_files_of_a_run(reference):
  folder, last = reference.folder, reference.last
  assert {x.name for x in folder.iterdir()} == {
    '.lock',
    'archive',
    'checkpoints',
    'curves.png',
    'flags.json',
    'metrics.jsonl',
    'model.json',
    'run.flags',
    'summary.json',
    'tensorboard',
    'tokenizer',
    'transcripts.jsonl',
  }
  assert '--samples=4\n' in (folder / 'run.flags').read_text()
  stored = json.loads((folder / 'flags.json').read_text())
  assert stored['samples'] == 4
  # What auto was here: the trainer computed none of its own.
  assert stored['old_logprobs'] == 'sampler'
  assert '--old_logprobs=sampler\n' in (folder / 'run.flags').read_text()
  for row in whole_runs.rows(folder)[tiny_dataset.SFT_STEPS :]:
    assert row['ratio/sampler_abs_log_mean'] == 0
    assert 0 < row['ratio/first_abs_log_mean'] < 1e-5
  assert _steps(folder) == list(range(1, last + 1))
  assert [row['phase'] for row in whole_runs.rows(folder)] == (
    ['sft'] * tiny_dataset.SFT_STEPS + ['rl'] * tiny_dataset.RL_STEPS
  )
  assert whole_runs.saved_steps(folder) == [2, 4, 6, 7]
  (events,) = (folder / 'tensorboard').iterdir()
  assert b'gate/mean' in events.read_bytes()
  assert (folder / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_transcripts_of_a_run(reference):
  rows = whole_runs.rows(reference.folder, 'transcripts.jsonl')
  evaluated = [row['step'] for row in rows if 'set' in row]
  assert evaluated == [tiny_dataset.SFT_STEPS] * 4 + [reference.last] * 4
  sampled = [row for row in rows if 'set' not in row]
  assert [row['step'] for row in sampled] == [5] * 16 + [6] * 16 + [7] * 16


def test_summary_and_table_of_a_run(reference):
  summary = json.loads((reference.folder / 'summary.json').read_text())
  rows = whole_runs.rows(reference.folder)
  before, after = rows[tiny_dataset.SFT_STEPS - 1], rows[-1]
  assert summary['accuracy_before'] == before['eval/held_out/accuracy']
  assert summary['accuracy_after'] == after['eval/held_out/accuracy']
  assert summary['accuracy_by_kind'] == {
    kind: {
      'before': before[f'eval/held_out/accuracy/{kind}'],
      'after': after[f'eval/held_out/accuracy/{kind}'],
    }
    for kind in ('even', 'odd')
  }
  table = reference.result.stdout.strip().splitlines()
  assert table[0].split() == ['accuracy', 'before', 'after']
  assert [line.split()[0] for line in table[1:4]] == ['held_out', 'even', 'odd']


def test_seconds_of_a_run(reference):
  rows = whole_runs.rows(reference.folder)
  summary = json.loads((reference.folder / 'summary.json').read_text())
  # All but the interpreter's own start and end.
  assert rows[-1]['time/elapsed'] < summary['seconds'] < reference.seconds
  parts = summary['seconds_by_part']
  assert set(parts) == {
    'setup',
    'compile',
    'sft',
    'sample',
    'score',
    'prepare',
    'update',
    'eval',
    'rest',
  }
  assert min(parts.values()) > 0
  np.testing.assert_allclose(sum(parts.values()), summary['seconds'])


def test_programs_of_a_run_are_kept(reference):
  flags = json.loads((reference.folder / 'flags.json').read_text())
  assert any(pathlib.Path(flags['compilation_cache']).iterdir())


def test_a_judge_without_a_score_makes_samples_invalid(reference):
  rows = whole_runs.rows(reference.folder, 'transcripts.jsonl')
  for row in whole_runs.rows(reference.folder)[tiny_dataset.SFT_STEPS :]:
    sampled = [r for r in rows if r['step'] == row['step'] and 'set' not in r]
    for each in sampled:
      n = len(each['response'])
      wanted = None if n % 5 == 0 else np.float32(1 / (1 + n))
      assert each['reasoning'] == wanted
    had = [r['reasoning'] for r in sampled if r['reasoning'] is not None]
    np.testing.assert_allclose(row['reward/valid'], len(had) / len(sampled))
    np.testing.assert_allclose(row['reward/reasoning'], np.mean(had), rtol=1e-6)
  # Some were without a score, or this says nothing.
  assert any(r['reasoning'] is None for r in rows if 'reasoning' in r)


def test_a_finished_run_is_left_alone(reference, tmp_path):
  before = (reference.folder / 'metrics.jsonl').read_bytes()
  flags = json.loads((reference.folder / 'flags.json').read_text())
  cache = f'--compilation_cache={flags["compilation_cache"]}'
  again = tiny_dataset.flags(reference.folder, cache, '--archive')
  result = whole_runs.forked(again, tmp_path)
  assert result.returncode == 0
  assert f'the run ended at step {reference.last}' in result.stderr
  assert result.stdout == reference.result.stdout
  assert (reference.folder / 'metrics.jsonl').read_bytes() == before


KILLS = {
  'before the first checkpoint': whole_runs.Signal(
    'awpo_jax.training.update.minibatches:of_demonstrations', call=2
  ),
  # By Orbax, in a thread of its own: all is written but the folder's name.
  'while a checkpoint is written': whole_runs.Signal(
    'os:rename', call=1, target=r'/checkpoints/\d+'
  ),
  'between SFT and RL': whole_runs.Signal(
    'awpo_jax.training.collection.sample:RolloutSampler.next_prompts', call=1
  ),
  'between two mini-batches': whole_runs.Signal(
    'awpo_jax.training.update.minibatches:Dealer.cut', call=2, when='second'
  ),
}


def test_killed_again_and_again(reference, start, tmp_path):
  # The same command each time; each kill strikes where the one before did not.
  folder, saved = tmp_path / 'run', {}
  for name, at in KILLS.items():
    result = start(at=at)
    assert result.returncode == -signal.SIGKILL, (name, result)
    saved[name] = whole_runs.saved_steps(folder)
    if name == 'while a checkpoint is written':
      (begun,) = (folder / 'checkpoints').iterdir()
      assert (begun / 'state' / 'manifest.ocdbt').is_file()
  assert not saved['before the first checkpoint']
  assert not saved['while a checkpoint is written']
  assert set(saved['between SFT and RL']) <= {2, 4}
  assert set(saved['between two mini-batches']) <= {2, 4}
  # A window of the profiler that is past does no harm.
  result = start('--profile_steps=1,2')
  assert result.returncode == 0, result.stderr
  assert _steps(folder) == list(range(1, reference.last + 1))
  whole_runs.assert_same(folder, reference.folder, reference.last)


def test_stopped_by_signals(reference, start, tmp_path):
  folder = tmp_path / 'run'
  stops = (
    ('SIGTERM', 'awpo_jax.training.update.minibatches:of_demonstrations', 3, 3),
    ('SIGINT', 'awpo_jax.training.collection.score:score', 1, FIRST_RL),
  )
  for name, function, call, step in stops:
    number = getattr(signal, name)
    result = start(at=whole_runs.Signal(function, call, number=number))
    assert result.returncode == 128 + number, result
    assert f'Stopped by {name} after step {step}, which is' in result.stderr
    assert 'the same command goes on from there' in result.stderr
    assert _steps(folder)[-1] == whole_runs.saved_steps(folder)[-1] == step
  # One that opened before the restart does none either.
  result = start('--profile_steps=2,6')
  assert result.returncode == 0, result.stderr
  # Each of the three processes compiles, and goes on counting.
  rows = whole_runs.rows(folder)
  assert [row['step'] for row in rows if 'time/compile' in row] == [1, 4, 6]
  elapsed = [row['time/elapsed'] for row in rows]
  assert elapsed == sorted(elapsed)
  whole_runs.assert_same(folder, reference.folder, reference.last)


def test_goes_on_from_a_checkpoint_of_the_old_format(
  reference, start, tmp_path
):
  folder = tmp_path / 'run'
  at = whole_runs.Signal(
    'awpo_jax.training.collection.score:score', 1, number=signal.SIGTERM
  )
  assert start(at=at).returncode == 128 + signal.SIGTERM
  saved = whole_runs.saved_steps(folder)
  assert saved[-1] == FIRST_RL
  for step in saved:
    v0_checkpoints.rewrite(folder / 'checkpoints' / str(step))
  result = start()
  assert result.returncode == 0, result.stderr
  assert _steps(folder) == list(range(1, reference.last + 1))
  whole_runs.assert_same(folder, reference.folder, reference.last)


def test_numbers_that_overflow(reference, start, tmp_path):
  folder = tmp_path / 'run'
  rows = whole_runs.rows(reference.folder, 'transcripts.jsonl')
  step = FIRST_RL + 1
  ids = [r['task_id'] for r in rows if r['step'] == step and 'set' not in r]
  result = start(environment={tiny_dataset.OVERFLOW: ids[0]})
  assert result.returncode == 1
  assert f'NonFiniteError: Step {step} (rl), update' in result.stderr
  assert all(name in result.stderr for name in ids)
  assert f'Last good checkpoint: {folder / "checkpoints" / "4"}.' in (
    result.stderr
  )
  assert whole_runs.saved_steps(folder) == [2, 4]
  assert _steps(folder)[-1] == step - 1
  # The same command goes on from there, once the reward is mended.
  result = start()
  assert result.returncode == 0, result.stderr
  whole_runs.assert_same(folder, reference.folder, reference.last)


def test_without_steps_a_run_measures_what_it_starts_from(
  reference, start, tmp_path
):
  def measured(row):
    return {name: x for name, x in row.items() if name.startswith('eval/')}

  folder = tmp_path / 'run'
  want = measured(whole_runs.untimed(reference.folder)[reference.last - 1])
  for _ in range(2):  # The same command measures again.
    result = start(
      f'--init_from={reference.folder}', '--sft_steps=0', '--rl_steps=0'
    )
    assert result.returncode == 0, result.stderr
    (row,) = whole_runs.untimed(folder)
    assert (row['step'], row['phase']) == (0, 'start')
    assert want and measured(row) == want
    assert not list((folder / 'checkpoints').iterdir())
    answers = whole_runs.rows(folder, 'transcripts.jsonl')
    assert [x['task_id'] for x in answers] == [
      f'held_out_{i}' for i in range(4)
    ]


@pytest.mark.parametrize('step', [4, 7])
def test_a_new_run_from_old_parameters(reference, start, tmp_path, step):
  source = reference.folder
  if step != reference.last:
    source = source / 'checkpoints' / str(step)
  result = start(
    f'--init_from={source}',
    '--sft_steps=0',
    '--rl_steps=1',
    '--learning_rate=0',
  )
  assert result.returncode == 0, result.stderr
  folder = tmp_path / 'run'
  first, after = whole_runs.untimed(folder)
  assert (first.pop('step'), first.pop('phase')) == (0, 'start')
  old = whole_runs.untimed(reference.folder)[step - 1]
  assert first == {
    **{k: v for k, v in old.items() if k.startswith('eval/')},
    **{
      f'data/left_out/{k}': 0 for k in ('demonstrations', 'train', 'held_out')
    },
  }
  # It begins anew with the first prompts and a new optimizer ...
  assert (after['step'], after['phase']) == (1, 'rl')
  assert int(whole_runs.stored(folder, 1)["['step']"]) == 2
  ours = whole_runs.rows(folder, 'transcripts.jsonl')
  theirs = whole_runs.rows(reference.folder, 'transcripts.jsonl')
  assert [r['task_id'] for r in ours if r['step'] == 1 and 'set' not in r] == [
    r['task_id'] for r in theirs if r['step'] == FIRST_RL and 'set' not in r
  ]
  # ... and without a learning rate ends with what it was given.
  _assert_equal(_params(folder, 1), _params(reference.folder, step))


_BROKEN = """
def dataset(*, seed, data=None):
  raise ValueError('no such data')

def reward(response, task):
  raise ValueError('a bug of a plug-in')
"""


def test_modules_where_the_command_is_given(tmp_path):
  (tmp_path / 'broken.py').write_text(_BROKEN)
  flags = tiny_dataset.flags(tmp_path / 'run', '--dataset=broken:dataset')
  result = whole_runs.command(flags, folder=tmp_path)
  assert result.stderr.splitlines()[-1] == 'ConfigError: no such data'


def test_stopped_before_anything_was_saved(start, tmp_path):
  at = whole_runs.Signal(
    'awpo_jax.training.programs.compile:compile_programs',
    1,
    number=signal.SIGTERM,
  )
  result = start(at=at)
  assert result.returncode == 128 + signal.SIGTERM
  assert 'Stopped by SIGTERM at the start: ' in result.stderr
  # What held no step is given back, and bars no other flags.
  assert not (tmp_path / 'run').exists()


def test_a_mistake_is_one_line_and_a_bug_has_a_traceback(start, tmp_path):
  (tmp_path / 'broken.py').write_text(_BROKEN)
  there = {'PYTHONPATH': str(tmp_path)}
  result = start('--dataset=broken:dataset', environment=there)
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == 'ConfigError: no such data'
  assert 'Traceback' not in result.stderr
  # Nothing was claimed that would bar other flags.
  result = start('--reward=broken:reward', '--sft_steps=0', environment=there)
  assert result.returncode == 1
  assert 'Traceback' in result.stderr and 'in reward' in result.stderr
  assert 'ValueError: a bug of a plug-in' in result.stderr


def test_help_has_every_flag_of_ours_and_no_other(tmp_path):
  result = whole_runs.forked(['--help'], tmp_path)
  assert result.returncode == 0, result.stderr
  shown = re.findall(r'^  --(?:\[no\])?(\w+):', result.stdout, re.MULTILINE)
  wanted = set(config_lib.to_dict(config_lib.Config()))
  assert set(shown) == wanted and len(shown) == len(wanted)
  assert {'gate', 'rl_steps'} <= wanted
  _, _, section = result.stdout.partition('\nRollouts and the updates on them:')
  flags = section.split('\n\n')[0]
  assert '--temperature: Sampling temperature' in flags
  assert '--sft_steps' not in flags and '--gate' not in flags


def _counts(folder):
  return {row['compile/count'] for row in whole_runs.rows(folder)}


def test_nothing_compiles_after_the_first_step(reference):
  # Sampler, greedy sampler, preparer, two updates, two first states.
  (count,) = _counts(reference.folder)
  assert count >= 7


@pytest.mark.slow
def test_nothing_compiles_after_the_first_step_in_any_bucket(start, tmp_path):
  result = start('--prompt_buckets=25,32', '--response_buckets=4,8')
  assert result.returncode == 0, result.stderr
  # 2 samplers, 2 greedy ones, 4 preparers, 8 updates, 2 first states.
  (count,) = _counts(tmp_path / 'run')
  assert count >= 18


def test_evaluations_best_checkpoint_and_profile(start, tmp_path):
  name = 'eval/held_out/accuracy/odd'
  result = start(
    '--profile_steps=2,3',
    '--eval_every=3',
    '--keep_checkpoints=1',
    f'--best_metric={name}',
  )
  assert result.returncode == 0, result.stderr
  folder = tmp_path / 'run'
  assert list((folder / 'profile').rglob('*.xplane.pb'))
  (_,) = _counts(folder)
  accuracy = {
    row['step']: row[name] for row in whole_runs.rows(folder) if name in row
  }
  assert list(accuracy) == [3, 4, 6, 7]
  # There stay the end of SFT, the best of those that were evaluated, due to be
  # saved or not, the later one of equals, and the last.
  best = max(accuracy, key=lambda step: (accuracy[step], step))
  assert whole_runs.saved_steps(folder) == sorted({4, best, 7})
