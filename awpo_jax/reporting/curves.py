"""The curves of a run as one picture."""

import fnmatch
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure

from awpo_jax.reporting import style

# Title -> metric -> what it is called; `*` stands for any name, which `{}` is.
# The first four that a run has something of are drawn.
PANELS = {
  'Solved tasks': {
    'eval/*/accuracy': 'held out: {}',
    'reward/solved': 'training prompts',
  },
  'Rewards': {
    'reward/outcome': 'outcome',
    'reward/correctness': 'outcome: correctness',
    'reward/format': 'outcome: format',
    'reward/reasoning': 'reasoning',
  },
  'Weight of the reasoning': {
    'gate/mean': 'gate w',
    'trust/mean': 'trust t',
    'clip/radius': 'clip radius',
  },
  'Entropy (nats)': {'entropy': 'entropy'},
  'Loss': {'loss': 'loss'},
}
_MOST = 4
_COLUMNS = 2
_SFT_COLOUR = '0.92'
# How much of the steps before RL stays in view, as a share of RL.
_BEFORE = 0.08

Points: TypeAlias = list[tuple[int, str, float]]


def plot_curves(
  metrics_rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]
) -> mpl_figure.Figure:
  """Draws what a run measured over its steps.

  Steps of supervised fine-tuning lie on grey, and what training reports breaks
  off where the phase does. Panels about RL show little of what was before it.

  Args:
    metrics_rows: as `metrics.read_metrics` gives them: each with a `step`, most
      with a `phase` (`sft` or `rl`) and numbers under the names of `PANELS`.
    path: where the PNG goes.

  Returns:
    The figure, one axes per panel drawn, titled as in `PANELS`: the first four
    that the run has something of.
  """
  found = {title: _series(metrics_rows, PANELS[title]) for title in PANELS}
  panels = [(title, lines) for title, lines in found.items() if lines][:_MOST]
  if not panels:
    return _empty(path)
  columns = min(len(panels), _COLUMNS)
  rows = -(-len(panels) // columns)
  figure, every = style.new_figure(5.6 * columns, 3.3 * rows, rows, columns)
  spans = _phase_spans(metrics_rows)
  for axes, (title, lines) in zip(every, panels, strict=False):
    _draw(axes, title, lines, spans)
  for axes in every[len(panels) :]:
    axes.remove()
  style.save(figure, path)
  return figure


def _empty(path: str | os.PathLike[str]) -> mpl_figure.Figure:
  figure, (axes,) = style.new_figure(5.6, 3.3)
  axes.remove()
  figure.text(0.5, 0.5, 'nothing measured yet', ha='center')
  style.save(figure, path)
  return figure


def _series(
  rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str]
) -> dict[str, Points]:
  """Label -> (step, phase, value) of the metrics that a panel shows.

  A gate that is 0 throughout is none, and so is what follows it, unless a trust
  holds it there.
  """
  lines: dict[str, Points] = {}
  for pattern, label in wanted.items():
    for row in rows:
      for name in fnmatch.filter(row, pattern):
        if row[name] is not None:
          point = row['step'], row.get('phase', ''), row[name]
          # The part of the name that the star stands for.
          called = label.format(*name.split('/')[1:2])
          lines.setdefault(called, []).append(point)
  gate = lines.get('gate w', [(0, '', 1.0)])
  shut = not any(value for _, _, value in gate)
  return {} if shut and 'trust t' not in lines else lines


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
  lines: Mapping[str, Points],
  spans: Sequence[tuple[str, int, int]],
) -> None:
  for index, (name, points) in enumerate(lines.items()):
    _draw_line(axes, name, points, style.colour(index))
  told = len(lines) == 1 and next(iter(lines)) in title.lower()
  style.finish(axes, title=title, x='step', legend=not told)
  shown = {phase for points in lines.values() for _, phase, _ in points}
  rl = [span for span in spans if span[0] == 'rl']
  if 'rl' in shown and title != 'Loss':
    first, last = rl[0][1], rl[-1][2]
    room = max(_BEFORE * (last - first + 1), 1)
    axes.set_xlim(first - room, last + 0.3 * room)
  _mark_phases(axes, spans)


def _mark_phases(
  axes: mpl_axes.Axes, spans: Sequence[tuple[str, int, int]]
) -> None:
  """Grey below supervised steps, a line and names where a phase ends."""
  left, right = axes.get_xlim()
  for phase, first, last in spans:
    if phase == 'sft' and last + 0.5 > left:
      axes.axvspan(first - 0.5, last + 0.5, color=_SFT_COLOUR, lw=0, zorder=0)
  for (before, _, last), (after, first, _) in itertools.pairwise(spans):
    border = (last + first) / 2
    if before == 'start' or not left < border < right:
      continue
    axes.axvline(border, color=style.GREY, lw=0.8, ls='--')
    for name, side, shift in ((before, 'right', -4), (after, 'left', 4)):
      axes.annotate(
        name.upper(),
        (border, 0),
        xytext=(shift, 3),
        xycoords=('data', 'axes fraction'),
        textcoords='offset points',
        ha=side,
        va='bottom',
        color=style.GREY,
        fontsize='small',
      )
  axes.set_xlim(left, right)


def _draw_line(
  axes: mpl_axes.Axes, name: str, points: Points, colour: str
) -> None:
  """One line per phase in one colour; a held-out figure is one line in all."""
  held_out = name.startswith('held out')
  groups: dict[str, list[tuple[int, float]]] = {}
  for step, phase, value in points:
    group = 'all' if held_out else phase
    groups.setdefault(group, []).append((step, value))
  for index, part in enumerate(groups.values()):
    style.draw(
      axes,
      [step for step, _ in part],
      [value for _, value in part],
      colour=colour,
      label=name if index == 0 else '_nolegend_',
      smooth=not held_out,
    )
