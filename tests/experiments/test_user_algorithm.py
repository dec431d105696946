"""An algorithm of one's own is one function and one entry of a dict."""

import subprocess
import sys
import textwrap

from tests import tiny_dataset, whole_runs

# As README shows it.
MINE = """
  # mine.py
  import jax.numpy as jnp
  from absl import app
  from awpo_jax.ops import estimators

  def median(rewards, samples, **_):  # --estimator=median
    middle = jnp.median(rewards, axis=1, keepdims=True)
    return jnp.where(samples.valid, rewards - middle, 0.0)

  estimators.ESTIMATORS['median'] = median

  if __name__ == '__main__':
    from experiments import train
    app.run(train.main, flags_parser=train.parse)
"""


def test_a_function_and_an_entry(tmp_path):
  script = tmp_path / 'mine.py'
  script.write_text(textwrap.dedent(MINE))
  folder = tmp_path / 'run'
  flags = tiny_dataset.flags(
    folder, '--estimator=median', '--gate=none', '--difficulty=none'
  )
  flags += ['--sft_steps=0', '--rl_steps=1', '--cpu_devices=1']
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
