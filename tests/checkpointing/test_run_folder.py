"""The folder of a run: who has it, and who gives it back."""

import errno
import json
import subprocess
import sys
from unittest import mock

import pytest

from awpo_jax.checkpointing import run_folder
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from tests.helpers import tiny_dataset


def _config(folder, *flags):
  return config_lib.parse(tiny_dataset.flags(folder, *flags))


def test_a_new_folder_is_claimed_once(tmp_path):
  folder = tmp_path / 'a' / 'run'
  config = _config(tmp_path / 'run')
  assert run_folder.claim_folder(folder, config)
  stored = json.loads((folder / run_folder.FLAGS_FILE).read_text())
  assert stored == config_lib.to_json(config)
  flagfile = f'--flagfile={folder / run_folder.FLAGFILE}'
  assert config_lib.parse([flagfile]) == config
  assert not run_folder.claim_folder(folder, config)


def test_a_folder_with_other_flags_is_refused(tmp_path):
  folder = tmp_path / 'run'
  run_folder.claim_folder(folder, _config(folder))
  before = (folder / run_folder.FLAGS_FILE).read_bytes()
  other = _config(folder, '--seed=5', '--gate=always', '--keep_checkpoints=3')
  with pytest.raises(flags_lib.ConfigError) as raised:
    run_folder.claim_folder(folder, other)
  message = str(raised.value)
  assert str(folder) in message and 'name another folder' in message
  assert message.splitlines()[1:] == [
    '--seed: 0 then, 5 now',
    "--gate: 'ratio' then, 'always' now",
  ]
  assert (folder / run_folder.FLAGS_FILE).read_bytes() == before
  # What changes no number may be changed.
  kept = _config(folder, '--keep_checkpoints=3')
  assert not run_folder.claim_folder(folder, kept)


def test_flags_of_the_judge_may_be_corrected_until_a_step_hangs_on_them(
  tmp_path,
):
  folder = tmp_path / 'run'
  llm = ('--judge=llm', '--judge_url=http://here/v1')
  config = _config(folder, *llm, '--judge_model=tpyo')
  run_folder.claim_folder(folder, config)
  metrics = folder / 'metrics.jsonl'
  metrics.write_text('{"step": 1, "phase": "sft"}\n')
  corrected = _config(folder, *llm, '--judge_model=typo')
  assert not run_folder.claim_folder(folder, corrected)
  # And that is what it is from now on.
  stored = json.loads((folder / run_folder.FLAGS_FILE).read_text())
  assert stored == config_lib.to_json(corrected)
  metrics.write_text(metrics.read_text() + '{"step": 2, "phase": "rl"}\n')
  for wrong in (
    config,
    _config(folder, *llm, '--judge_model=typo', '--seed=5'),
  ):
    with pytest.raises(flags_lib.ConfigError, match='other flags'):
      run_folder.claim_folder(folder, wrong)


def test_a_folder_with_something_else_is_refused(tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'thesis.tex').write_text('years of work')
  with pytest.raises(flags_lib.ConfigError, match='holds files but no run'):
    run_folder.claim_folder(folder, _config(folder))
  assert [x.name for x in folder.iterdir()] == ['thesis.tex']


@pytest.mark.parametrize(
  'left',
  [[], ['.lock'], ['.lock', 'run.flags'], ['run.flags', 'flags.json.tmp']],
)
def test_a_claim_that_was_cut_short_is_made_again(tmp_path, left):
  folder = tmp_path / 'run'
  folder.mkdir()
  for name in left:
    (folder / name).write_text('--torn')
  assert run_folder.claim_folder(folder, _config(folder))
  assert '--torn' not in (folder / run_folder.FLAGFILE).read_text()


class _Failed(Exception):
  """Whatever goes wrong while a folder is claimed."""


