"""Columns, intervals and the Markdown table, by hand."""

import numpy as np
import pytest

from awpo_jax.evaluation import tables

# Rows and accuracy of each category.
RUN = {
  'simple_python': (4, 0.5),
  'simple_java': (2, 1.0),
  'simple_javascript': (2, 0.0),
  'multiple': (4, 0.75),
  'parallel': (4, 0.25),
  'parallel_multiple': (4, 1.0),
  'irrelevance': (2, 0.5),
  'live_simple': (10, 0.5),
  'live_multiple': (30, 0.7),
  'live_parallel': (5, 0.2),
  'live_parallel_multiple': (5, 0.6),
  'live_irrelevance': (20, 0.9),
  'live_relevance': (10, 0.3),
  'multi_turn_base': (2, 0.5),
  'multi_turn_miss_func': (2, 0.0),
  'multi_turn_miss_param': (2, 0.0),
  'multi_turn_long_context': (2, 0.5),
}
AGENTIC = {
  'web_search_base': (2, 0.4),
  'web_search_no_snippet': (2, 0.2),
  'memory_kv': (2, 0.1),
  'memory_vector': (2, 0.2),
  'memory_rec_sum': (2, 0.3),
}


def _columns(columns, run):
  return columns(
    {name: accuracy for name, (_, accuracy) in run.items()},
    {name: rows for name, (rows, _) in run.items()},
  )


def test_v4():
  # simple: (0.5 + 1 + 0) / 3 = 0.5; Non-Live: (0.5 + 0.75 + 0.25 + 1) / 4
  # Live: (5 + 21 + 1 + 3) / 50 = 0.6; Irrelevance: (0.5 + 0.9) / 2
  # Agentic: (0.3 + 0.2) / 2; Overall: 0.1 (0.625 + 0.6 + 0.7) + 0.3 x 0.25
  # + 0.4 x 0.25 = 0.1925 + 0.075 + 0.1
  got = _columns(tables.bfcl_v4, RUN | AGENTIC)
  assert got == pytest.approx(
    {
      'Overall': 0.3675,
      'Non-Live': 0.625,
      'Live': 0.6,
      'Irrelevance': 0.7,
      'Multi-Turn': 0.25,
      'Agentic': 0.25,
      'Relevance': 0.3,
    }
  )


def test_v3():
  # Non-Live: (0.5 + 0.75 + 0.25 + 1 + 0.5) / 5 = 0.6
  # Live: (5 + 21 + 1 + 3 + 18 + 3) / 80 = 0.6375
  # Overall: (0.6 + 0.6375 + 0.25) / 3
  got = _columns(tables.bfcl_v3, RUN)
  assert got['Non-Live'] == pytest.approx(0.6)
  assert got['Live'] == pytest.approx(0.6375)
  assert got['Overall'] == pytest.approx(1.4875 / 3)


@pytest.mark.parametrize('missing', ['simple_java', 'parallel', 'live_simple'])
def test_a_column_lacks_what_was_not_run(missing):
  run = {name: value for name, value in RUN.items() if name != missing}
  got = _columns(tables.bfcl_v4, run)
  assert got['Live' if missing == 'live_simple' else 'Non-Live'] is None
  assert got['Overall'] is None and got['Irrelevance'] is not None


def test_by_rows():
  got = _columns(tables.by_rows, {'level-1': (3, 1.0), 'level-2': (1, 0.0)})
  assert got == {'Overall': 0.75, 'level-1': 1.0, 'level-2': 0.0}


def test_mean_and_pass_at_k():
  # Rows: both right, one of two, none: mean 1/2, pass@2 2/3.
  correct = {'a': np.array([[1, 1], [1, 0], [0, 0]], bool)}
  got = tables.summarize(correct, tables.over_rows, resamples=0)
  assert got['categories']['a']['mean@k']['value'] == pytest.approx(1 / 2)
  assert got['categories']['a']['pass@k']['value'] == pytest.approx(2 / 3)
  assert got['columns']['Overall']['value'] == pytest.approx(1 / 2)
  assert got['columns']['Overall']['low'] is None


