"""Pictures of a grid of runs, and all that is written of it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure

from awpo_jax.analysis.ablations import by_row, comparison
from awpo_jax.analysis.ablations import grid as grid_lib
from awpo_jax.reporting import style as look

REPORT_FILE = 'report.md'


def plot_curves(
  curves: Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]],
  path: str | os.PathLike[str],
  *,
  label: str,
) -> mpl_figure.Figure:
  """Mean of each cell over its seeds, with the interval as a band.

  There is no band at a step at which all seeds have one value.

  Args:
    curves: cell -> seed -> steps and values; steps that all seeds have count.
    path: where the PNG goes.
    label: of what is drawn.
  """
  figure, (axes,) = look.new_figure(7, 4.5)
  for index, (cell, seeds) in enumerate(curves.items()):
    if not seeds:
      continue
    shared = sorted(set.intersection(*(set(s) for s, _ in seeds.values())))
    rows = [
      [v[np.flatnonzero(s == step)[0]] for s, v in seeds.values()]
      for step in shared
    ]
    found = [comparison.estimate(row) for row in rows]
    colour, style = look.colour(index), ('-', '--', ':')[index // 10 % 3]
    axes.plot(shared, [x.mean for x in found], style, color=colour, label=cell)
    if any(x.low is not None for x in found):
      axes.fill_between(
        shared,
        np.array([x.low for x in found], float),
        np.array([x.high for x in found], float),
        color=colour,
        alpha=0.15,
        lw=0,
      )
  look.finish(axes, x='step', y=label)
  look.save(figure, path)
  return figure


# What `plot_overview` draws beside the accuracy: metric -> title.
_BESIDE = {'gate/mean': 'mean gate w', 'clip/radius': 'clip radius'}
_TRUST = {'trust/mean': 'mean trust t'}


def plot_overview(
  rows: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]],
  path: str | os.PathLike[str],
  *,
  accuracy: str,
) -> mpl_figure.Figure:
  """Accuracy of each cell along its run, AWPO's gate and radius beside it.

  And the trust, where some cell has it.

  The horizontal axis is the share of a run that is over, so that cells whose
  steps differ in kind (rollouts, updates on demonstrations) can be compared. A
  faint line is a seed, a strong one the mean over seeds. A cell whose gate is 0
  throughout has no line in the panels of gate and radius.

  Args:
    rows: cell -> seed -> lines of `metrics.jsonl`.
    path: where the PNG goes.
    accuracy: the metric on the left.
  """
  titles = {accuracy: 'held-out accuracy', **_BESIDE}
  every = [row for seeds in rows.values() for x in seeds.values() for row in x]
  if any(row.get('trust/mean') is not None for row in every):
    titles |= _TRUST
  width = 3.7 * len(titles)
  figure, panels = look.new_figure(width, 3.6, columns=len(titles))
  for axes, (key, title) in zip(panels, titles.items(), strict=True):
    for index, (cell, seeds) in enumerate(rows.items()):
      if key in _BESIDE and not _leans(seeds.values()):
        continue
      found = [comparison.curve(lines, key) for lines in seeds.values()]
      found = [(x, y) for x, y in found if len(x) > 1]
      for steps, values in found:
        axes.plot(
          _share(steps), values, color=look.colour(index), lw=0.7, alpha=0.35
        )
      if found and len({len(x) for x, _ in found}) == 1:
        mean = np.mean([y for _, y in found], axis=0)
        label = f'{cell} ({len(found)} seeds)'
        axes.plot(
          _share(found[0][0]), mean, color=look.colour(index), label=label
        )
    axes.set_xlim(0, 1)
    # The same cells have the same colours on the right.
    first = axes is panels[0]
    look.finish(axes, title=title, x='share of the run', legend=first)
  look.save(figure, path)
  return figure


def _leans(seeds: Iterable[Sequence[Mapping[str, Any]]]) -> bool:
  """Whether a cell has a gate that is ever open."""
  return any(row.get('gate/mean') for rows in seeds for row in rows)


def _share(steps: np.ndarray) -> np.ndarray:
  return (steps - steps[0]) / (steps[-1] - steps[0])


def plot_scores(
  scores: comparison.Scores,
  path: str | os.PathLike[str],
  *,
  baseline: str | None = None,
) -> mpl_figure.Figure:
  """A panel a metric: each cell's mean with its interval, and every seed.

  Args:
    scores: of `comparison.read`.
    path: where the PNG goes.
    baseline: cell whose scores are taken off seed by seed; None for none.
  """
  metrics = comparison.metric_names(scores)
  cells = [cell for cell in scores if cell != baseline]
  size = 1.2 + 0.35 * max(len(cells), 1)
  columns = max(len(metrics), 1)
  figure, panels = look.new_figure(3.4 * columns, size, columns=columns)
  for metric, axes in zip(metrics, panels, strict=False):
    for row, cell in enumerate(cells):
      if baseline is None:
        seeds = scores[cell].values()
        values = [x[metric] for x in seeds if metric in x]
      else:
        values = comparison.differences(scores, cell, baseline, metric)
      if not values:
        axes.text(0.5, row, 'failed', transform=axes.get_yaxis_transform())
        continue
      found = comparison.estimate(values)
      axes.plot(values, [row] * len(values), '|', color='0.6')
      axes.plot([found.mean], [row], 'o', color=look.colour(0))
      if found.low is not None:
        ends = np.array([found.low, found.high], float)
        axes.plot(ends, [row, row], color=look.colour(0))
    axes.set_yticks(range(len(cells)), cells if axes is panels[0] else [])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    look.finish(
      axes, title=metric if baseline is None else f'{metric} - {baseline}'
    )
    if baseline is not None:
      axes.axvline(0, color=look.GREY, lw=0.8)
  look.save(figure, path)
  return figure


def write_report(
  grid: grid_lib.Grid,
  failed: Mapping[tuple[str, int], str],
  *,
  baseline: str,
  name: str,
) -> str:
  """Writes tables, CSV and pictures of the finished runs into the folder.

  Args:
    grid: as it was run.
    failed: of `grid.execute`.
    baseline: cell that the others are compared with.
    name: of the evaluation set.

  Returns:
    The text of the report.
  """
  scores = comparison.read(grid, name)
  folder = grid.folder
  folder.mkdir(parents=True, exist_ok=True)
  comparison.write_csv(scores, failed, folder / grid_lib.RUNS_FILE)
  answers = by_row.read(grid)
  text = comparison.markdown(scores, failed, baseline=baseline)
  text += '\n' + by_row.markdown(answers, baseline=baseline)
  by_row.write_csv(answers, folder / by_row.ROWS_FILE)
  (folder / REPORT_FILE).write_text(text + '\n', encoding='utf-8')
  key = f'eval/{name}/accuracy'
  rows = comparison.metrics_of(grid)
  curves = {
    cell: {seed: comparison.curve(lines, key) for seed, lines in seeds.items()}
    for cell, seeds in rows.items()
  }
  plot_curves(curves, folder / 'curves.png', label=key)
  plot_overview(rows, folder / 'overview.png', accuracy=key)
  plot_scores(scores, folder / 'scores.png')
  plot_scores(scores, folder / 'differences.png', baseline=baseline)
  return text
