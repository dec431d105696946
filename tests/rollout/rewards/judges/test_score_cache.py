"""What a judge said stays, the first word of several, for all processes."""

import multiprocessing
import sqlite3
import threading

import pytest

from awpo_jax.rollout.rewards.judges import score_cache as score_cache_lib


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'cache.sqlite')


def test_the_first_score_of_a_key_counts(path):
  cache = score_cache_lib.Cache(path, 'run')
  assert cache.score('k') is None
  assert cache.add('k', 0.25, 'why', 'm') == 0.25
  other = score_cache_lib.Cache(path, 'other')
  assert other.add('k', 0.75, 'because', 'm') == 0.25
  assert other.score('k') == cache.score('k') == 0.25


def test_what_was_given_up_is_so_for_one_run(path):
  cache = score_cache_lib.Cache(path, 'run')
  cache.give_up(['a', 'b'])
  cache.give_up(['b', 'c'])
  again, other = (score_cache_lib.Cache(path, run) for run in ('run', 'other'))
  assert [again.gave_up(key) for key in 'abcd'] == [True, True, True, False]
  assert not any(other.gave_up(key) for key in 'abcd')


def test_a_run_pays_for_itself(path):
  cache = score_cache_lib.Cache(path, 'run')
  assert cache.spent() == (0, 0)
  cache.spend(1, 0)
  cache.spend(0, 70)
  cache.spend(2, 5)
  assert score_cache_lib.Cache(path, 'run').spent() == (3, 75)
  assert score_cache_lib.Cache(path, 'other').spent() == (0, 0)


def test_in_memory():
  cache = score_cache_lib.Cache('', 'run')
  cache.add('k', 0.5, '', 'm')
  assert cache.score('k') == 0.5
  assert score_cache_lib.Cache('', 'run').score('k') is None


def _add(path, first, last, start):
  start.wait()
  cache = score_cache_lib.Cache(path, f'run {first}')
  for i in range(first, last):
    assert cache.add(f'key {i}', i / 1000, '', 'm') == i / 1000
    cache.spend(1, 2)
  cache.close()


def test_several_processes_write_at_once(path):
  # They open the new file together, too.
  context = multiprocessing.get_context('forkserver')
  start = context.Barrier(3)
  processes = [
    context.Process(target=_add, args=(path, 50 * i, 50 * i + 50, start))
    for i in range(3)
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join()
  assert [process.exitcode for process in processes] == [0] * 3
  cache = score_cache_lib.Cache(path, 'run 50')
  assert [cache.score(f'key {i}') for i in range(150)] == [
    i / 1000 for i in range(150)
  ]
  assert cache.spent() == (50, 100)


def test_the_journal_is_waited_for(path, monkeypatch):
  connect = sqlite3.connect
  other = connect(path, isolation_level=None, check_same_thread=False)
  other.execute('BEGIN EXCLUSIVE')
  # SQLite waits for no lock: as it does where a file's journal changes.
  monkeypatch.setattr(
    sqlite3,
    'connect',
    lambda *args, **kwargs: connect(*args, isolation_level=None, timeout=0),
  )
  timer = threading.Timer(0.2, other.execute, ['COMMIT'])
  timer.start()
  cache = score_cache_lib.Cache(path, 'run')
  timer.join()
  assert cache.add('k', 0.5, '', 'm') == 0.5


def test_a_key_is_made_of_names_and_values():
  keys = [
    score_cache_lib.key(a='x', b='y'),
    score_cache_lib.key(a='xy', b=''),
    score_cache_lib.key(a='y', b='x'),
    score_cache_lib.key(a='x', b=['y']),
    score_cache_lib.key(a='x'),
    score_cache_lib.key(a='\ud800', b='y'),
  ]
  assert len(set(keys)) == len(keys)
  assert score_cache_lib.key(b='y', a='x') == keys[0]
