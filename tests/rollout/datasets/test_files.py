"""Rows of other people: what nobody reads decides nothing, the rest is named.

The forms that the same rows may come in, and what is bad in one.
"""

import datetime
import decimal
import gzip
import json
import math

import pyarrow
import pyarrow.parquet
import pytest

from awpo_jax import types
from awpo_jax.rollout.datasets import files, rlla, seal_tools
from awpo_jax.rollout.text import prompts

SYSTEM = prompts.rlla_system([types.Tool('f', 'd', {})])
CALL = '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n'
OUTPUT = CALL + '</tool_call>'


def lines_row(index, **fields):
  return {
    'id': f'own_{index}',
    'instruction': SYSTEM,
    'input': f'<user> {index} </user>',
    'output': OUTPUT,
    **fields,
  }


def parquet_row(index, **fields):
  return {
    'prompt': [
      {'role': 'system', 'content': SYSTEM, 'at': b'\xff'},
      {'role': 'user', 'content': f'<user> {index} </user>', 'at': b''},
    ],
    'reward_model': {'ground_truth': OUTPUT, 'score': math.nan},
    **fields,
  }


def read(path, skipped=None):
  return list(rlla.read_tasks(str(path), skipped))


def dump(rows, between='\n'):
  return between.join(json.dumps(row) for row in rows)


FORMS = {
  'plain.jsonl': lambda rows: dump(rows).encode(),
  'mark.jsonl': lambda rows: dump(rows).encode('utf-8-sig'),
  'crlf.jsonl': lambda rows: (dump(rows, '\r\n') + '\r\n').encode(),
  'blank.jsonl': lambda rows: b'\n \r\n' + dump(rows, '\n\n\n').encode(),
  'marks.jsonl': lambda rows: b'\n'.join(
    json.dumps(row).encode('utf-8-sig') for row in rows
  ),
  'only_a_mark_first.jsonl': lambda rows: ('\ufeff\n' + dump(rows)).encode(),
  'raw.jsonl': lambda rows: '\n'.join(
    json.dumps(row, ensure_ascii=False) for row in rows
  ).encode(),
  'lines.json': lambda rows: dump(rows).encode('utf-8-sig'),
  'array.json': lambda rows: json.dumps(rows, indent=1).encode(),
  'mark.json': lambda rows: json.dumps(rows).encode('utf-8-sig'),
  'blank.json': lambda rows: b'\n \r\n\n' + json.dumps(rows).encode(),
  'mark_and_blank.json': lambda rows: ('\n ' + json.dumps(rows) + '\n').encode(
    'utf-8-sig'
  ),
  'crlf.json': lambda rows: (
    json.dumps(rows, indent=1).replace('\n', '\r\n').encode()
  ),
  'small.jsonl.gz': lambda rows: gzip.compress(dump(rows).encode('utf-8-sig')),
  'array.json.gz': lambda rows: gzip.compress(
    b'\n' + json.dumps(rows).encode()
  ),
}


@pytest.mark.parametrize('name', FORMS)
def test_every_form_gives_the_same_rows(tmp_path, name):
  text = 'one\u2028two\x85three\x0cfour\u2029five\x1csix'
  rows = [lines_row(0, input=text), lines_row(1), lines_row(2)]
  path = tmp_path / name
  path.write_bytes(FORMS[name](rows))
  tasks = read(path)
  assert [(task.task_id, task.user) for task in tasks] == [
    (row['id'], row['input']) for row in rows
  ]


@pytest.mark.parametrize('name', ['crlf.jsonl', 'blank.json', 'array.json'])
def test_a_bad_row_of_each_form_is_named_by_its_line(tmp_path, name):
  path = tmp_path / name
  path.write_bytes(FORMS[name]([lines_row(0), lines_row(1, output=5)]))
  # Of an indented array: `[`, a row of six lines, the next one.
  line = {'crlf.jsonl': 2, 'blank.json': 4, 'array.json': 8}[name]
  with pytest.raises(ValueError, match=rf'{name}:{line}: "output" is of type'):
    read(path)
  skipped = []
  assert len(read(path, skipped)) == 1
  assert len(skipped) == 1 and f'{name}:{line}: ' in skipped[0]


