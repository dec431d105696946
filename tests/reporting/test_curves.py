"""The picture of a run: which panels, which points."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image

from awpo_jax import types
from awpo_jax.reporting import curves
from awpo_jax.rollout.rewards import toolrl


def rows():
  run = [
    {'step': step, 'phase': 'sft', 'loss': 4.0 - step, 'grad_norm': 1.0}
    for step in (1, 2, 3)
  ]
  run += [
    {
      'step': step,
      'phase': 'rl',
      'loss': 0.1,
      'reward/outcome': step / 10,
      'reward/reasoning': None if step == 5 else 0.5,
      'clip/radius': 0.2,
      'time/step': 3.0,
    }
    for step in (4, 5, 6)
  ]
  run[2] |= {'eval/values/accuracy': 0.4}
  run[5] |= {'eval/values/accuracy': 0.9, 'eval/phrasings/accuracy': 0.8}
  return run


def lines_of(axes):
  """Label -> the lines' points; an unlabelled line goes on with the last."""
  lines, label = {}, None
  for line in axes.get_lines():
    if len(line.get_xdata()) == 2 and list(line.get_ydata()) == [0, 1]:
      continue  # The boundary between the phases.
    if not line.get_label().startswith('_'):
      label = line.get_label()
    points = zip(line.get_xdata(), line.get_ydata(), strict=True)
    lines.setdefault(label, []).append(list(points))
  return lines


def panels_of(figure):
  return {axes.get_title('left'): axes for axes in figure.axes}


def test_panels_with_data_are_drawn(tmp_path):
  figure = curves.plot_curves(rows(), tmp_path / 'curves.png')
  panels = panels_of(figure)
  assert list(panels) == [
    'Solved tasks',
    'Rewards',
    'Weight of the reasoning',
    'Loss',
  ]
  assert lines_of(panels['Rewards']) == {
    'outcome': [[(4, 0.4), (5, 0.5), (6, 0.6)]],
    'reasoning': [[(4, 0.5), (6, 0.5)]],
  }
  assert lines_of(panels['Solved tasks']) == {
    'held out: values': [[(3, 0.4), (6, 0.9)]],
    'held out: phrasings': [[(6, 0.8)]],
  }
  # The phases are lines of their own.
  assert lines_of(panels['Loss']) == {
    'loss': [[(1, 3.0), (2, 2.0), (3, 1.0)], [(4, 0.1), (5, 0.1), (6, 0.1)]]
  }
  assert panels['Loss'].get_legend() is None  # The title says it.
  shown = panels['Rewards'].get_legend().get_texts()
  assert [text.get_text() for text in shown] == ['outcome', 'reasoning']


def test_of_many_panels_the_first_four_are_drawn(tmp_path):
  every = [{**row, 'entropy': 1.0, 'trust/mean': 0.3} for row in rows()]
  panels = panels_of(curves.plot_curves(every, tmp_path / 'curves.png'))
  assert list(panels) == [*curves.PANELS][:4]
  assert 'trust t' in lines_of(panels['Weight of the reasoning'])


def test_a_gate_that_is_never_open_has_no_panel(tmp_path):
  every = [{**row, 'gate/mean': 0.0} for row in rows()]
  panels = panels_of(curves.plot_curves(every, tmp_path / 'curves.png'))
  assert list(panels) == ['Solved tasks', 'Rewards', 'Loss']
  # What keeps it shut is worth seeing.
  every = [{**row, 'trust/mean': 0.0} for row in every]
  panels = panels_of(curves.plot_curves(every, tmp_path / 'curves.png'))
  assert {'gate w', 'trust t'} <= {*lines_of(panels['Weight of the reasoning'])}


def test_a_long_line_is_smoothed_over_its_points(tmp_path):
  values = [float(x % 3) for x in range(40)]
  many = [
    {'step': x, 'phase': 'rl', 'entropy': value}
    for x, value in enumerate(values)
  ]
  figure = curves.plot_curves(many, tmp_path / 'curves.png')
  points, line = figure.axes[0].get_lines()
  assert list(points.get_ydata()) == values
  assert points.get_alpha() < 0.5
  # Two neighbours on each side, at the ends as many as there are.
  smoothed = line.get_ydata()
  np.testing.assert_allclose(smoothed[:3], [0, 1, (0 + 1 + 2 + 0 + 1) / 5])
  np.testing.assert_allclose(smoothed[20], (0 + 1 + 2 + 0 + 1) / 5)
  np.testing.assert_allclose(smoothed[-2:], [(1 + 2 + 0) / 3, 0])


def test_the_parts_of_the_built_in_reward_are_shown():
  task = types.Task('a', '', '', (), '<think> a </think>', 'kind')
  parts = toolrl.toolrl('anything', task).parts
  assert {'format', 'correctness'} == set(parts)
  assert {f'reward/{name}' for name in parts} <= set(curves.PANELS['Rewards'])


def test_picture_is_a_png_with_something_on_it(tmp_path):
  curves.plot_curves(rows(), tmp_path / 'curves.png')
  picture = image.imread(tmp_path / 'curves.png')
  assert picture.shape[0] > 300
  assert picture.shape[1] > 900
  assert np.std(picture[..., :3]) > 0.05


def test_the_phases_are_marked_where_they_are_seen(tmp_path):
  panels = panels_of(curves.plot_curves(rows(), tmp_path / 'curves.png'))
  (span,) = panels['Loss'].patches
  box = span.get_extents().transformed(panels['Loss'].transData.inverted())
  np.testing.assert_allclose([box.x0, box.x1], [0.5, 3.5])
  for axes in panels.values():
    assert [text.get_text() for text in axes.texts] == ['SFT', 'RL']
  # Of what was before RL the last step is seen, with its held-out accuracy.
  left, right = panels['Solved tasks'].get_xlim()
  assert left == 3 and 6 < right < 7


@pytest.mark.parametrize('data', [[], [{'step': 1, 'phase': 'sft'}]])
def test_a_run_without_data(tmp_path, data):
  figure = curves.plot_curves(data, tmp_path / 'curves.png')
  assert figure.axes == []
  assert (tmp_path / 'curves.png').stat().st_size > 0


def test_leaves_pyplot_alone():
  program = (
    'import sys, awpo_jax.reporting.curves; '
    'sys.exit("matplotlib.pyplot" in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', program], check=True)
