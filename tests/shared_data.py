"""Where the public data sets lie; they are not part of the repository."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def path(*parts: str) -> pathlib.Path:
  """A file of `../shared/data` (or of AWPO_SHARED's `data`), or skips."""
  shared = os.environ.get('AWPO_SHARED') or ROOT.parent / 'shared'
  found = pathlib.Path(shared, 'data', *parts)
  if not found.exists():
    pytest.skip(f'no {"/".join(parts)}: set AWPO_SHARED to the data folder')
  return found
