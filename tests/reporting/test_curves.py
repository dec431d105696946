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


def test_panels_with_data_are_drawn(tmp_path):
  figure = curves.plot_curves(rows(), tmp_path / 'curves.png')
  panels = {axes.get_title(): axes for axes in figure.axes}
  assert list(panels) == [
    'reward',
    'held-out accuracy',
    'clip radius',
    'loss',
    'gradient norm',
  ]
  assert lines_of(panels['reward']) == {
    'reward/outcome': [[(4, 0.4), (5, 0.5), (6, 0.6)]],
    'reward/reasoning': [[(4, 0.5), (6, 0.5)]],
  }
  assert lines_of(panels['held-out accuracy']) == {
    'eval/values/accuracy': [[(3, 0.4), (6, 0.9)]],
    'eval/phrasings/accuracy': [[(6, 0.8)]],
  }
  # The phases are lines of their own.
  assert lines_of(panels['loss']) == {
    'loss': [[(1, 3.0), (2, 2.0), (3, 1.0)], [(4, 0.1), (5, 0.1), (6, 0.1)]]
  }


def test_the_parts_of_the_built_in_reward_are_shown():
  task = types.Task('a', '', '', (), '<think> a </think>', 'kind')
  parts = toolrl.toolrl('anything', task).parts
  assert {'format', 'correctness'} == set(parts)
  assert {f'reward/{name}' for name in parts} <= set(curves.PANELS['reward'])


def test_picture_is_a_png_with_something_on_it(tmp_path):
  curves.plot_curves(rows(), tmp_path / 'curves.png')
  picture = image.imread(tmp_path / 'curves.png')
  assert picture.shape[0] > 300
  assert picture.shape[1] > 900
  assert np.std(picture[..., :3]) > 0.05


def test_the_phases_are_marked_where_both_have_data(tmp_path):
  figure = curves.plot_curves(rows(), tmp_path / 'curves.png')
  panels = {axes.get_title(): axes for axes in figure.axes}
  (span,) = panels['loss'].patches
  box = span.get_extents().transformed(panels['loss'].transData.inverted())
  np.testing.assert_allclose([box.x0, box.x1], [0.5, 3.5])
  assert [text.get_text() for text in panels['loss'].texts] == ['sft | rl']
  assert not panels['reward'].patches
  assert panels['reward'].get_xlim()[0] > 3
  assert len(panels['gradient norm'].patches) == 1
  assert not panels['gradient norm'].texts


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