@pytest.mark.parametrize(
  ('data', 'name', 'problem'),
  [
    (b'[] x', 'a.json', 'a.json:1: not JSON: text after the array'),
    (b'[1]', 'a.json', 'a.json:1: a int, not an object'),
    (b'[{"a": \xff}]', 'a.json', 'a.json: not UTF-8'),
    ('[]'.encode('utf-16'), 'a.json', 'a.json: is UTF-16; write it as UTF-8'),
    (b'\x1f\x8b no', 'a.jsonl.gz', 'a.jsonl.gz: cannot be read'),
    (
      gzip.compress(b'{}', mtime=0)[:-9],
      'a.jsonl.gz',
      'a.jsonl.gz: cannot be read',
    ),
    (b'{"a": "\xff"}', 'a.jsonl', 'a.jsonl:1: not JSON'),
  ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, data, name, problem):
  path = tmp_path / name
  path.write_bytes(data)
  with pytest.raises(ValueError, match=problem):
    read(path)


UNREAD = {
  'at': datetime.datetime(2025, 1, 1),
  'day': datetime.date(2025, 1, 1),
  'took': datetime.timedelta(seconds=1),
  'data': b'\xff\xfe',
  'price': decimal.Decimal('1.50'),
  'score': math.nan,
  'nested': {'at': datetime.datetime(2025, 1, 1), 'list': [b'\x00']},
}


def test_columns_that_nobody_reads_do_not_matter(tmp_path):
  rows = [parquet_row(i, **UNREAD) for i in range(3)]
  path = tmp_path / 'a.parquet'
  table = pyarrow.Table.from_pylist(rows)
  # What Python's own types cannot hold: nanoseconds, a year after 9999, more
  # than 63 bits.
  far = pyarrow.array([1, 2, 3], pyarrow.timestamp('ns'))
  table = table.append_column('ns', far)
  table = table.append_column(
    'far', pyarrow.array([2**55] * 3, pyarrow.timestamp('ms'))
  )
  table = table.append_column(
    'big', pyarrow.array([2**64 - 1] * 3, pyarrow.uint64())
  )
  pyarrow.parquet.write_table(table, path)
  assert [task.user for task in read(path)] == [
    f'<user> {i} </user>' for i in range(3)
  ]


def test_only_columns_that_are_asked_for_are_read(tmp_path, monkeypatch):
  path = tmp_path / 'a.parquet'
  rows = [parquet_row(i, **UNREAD) for i in range(3)]
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  asked = []
  whole = pyarrow.parquet.ParquetFile.read

  def note(self, columns=None, **options):
    asked.append(columns)
    return whole(self, columns=columns, **options)

  monkeypatch.setattr(pyarrow.parquet.ParquetFile, 'read', note)
  assert len(read(path)) == 3
  assert sorted(asked) == [['prompt'], ['reward_model']]


def test_fields_of_json_that_nobody_reads_do_not_matter(tmp_path):
  path = tmp_path / 'a.jsonl'
  rows = [lines_row(0, score=math.nan), lines_row(1, note='\ud800')]
  text = dump(rows).replace('"score": NaN', '"score": NaN, "far": [-1e999]')
  path.write_text(text)
  assert [task.task_id for task in read(path)] == ['own_0', 'own_1']


@pytest.mark.parametrize(
  ('fields', 'problem'),
  [
    ({'id': b'\xff'}, '"id": not JSON: Object of type bytes'),
    ({'id': datetime.date(2025, 1, 1)}, '"id": not JSON: Object of type date'),
    ({'id': decimal.Decimal('1.5')}, '"id": not JSON: Object of type Decimal'),
    ({'id': math.nan}, '"id": not JSON: Out of range float'),
    ({'id': math.inf}, '"id": not JSON: Out of range float'),
    ({'id': 1.5}, '"id" is of type float, not a text or a whole number'),
    ({'id': True}, '"id" is of type bool, not a text or a whole number'),
    ({'id': [1]}, '"id" is of type list, not a text or a whole number'),
    ({'prompt': None}, '"prompt" is of type NoneType, not list'),
    ({'prompt': 'text'}, '"prompt" is of type str, not list'),
    ({'prompt': [1]}, '"prompt[0]" is of type int, not dict'),
    ({'reward_model': None}, '"reward_model" is of type NoneType, not dict'),
    ({'reward_model': {'ground_truth': b'x'}}, '"ground_truth": not JSON'),
    ({'reward_model': {'style': 'rule'}}, 'no field "ground_truth", only'),
  ],
)
def test_what_is_read_and_bad_is_named_by_its_row(tmp_path, fields, problem):
  # A column has one type: the other row leaves it out, or is of a file apart.
  bad, good = tmp_path / 'a.parquet', tmp_path / 'b.parquet'
  rows = [parquet_row(0) | fields]
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), bad)
  good_rows = [parquet_row(1)]
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(good_rows), good)
  with pytest.raises(ValueError, match=r'a\.parquet: row 0: ') as error:
    read(tmp_path)
  assert problem in str(error.value)
  skipped = []
  (kept,) = read(tmp_path, skipped)
  assert kept.user == '<user> 1 </user>'
  assert len(skipped) == 1 and problem in skipped[0]


