"""The curves of a run as one picture."""

import fnmatch
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

# Title -> names of the metrics; `*` stands for any name.
PANELS = {
  'reward': (
    'reward/outcome',
    'reward/format',
    'reward/correctness',
    'reward/reasoning',
    'reward/valid',
  ),
  'held-out accuracy': ('eval/*/accuracy',),
  'held-out rewards': ('eval/*/outcome', 'eval/*/reasoning'),
  'gate and difficulty': ('gate/mean', 'difficulty/mean'),
  'clip radius': ('clip/radius',),
  'clip fraction': ('clip/fraction',),
  'distance to the sampler': (
    'ratio/abs_log_mean',
    'ratio/first_abs_log_mean',
  ),
  'completion length (tokens)': ('length/mean',),
  'finished completions': ('length/finished',),
  'entropy (nats)': ('entropy',),
  'loss': ('loss',),
  'gradient norm': ('grad_norm',),
}
_COLUMNS = 3
_SFT_COLOUR = '0.9'


def plot_curves(
  metrics_rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]
) -> mpl_figure.Figure:
  """Draws what a run measured over its steps.

  Steps of supervised fine-tuning lie on grey, and what training reports breaks
  off where the phase does. A panel shows the phases that it has data of; one
  without data is left out.

  Args:
    metrics_rows: as `metrics.read_metrics` gives them: each with a `step`, most
      with a `phase` (`sft` or `rl`) and numbers under the names of `PANELS`.
    path: where the PNG goes.

  Returns:
    The figure, one axes per panel drawn, titled as in `PANELS`.
  """
  series = {title: _series(metrics_rows, PANELS[title]) for title in PANELS}
  series = {title: lines for title, lines in series.items() if lines}
  count = max(len(series), 1)
  rows = -(-count // _COLUMNS)
  figure = mpl_figure.Figure(
    figsize=(4.2 * min(count, _COLUMNS), 2.8 * rows), layout='constrained'
  )
  backend_agg.FigureCanvasAgg(figure)
  spans = _phase_spans(metrics_rows)
  for index, (title, lines) in enumerate(series.items(), start=1):
    axes = figure.add_subplot(rows, min(count, _COLUMNS), index)
    _draw(axes, title, lines, spans)
  if not series:
    figure.text(0.5, 0.5, 'nothing measured yet', ha='center')
  figure.savefig(path, format='png', dpi=120)
  return figure


def _series(
  rows: Sequence[Mapping[str, Any]], patterns: Sequence[str]
) -> dict[str, list[tuple[int, str, float]]]:
  """Name -> (step, phase, value) of the metrics that a panel shows."""
  lines: dict[str, list[tuple[int, str, float]]] = {}
  for pattern in patterns:
    for row in rows:
      for name in fnmatch.filter(row, pattern):
        if row[name] is not None:
          point = row['step'], row.get('phase', ''), row[name]
          lines.setdefault(name, []).append(point)
  return lines


def _phase_spans(
  rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, int, int]]:
  """(phase, first step, last step) of each stretch of one phase."""
  spans: list[tuple[str, int, int]] = []
  for row in rows:
    phase, step = row.get('phase', ''), row['step']
    if spans and spans[-1][0] == phase:
      spans[-1] = phase, spans[-1][1], step
    else:
      spans.append((phase, step, step))
  return spans


def _draw(
  axes: mpl_axes.Axes,
  title: str,
  lines: Mapping[str, Sequence[tuple[int, str, float]]],
  spans: Sequence[tuple[str, int, int]],
) -> None:
  shown = {phase for points in lines.values() for _, phase, _ in points}
  spans = [span for span in spans if span[0] in shown]
  for phase, first, last in spans:
    if phase == 'sft':
      axes.axvspan(first - 0.5, last + 0.5, color=_SFT_COLOUR, lw=0)
  for (before, _, last), (after, first, _) in itertools.pairwise(spans):
    border = (last + first) / 2
    axes.axvline(border, color='0.4', lw=0.8, ls='--')
    axes.annotate(
      f'{before} | {after}',
      (border, 1),
      xytext=(0, -3),
      xycoords=('data', 'axes fraction'),
      textcoords='offset points',
      ha='center',
      va='top',
      color='0.4',
      fontsize='small',
    )
  for index, (name, points) in enumerate(lines.items()):
    _draw_line(axes, name, points, f'C{index}')
  axes.set_title(title, fontsize='medium')
  axes.set_xlabel('step', fontsize='small')
  axes.tick_params(labelsize='small')
  axes.grid(alpha=0.3)
  if len(lines) > 1 or any('*' in name for name in PANELS[title]):
    axes.legend(fontsize='x-small')


def _draw_line(
  axes: mpl_axes.Axes,
  name: str,
  points: Sequence[tuple[int, str, float]],
  colour: str,
) -> None:
  """One line per phase in one colour; a held-out figure is one line in all."""
  groups: dict[str, list[tuple[int, float]]] = {}
  for step, phase, value in points:
    group = 'all' if name.startswith('eval/') else phase
    groups.setdefault(group, []).append((step, value))
  for index, part in enumerate(groups.values()):
    axes.plot(
      [step for step, _ in part],
      [value for _, value in part],
      color=colour,
      label=name if index == 0 else '_nolegend_',
      marker='.' if len(part) < 30 else '',
      lw=1.2,
    )
