"""Rows of a grid's evaluations: read, kept and paired, by hand and by NumPy."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from awpo_jax.analysis.ablations import by_row, mistakes
from awpo_jax.analysis.ablations import grid as grid_lib
from awpo_jax.rollout.text import tool_calls

CELLS = tuple(grid_lib.Cell(name, (), 2) for name in ('grpo', 'awpo'))
# Cell -> seed -> solved, outcome of three tasks; the reasoning of the second
# task could not be had.
GIVEN = {
  'warm_start': {1: [(0, -3), (0, 1), (1, 4)], 2: [(0, -3), (1, 4), (0, 0)]},
  'grpo': {1: [(0, 0), (1, 4), (1, 4)], 2: [(0, 0), (1, 4), (1, 4)]},
  'awpo': {1: [(1, 4), (1, 4), (1, 4)], 2: [(0, 1), (1, 4), (0, 0)]},
}


@pytest.fixture(name='grid')
def _grid(tmp_path):
  grid = grid_lib.Grid(tmp_path / 'g', (), CELLS, (1, 2), ('--x',))
  for run in (x for runs in grid_lib.runs(grid) for x in runs):
    _write(run, GIVEN[run.name][run.seed])
  return grid


def _write(run, answers):
  run.folder.mkdir(parents=True)
  (run.folder / 'summary.json').write_text('{}')
  lines = [{'step': 3, 'prompt': 0, 'task_id': 'rollout', 'outcome': 9.0}]
  for step in (0, 4):  # The first evaluation had nothing right.
    lines += [
      {
        'step': step,
        'set': 'here',
        'task_id': f't{i}',
        'solved': bool(solved) and step > 0,
        'outcome': float(outcome),
        'reasoning': None if i == 1 else 0.5,
        'parts': {'format': 1.0},
      }
      for i, (solved, outcome) in enumerate(answers)
    ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (run.folder / 'transcripts.jsonl').write_text(text)


def test_differences_by_hand(grid):
  answers = by_row.read(grid)
  assert by_row.measures(answers) == [
    *('solved', 'outcome', 'reasoning', 'parts/format')
  ]
  cells = answers['here']
  got = by_row.paired(cells['awpo'], cells['grpo'], 'solved')
  # Task 0: +1 and 0; task 1: 0 and 0; task 2: 0 and -1.
  np.testing.assert_allclose(got, [0.5, 0, -0.5])
  got = by_row.paired(cells['awpo'], cells['warm_start'], 'outcome')
  np.testing.assert_allclose(got, [(7 + 4) / 2, 3 / 2, 0])
  assert len(by_row.paired(cells['awpo'], cells['grpo'], 'reasoning')) == 2
  # Only seeds that both have.
  got = by_row.paired(cells['awpo'], {1: cells['grpo'][1]}, 'solved')
  np.testing.assert_allclose(got, [1, 0, 0])


def test_the_tables(grid):
  lines = by_row.markdown(by_row.read(grid), baseline='grpo').split('\n')
  assert '## here, 3 rows' in lines
  # Solved: (3 + 1) / 6; outcome: (12 + 5) / 6.
  assert '| awpo | 1, 2 | 0.667 | 2.833 | 0.500 | 1.000 |' in lines
  assert '| warm_start | 1, 2 | 0.333 | 0.500 | 0.500 | 1.000 |' in lines
  at = lines.index('Minus grpo, row by row:')
  (row,) = (x for x in lines[at + 2 : at + 5] if x.startswith('| awpo'))
  _, cell, solved, outcome, reasoning, layout, _ = row.split('|')
  # Of .5, 0 and -.5, 27 samples of three: the mean is .5 with 1/27 = 3.7%.
  assert solved.strip() == '+0.000 [-0.500, +0.500]'
  assert outcome.strip().startswith('+0.167 [')
  assert (cell.strip(), reasoning.strip(), layout.strip()) == (
    *('awpo', '+0.000', '+0.000'),
  )
  # The warm start is a cell with nothing to be compared to itself.
  at = lines.index('Minus warm_start, row by row:')
  assert [x.split(' ')[1] for x in lines[at + 4 : at + 6]] == ['grpo', 'awpo']


def test_the_rows_of_two_sets_are_paired_together(grid):
  answers = by_row.read(grid)
  lines = by_row.markdown(answers, baseline='grpo').split('\n')
  assert not any('together' in line for line in lines)
  # A second set of one row, whose task has a name that the first has too.
  answers['there'] = {
    cell: {seed: {'t0': {'solved': solved}} for seed in (1, 2)}
    for cell, solved in (('grpo', 0.0), ('awpo', 1.0))
  }
  cells = by_row.together(answers)
  got = by_row.paired(cells['awpo'], cells['grpo'], 'solved')
  np.testing.assert_allclose(got, [0.5, 0, -0.5, 1])
  lines = by_row.markdown(answers, baseline='grpo').split('\n')
  at = lines.index('## All sets together, 4 rows')
  # Right are 3 + 1 of the first set and both of the second, of eight.
  row = '| awpo | 1, 2 | 0.750 | 2.833 | 0.500 | 1.000 |'
  assert row in lines[at:] and row not in lines[:at]


def test_what_is_wrong_with_the_calls(grid):
  def answer(**parameters):
    return tool_calls.render_answer('T.', [('weather', parameters)])

  right, more, less = answer(a=1, b=2), answer(a=1, b=2, c=3), answer(a=1)
  said = {
    'warm_start': [more, more, less],
    'grpo': [right, more, less],
    'awpo': [right, right, 'None.'],
  }
  for run in (x for runs in grid_lib.runs(grid) for x in runs):
    if run.seed == 1:  # The transcripts of the other seed have no answers.
      path = run.folder / 'transcripts.jsonl'
      lines = [json.loads(x) for x in path.read_text().splitlines()]
      for i, line in enumerate(x for x in lines if 'set' in x):
        line |= {'response': said[run.name][i % 3], 'ground_truth': right}
      path.write_text(''.join(json.dumps(x) + '\n' for x in lines))
  lines = by_row.markdown(by_row.read(grid), baseline='grpo').split('\n')
  head = '## What is wrong with the calls, share of the rows that want some'
  at = lines.index(head)
  # The other tables have no such columns.
  assert '| cell | seeds | solved | outcome | reasoning | format |' in lines
  assert not any('value' in line for line in lines[:at])
  assert lines[at + 2].split(' | ')[1:] == [
    *('seeds', *mistakes.KINDS[:-1], f'{mistakes.KINDS[-1]} |')
  ]
  zero = '0.000'
  shares = {
    'warm_start': [zero] * 3 + ['0.333', '0.667', zero, zero],
    'grpo': [zero] * 3 + ['0.333', '0.333', zero, zero],
    'awpo': [zero, '0.333', *[zero] * 5],
  }
  for i, (cell, each) in enumerate(shares.items()):
    assert lines[at + 4 + i] == f'| {cell} | 1 | {" | ".join(each)} |'
  at = lines.index('Minus warm_start, row by row:', at)
  (row,) = (x for x in lines[at:] if x.startswith('| awpo '))
  assert row.split(' | ')[5].startswith('-0.667 [-1.000, +0.000')
  # A second reading has the same.
  path = grid.folder / by_row.ROWS_FILE
  answers = by_row.read(grid)
  by_row.write_csv(answers, path)
  for run in (x for runs in grid_lib.runs(grid) for x in runs):
    (run.folder / 'transcripts.jsonl').unlink()
  assert by_row.read(grid) == answers


def test_mistakes_are_of_the_rows_of_all_sets():
  cells = {
    name: {'grpo': {1: {'t': {'solved': 1 - x, 'mistakes/tool': x}}}}
    for name, x in (('here', 0.0), ('there', 1.0))
  }
  lines = by_row.markdown(cells, baseline='grpo').split('\n')
  at = lines.index('| cell | seeds | tool |')
  assert lines[at + 2] == '| grpo | 1 | 0.500 |'


def test_rows_of_a_run_that_is_gone_are_kept(grid):
  answers = by_row.read(grid)
  by_row.write_csv(answers, grid.folder / by_row.ROWS_FILE)
  text = (grid.folder / by_row.ROWS_FILE).read_text()
  assert text.split('\n')[0] == (
    'cell,seed,set,task,solved,outcome,reasoning,parts/format'
  )
  assert 'awpo,2,here,t1,1,4,,1\n' in text
  assert text.count('\n') == 1 + 3 * 2 * 3
  shutil.rmtree(grid.folder / 'cells/grpo')
  # What is at hand is read again.
  awpo = grid.folder / 'cells/awpo/seed_1'
  shutil.rmtree(awpo)
  run = next(x for x in grid_lib.runs(grid)[1] if x.folder == awpo)
  _write(run, [(0, 0)] * 3)
  again = by_row.read(grid)['here']
  assert again['grpo'] == answers['here']['grpo']
  assert again['awpo'][1]['t0']['solved'] == 0
  assert again['awpo'][2] == answers['here']['awpo'][2]


def test_rows_outlive_the_transcripts_and_are_in_order(grid):
  answers = by_row.read(grid)
  path = grid.folder / by_row.ROWS_FILE
  by_row.write_csv(answers, path)
  assert list(answers['here']) == ['warm_start', 'grpo', 'awpo']
  for run in (x for runs in grid_lib.runs(grid) for x in runs):
    if (run.name, run.seed) != ('awpo', 2):
      (run.folder / 'transcripts.jsonl').unlink()
  with path.open('a') as file:
    file.write('another,7,here,t0,1,4,,1\n')
  got = by_row.read(grid)['here']
  assert list(got) == ['warm_start', 'grpo', 'awpo', 'another']
  assert list(got['awpo']) == [1, 2]
  del got['another']
  assert got == answers['here']


def test_scores_of_32_bits_come_back_as_they_were(tmp_path):
  score = float(np.float32(2 / 3))
  answers = {'a': {'x': {1: {'t, "1"': {'outcome': score, 'parts/set': 0.1}}}}}
  by_row.write_csv(answers, tmp_path / 'rows.csv')
  rows = by_row.read_csv(tmp_path / 'rows.csv')['x', 1]['a']
  (values,) = rows.values()
  assert list(rows) == ['t, "1"']
  assert np.float32(values['outcome']) == np.float32(score)
  assert values['parts/set'] == 0.1


def test_two_tasks_of_one_name_are_two_rows(grid):
  run = grid_lib.runs(grid)[1][0]
  file = run.folder / 'transcripts.jsonl'
  file.write_text(file.read_text().replace('"t1"', '"t0"'))
  rows = by_row.read(grid)['here'][run.name][run.seed]
  assert list(rows) == ['t0', 't0#1', 't2']
  assert rows['t0#1']['solved'] == GIVEN[run.name][run.seed][1][0]


def test_a_difference_that_all_rows_have(grid):
  answers = by_row.read(grid)
  for rows in answers['here']['warm_start'].values():
    for values in rows.values():
      values['parts/format'] = 0.0
  text = by_row.markdown(answers, baseline='grpo')
  assert '| +1.000 |' in text.split('Minus warm_start')[1]
  assert "Wilson's bound" in text


def test_a_share_that_no_row_contradicts_is_not_certain():
  # Of four rows none is otherwise, so a share of up to z^2 / (4 + z^2) may be,
  # 3.84146 / 7.84146 = .48989. The mean moves by it from 0, by twice it from 1.
  def rows(solved):
    values = {'solved': solved, 'outcome': 4 * solved, 'mistakes/tool': 0.0}
    return {1: {f't{i}': values for i in range(4)}}

  cells = {'grpo': rows(0.0), 'awpo': rows(1.0), 'same': rows(0.0)}
  text = by_row.markdown({'here': cells}, baseline='grpo')
  assert '| awpo | +1.000 [+0.020, +1.000] | +4.000 |' in text
  assert '| same | +0.000 [-0.490, +0.490] | +0.000 |' in text
  assert '| awpo | +0.000 [-0.490, +0.490] |' in text.split('## What is')[1]


HEAD = 'cell,seed,set,task,solved\n'
DAMAGED = {
  f'{HEAD}old,one,here,t,1\n': "line 2: .*'one'",
  'cell,seed\nold,1\n': "line 2: 'set'",
  f'{HEAD}old,1,here,t,1\nold,1\n': 'line 3: not as many values',
  f'{HEAD}old,1,here,t,1,1\n': 'line 2: not as many values',
  f'{HEAD}old,1,here,t,nan\n': 'line 2: a value is not finite',
  '': 'line 0: it is empty',
}


@pytest.mark.parametrize(('text', 'message'), DAMAGED.items())
def test_a_damaged_file_is_named(grid, text, message):
  (grid.folder / by_row.ROWS_FILE).write_text(text)
  with pytest.raises(ValueError, match=rf'rows\.csv, {message}.*Mend'):
    by_row.read(grid)
  (grid.folder / by_row.ROWS_FILE).write_bytes(b'cell,\xff\n')
  with pytest.raises(ValueError, match='utf-8'):
    by_row.read(grid)


def test_a_grid_without_transcripts_has_no_tables(tmp_path):
  grid = grid_lib.Grid(tmp_path, (), CELLS, (1,))
  run = grid_lib.runs(grid)[1][0]
  run.folder.mkdir(parents=True)
  (run.folder / 'summary.json').write_text('{}')
  assert by_row.markdown(by_row.read(grid), baseline='grpo') == ''


def test_the_rows_in_docs_agree_with_the_summaries_beside_them():
  folder = pathlib.Path(__file__).resolve().parents[3] / 'docs/smollm2'
  found = by_row.read_csv(folder / by_row.ROWS_FILE)
  files = [
    *folder.glob(f'{grid_lib.WARM_FOLDER}/*/summary.json'),
    *folder.glob(f'{grid_lib.CELL_FOLDER}/*/*/summary.json'),
  ]
  assert len(files) == len(found) > 0
  for file in files:
    run = file.parent
    name = grid_lib.WARM_CELL
    if run.parent.name != grid_lib.WARM_FOLDER:
      name = run.parent.name
    summary = json.loads(file.read_text())
    sets = found[name, int(run.name.removeprefix('seed_'))]
    assert sets.keys() == summary['accuracy_by_set'].keys()
    for measure, key in (
      ('solved', 'accuracy'),
      ('outcome', 'outcome'),
      ('reasoning', 'reasoning'),
      ('parts/format', 'format'),
    ):
      for set_name, rows in sets.items():
        want = summary[f'{key}_by_set'][set_name]['after']
        got = np.mean([values[measure] for values in rows.values()])
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_rows_of_the_whole_line_agree_with_its_summary():
  docs = pathlib.Path(__file__).resolve().parents[3] / 'docs'
  folder = docs / 'smollm2/one_line_again'
  found = by_row.read_csv(folder / by_row.ROWS_FILE)
  summary = json.loads((folder / 'summary.json').read_text())
  for cell, when in ((grid_lib.WARM_CELL, 'before'), ('one_line', 'after')):
    assert found[cell, 0].keys() == summary['accuracy_by_set'].keys()
    for set_name, rows in found[cell, 0].items():
      for measure, key in (('solved', 'accuracy'), ('outcome', 'outcome')):
        want = summary[f'{key}_by_set'][set_name][when]
        got = np.mean([values[measure] for values in rows.values()])
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_mistakes_in_docs_are_what_toolrl_finds_wrong():
  folder = pathlib.Path(__file__).resolve().parents[3] / 'docs/smollm2'
  found = by_row.read_csv(folder / by_row.ROWS_FILE)
  told = 0
  for values in (
    values
    for sets in found.values()
    for rows in sets.values()
    for values in rows.values()
  ):
    kinds = [v for k, v in values.items() if k.startswith('mistakes/')]
    if kinds:
      told += 1
      assert sum(kinds) == (values['parts/correctness'] < 3)
  assert told > 0
