"""Intervals, paired differences and tables, against plain NumPy and by hand."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
from scipy import stats

from awpo_jax.analysis import replay
from awpo_jax.analysis.ablations import comparison, grid, plots

ROOT = pathlib.Path(__file__).resolve().parents[3]

SCORES = {
  'grpo': {
    1: {'accuracy': 0.5, 'speed': 0.4},
    2: {'accuracy': 0.6, 'speed': 0.5},
    3: {'accuracy': 0.4, 'speed': 0.2},
  },
  # Seed 3 failed, a metric of seed 1 could not be had.
  'awpo': {1: {'accuracy': 0.7}, 2: {'accuracy': 0.6, 'speed': 0.6}},
  'broken': {},
}
FAILED = {('awpo', 3): 'exit 1: ValueError: no | pipe', ('broken', 1): 'exit 2'}


def test_interval_is_that_of_resampled_means():
  values = np.array([0.1, 0.4, 0.2, 0.5, 0.3])
  got = comparison.estimate(values)
  rng = np.random.default_rng(7)
  means = rng.choice(values, (20000, 5)).mean(axis=1)
  np.testing.assert_allclose(got.mean, 0.3)
  np.testing.assert_allclose(
    [got.low, got.high], np.quantile(means, [0.025, 0.975]), atol=0.015
  )
  assert got.count == 5


def test_smallest_detectable_difference():
  # s = .5, n = 4: (3.1824 + .9785) * .5 / 2, quantiles of t with 3 degrees.
  values = 0.5 * np.array([-1, 1, 1, -1]) * np.sqrt(3 / 4)
  got = comparison.estimate(values)
  np.testing.assert_allclose(got.detectable, (3.1824 + 0.9785) / 4, rtol=1e-3)
  # The power of the t test there is 80%.
  power = stats.nct.sf(
    stats.t.ppf(0.975, 3), 3, got.detectable / (0.5 / np.sqrt(4))
  )
  assert 0.7 < power < 0.9


@pytest.mark.parametrize('values', [[0.2], [0.2] * 3, [0.3 - 0.1, 0.4 - 0.2]])
def test_what_has_no_spread_estimates_no_interval(values):
  got = comparison.estimate(values)
  assert got.mean == pytest.approx(0.2)
  assert got.low is got.high is got.detectable is None


def test_learning_speed_by_hand():
  # Area 2 (.2 + .6) / 2 + 1 (.6 + .8) / 2 = 1.5 over 3 steps.
  got = comparison.learning_speed(
    np.array([1, 3, 4]), np.array([0.2, 0.6, 0.8])
  )
  np.testing.assert_allclose(got, 0.5)
  assert comparison.learning_speed(np.array([4]), np.array([0.7])) == 0.7


def test_scores_of_a_run():
  rows = [
    {'step': 1, 'loss': 1.0},
    {'step': 2, 'eval/a/accuracy': 0.2, 'eval/a/reasoning': None},
    {'step': 4, 'eval/a/accuracy': 0.6, 'eval/a/outcome': 1.5},
  ]
  assert comparison.score(rows, 'a') == {
    'accuracy': 0.6,
    'outcome': 1.5,
    'speed': 0.4,
  }
  assert comparison.score(rows, 'b') == {}


def test_differences_are_paired():
  got = comparison.differences(SCORES, 'awpo', 'grpo', 'accuracy')
  np.testing.assert_allclose(got, [0.2, 0.0], atol=1e-12)
  got = comparison.differences(SCORES, 'awpo', 'grpo', 'speed')
  np.testing.assert_allclose(got, [0.1])
  assert comparison.differences(SCORES, 'broken', 'grpo', 'speed') == []


def test_the_tables_show_what_failed():
  text = comparison.markdown(SCORES, FAILED, baseline='grpo')
  rows = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in text.splitlines()
    if line.startswith('|')
  ]
  assert rows[0] == ['cell', 'seeds', 'accuracy', 'speed']
  assert rows[2][:2] == ['grpo', '3']
  assert rows[2][2].startswith('0.500 [')
  assert rows[3][:2] == ['awpo', '2, **1 failed**'] and rows[3][3] == '0.600'
  assert rows[4] == ['broken', '0, **1 failed**', '-', '-']
  assert rows[7][0] == 'awpo' and rows[7][1].startswith('+0.100 [')
  assert '- broken, seed 1: exit 2' in text
  assert 'reasoning' not in text


def test_the_tables_give_no_interval_of_equal_seeds():
  scores = {
    'grpo': {1: {'accuracy': 0.25}, 2: {'accuracy': 0.25}},
    'awpo': {1: {'accuracy': 0.75}, 2: {'accuracy': 0.75}},
  }
  text = comparison.markdown(scores, {}, baseline='grpo')
  assert '| awpo | 2 | 0.750 |' in text and '| awpo | +0.500 |' in text
  assert 'all have the same value: that estimates no interval' in text


def test_the_tables_say_what_a_score_of_reasoning_is():
  scores = {'grpo': {1: {'accuracy': 0.5, 'reasoning': 0.4}}}
  text = comparison.markdown(scores, {}, baseline='grpo')
  assert 'counts words and checks calls, no more' in text


def test_runs_with_an_archive_have_a_cosine(tmp_path):
  cell = grid.Cell('awpo', (), 2)
  made = grid.Grid(tmp_path, (), (cell,), (1, 2))
  for seed in (1, 2):
    folder = tmp_path / 'cells' / 'awpo' / f'seed_{seed}'
    shutil.copytree(ROOT / 'notebooks/run', folder)
    (folder / 'summary.json').write_text('{}')
  (folder / 'archive.zip').unlink()
  scores = comparison.read(made, 'values')
  assert 'cosine' not in scores['awpo'][2]
  cosine = replay.solved_cosine(ROOT / 'notebooks/run')
  assert scores['awpo'][1]['cosine'] == cosine > 0
  text = comparison.markdown(scores, {}, baseline='awpo')
  assert f' {cosine:.3f} |' in text and 'a description, no score' in text
  without = {'awpo': {2: scores['awpo'][2]}}
  assert 'cosine' not in comparison.markdown(without, {}, baseline='awpo')


def test_a_cell_begins_with_the_evaluation_of_its_warm_start(tmp_path):
  cells = tuple(grid.Cell(name, (), 2) for name in ('own', 'none'))
  made = grid.Grid(tmp_path, (), cells, (1, 2), ('--sft_steps=2',))
  told = {
    'warm_start': [
      {'step': 1},
      {'step': 2, 'eval/a/accuracy': 0.25, 'loss': 1},
    ],
    'own': [
      {'step': 0, 'eval/a/accuracy': 0.5},
      {'step': 4, 'eval/a/accuracy': 0.75},
    ],
    'none': [{'step': 1}, {'step': 4, 'eval/a/accuracy': 0.75}],
  }
  for run in (*grid.runs(made)[0], *grid.runs(made)[1]):
    run.folder.mkdir(parents=True)
    (run.folder / 'summary.json').write_text('{}')
    lines = (json.dumps(row) + '\n' for row in told[run.name])
    (run.folder / 'metrics.jsonl').write_text(''.join(lines))
  shutil.rmtree(tmp_path / 'warm_starts/seed_2')
  rows = comparison.metrics_of(made)
  assert rows['own'] == {1: told['own'], 2: told['own']}
  start = {'step': 0, 'phase': 'start', 'eval/a/accuracy': 0.25}
  assert rows['none'] == {1: [start, *told['none']], 2: told['none']}
  # (.25 + .75) / 2 of a curve with two points; a point alone is its height.
  scores = comparison.read(made, 'a')['none']
  assert (scores[1]['speed'], scores[2]['speed']) == (0.5, 0.75)


def test_one_line_a_run(tmp_path):
  file = tmp_path / 'runs.csv'
  comparison.write_csv(SCORES, FAILED, file)
  with file.open(newline='') as lines:
    rows = list(csv.DictReader(lines))
  assert len(rows) == 3 + 2 + 2
  assert rows[3] == {
    'cell': 'awpo',
    'seed': '1',
    'status': 'done',
    'accuracy': '0.7',
    'speed': '',
  }
  assert [row['status'] for row in rows[-2:]] == ['failed', 'failed']


def test_pictures(tmp_path):
  steps = np.array([1, 2, 3])
  curves = {
    'grpo': {s: (steps, np.array([0.1, 0.2, 0.3]) + s / 10) for s in (1, 2)},
    'awpo': {1: (steps[1:], np.array([0.5, 0.7]))},
    'broken': {},
  }
  figure = plots.plot_curves(curves, tmp_path / 'curves.png', label='accuracy')
  (axes,) = figure.axes
  lines = {line.get_label(): line.get_ydata() for line in axes.lines}
  np.testing.assert_allclose(lines['grpo'], [0.25, 0.35, 0.45])
  np.testing.assert_allclose(lines['awpo'], [0.5, 0.7])
  assert len(axes.collections) == 1  # One seed has no band.
  # Where seeds agree there is none, but from where they do not there is.
  same = {s: (steps, np.array([0.1, 0.2 * s, 0.3 * s])) for s in (1, 2)}
  figure = plots.plot_curves({'a': same}, tmp_path / 'curves.png', label='x')
  (band,) = figure.axes[0].collections
  (path,) = band.get_paths()
  assert path.vertices[:, 0].min() == 2
  for baseline in (None, 'grpo'):
    figure = plots.plot_scores(
      SCORES, tmp_path / f'{baseline}.png', baseline=baseline
    )
    assert len(figure.axes) == 2
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ['failed']
  assert len(list(tmp_path.glob('*.png'))) == 3


def test_overview(tmp_path):
  def lines(gate, accuracies):
    rows = [{'step': 0, 'eval/a/accuracy': accuracies[0]}]
    rows += [
      {'step': 2 * i, 'gate/mean': gate, 'clip/radius': 0.2 - gate / 10}
      | ({'eval/a/accuracy': accuracies[i]} if i < len(accuracies) else {})
      for i in (1, 2, 3)
    ]
    return rows

  rows = {
    'awpo': {1: lines(0.5, [0.2, 0.4, 0.6]), 2: lines(0.3, [0.4, 0.6, 0.8])},
    'grpo': {1: lines(0.0, [0.2, 0.3, 0.4])},
  }
  figure = plots.plot_overview(
    rows, tmp_path / 'o.png', accuracy='eval/a/accuracy'
  )
  accuracy, gate, radius = figure.axes
  # A line a seed and one for their mean; GRPO has no gate.
  assert [len(x.lines) for x in figure.axes] == [5, 3, 3]
  np.testing.assert_allclose(accuracy.lines[2].get_ydata(), [0.3, 0.5, 0.7])
  np.testing.assert_allclose(accuracy.lines[2].get_xdata(), [0, 0.5, 1])
  np.testing.assert_allclose(gate.lines[2].get_ydata(), [0.4] * 3)
  np.testing.assert_allclose(radius.lines[2].get_ydata(), [0.16] * 3)
  # Trust has a panel where a cell has it.
  for step, row in enumerate(rows['grpo'][1][1:]):
    row['trust/mean'] = step / 4  # Even where the gate is 0.
  figure = plots.plot_overview(
    rows, tmp_path / 'o.png', accuracy='eval/a/accuracy'
  )
  trust = figure.axes[3]
  assert trust.get_title(loc='left') == 'mean trust t'
  # The one seed, and the mean of it.
  for line in trust.lines:
    np.testing.assert_allclose(line.get_ydata(), [0, 0.25, 0.5])
  assert len(trust.lines) == 2
  assert (tmp_path / 'o.png').stat().st_size > 1000
