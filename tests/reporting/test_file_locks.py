"""Only contention is called contention, on file systems with and without locks.

The whole of it, with the C libraries that lock on their own (SQLite, the
checkpoints' TensorStore): `no_locks.c` makes every lock of a process fail.
"""

import errno
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from awpo_jax.checkpointing import checkpoints
from awpo_jax.evaluation import answers as answers_lib
from awpo_jax.reporting import file_locks
from awpo_jax.rollout.rewards.judges import score_cache as score_cache_lib

LOCKS = (fcntl.lockf, fcntl.flock)
HELD = (errno.EACCES, errno.EAGAIN)  # The latter is EWOULDBLOCK, too.
NONE = (
  errno.ENOSYS,
  errno.ENOTSUP,
  errno.ENOLCK,
  errno.EINVAL,
  errno.EIO,
  errno.EPERM,
  errno.ESTALE,
)


def failing(number):
  def lock(*_):
    raise OSError(number, os.strerror(number))

  return lock


@pytest.mark.parametrize('number', HELD)
def test_contention(tmp_path, number):
  with (tmp_path / 'x').open('w') as file:
    assert not file_locks.try_lock(file, failing(number))


@pytest.mark.parametrize('number', NONE)
def test_whatever_else_fails_is_no_contention(tmp_path, number, capsys):
  with (tmp_path / 'x').open('w') as file:
    assert file_locks.try_lock(file, failing(number))
  told = capsys.readouterr().err
  assert f'{tmp_path}/x cannot be locked' in told and told.count('\n') == 1


@pytest.mark.parametrize('lock', LOCKS)
def test_a_lock_keeps_another_process_out(tmp_path, lock, capsys):
  path = tmp_path / 'x'
  take = (
    'import fcntl, sys; from awpo_jax.reporting import file_locks; '
    f'print(file_locks.try_lock(open(sys.argv[1], "a"), fcntl.{lock.__name__}))'
  )

  def elsewhere():
    run = subprocess.run(
      [sys.executable, '-c', take, path],
      capture_output=True,
      check=True,
      text=True,
    )
    return run.stdout.strip()

  with path.open('w') as file:
    assert file_locks.try_lock(file, lock)
    assert elsewhere() == 'False'
  assert elsewhere() == 'True'
  assert not capsys.readouterr().err


@pytest.mark.parametrize('number', NONE)
def test_answers_are_kept_without_locks(tmp_path, monkeypatch, number):
  for name in ('lockf', 'flock'):
    monkeypatch.setattr(fcntl, name, failing(number))
  row = {'id': 'a', 'sample': 0, 'answers': ['x'], 'seconds': 1, 'tokens': 1}
  answers = answers_lib.Answers(tmp_path / 'answers.jsonl')
  answers.append([row])
  answers.close()
  assert answers_lib.Answers(tmp_path / 'answers.jsonl').texts == {
    ('a', 0): ('x',)
  }


@pytest.mark.parametrize('number', NONE)
def test_the_judges_scores_are_kept_without_locks(
  tmp_path, monkeypatch, number
):
  path = str(tmp_path / 'cache.sqlite')
  cache = score_cache_lib.Cache(
    path, 'run'
  )  # As a file system with locks leaves it.
  cache.add('k', 0.5, '', 'm')
  cache.close()
  monkeypatch.setattr(fcntl, 'lockf', failing(number))
  cache, other = (score_cache_lib.Cache(path, run) for run in ('run', 'other'))
  assert other.add('k', 0.25, '', 'm') == 0.5
  cache.add('l', 0.75, '', 'm')
  assert other.score('l') == 0.75


def test_a_lock_left_by_a_killed_process_is_named(tmp_path, monkeypatch):
  path = tmp_path / 'cache.sqlite'
  monkeypatch.setattr(fcntl, 'lockf', failing(errno.ENOSYS))
  monkeypatch.setattr(score_cache_lib, '_BUSY_SECONDS', 0.1)
  (tmp_path / 'cache.sqlite.lock').mkdir()
  with pytest.raises(ValueError, match='database is locked.*remove .*.lock if'):
    score_cache_lib.Cache(str(path), 'run')


WHOLE = """
import contextlib, fcntl, pathlib, sys
import numpy as np
from awpo_jax.rollout.rewards.judges import score_cache as cache_lib
from awpo_jax.checkpointing import checkpoints
from awpo_jax.reporting import rollout_archive as archive

folder = pathlib.Path(sys.argv[1])
try:
  fcntl.lockf((folder / 'x').open('w'), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error:
  print(error.errno)
cache = cache_lib.Cache(str(folder / 'cache.sqlite'), 'run')
cache.add('k', 0.5, '', 'm')
print(cache.score('k'))
state = {'params': {'a': np.arange(3.0)}}
manager = checkpoints.make_manager(folder / 'checkpoints', keep=1)
with contextlib.closing(manager):
  checkpoints.save_checkpoint(manager, 1, state, position={}, flags={})
  got, _, step = checkpoints.restore_checkpoint(manager, state)
print(step, got['params']['a'].tolist())
array = archive._create(folder / 'archive', np.zeros(2))
array = array.resize(exclusive_max=[1, 2]).result()
array[0].write(np.float64([4, 5])).result()
print(archive.ts.open(archive._spec(folder / 'archive')).result()[0].read()
      .result().tolist())
"""


@pytest.mark.skipif(not shutil.which('cc'), reason='no C compiler')
@pytest.mark.parametrize('number', [errno.ENOSYS, errno.EOPNOTSUPP])
def test_everything_that_a_run_writes(tmp_path, number):
  source = pathlib.Path(__file__).with_name('no_locks.c')
  library = tmp_path / 'no_locks.so'
  subprocess.run(
    ['cc', '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True
  )
  (tmp_path / 'run').mkdir()
  result = subprocess.run(
    [sys.executable, '-c', WHOLE, tmp_path / 'run'],
    env=os.environ | {'LD_PRELOAD': str(library), 'LOCK_ERRNO': str(number)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.splitlines() == [
    str(number),
    '0.5',
    '1 [0.0, 1.0, 2.0]',
    '[4.0, 5.0]',
  ]


def test_orbax_locks_where_it_can(tmp_path):
  checkpoints.make_manager(tmp_path / 'checkpoints', keep=1).close()
  from orbax.checkpoint._src.serialization import tensorstore_utils

  assert 'file_io_locking' not in tensorstore_utils._BASE_TS_CONTEXT
