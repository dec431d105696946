"""`export_atif.py` on a real run."""

import json
import pathlib
import subprocess
import sys

from tests.analysis import test_trajectories
from tests.helpers import whole_runs

ROOT = pathlib.Path(__file__).parents[2]


def _export(*flags):
  return subprocess.run(
    [sys.executable, 'experiments/export_atif.py', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_every_answer_of_a_run(reference, tmp_path):
  done = _export(f'--run={reference.folder}', f'--output={tmp_path / "out"}')
  rows = whole_runs.rows(reference.folder, 'transcripts.jsonl')
  assert done.stdout == f'{len(rows)} trajectories in {tmp_path / "out"}\n'
  files = sorted((tmp_path / 'out').iterdir())
  assert len(files) == len(rows)
  for path, row in zip(files, rows, strict=True):
    made = json.loads(path.read_bytes())
    test_trajectories.check(made)
    assert made['extra']['step'] == row['step']
    assert made['extra']['task_id'] == row['task_id']
    assert made['final_metrics']['extra']['outcome'] == row['outcome']


def test_what_cannot_be_had_is_said_in_a_line(tmp_path):
  done = _export(f'--run={tmp_path}', f'--output={tmp_path / "out"}')
  assert done.returncode == 1 and 'transcripts.jsonl' in done.stderr
  assert 'Traceback' not in done.stderr
  assert '--output is not set' in _export(f'--run={tmp_path}').stderr