def _fail_in(folder, *, at_first_step):
  """A run that leaves something of everything, and what is left of it."""
  with (
    pytest.raises(_Failed),
    run_folder.claimed(folder, _config(folder)) as keep,
  ):
    if at_first_step:
      keep()
    for name in ('checkpoints', 'tokenizer', 'tokenizer.tmp', 'tensorboard'):
      (folder / name / 'more').mkdir(parents=True)
    for name in ('metrics.jsonl', 'transcripts.jsonl'):
      (folder / name).write_text('')
    raise _Failed
  return {x.name for x in folder.parent.glob('run/*')}


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path):
  assert not _fail_in(tmp_path / 'run', at_first_step=False)
  assert not (tmp_path / 'run').exists()


def test_a_run_that_fails_later_leaves_everything(tmp_path):
  assert _fail_in(tmp_path / 'run', at_first_step=True) == {
    'checkpoints',
    'tokenizer',
    'tokenizer.tmp',
    'tensorboard',
    'metrics.jsonl',
    'transcripts.jsonl',
    'flags.json',
    'run.flags',
    '.lock',
  }


def test_what_others_put_into_a_folder_stays(tmp_path):
  folder = tmp_path / 'run'
  with pytest.raises(_Failed), run_folder.claimed(folder, _config(folder)):
    (folder / 'notes.txt').write_text('mine')
    raise _Failed
  assert [x.name for x in folder.iterdir()] == ['notes.txt']


def test_other_data_is_another_run(tmp_path):
  folder = tmp_path / 'run'
  run_folder.claim_folder(folder, _config(folder, '--data=old'))
  with pytest.raises(flags_lib.ConfigError) as raised:
    run_folder.claim_folder(folder, _config(folder, '--data=new'))
  assert str(raised.value).splitlines()[1:] == [
    "--data: 'old' then, 'new' now",
    'Data that has moved: put it, or a link to it, back at the old place, or '
    'start a new run.',
  ]


def test_two_processes_in_one_folder_are_refused(tmp_path):
  folder = tmp_path / 'run'
  llm = ('--judge=llm', '--judge_url=http://here/v1')
  config = _config(folder, *llm, '--judge_model=a')
  run_folder.claim_folder(folder, config)
  stored = (folder / run_folder.FLAGS_FILE).read_bytes()
  # Its judge could be corrected now, but not while the other one runs.
  judged = _config(folder, *llm, '--judge_model=b')
  hold = (
    'import fcntl, sys, time; file = open(sys.argv[1], "w"); '
    'fcntl.lockf(file, fcntl.LOCK_EX); print("held", flush=True); '
    'time.sleep(60)'
  )
  with subprocess.Popen(
    [sys.executable, '-c', hold, folder / run_folder.LOCK_FILE],
    stdout=subprocess.PIPE,
  ) as other:
    assert other.stdout is not None and other.stdout.readline()
    for mine in (config, judged):
      with (
        pytest.raises(flags_lib.ConfigError, match='another process is'),
        run_folder.claimed(folder, mine),
      ):
        pass
    # The other one's.
    assert (folder / run_folder.FLAGS_FILE).read_bytes() == stored
    other.kill()
  with run_folder.claimed(folder, config):  # Nothing to clear away by hand.
    pass


def test_a_file_system_without_locks(tmp_path):
  folder = tmp_path / 'run'
  unknown = OSError(errno.ENOLCK, 'No locks available')
  with (
    mock.patch.object(run_folder.fcntl, 'lockf', side_effect=unknown) as lockf,
    run_folder.claimed(folder, _config(folder)),
  ):
    pass
  assert lockf.called and (folder / run_folder.FLAGS_FILE).exists()


@pytest.mark.parametrize('began', ['trainer', 'sampler'])
def test_a_run_goes_on_with_the_log_probabilities_it_began_with(
  tmp_path, began
):
  folder = tmp_path / 'run'
  config = _config(folder)
  assert config.rl.old_logprobs == 'auto'
  new = run_folder.settled(folder, config, 'cpu')
  assert new.rl.old_logprobs == 'sampler'
  assert run_folder.settled(folder, config, 'gpu').rl.old_logprobs == 'trainer'
  run_folder.claim_folder(folder, _config(folder, f'--old_logprobs={began}'))
  for platform in ('cpu', 'gpu'):
    settled = run_folder.settled(folder, config, platform)
    assert settled.rl.old_logprobs == began
    assert not run_folder.claim_folder(folder, settled)