@pytest.mark.parametrize(
  ('fields', 'problem'),
  [
    ('"id": NaN', '"id": not JSON'),
    ('"id": 1e999', '"id": not JSON'),
    ('"id": {"a": 1}', '"id" is of type dict'),
    ('"input": NaN', '"input": not JSON'),
    ('"input": "\\ud800"', '"input": not JSON: .*surrogates not allowed'),
    ('"output": -Infinity', '"output": not JSON'),
    (
      '"instruction": "1. Name: f\\nDescription: d\\nParameters: '
      '{\\"a\\": {\\"maximum\\": 1e999}}"',
      '"instruction": tool 1, f: parameters: 1e999 is larger',
    ),
    (
      '"output": "<think> t </think>\\n<tool_call>\\n{\\"name\\": \\"f\\", '
      '\\"parameters\\": {\\"a\\": [NaN]}}\\n</tool_call>"',
      '"output": not a line of JSON: NaN is not JSON',
    ),
  ],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path, fields, problem):
  path = tmp_path / 'a.jsonl'
  last = json.dumps(lines_row(1))[:-1]
  # The later of two equal keys counts.
  path.write_text(f'{json.dumps(lines_row(0))}\n{last}, {fields}}}\n')
  with pytest.raises(ValueError, match=rf'a\.jsonl:2: {problem}'):
    read(path)
  skipped = []
  assert [task.task_id for task in read(path, skipped)] == ['own_0']
  assert len(skipped) == 1


def test_nan_in_a_tool_of_seal_tools_is_refused(tmp_path):
  path = tmp_path / 'tool.jsonl'
  spec = {'a': {'type': 'float', 'default': math.nan}}
  tool = {'api_description': 'd', 'required': [], 'responses': math.nan}
  rows = [
    {**tool, 'api_name': 'f', 'parameters': {}},
    {**tool, 'api_name': 'g', 'parameters': spec},
  ]
  path.write_text(dump(rows))
  with pytest.raises(
    ValueError, match=r'tool\.jsonl:2: "parameters": not JSON'
  ):
    seal_tools.read_tools(path)
  skipped = []
  assert list(seal_tools.read_tools(path, skipped)) == ['f']
  assert len(skipped) == 1


@pytest.mark.parametrize('value', [None, ''])
def test_rows_without_an_id_are_named_by_their_place(tmp_path, value):
  path = tmp_path / 'a.jsonl'
  rows = [lines_row(i, id=value) for i in range(2)]
  del rows[1]['id']
  path.write_text(dump([*rows, lines_row(2, id=7), lines_row(3, id=8.0)]))
  assert [x.task_id for x in read(path)] == ['a_0', 'a_1', '7', '8']
  columns = [parquet_row(0, id=None), parquet_row(1, id=2**40)]
  table = pyarrow.Table.from_pylist(columns)
  pyarrow.parquet.write_table(table, tmp_path / 'b.parquet')
  found = [x.task_id for x in read(tmp_path / 'b.parquet')]
  assert found == ['b_0', str(2**40)]


def test_the_second_of_two_prompts_of_one_id_is_named(tmp_path):
  rows = [lines_row(0, id=1), lines_row(1, id='1'), lines_row(0, id=1)]
  (tmp_path / 'a.jsonl').write_text(dump(rows))
  (tmp_path / 'b.jsonl').write_text(dump([lines_row(2, id=1)]))
  with pytest.raises(ValueError, match=r'a\.jsonl:2: two prompts have the id'):
    read(tmp_path)
  skipped = []
  assert [x.user for x in read(tmp_path, skipped)] == ['<user> 0 </user>'] * 2
  assert ['b.jsonl:1' in x for x in skipped] == [False, True]


def test_a_row_is_a_mapping():
  row = files.Row({'a': 1, 'b': math.nan, 'c': {'d': [math.nan], 'e': 2}}, 'x')
  assert list(row) == ['a', 'b', 'c'] and len(row) == 3 and 'b' in row
  assert row['a'] == row.get('a') == 1 and row.get('z') is None
  assert row.part('c')['e'] == 2
  for name in ('b', 'c'):
    with pytest.raises(ValueError, match=f'x: "{name}": not JSON'):
      row.get(name)
  with pytest.raises(ValueError, match='x: no field "z", only'):
    row.part('z')
  assert files.Row({'a': [{'b': 1}]}, 'x').parts('a')[0]['b'] == 1
