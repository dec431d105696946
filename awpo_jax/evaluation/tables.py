"""From the rows of each category to the columns of a table.

Facts of upstream's aggregation: `shared/scoring.md`, sections 1.6, 3 and 4. A
column is None where one of its categories was not run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from awpo_jax.rollout.datasets.bfcl import rows as rows_lib

# Category -> accuracy, a number or an array of resampled ones; and row counts.
Accuracies: TypeAlias = Mapping[str, Any]
Counts: TypeAlias = Mapping[str, int]
Columns: TypeAlias = Callable[[Accuracies, Counts], dict[str, Any]]

_SIMPLE = ('simple_python', 'simple_java', 'simple_javascript')
_NON_LIVE = ('multiple', 'parallel', 'parallel_multiple')
_LIVE = tuple(name for name in rows_lib.LIVE if 'relevance' not in name)
_WEB_SEARCH = ('web_search_base', 'web_search_no_snippet')
_MEMORY = ('memory_kv', 'memory_vector', 'memory_rec_sum')


def _mean(values: Sequence[Any]) -> Any:
  if not values or any(value is None for value in values):
    return None
  return sum(values) / len(values)


def _of(accuracies: Accuracies, names: Sequence[str]) -> list[Any]:
  return [accuracies.get(name) for name in names]


def _by_rows(
  accuracies: Accuracies, counts: Counts, names: Sequence[str]
) -> Any:
  """The mean over the rows of some categories."""
  values = _of(accuracies, names)
  if not values or any(value is None for value in values):
    return None
  total = sum(counts[name] for name in names)
  parts = zip(values, names, strict=True)
  return sum(value * counts[name] for value, name in parts) / total


def bfcl_v4(accuracies: Accuracies, counts: Counts) -> dict[str, Any]:
  """Columns of the leaderboard since v4."""
  simple = _mean(_of(accuracies, _SIMPLE))
  parts = {
    'Non-Live': _mean([simple, *_of(accuracies, _NON_LIVE)]),
    'Live': _by_rows(accuracies, counts, _LIVE),
    'Irrelevance': _mean(_of(accuracies, ('irrelevance', 'live_irrelevance'))),
    'Multi-Turn': _mean(_of(accuracies, rows_lib.MULTI_TURN)),
    'Agentic': _mean(
      [_mean(_of(accuracies, _WEB_SEARCH)), _mean(_of(accuracies, _MEMORY))]
    ),
  }
  shares = (0.1, 0.1, 0.1, 0.3, 0.4)
  overall = None
  if all(value is not None for value in parts.values()):
    overall = sum(
      share * value for share, value in zip(shares, parts.values(), strict=True)
    )
  return {
    'Overall': overall,
    **parts,
    'Relevance': accuracies.get('live_relevance'),
  }


def bfcl_v3(accuracies: Accuracies, counts: Counts) -> dict[str, Any]:
  """Columns from April 2025 up to v4."""
  simple = _mean(_of(accuracies, _SIMPLE))
  parts = {
    'Live': _by_rows(
      accuracies, counts, (*_LIVE, 'live_irrelevance', 'live_relevance')
    ),
    'Non-Live': _mean([simple, *_of(accuracies, (*_NON_LIVE, 'irrelevance'))]),
    'Multi-Turn': _mean(_of(accuracies, rows_lib.MULTI_TURN)),
  }
  return {
    'Overall': _mean(list(parts.values())),
    **parts,
    'Irrelevance': _mean(_of(accuracies, ('irrelevance', 'live_irrelevance'))),
    'Relevance': accuracies.get('live_relevance'),
  }


def over_rows(accuracies: Accuracies, counts: Counts) -> dict[str, Any]:
  """Overall by rows."""
  return {'Overall': _by_rows(accuracies, counts, list(accuracies))}


def by_rows(accuracies: Accuracies, counts: Counts) -> dict[str, Any]:
  """Overall by rows, then each category."""
  return {**over_rows(accuracies, counts), **accuracies}


BFCL: Mapping[str, Columns] = {'v4': bfcl_v4, 'v3': bfcl_v3}
API_BANK: Mapping[str, Columns] = {'v4': by_rows, 'v3': by_rows}
MMLU_PRO: Mapping[str, Columns] = {'v4': over_rows, 'v3': over_rows}


def summarize(
  correct: Mapping[str, np.ndarray], columns: Columns, *, resamples: int
) -> dict[str, Any]:
  """Columns and categories, each with a 95% interval.

  The interval is a percentile bootstrap over the rows of each category; the
  draws are always the same. Where all rows of a category have the same share of
  right answers, every draw is the same: there it is that of `equal_rows`, and a
  column of such categories alone has its bounds at theirs, which is wider than
  it need be.

  Args:
    correct: category -> bool[rows, samples].
    columns: of the table.
    resamples: draws of the bootstrap; 0: no intervals.

  Returns:
    `columns`: name -> `mean@k` and its interval, None where it was not run.
    `categories`: name -> rows, `mean@k` and `pass@k` with intervals. With one
    sample both are the accuracy.
  """
  rng = np.random.default_rng(0)
  counts = {name: len(rows) for name, rows in correct.items()}
  drawn: dict[str, np.ndarray] = {}
  # Used where all rows are equal.
  bounds: dict[str, np.ndarray] = {}
  categories = {}
  for name, rows in correct.items():
    per_row = np.stack([rows.mean(axis=1), rows.any(axis=1)])
    means = _resampled(per_row, resamples, rng)
    drawn[name] = means[0]
    shares = per_row.mean(axis=1)
    limits = [equal_rows(x, len(rows), least=0, most=1) for x in shares]
    bounds[name] = limits[0]
    categories[name] = {
      'rows': len(rows),
      'mean@k': _interval(shares[0], means[0], limits[0]),
      'pass@k': _interval(shares[1], means[1], limits[1]),
    }
  accuracies = {n: float(rows.mean()) for n, rows in correct.items()}
  return {
    'columns': _columns(columns, counts, accuracies, drawn, bounds),
    'categories': categories,
  }


def differences(
  correct: Mapping[str, np.ndarray],
  other: Mapping[str, np.ndarray],
  columns: Columns,
  *,
  resamples: int,
) -> dict[str, Any]:
  """Columns and categories of one policy minus those of another, row by row.

  The interval is a percentile bootstrap over the rows of each category, of
  differences of the same rows: narrower than two intervals side by side, as a
  row that is hard is hard for both. The draws are always the same. Where all
  rows of a category have the same difference, it is that of `equal_rows`.

  Args:
    correct: category -> bool[rows, samples].
    other: of the other policy, the same rows in their order; it may have
      another number of samples.
    columns: of the table. They are sums of accuracies, weighted, so that those
      of a difference are the differences of theirs.
    resamples: draws of the bootstrap; 0: no intervals.

  Returns:
    `columns` and `categories`: name -> the difference of `mean@k` in [-1, 1]
    with its 95% interval. A column is None where it was not run.
  """
  rng = np.random.default_rng(0)
  each = {
    name: rows.mean(axis=1) - other[name].mean(axis=1)
    for name, rows in correct.items()
  }
  drawn = {
    name: _resampled(rows[None], resamples, rng)[0]
    for name, rows in each.items()
  }
  counts = {name: len(rows) for name, rows in each.items()}
  means = {name: float(rows.mean()) for name, rows in each.items()}
  bounds = {
    name: equal_rows(value, counts[name], least=-1, most=1)
    for name, value in means.items()
  }
  return {
    'columns': _columns(columns, counts, means, drawn, bounds),
    'categories': {
      name: _interval(value, drawn[name], bounds[name])
      for name, value in means.items()
    },
  }


def _columns(
  columns: Columns,
  counts: Counts,
  values: Accuracies,
  drawn: Accuracies,
  bounds: Accuracies,
) -> dict[str, Any]:
  """Columns with intervals, of what the categories are, were drawn, may be."""
  spread, limits = columns(drawn, counts), columns(bounds, counts)
  return {
    name: None
    if value is None
    else _interval(value, spread[name], limits[name])
    for name, value in columns(values, counts).items()
  }


def equal_rows(
  value: float, rows: int, *, least: float, most: float
) -> np.ndarray:
  """Bounds [2] of a mean of which all rows that were seen have the same value.

  Their spread estimates nothing. But of n rows none is otherwise, so that of
  all such rows a share b of at most z^2 / (n + z^2) is (Wilson, 1927, 95%), and
  moves the mean by b times the way to an end. Of rows that are all right or
  all wrong this is Wilson's interval.

  Args:
    value: of each row, and thus their mean.
    rows: their number, at least 1.
    least, most: what the value of a row can be.
  """
  none = stats.binomtest(0, rows).proportion_ci(method='wilson')
  ends = np.array([least, most], np.float64)
  return value + none.high * (ends - value)


def _resampled(
  values: np.ndarray, resamples: int, rng: np.random.Generator
) -> np.ndarray:
  """f64[K, resamples], means of drawn rows; `values` is f64[K, rows]."""
  kinds, rows = values.shape
  # One at a time: all at once would take resamples x rows of memory.
  means = [
    values[:, rng.integers(rows, size=rows)].mean(axis=1)
    for _ in range(resamples)
  ]
  return np.array(means).reshape(resamples, kinds).T


def _interval(
  value: float, drawn: np.ndarray, limits: np.ndarray
) -> dict[str, float | None]:
  """What is drawn, or `limits` [2] where all draws are the same."""
  low = high = None
  if len(drawn):
    low, high = (float(x) for x in np.percentile(drawn, (2.5, 97.5)))
    if high - low < 1e-9:  # Alike but for rounding.
      low, high = (float(x) for x in limits)
  return {'value': float(value), 'low': low, 'high': high}


def markdown(title: str, summary: Mapping[str, Any], samples: int) -> str:
  """The summary as two tables, in percent."""
  columns = summary['columns']
  lines = [
    f'## {title}',
    '',
    _line(columns),
    _line(['---:'] * len(columns)),
    _line(_percent(value) for value in columns.values()),
    '',
  ]
  head = ['category', 'rows', 'accuracy']
  if samples > 1:
    head[2:] = [f'mean@{samples}', f'pass@{samples}']
  lines += [_line(head), _line(['---', *['---:'] * (len(head) - 1)])]
  for name, each in summary['categories'].items():
    cells = [name, str(each['rows']), _percent(each['mean@k'])]
    if samples > 1:
      cells.append(_percent(each['pass@k']))
    lines.append(_line(cells))
  errors = [
    (name, kind, count)
    for name, kinds in summary.get('errors', {}).items()
    for kind, count in kinds.items()
  ]
  if errors:
    lines += ['', _line(['category', 'error', 'answers'])]
    lines += [_line(['---', '---', '---:'])]
    lines += [_line([name, kind, str(n)]) for name, kind, n in errors]
  if summary.get('cannot_pass'):
    rows = ', '.join(summary['cannot_pass'])
    lines += ['', f'No answer can pass: {rows}.']
  if summary.get('too_long'):
    count = len(summary['too_long'])
    lines += ['', f'Prompts that were too long, answered by nothing: {count}.']
  if summary.get('beside'):
    lines += _beside(summary['beside'], summary['categories'])
  return '\n'.join(lines) + '\n'


def _beside(
  beside: Mapping[str, Any], categories: Mapping[str, Any]
) -> list[str]:
  """What `differences` found, in points."""
  columns = beside['columns']
  others = beside['other_settings']
  return [
    '',
    f'Minus {beside["folder"]}, paired by row, in percentage points:',
    '',
    *(
      ['Its settings differ: ' + '; '.join(others) + '.', ''] if others else []
    ),
    _line(columns),
    _line(['---:'] * len(columns)),
    _line(_points(value) for value in columns.values()),
    '',
    _line(['category', 'rows', 'difference']),
    _line(['---', '---:', '---:']),
    *(
      _line([name, str(categories[name]['rows']), _points(value)])
      for name, value in beside['categories'].items()
    ),
  ]


def _line(cells) -> str:
  return f'| {" | ".join(cells)} |'


def _percent(value: Mapping[str, float | None] | None) -> str:
  if value is None:
    return '—'
  text = f'{100 * value["value"]:.2f}'  # type: ignore[operator]
  if value['low'] is None or value['high'] is None:
    return text
  return f'{text} ({100 * value["low"]:.1f}–{100 * value["high"]:.1f})'


def _points(value: Mapping[str, float | None] | None) -> str:
  """A difference, signed, in percentage points."""
  if value is None:
    return '—'
  text = _signed(value['value'], 2)
  if value['low'] is None:
    return text
  return f'{text} ({_signed(value["low"], 1)} to {_signed(value["high"], 1)})'


def _signed(share: float | None, digits: int) -> str:
  assert share is not None
  # A sum of floats may come out as -0.
  return f'{round(100 * share, digits) + 0.0:+.{digits}f}'
