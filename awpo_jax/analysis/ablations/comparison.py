"""Scores of a grid of runs: intervals over seeds and paired differences."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from awpo_jax.analysis import replay
from awpo_jax.analysis.ablations import grid as grid_lib
from awpo_jax.reporting import metrics as metrics_lib

CONFIDENCE = 0.95
POWER = 0.8
_RESAMPLES = 9999
_BATCH = 2**22  # Values that are drawn at once: 64 MiB with their indices.

# Cell -> seed -> metric -> value.
Scores = Mapping[str, Mapping[int, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds, or over held-out rows.

  Attributes:
    mean: of `count` values.
    low, high: of its interval; None where all values are equal, or there is
      one: nothing then says how far others would have been from them.
    count: number of values.
    detectable: the smallest true mean that as many values of this spread would
      tell from 0 four times out of five; None as the interval is.
  """

  mean: float
  low: float | None
  high: float | None
  count: int
  detectable: float | None


def estimate(values: Sequence[float]) -> Estimate:
  """Mean with a bootstrap interval (percentiles) over seeds or rows.

  With five values such an interval is too narrow by about a fifth: read it as a
  spread. The smallest detectable mean is that of a two-sided paired t test,
  (t_.975 + t_.8) s / sqrt(n).

  Args:
    values: one of each seed or row; at least one.
  """
  x, count = np.asarray(values, np.float64), len(values)
  mean = float(x.mean())
  # Equal but for rounding: .3 - .1 and .4 - .2 differ in their last bit.
  if np.ptp(x) < 1e-9:
    return Estimate(mean, None, None, count, None)
  interval = stats.bootstrap(
    (x,),
    np.mean,
    n_resamples=_RESAMPLES,
    batch=max(1, _BATCH // count),
    confidence_level=CONFIDENCE,
    method='percentile',
    rng=np.random.default_rng(0),
  ).confidence_interval
  quantiles = stats.t.ppf([0.5 + CONFIDENCE / 2, POWER], count - 1)
  error = x.std(ddof=1) / np.sqrt(count)
  return Estimate(
    mean,
    float(interval.low),
    float(interval.high),
    count,
    float(quantiles.sum() * error),
  )


def curve(
  rows: Sequence[Mapping[str, Any]], key: str
) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of a metric where it was measured.

  Returns:
    i64[K] and f64[K].
  """
  had = [(r['step'], r[key]) for r in rows if r.get(key) is not None]
  steps, values = zip(*had, strict=True) if had else ((), ())
  return np.asarray(steps, np.int64), np.asarray(values, np.float64)


def learning_speed(steps: np.ndarray, values: np.ndarray) -> float:
  """Mean height of a curve over its steps: the area under it by its width."""
  if len(steps) < 2:
    return float(values[-1])
  return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def score(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
  """Final accuracy and rewards on a set, and learning speed.

  Args:
    rows: of `metrics.jsonl`.
    name: of the evaluation set.
  """
  scores = {}
  for metric in ('accuracy', 'outcome', 'reasoning'):
    _, values = curve(rows, f'eval/{name}/{metric}')
    if len(values):
      scores[metric] = float(values[-1])
  steps, values = curve(rows, f'eval/{name}/accuracy')
  if len(values):
    scores['speed'] = learning_speed(steps, values)
  return scores


def metrics_of(
  grid: grid_lib.Grid,
) -> dict[str, dict[int, list[metrics_lib.Row]]]:
  """Cell -> seed -> lines of `metrics.jsonl`, of the finished runs.

  One that was not evaluated before its first step starts with the last
  evaluation of its warm start, which has the same parameters.
  """
  warm, cells = grid_lib.runs(grid)
  starts = {run.seed: run for run in warm}
  found: dict[str, dict[int, list[metrics_lib.Row]]] = {
    cell.name: {} for cell in grid.cells
  }
  for run in cells:
    if run.finished:
      rows = metrics_lib.read_metrics(run.folder / metrics_lib.METRICS_FILE)
      if run.seed in starts and rows and rows[0]['step'] > 0:
        rows = [*_last_evaluation(starts[run.seed]), *rows]
      found[run.name][run.seed] = rows
  return found


def _last_evaluation(warm: grid_lib.Run) -> list[metrics_lib.Row]:
  """It, as the line of a step 0; [] where the run's lines are gone."""
  path = warm.folder / metrics_lib.METRICS_FILE
  rows = metrics_lib.read_metrics(path) if path.is_file() else []
  evaluated = [
    {key: value for key, value in row.items() if key.startswith('eval/')}
    for row in rows
  ]
  last = [row for row in evaluated if row][-1:]
  return [{'step': 0, 'phase': 'start', **row} for row in last]


def read(grid: grid_lib.Grid, name: str) -> Scores:
  """Scores of the finished runs, with the cosine of those with an archive."""
  _, cells = grid_lib.runs(grid)
  rows = metrics_of(grid)
  found: dict[str, dict[int, dict[str, float]]] = {
    cell.name: {} for cell in grid.cells
  }
  for run in cells:
    if run.finished:
      found[run.name][run.seed] = score(rows[run.name][run.seed], name)
      cosine = replay.solved_cosine(run.folder)
      if cosine is not None:
        found[run.name][run.seed]['cosine'] = cosine
  return found


def differences(
  scores: Scores, cell: str, baseline: str, metric: str
) -> list[float]:
  """Difference of cell and baseline for each seed that both have."""
  ours, theirs = scores[cell], scores[baseline]
  return [
    ours[seed][metric] - theirs[seed][metric]
    for seed in sorted(set(ours) & set(theirs))
    if metric in ours[seed] and metric in theirs[seed]
  ]


def metric_names(scores: Scores) -> list[str]:
  """Metrics that some run has, in the order they were made."""
  return list(
    dict.fromkeys(
      metric
      for seeds in scores.values()
      for values in seeds.values()
      for metric in values
    )
  )


def markdown(
  scores: Scores,
  failed: Mapping[tuple[str, int], str],
  *,
  baseline: str,
) -> str:
  """Tables: final scores by cell, and paired differences to the baseline."""
  metrics = metric_names(scores)
  lines = [
    table_row(['cell', 'seeds', *metrics]),
    table_row(['---'] * (2 + len(metrics))),
  ]
  for cell in scores:
    lines.append(
      table_row(
        [
          cell,
          _seeds(cell, scores, failed),
          *(_text(_values(scores, cell, metric)) for metric in metrics),
        ]
      )
    )
  lines += ['', f'Paired differences to {baseline}, seed by seed:', '']
  lines += [
    table_row(['cell', *metrics]),
    table_row(['---'] * (1 + len(metrics))),
  ]
  for cell in scores:
    if cell != baseline:
      each = (differences(scores, cell, baseline, x) for x in metrics)
      lines.append(table_row([cell, *(_text(x, signed=True) for x in each)]))
  lines += [
    '',
    f'Mean [{CONFIDENCE:.0%} bootstrap interval over seeds]; for differences '
    f'also the smallest that the design detects with power {POWER:g}. Without '
    'brackets there is one seed, or all have the same value: that estimates no '
    'interval, and does not make the value certain.',
  ]
  if 'reasoning' in metrics:
    lines += [
      'The reasoning is the score of the judge; that of the rubric counts '
      'words and checks calls, no more.',
    ]
  if 'cosine' in metrics:
    lines += [
      "The cosine is that of the first rollout's advantages with `solved`, "
      'less its mean in the group; a description, no score.',
    ]
  reasons = [f'- {c}, seed {s}: {why}' for (c, s), why in failed.items()]
  return '\n'.join(
    [*lines, *(['', 'Failed:', '', *reasons] if reasons else [])]
  )


def table_row(cells: Sequence[str]) -> str:
  """A line of a table in Markdown."""
  return '| ' + ' | '.join(x.replace('|', r'\|') for x in cells) + ' |'


def _seeds(cell: str, scores: Scores, failed) -> str:
  bad = sum(name == cell for name, _ in failed)
  return f'{len(scores[cell])}' + (f', **{bad} failed**' if bad else '')


def _values(scores: Scores, cell: str, metric: str) -> list[float]:
  return [x[metric] for x in scores[cell].values() if metric in x]


def _text(values: Sequence[float], *, signed: bool = False) -> str:
  if not values:
    return '-'
  found, form = estimate(values), '+.3f' if signed else '.3f'
  text = format(found.mean, form)
  if found.low is None or found.high is None:
    return text
  text += f' [{found.low:{form}}, {found.high:{form}}]'
  return text + (f' (>= {found.detectable:.3f})' if signed else '')


def write_csv(
  scores: Scores,
  failed: Mapping[tuple[str, int], str],
  path: str | os.PathLike[str],
) -> None:
  """One line a run: cell, seed, whether it failed, and its scores."""
  metrics = metric_names(scores)
  with pathlib.Path(path).open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(['cell', 'seed', 'status', *metrics])
    for cell, seeds in scores.items():
      for seed, values in seeds.items():
        row = [values.get(metric, '') for metric in metrics]
        writer.writerow([cell, seed, 'done', *row])
    for cell, seed in failed:
      writer.writerow([cell, seed, 'failed', *[''] * len(metrics)])
