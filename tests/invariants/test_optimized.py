"""A few tests once more, compiled as a run compiles.

The suite compiles without optimizations, which may reorder sums and fuse what
the equalities between programs lean on.
"""

import os
import subprocess
import sys

from tests.helpers import whole_runs

TESTS = (
  'test_grpo.py::test_reasoning_is_not_read[nan]',
  'test_devices_and_microbatches.py::test_pmap[token-mean-4-2]',
)


def test_grpo_and_devices_with_optimizations():
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
      *(f'tests/invariants/{name}' for name in TESTS),
    ],
    cwd=whole_runs.ROOT,
    env=os.environ | {'AWPO_OPTIMIZED': '1', 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert f'{len(TESTS)} passed' in done.stdout
