"""One look for all pictures of the project."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
from matplotlib.backends import backend_agg

# Those of the page of a run (`analysis/page/curves.js`), in their order.
COLOURS = (
  '#1f77b4',
  '#d62728',
  '#2ca02c',
  '#9467bd',
  '#ff7f0e',
  '#17becf',
  '#8c564b',
  '#e377c2',
  '#7f7f7f',
  '#bcbd22',
)
GREY = '0.4'
_FAINT = 0.4
_SPANS = 10  # A line is smoothed over a tenth of its points.


def new_figure(
  width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[mpl_figure.Figure, list[mpl_axes.Axes]]:
  """A figure, in inches, and its axes row by row; pyplot is left alone."""
  figure = mpl_figure.Figure(figsize=(width, height), layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  axes = figure.subplots(rows, columns, squeeze=False)
  return figure, list(axes.flat)


def save(figure: mpl_figure.Figure, path: str | os.PathLike[str]) -> None:
  """Writes the PNG."""
  figure.savefig(path, format='png', dpi=120)


def colour(index: int) -> str:
  """The colour of a line by its number."""
  return COLOURS[index % len(COLOURS)]


def finish(
  axes: mpl_axes.Axes,
  *,
  title: str = '',
  x: str = '',
  y: str = '',
  legend: bool = True,
) -> None:
  """Title, labels, grid, and below it all a legend of what has a label."""
  axes.set_title(title, loc='left', fontsize='medium', fontweight='bold')
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  if x == 'step':
    whole = ticker.MaxNLocator('auto', steps=[1, 2, 5, 10], integer=True)
    axes.xaxis.set_major_locator(whole)
  labels = axes.get_legend_handles_labels()[1]
  if labels and legend:
    longest = max(map(len, labels))
    axes.legend(
      fontsize='small',
      frameon=False,
      loc='upper center',
      bbox_to_anchor=(0.5, -0.15),
      ncols=max(min(len(labels), 72 // (longest + 8)), 1),
    )


def draw(
  axes: mpl_axes.Axes,
  steps: Sequence[float],
  values: Sequence[float],
  *,
  colour: str,
  label: str,
  smooth: bool = True,
) -> None:
  """A line; a smoothed one has its points faintly beside it."""
  few = len(values) < 2 * _SPANS
  if smooth and not few:
    axes.plot(steps, values, '.', color=colour, alpha=_FAINT, ms=5, mew=0)
    values = list(moving_mean(values))
  axes.plot(
    steps,
    values,
    color=colour,
    label=label,
    lw=1.8,
    marker='.' if few else '',
    ms=6,
  )


def moving_mean(values: Sequence[float]) -> np.ndarray:
  """f64[n], the mean of each value and its neighbours, a tenth of all.

  At the ends fewer are there, the same number on both sides.
  """
  array = np.asarray(values, np.float64)
  half = max(len(array) // (2 * _SPANS), 1)
  sums = np.concatenate([[0.0], np.cumsum(array)])
  places = np.arange(len(array))
  reach = np.minimum(half, np.minimum(places, places[::-1]))
  return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
