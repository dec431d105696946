"""What the tests of whole runs share: one cache, one uninterrupted run."""

import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import time

import pytest

from tests.helpers import browser, tiny_dataset, whole_runs

_CACHE = 'cache'


@dataclasses.dataclass(frozen=True)
class Reference:
  """A run that nothing disturbed, and how its process ended."""

  folder: pathlib.Path
  result: whole_runs.Result
  seconds: float
  last: int = tiny_dataset.SFT_STEPS + tiny_dataset.RL_STEPS


@pytest.fixture(scope='session')
def reference(tmp_path_factory) -> Reference:
  """One for all workers of pytest-xdist: the first that needs it runs it.

  It keeps its rollouts, which changes no number.
  """
  base = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:  # Their folders lie in one.
    base = base.parent
  base = base / 'reference'
  base.mkdir(exist_ok=True)
  ended = base / 'ended.json'
  with (base / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not ended.exists():
      _run_reference(base, ended)
  result, seconds = json.loads(ended.read_text())
  result = whole_runs.Result(*result)
  assert result.returncode == 0, result.stderr
  return Reference(base / 'run', result, seconds)


def _run_reference(base, ended):
  cache = f'--compilation_cache={base / _CACHE}'
  started = time.perf_counter()
  flags = tiny_dataset.flags(base / 'run', cache, '--archive')
  result = whole_runs.command(flags)
  seconds = time.perf_counter() - started
  ended.write_text(json.dumps([dataclasses.astuple(result), seconds]))


@pytest.fixture(scope='session')
def cache(reference, tmp_path_factory) -> str:
  """Programs that the first run compiles are read by all the others.

  Each worker has a copy to add to: JAX writes an entry in place, where another
  process could read half of it.
  """
  folder = tmp_path_factory.mktemp('programs') / _CACHE
  shutil.copytree(reference.folder.parent / _CACHE, folder)
  return f'--compilation_cache={folder}'


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """A browser."""
  with browser.opened(tmp_path_factory.mktemp('profile')) as made:
    yield made


@pytest.fixture
def quiet(page):
  """The browser, in which nothing may go wrong or be asked for."""
  page.problems.clear()
  page.requests.clear()
  yield page
  page.run('1')  # What happened until now has been told.
  assert not page.problems
  asked = [x for x in page.requests if x != 'about:blank']
  assert {x[:8] for x in asked} == {'file:///'}


@pytest.fixture
def start(tmp_path, cache):
  """Starts a run of the tiny experiment in `tmp_path / 'run'`."""

  def run(*further: str, **options) -> whole_runs.Result:
    flags = tiny_dataset.flags(tmp_path / 'run', cache, *further)
    return whole_runs.forked(flags, tmp_path, **options)

  return run
