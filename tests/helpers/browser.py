"""A headless Chromium, driven through a pair of pipes: no package needed."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_SECONDS = 30.0


def found() -> str | None:
  """The program, if one is installed."""
  return next(filter(None, map(shutil.which, NAMES)), None)


needed = pytest.mark.skipif(
  found() is None,
  reason=f'no browser: none of {", ".join(NAMES)} is installed',
)


def view(*flags: str) -> subprocess.CompletedProcess[str]:
  """Runs `python experiments/view.py` as a user does."""
  root = pathlib.Path(__file__).parents[2]
  return subprocess.run(
    [sys.executable, 'experiments/view.py', *flags],
    cwd=root,
    env=os.environ | {'PYTHONPATH': str(root)},
    capture_output=True,
    text=True,
    check=False,
  )


def texts(selector: str) -> str:
  """The expression for the texts of all elements that a selector finds."""
  return (
    f'[...document.querySelectorAll({json.dumps(selector)})]'
    '.map(x => x.textContent)'
  )


def chosen(name: str, value: str) -> str:
  """The expression that chooses a value of a `select`."""
  return (
    f"(() => {{ const x = document.querySelector('select[name={name}]'); "
    f'x.value = {json.dumps(value)}; '
    "x.dispatchEvent(new Event('change')); })()"
  )


class Page:
  """One tab, with all that it complained about and asked for.

  Attributes:
    problems: exceptions, console messages, and breaches of its policy.
    requests: addresses that it has asked for.
  """

  def __init__(self, reading: int, writing: int) -> None:
    self._reading, self._writing = reading, writing
    self._buffer, self._number, self._session = b'', 0, None
    self.problems: list[Any] = []
    self.requests: list[str] = []
    target = self._send('Target.createTarget', url='about:blank')['targetId']
    attached = self._send(
      'Target.attachToTarget', targetId=target, flatten=True
    )
    self._session = attached['sessionId']
    for domain in ('Page', 'Runtime', 'Network', 'Log'):
      self._send(f'{domain}.enable')

  def open(self, path: pathlib.Path, fragment: str = '') -> None:
    """Loads a file, and waits until its script has run."""
    # Else another fragment of the same file would not load it anew.
    self._send('Page.navigate', url='about:blank')
    self._send('Page.navigate', url=path.absolute().as_uri() + fragment)
    self.wait(
      "document.readyState === 'complete' && location.protocol[0] == 'f'"
    )

  def run(self, script: str) -> Any:
    """The value of a JavaScript expression."""
    got = self._send('Runtime.evaluate', expression=script, returnByValue=True)
    assert 'exceptionDetails' not in got, (script, got)
    return got['result'].get('value')

  def wait(self, condition: str) -> None:
    """Until an expression is true."""
    until = time.monotonic() + _SECONDS
    while not self.run(f'!!({condition})'):
      assert time.monotonic() < until, f'never true: {condition}'
      time.sleep(0.02)

  def picture(self, path: pathlib.Path, *, width: int, height: int) -> None:
    """Saves what is to be seen as a PNG."""
    self._send(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )
    data = self._send('Page.captureScreenshot', format='png')['data']
    path.write_bytes(base64.b64decode(data))

  def _send(self, method: str, **params: Any) -> Any:
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._writing, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._receive()
      if answer.get('id') == self._number:
        assert 'error' not in answer, answer
        return answer['result']
      self._note(answer)

  def _receive(self) -> Any:
    until = time.monotonic() + _SECONDS
    while b'\0' not in self._buffer:
      left = until - time.monotonic()
      ready, _, _ = select.select([self._reading], [], [], max(left, 0))
      assert ready, 'Chromium does not answer'
      data = os.read(self._reading, 1 << 20)
      assert data, 'Chromium has ended'
      self._buffer += data
    message, _, self._buffer = self._buffer.partition(b'\0')
    return json.loads(message)

  def _note(self, event: Any) -> None:
    method, params = event.get('method'), event.get('params')
    if method == 'Network.requestWillBeSent':
      self.requests.append(params['request']['url'])
    if method in (
      'Runtime.exceptionThrown',
      'Runtime.consoleAPICalled',
      'Log.entryAdded',
      'Page.javascriptDialogOpening',
    ):
      self.problems.append(params)


@contextlib.contextmanager
def opened(profile: pathlib.Path) -> Iterator[Page]:
  """A tab of a new browser, which ends with the block.

  Args:
    profile: an empty folder of its own.
  """
  program = found()
  assert program
  to_read, to_write = os.pipe(), os.pipe()

  process = subprocess.Popen(
    [
      # Chromium reads descriptor 3, and writes 4.
      'bash',
      '-c',
      f'exec "$@" 3<&{to_read[0]} 4>&{to_write[1]}',
      'bash',
      program,
      '--headless=new',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--no-first-run',
      '--disable-background-networking',
      '--remote-debugging-pipe',
      f'--user-data-dir={profile}',
    ],
    pass_fds=(to_read[0], to_write[1]),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  os.close(to_read[0])
  os.close(to_write[1])
  try:
    yield Page(to_write[0], to_read[1])
  finally:
    process.terminate()
    process.wait(timeout=_SECONDS)
    os.close(to_read[1])
    os.close(to_write[0])
