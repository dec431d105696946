"""Scores of a judge on disk, so that no run asks for one twice.

One SQLite file, which several runs may share. A key is a hash of everything
that a score hangs on. The first score of a key stays: who comes later with
another one gets the first, so that all agree.

What a run gave up on is remembered for that run alone: the same run, resumed,
must go on without that score, another may ask anew.
"""

import hashlib
import json
import pathlib
import sqlite3
import time
from collections.abc import Iterable
from typing import Any

from awpo_jax.reporting import file_locks

_TABLES = """
  CREATE TABLE IF NOT EXISTS scores (
    key TEXT PRIMARY KEY, score REAL NOT NULL, reason TEXT NOT NULL,
    model TEXT NOT NULL
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS given_up (
    run TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run, key)
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS spent (
    run TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL
  ) WITHOUT ROWID;
"""
_BUSY_SECONDS = 60.0


def key(**parts: Any) -> str:
  """A hash of JSON values by name."""
  text = json.dumps(parts, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()


class Cache:
  """Scores by key, what a run gave up on, and what it has spent.

  Every write is on disk when its method returns but for the last moment before
  a crash of the machine. To be used by the thread that made it.
  """

  def __init__(self, path: str, run: str) -> None:
    """Opens the file, or one in memory where the path is empty.

    On a file system without locks a folder `<file>.lock` takes their place; a
    process that is killed while it writes leaves it behind.

    Args:
      path: made with its folders where it is missing.
      run: whose marks and spending are meant, e.g. its folder.

    Raises:
      ValueError: the file cannot be opened or is no such database.
    """
    self._run = run
    try:
      self._db = _connect(path)
      self._db.execute('PRAGMA synchronous=NORMAL')
      self._db.executescript(_TABLES)
    except (OSError, sqlite3.Error) as error:
      raise ValueError(
        f'--judge_cache={path} cannot be used: {error}. Name another file, or '
        f'move that one away{_stale(path)}.'
      ) from error

  def score(self, key: str) -> float | None:
    """The score of a key; None where none is stored."""
    return self._stored(key)[0]

  def reason(self, key: str) -> str | None:
    """What the judge said with the score of a key; None without one."""
    return self._stored(key)[1]

  def _stored(self, key: str) -> tuple[float | None, str | None]:
    row = self._db.execute(
      'SELECT score, reason FROM scores WHERE key = ?', (key,)
    ).fetchone()
    return row or (None, None)

  def add(self, key: str, score: float, reason: str, model: str) -> float:
    """Stores a score; returns the one that counts, which may be older."""
    self._db.execute(
      'INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)',
      (key, score, reason, model),
    )
    stored = self.score(key)
    assert stored is not None
    return stored

  def gave_up(self, key: str) -> bool:
    """Whether this run goes on without a score for the key."""
    row = self._db.execute(
      'SELECT 1 FROM given_up WHERE run = ? AND key = ?', (self._run, key)
    ).fetchone()
    return row is not None

  def give_up(self, keys: Iterable[str]) -> None:
    """Records that this run goes on without scores for the keys."""
    self._db.execute('BEGIN IMMEDIATE')
    self._db.executemany(
      'INSERT OR IGNORE INTO given_up VALUES (?, ?)',
      [(self._run, key) for key in keys],
    )
    self._db.execute('COMMIT')

  def spend(self, calls: int, tokens: int) -> None:
    """Adds to what this run has spent."""
    self._db.execute(
      'INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (run) DO UPDATE SET '
      'calls = calls + excluded.calls, tokens = tokens + excluded.tokens',
      (self._run, calls, tokens),
    )

  def spent(self) -> tuple[int, int]:
    """Calls and tokens of this run so far, all its processes together."""
    row = self._db.execute(
      'SELECT calls, tokens FROM spent WHERE run = ?', (self._run,)
    ).fetchone()
    return (0, 0) if row is None else row

  def close(self) -> None:
    """Closes the file."""
    self._db.close()


def _connect(path: str) -> sqlite3.Connection:
  """An open database, with a write-ahead journal where the disk allows it."""
  settings: dict[str, Any] = {
    'timeout': _BUSY_SECONDS,
    'isolation_level': None,
  }
  if not path:
    return sqlite3.connect(':memory:', **settings)
  file = pathlib.Path(path).expanduser().absolute()
  file.parent.mkdir(parents=True, exist_ok=True)
  if file_locks.work_in(file.parent):
    database = sqlite3.connect(file, **settings)
    _write_ahead(database)
    return database
  # SQLite would call most of the errors of such a file system an error of the
  # disk, and ENOLCK another process. Its locks by folders work anywhere.
  database = sqlite3.connect(
    f'{file.as_uri()}?vfs=unix-dotfile', uri=True, **settings
  )
  # Where a file system with locks has left a journal written ahead, it is
  # readable by one process alone, and gone afterwards.
  database.execute('PRAGMA locking_mode=EXCLUSIVE')
  database.execute('PRAGMA journal_mode=DELETE')
  database.execute('PRAGMA locking_mode=NORMAL')
  return database


def _stale(path: str) -> str:
  """What to do about a lock that a killed process left, if there is one."""
  lock = pathlib.Path(f'{path}.lock').expanduser()
  if not path or not lock.exists():
    return ''
  return f', or remove {lock} if no other run is using it'


def _write_ahead(database: sqlite3.Connection) -> None:
  """Sets the journal's mode, for whose lock SQLite itself does not wait."""
  until = time.monotonic() + _BUSY_SECONDS
  while True:
    try:
      database.execute('PRAGMA journal_mode=WAL')
      return
    except sqlite3.OperationalError as error:
      if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
        return  # No shared memory there: the journal stays as it was.
      if time.monotonic() > until:
        raise
    time.sleep(0.01)
