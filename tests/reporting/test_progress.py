"""What long work says: on a terminal, elsewhere, and when something fails."""

import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from awpo_jax.reporting import progress


def _threads():
  return {x for x in threading.enumerate() if x.name == 'progress'}


@pytest.fixture(autouse=True)
def no_thread_is_left():
  before = _threads()
  yield
  assert _threads() == before


def _wait(condition):
  end = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < end, 'nothing came'
    time.sleep(0.005)


def test_plain_lines_with_what_is_done_by_now(capfd):
  done = []
  with progress.working(lambda: f'{len(done)} of 3', interval=0.05):
    _wait(lambda: 'of 3' in capfd.readouterr().err)
    done += [1, 2]
    time.sleep(0.12)
    done += [3]
  captured = capfd.readouterr()
  *lines, last = captured.err.splitlines()
  assert lines and all(re.fullmatch(r'[0-3] of 3, 0 s', x) for x in lines)
  assert '2 of 3, 0 s' in lines
  assert last == '3 of 3, done after 0 s'
  assert captured.out == ''


def test_lines_are_an_interval_apart():
  stream = io.StringIO()
  begun = time.monotonic()
  with progress.working(lambda: 'x', stream=stream, interval=0.1):
    time.sleep(0.35)
  elapsed = time.monotonic() - begun
  # At most one each interval, and one at the end.
  assert 1 < stream.getvalue().count('\n') <= elapsed / 0.1 + 1


def test_short_work_and_silent_work_say_nothing(capfd):
  with progress.working(lambda: 'x'):
    pass
  with progress.working(lambda: 'x', interval=0.01, silent=True):
    assert not _threads()
    time.sleep(0.05)
  assert capfd.readouterr() == ('', '')


@pytest.fixture
def terminal():
  """A terminal of 40 columns: its stream, and what it has been sent."""
  master, slave = pty.openpty()
  fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 40, 0, 0))
  os.set_blocking(master, False)
  sent = []

  def read():
    with contextlib.suppress(BlockingIOError):
      sent.append(os.read(master, 1 << 16).decode())
    return ''.join(sent)

  with os.fdopen(slave, 'w') as stream:
    yield stream, read
  os.close(master)


def test_a_terminal_has_one_line_that_is_rewritten(terminal):
  stream, read = terminal
  name = 'owner/' + 50 * 'n'
  with progress.working(lambda: f'Loading {name}', stream=stream, interval=0.2):
    _wait(lambda: read().count('Loading') >= 3)
    time.sleep(0.2)
  _wait(lambda: 'done' in read())
  *rewritten, last, rest = re.split('\r+', read().replace('\r\n', '\n'))
  assert rest == f'Loading {name}, done after 0 s\n'
  assert last == 39 * ' '  # Cleared.
  # Never a whole row, which would push the cursor to the next one.
  assert {x for x in rewritten if x} == {f'Loading {name}'[:39]}


def test_a_terminal_is_left_clean_by_work_that_was_short(terminal):
  stream, read = terminal
  with progress.working(lambda: 'Loading', stream=stream, interval=2.0):
    _wait(lambda: 'Loading' in read())
  assert '\n' not in read()
  assert read().rstrip('\r').endswith('\r' + 39 * ' ')


def test_a_bar_comes_back():
  stream = io.StringIO()
  stream.isatty = lambda: True
  bar = progress.Progress(4, 1, stream=stream)
  bar.update(3, 'loss 0.5')
  with progress.working(lambda: 'Judging', stream=stream, interval=5.0):
    _wait(lambda: 'Judging' in stream.getvalue())
  _, _, after = stream.getvalue().rpartition('Judging')
  bar.close()
  assert after.count('loss 0.5') == 1


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_work_that_fails_is_not_done(error):
  stream = io.StringIO()
  with (
    pytest.raises(error),
    progress.working(lambda: 'x', stream=stream, interval=0.02),
  ):
    _wait(stream.getvalue)
    raise error
  assert 'done' not in stream.getvalue()


def test_a_reader_that_is_gone_stops_nothing(recwarn):
  reader, writer = os.pipe()
  with os.fdopen(writer, 'w') as stream:
    with progress.working(lambda: 'x', stream=stream, interval=0.02):
      os.close(reader)
      time.sleep(0.1)
    stream.close = lambda: None
    with pytest.raises(BrokenPipeError):
      stream.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
  assert not recwarn.list


TERMINATED = """
import time
from awpo_jax.reporting import progress
from awpo_jax.training import signals

with signals.handled_by(signals.stop_at_start):
  with progress.working(lambda: 'Compiling', interval=0.05):
    time.sleep(60)
"""


def test_a_signal_ends_the_work_at_once():
  process = subprocess.Popen(
    [sys.executable, '-c', TERMINATED],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert 'Compiling' in process.stderr.readline()
  process.send_signal(signal.SIGTERM)
  out, errors = process.communicate(timeout=30)
  assert process.returncode == 1 and out == ''
  last = errors.splitlines()[-1]
  assert last.endswith('the same command starts again.')
  assert 'done' not in errors and 'Exception in thread' not in errors
