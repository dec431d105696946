"""What a run tells of itself, each number where it is looked for."""

from awpo_jax.reporting import curves
from tests.helpers import tiny_dataset, whole_runs

# What must be seen of a run: title of the panel -> lines in it. Parts of the
# reward are named by the reward; of the built-in one see test_curves.py.
SHOWN = {
  'Solved tasks': ['held out: held_out', 'training prompts'],
  'Rewards': ['outcome', 'reasoning'],
  'Weight of the reasoning': ['gate w', 'trust t', 'clip radius'],
  'Entropy (nats)': ['entropy'],
}


def _steps(axes):
  """Label -> the steps it has points of, both phases together."""
  steps, label = {}, None
  for line in axes.get_lines():
    if not line.get_label().startswith('_'):
      label = line.get_label()
    if line.get_marker() == '.':  # Not the boundary of the phases.
      steps.setdefault(label, set()).update(map(int, line.get_xdata()))
  return steps


def test_every_panel_of_a_run_has_its_curves(reference, tmp_path):
  rows = whole_runs.rows(reference.folder)
  figure = curves.plot_curves(rows, tmp_path / 'curves.png')
  panels = {axes.get_title('left'): _steps(axes) for axes in figure.axes}
  assert {title: list(panels[title]) for title in panels} == SHOWN
  first, last = tiny_dataset.SFT_STEPS + 1, reference.last
  ends = {first - 1, last}
  for lines in panels.values():
    for name, steps in lines.items():
      if name.startswith('held out'):
        # The judge may have had no score at one of them.
        assert steps <= ends and steps, name
      else:
        assert steps >= set(range(first, last + 1)), name


def test_the_first_update_of_a_rollout_sees_ratios_of_one(reference):
  rows = whole_runs.rows(reference.folder)[tiny_dataset.SFT_STEPS :]
  assert len(rows) == tiny_dataset.RL_STEPS
  for row in rows:
    assert row['ratio/first_abs_log_mean'] < 1e-5
    # The mean of both updates, the second of which sees what the first did.
    assert row['ratio/abs_log_mean'] > 1e-4
