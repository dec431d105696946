"""Where the public data sets lie; they are not part of the repository."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def path(*parts: str) -> pathlib.Path:
  """A file of `../shared/data` (or of AWPO_SHARED's `data`), or skips.

  With AWPO_REQUIRE_SHARED set it fails instead, so that a machine that has the
  data does not lose these tests unnoticed.
  """
  shared = os.environ.get('AWPO_SHARED') or ROOT.parent / 'shared'
  found = pathlib.Path(shared, 'data', *parts)
  if not found.exists():
    stop = pytest.fail if os.environ.get('AWPO_REQUIRE_SHARED') else pytest.skip
    stop(f'no {found}: set AWPO_SHARED to the folder that holds data/')
  return found
