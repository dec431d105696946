"""An algorithm of one's own is one function and one entry of a dict."""

import subprocess
import sys

from tests import tiny_dataset, whole_runs


def _mine() -> str:
  """The program that README.md shows."""
  text = (whole_runs.ROOT / 'README.md').read_text('utf-8')
  first = '# mine.py\nimport jax'
  _, _, rest = text.partition(f'```python\n{first}')
  assert rest
  return first + rest.partition('```')[0]


def test_a_function_and_an_entry(cache, tmp_path):
  script = tmp_path / 'mine.py'
  script.write_text(_mine())
  folder = tmp_path / 'run'
  flags = tiny_dataset.flags(
    folder, '--estimator=median', '--gate=none', '--difficulty=none'
  )
  flags += ['--sft_steps=0', '--rl_steps=1', '--cpu_devices=1', cache]
  done = subprocess.run(
    [sys.executable, script, *flags],
    cwd=whole_runs.ROOT,
    env=whole_runs.environment(),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert '--estimator=median' in (folder / 'run.flags').read_text()
  row = whole_runs.rows(folder)[-1]
  assert row['phase'] == 'rl' and row['advantage/abs_mean'] > 0
