"""What the tests of whole runs share: one cache, one uninterrupted run."""

import dataclasses
import pathlib
import time

import pytest

from tests.helpers import tiny_dataset, whole_runs


@dataclasses.dataclass(frozen=True)
class Reference:
  """A run that nothing disturbed, and how its process ended."""

  folder: pathlib.Path
  result: whole_runs.Result
  seconds: float
  last: int = tiny_dataset.SFT_STEPS + tiny_dataset.RL_STEPS


@pytest.fixture(scope='session')
def cache(tmp_path_factory) -> str:
  """Programs that the first run compiles are read by all the others."""
  return f'--compilation_cache={tmp_path_factory.mktemp("cache")}'


@pytest.fixture(scope='session')
def reference(tmp_path_factory, cache) -> Reference:
  folder = tmp_path_factory.mktemp('reference') / 'run'
  started = time.perf_counter()
  result = whole_runs.command(tiny_dataset.flags(folder, cache))
  seconds = time.perf_counter() - started
  assert result.returncode == 0, result.stderr
  return Reference(folder, result, seconds)


@pytest.fixture
def start(tmp_path, cache):
  """Starts a run of the tiny experiment in `tmp_path / 'run'`."""

  def run(*further: str, **options) -> whole_runs.Result:
    flags = tiny_dataset.flags(tmp_path / 'run', cache, *further)
    return whole_runs.forked(flags, tmp_path, **options)

  return run