def test_the_interval_is_that_of_a_share():
  # 400 rows, 30% right: standard error sqrt(.3 x .7 / 400) = 0.0229, and
  # 1.96 of them on either side.
  correct = {'a': np.arange(400)[:, None] < 120}
  got = tables.summarize(correct, tables.over_rows, resamples=4000)
  for value in (got['columns']['Overall'], got['categories']['a']['mean@k']):
    assert value['value'] == pytest.approx(0.3)
    assert value['low'] == pytest.approx(0.3 - 0.0449, abs=0.005)
    assert value['high'] == pytest.approx(0.3 + 0.0449, abs=0.005)
  again = tables.summarize(correct, tables.over_rows, resamples=4000)
  assert again == got


def test_markdown():
  correct = {'a': np.array([[True], [False]]), 'b': np.array([[True]])}
  summary = tables.summarize(correct, tables.by_rows, resamples=0)
  summary |= {'errors': {'a': {'bad': 1}}, 'cannot_pass': ['a_1']}
  summary['columns']['More'] = None
  assert tables.markdown('x', summary, 1) == (
    '## x\n\n| Overall | a | b | More |\n| ---: | ---: | ---: | ---: |\n'
    '| 66.67 | 50.00 | 100.00 | — |\n\n'
    '| category | rows | accuracy |\n| --- | ---: | ---: |\n'
    '| a | 2 | 50.00 |\n| b | 1 | 100.00 |\n\n'
    '| category | error | answers |\n| --- | --- | ---: |\n| a | bad | 1 |\n\n'
    'No answer can pass: a_1.\n'
  )
  assert '| category | rows | mean@2 | pass@2 |' in (
    tables.markdown('x', summary, 2)
  )


def test_the_interval_of_all_right_and_all_wrong_rows():
  correct = {'a': np.ones((10, 1), bool), 'b': np.zeros((20, 1), bool)}
  got = tables.summarize(correct, tables.by_rows, resamples=50)
  # Wilson: of n rows, none right, up to z^2 / (n + z^2) with z^2 = 3.84146;
  # the same below 1. Overall by rows: (10 x 0.72247 + 20 x 0) / 30 up to
  # (10 x 1 + 20 x 0.16113) / 30.
  for where, want in (
    (got['categories']['a']['mean@k'], (1, 0.72247, 1)),
    (got['categories']['a']['pass@k'], (1, 0.72247, 1)),
    (got['categories']['b']['mean@k'], (0, 0, 0.16113)),
    (got['columns']['b'], (0, 0, 0.16113)),
    (got['columns']['Overall'], (1 / 3, 0.24082, 0.44075)),
  ):
    assert list(where.values()) == pytest.approx(want, abs=1e-5)
  # Two answers a row, one of them right: of 4 rows a share of up to 3.84146 /
  # 7.84146 = .48989 may be otherwise, and have 0 or 1 in place of .5.
  got = tables.summarize(
    {'a': np.array([[True, False]] * 4)}, tables.by_rows, resamples=50
  )
  assert list(got['categories']['a']['mean@k'].values()) == pytest.approx(
    (0.5, 0.25506, 0.74494), abs=1e-5
  )


def test_rows_that_are_equal_but_for_rounding():
  # As floats 1 - 2/3 is not 1/3 - 0; the interval is not the gap between them.
  first = np.array([[True, False, False], [True, True, True]])
  second = np.array([[False, False, False], [True, True, False]])
  found = tables.differences(
    {'a': first}, {'a': second}, tables.over_rows, resamples=50
  )['categories']['a']
  # Of two rows up to 3.84146 / 5.84146 = .65762 may be otherwise.
  assert list(found.values()) == pytest.approx(
    (1 / 3, 1 / 3 - 0.65762 * 4 / 3, 1 / 3 + 0.65762 * 2 / 3), abs=1e-5
  )


def test_differences_row_by_row():
  # a: 1 - 0, .5 - 1, 0 - 0: 1/6 in the mean. b: one row, 0 - 1.
  ours = {
    'a': np.array([[1, 1], [1, 0], [0, 0]], bool),
    'b': np.array([[0, 0]], bool),
  }
  theirs = {'a': np.array([[0], [1], [0]], bool), 'b': np.array([[1]], bool)}
  got = tables.differences(ours, theirs, tables.by_rows, resamples=0)
  # Overall by rows: (3 x 1/6 - 1) / 4.
  for where, want in (
    (got['categories']['a'], 1 / 6),
    (got['columns']['a'], 1 / 6),
    (got['categories']['b'], -1),
    (got['columns']['Overall'], -1 / 8),
  ):
    assert where == {'value': pytest.approx(want), 'low': None, 'high': None}
  lacking = tables.differences(ours, theirs, tables.bfcl_v4, resamples=0)
  assert lacking['columns']['Non-Live'] is None


