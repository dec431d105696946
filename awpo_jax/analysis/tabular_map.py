"""Where reasoning helps and where it harms: a map of tabular training.

A cell is an algorithm, a number of decisions and a judge, see `tabular.py`.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from awpo_jax.analysis import tabular
from awpo_jax.analysis.ablations import comparison
from awpo_jax.config import experiment as config_lib

REPORT_FILE = 'report.md'

# Baseline -> algorithm -> the gain of each cell, [K][J].
Gains = Mapping[str, Mapping[str, list[list[comparison.Estimate]]]]


@dataclasses.dataclass(frozen=True)
class Map:
  """Success at the end of training.

  Attributes:
    judges: J of them.
    decisions: K numbers of decisions.
    success: algorithm -> f32[K, J, N], by seed.
  """

  judges: tuple[tabular.Judge, ...]
  decisions: tuple[int, ...]
  success: Mapping[str, np.ndarray]


def parse_judge(text: str) -> tabular.Judge:
  """A judge from `good`, or from `good:0.5` with half of its scores noise.

  Raises:
    ValueError: it is neither.
  """
  kind, _, noise = text.partition(':')
  try:
    return tabular.Judge(kind, float(noise or 0))
  except ValueError as error:
    raise ValueError(
      f'judge {text!r}: expected a name, or name:noise, such as good:0.5; '
      f'{error}'
    ) from error


def measure(
  algorithms: Mapping[str, config_lib.Config],
  tasks: Sequence[tabular.Task],
  judges: Sequence[tabular.Judge],
  *,
  seeds: int,
) -> Map:
  """Trains every cell.

  Args:
    algorithms: name -> flags.
    tasks: they differ in their number of decisions.
    judges: J of them.
    seeds: N, of each cell.
  """
  made = {
    name: np.stack(
      [
        tabular.train(config, task, judges, seeds=seeds).success[..., -1]
        for task in tasks
      ]
    )
    for name, config in algorithms.items()
  }
  return Map(tuple(judges), tuple(x.decisions for x in tasks), made)


def gains(found: Map, baselines: Sequence[str]) -> Gains:
  """Paired differences of all algorithms to each of some of them."""
  return {
    base: {
      name: [
        [comparison.estimate(x) for x in row]
        for row in success - found.success[base]
      ]
      for name, success in found.success.items()
    }
    for base in baselines
  }


def sure(gain: comparison.Estimate) -> bool:
  """Whether the interval excludes 0."""
  if gain.low is None or gain.high is None:
    return False
  return gain.low > 0 or gain.high < 0


def write_csv(found: Map, made: Gains, path: str | os.PathLike[str]) -> None:
  """A line a cell: mean success, and gains with their intervals."""
  ends = ('', '_low', '_high')
  head = [f'minus_{base}{end}' for base in made for end in ends]
  with pathlib.Path(path).open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(
      ['algorithm', 'decisions', 'judge', 'noise', 'seeds', 'success', *head]
    )
    for name, success in found.success.items():
      for k, decisions in enumerate(found.decisions):
        for j, judge in enumerate(found.judges):
          cells = [gain[name][k][j] for gain in made.values()]
          numbers = [v for x in cells for v in (x.mean, x.low, x.high)]
          numbers = [success[k, j].mean(), *numbers]
          writer.writerow(
            [name, decisions, judge.kind, judge.noise, success.shape[-1]]
            + ['' if x is None else f'{x:.4f}' for x in numbers]
          )


def markdown(found: Map, made: Gains) -> str:
  """Tables of each number of decisions: success, and gains over baselines."""
  lines = []
  for k, decisions in enumerate(found.decisions):
    for base in (None, *made):
      title = f'gain over {base}' if base else 'mean success'
      lines += [f'{title}, k = {decisions}:', '']
      names = [x for x in found.success if x != base]
      lines += [
        comparison.table_row(['judge', *names]),
        comparison.table_row(['---'] * (len(names) + 1)),
      ]
      for j, judge in enumerate(found.judges):
        if base:
          row = [_gain(made[base][x][k][j]) for x in names]
        else:
          row = [f'{found.success[x][k, j].mean():.3f}' for x in names]
        lines.append(comparison.table_row([str(judge), *row]))
      lines.append('')
  return '\n'.join(
    [
      *lines,
      f'Gains are paired by seed, with [{comparison.CONFIDENCE:.0%} bootstrap '
      'intervals].',
    ]
  )


def _gain(gain: comparison.Estimate) -> str:
  if gain.low is None:
    return f'{gain.mean:+.3f}'
  return f'{gain.mean:+.3f} [{gain.low:+.3f} {gain.high:+.3f}]'


def plot(
  found: Map,
  made: Gains,
  path: str | os.PathLike[str] | None,
  *,
  baseline: str,
  columns: int = 5,
) -> mpl_figure.Figure:
  """A heat map for each algorithm: its gain by decisions and judge.

  A plus or minus says that the interval over seeds excludes 0.

  Args:
    found: of `measure`.
    made: of `gains`.
    path: where the PNG goes; None for nowhere.
    baseline: algorithm that the gain is over.
    columns: panels beside one another, at most.
  """
  names = [x for x in found.success if x != baseline]
  columns = min(columns, len(names))
  rows = -(-len(names) // columns)
  size = (2.0 + 2.0 * columns, 1.2 + 1.5 * rows)
  figure = mpl_figure.Figure(figsize=size, layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  panels = figure.subplots(
    rows, columns, squeeze=False, sharex=True, sharey=True
  ).ravel()
  for axes in panels[len(names) :]:
    axes.set_visible(False)
  for i, (name, axes) in enumerate(zip(names, panels, strict=False)):
    image = _heat_map(axes, made[baseline][name])
    axes.set_title(name, fontsize='medium')
    axes.set_xticks(
      range(len(found.judges)),
      [_label(x) for x in found.judges],
      rotation=90,
      fontsize='small',
    )
    axes.tick_params(labelbottom=i + columns >= len(names))
    axes.set_yticks(range(len(found.decisions)), found.decisions)
  figure.supylabel('decisions')
  figure.colorbar(image, ax=panels, label=f'gain over {baseline}')
  if path is not None:
    figure.savefig(path, format='png', dpi=80)
  return figure


def _heat_map(axes, cells: list[list[comparison.Estimate]]):
  """Means by colour, and a sign where the interval excludes 0."""
  image = axes.imshow(
    [[x.mean for x in row] for row in cells],
    cmap='RdBu',
    vmin=-1,
    vmax=1,
    aspect='auto',
  )
  for k, row in enumerate(cells):
    for j, gain in enumerate(row):
      if sure(gain):
        color = 'w' if abs(gain.mean) > 0.7 else 'k'
        mark = '+' if gain.mean > 0 else '_'
        axes.plot(j, k, marker=mark, color=color, ms=5)
  return image


def _label(judge: tabular.Judge) -> str:
  if judge.kind == 'good' and judge.noise:
    return f'noise {judge.noise:g}'
  return str(judge)


def write_report(
  found: Map,
  folder: str | os.PathLike[str],
  *,
  baselines: Sequence[str],
) -> str:
  """`report.md`, `cells.csv` and a picture for each baseline, into a folder.

  `success.npz` has the success of every seed, f32[K, J, N] by algorithm.

  Returns:
    The text of the report.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  made = gains(found, baselines)
  text = markdown(found, made)
  (folder / REPORT_FILE).write_text(text + '\n', encoding='utf-8')
  write_csv(found, made, folder / 'cells.csv')
  np.savez_compressed(
    folder / 'success.npz', allow_pickle=False, **found.success
  )
  for base in baselines:
    plot(found, made, folder / f'over_{base}.png', baseline=base)
  return text
