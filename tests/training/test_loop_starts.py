"""How a run starts, or is refused: before anything compiles."""

import contextlib
import sys

import numpy as np
import pytest

from awpo_jax.checkpointing import checkpoints, model_files, run_folder
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.rollout.text import tokenizers
from awpo_jax.training import loop
from awpo_jax.training.programs import compile as compile_lib
from tests.helpers import tiny_dataset

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
