"""Locks of open files, on file systems with and without them.

Some file systems know no locks (Lustre mounted without `flock`, many of FUSE):
the system calls fail there, with one error or another. Only two errors mean
that somebody else holds the lock; all others mean that there are no locks,
which is no reason not to write.
"""

import errno
import fcntl
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import IO

# POSIX lets a system choose between them; EWOULDBLOCK is the second.
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)


def try_lock(file: IO, lock: Callable[[IO, int], None]) -> bool:
  """Takes an exclusive lock without waiting; it ends with the file or process.

  Args:
    file: open for writing.
    lock: `fcntl.lockf`: it belongs to this process, and no child that outlives
      it goes on holding it; or `fcntl.flock`: it belongs to this open file, so
      that a second one in the same process is kept out, too.

  Returns:
    False where somebody else holds it. True where it was taken, and also where
    the file system has no locks: then a line on stderr says that nothing is
    kept out.
  """
  error = _error(file, lock)
  if error is None:
    return True
  if error.errno in _HELD:
    return False
  print(
    f'Warning: {file.name} cannot be locked ({error}): nothing keeps another '
    'process from writing there, so start none.',
    file=sys.stderr,
  )
  return True


def work_in(folder: pathlib.Path) -> bool:
  """Whether the file system of a folder has locks; the folder must be there."""
  with tempfile.TemporaryFile(dir=folder) as file:
    return _error(file, fcntl.lockf) is None


def _error(file: IO, lock: Callable[[IO, int], None]) -> OSError | None:
  try:
    lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    return error
  return None