def test_the_interval_of_a_difference_is_that_of_paired_rows():
  # 400 rows, 100 gained and 60 lost: mean .1, variance of a row .4 - .01, so a
  # standard error of sqrt(.39 / 400) = .0312. Were the rows not paired, it
  # would be larger: sqrt((.24 + .25) / 400) = .035 with shares .6 and .5.
  before = np.arange(400) < 200
  after = np.where(np.arange(400) < 60, False, np.arange(400) < 300)
  assert after.mean() == 0.6
  got = tables.differences(
    {'a': after[:, None]},
    {'a': before[:, None]},
    tables.over_rows,
    resamples=4000,
  )
  for value in (got['columns']['Overall'], got['categories']['a']):
    assert value['value'] == pytest.approx(0.1)
    assert value['low'] == pytest.approx(0.1 - 0.0612, abs=0.003)
    assert value['high'] == pytest.approx(0.1 + 0.0612, abs=0.003)


def test_the_interval_of_equal_differences():
  # Of n rows none is otherwise, so a share of up to b = z^2 / (n + z^2) may be:
  # .27753 with n = 10. It moves the mean by b from 0, by 2 b from 1 and -1,
  # and from 1/2 down by 1.5 b and up by b / 2.
  right, wrong = np.ones((10, 1), bool), np.zeros((10, 1), bool)
  half = np.array([[True, False]] * 10)
  ours = {'same': wrong, 'gained': right, 'lost': wrong, 'half': half}
  theirs = {'same': wrong, 'gained': wrong, 'lost': right, 'half': wrong}
  got = tables.differences(ours, theirs, tables.by_rows, resamples=50)
  for name, want in (
    ('same', (0, -0.27753, 0.27753)),
    ('gained', (1, 0.44494, 1)),
    ('lost', (-1, -1, -0.44494)),
    ('half', (0.5, 0.08371, 0.63876)),
  ):
    for part in ('categories', 'columns'):
      found = list(got[part][name].values())
      assert found == pytest.approx(want, abs=1e-5)
  # By rows, all bounds together: (-.27753 + .44494 - 1 + .08371) / 4 and
  # (.27753 + 1 - .44494 + .63876) / 4.
  assert list(got['columns']['Overall'].values()) == pytest.approx(
    (0.125, -0.18722, 0.36784), abs=1e-5
  )


def test_markdown_of_differences():
  ours = {'a': np.array([[True], [True]]), 'b': np.array([[True], [False]])}
  theirs = {'a': np.array([[False], [True]]), 'b': np.array([[True]] * 2)}
  summary = tables.summarize(ours, tables.by_rows, resamples=0)
  summary['beside'] = {
    'folder': 'before',
    'other_settings': [],
    **tables.differences(ours, theirs, tables.by_rows, resamples=100),
  }
  columns = summary['beside']['columns']
  columns |= {'Overall': {'value': -1e-9, 'low': None, 'high': None}}
  columns['More'] = None
  # Of two rows, 0 and +-1, all may be drawn.
  text = (
    '\nMinus before, paired by row, in percentage points:\n\n'
    '| Overall | a | b | More |\n| ---: | ---: | ---: | ---: |\n'
    '| +0.00 | +50.00 (+0.0 to +100.0) | -50.00 (-100.0 to +0.0) | — |\n\n'
    '| category | rows | difference |\n| --- | ---: | ---: |\n'
    '| a | 2 | +50.00 (+0.0 to +100.0) |\n'
    '| b | 2 | -50.00 (-100.0 to +0.0) |\n'
  )
  assert tables.markdown('x', summary, 1).endswith(text)
  summary['beside']['other_settings'] = ['--x: 1 then, 2 now', '--y: 3 then']
  assert (
    'percentage points:\n\nIts settings differ: --x: 1 then, 2 now; --y: 3 '
    'then.\n\n| Overall |'
  ) in tables.markdown('x', summary, 1)
