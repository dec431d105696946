"""RLLA's rows: a few of our own, and the real ones where they are at hand."""

import collections
import json

import pyarrow
import pyarrow.parquet
import pytest

from awpo_jax.rollout.datasets import rlla, seal_tools
from awpo_jax.rollout.rewards import scoring, toolrl
from awpo_jax.rollout.text import prompts, tool_calls
from tests.helpers import shared_data

SYSTEM = (
  'Use tools.\n1. Name: f\nDescription: d\nParameters: {"a": {"type": "int"}}\n'
)
CALL = '{"name": "f", "parameters": {"a": 1}}'
PLACEHOLDER = rlla.PLACEHOLDERS[0]


def make_row(index, thought='One needs f.', calls=1, **fields):
  answer = '\n<response> no </response>'
  if calls:
    answer = '\n'.join(['', '<tool_call>', *[CALL] * calls, '</tool_call>'])
  return {
    'id': f'own_{index}',
    'instruction': SYSTEM,
    'input': f'<user> request {index} </user>',
    'output': f'<think> {thought} </think>{answer}',
    **fields,
  }


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def make_rows(count=60):
  return [make_row(i, calls=i % 3) for i in range(count)]


def test_rows_become_tasks(tmp_path):
  rows = make_rows()
  dataset = rlla.load(seed=0, data=write(tmp_path / 'a.jsonl', rows))
  held_out = dataset.evals['held_out']
  by_id = {task.task_id: task for task in [*dataset.train, *held_out]}
  assert len(by_id) == len(dataset.train) + len(held_out) == 60
  for i, row in enumerate(rows):
    task = by_id[row['id']]
    assert (task.system, task.user) == (row['instruction'], row['input'])
    assert task.ground_truth == row['output']
    assert task.kind == ('reply', 'single', 'parallel')[i % 3]
    assert [(t.name, t.parameters) for t in task.tools] == [
      ('f', {'a': {'type': 'int'}})
    ]
  assert [d.task for d in dataset.demonstrations] == dataset.train
  assert all(d.response == d.task.ground_truth for d in dataset.demonstrations)


def test_the_split_hangs_on_the_text_alone(tmp_path):
  rows = make_rows(1000)
  first = rlla.load(seed=0, data=write(tmp_path / 'a.jsonl', rows))
  second = rlla.load(seed=1, data=write(tmp_path / 'b.jsonl', rows[499::-1]))
  share = len(first.evals['held_out']) / 1000
  # Four standard deviations of a binomial share: sqrt(.15 .85 / 1000) = .0113.
  assert abs(share - 0.15) < 0.045
  held_out = {task.user for task in first.evals['held_out']}
  early = {row['input'] for row in rows[:500]}
  assert {t.user for t in second.evals['held_out']} == held_out & early
  assert not held_out & {task.user for task in first.train}


def test_the_hash_is_the_same_in_every_process(tmp_path):
  # SHA-256 of a to g begins with ca97, 3e23, 2e7d, 18ac, 3f79, 252f, cd0a; held
  # out is what lies below .15 * 2^16 = 2666 (hexadecimal).
  rows = [make_row(letter, input=letter) for letter in 'abcdefg']
  dataset = rlla.load(seed=0, data=write(tmp_path / 'a.jsonl', rows))
  assert [task.user for task in dataset.evals['held_out']] == ['d', 'f']


def test_one_request_with_two_tool_lists_stays_on_one_side(tmp_path):
  rows = make_rows()
  others = [
    {**row, 'id': row['id'] + 'b', 'instruction': SYSTEM + 'x'} for row in rows
  ]
  data = write(tmp_path / 'a.jsonl', rows + others)
  dataset = rlla.load(seed=0, data=data)
  train = {task.user for task in dataset.train}
  assert len(dataset.train) == 2 * len(train)
  assert not train & {task.user for task in dataset.evals['held_out']}


@pytest.mark.parametrize('order', [('a', 'b'), ('b', 'a')])
def test_a_repeated_prompt_counts_once_with_its_rationale(tmp_path, order):
  rows = make_rows()
  write(tmp_path / 'a.jsonl', rows)
  placeholders = [make_row(i, thought=PLACEHOLDER, id=i) for i in range(10)]
  write(tmp_path / 'b.jsonl', placeholders)
  data = ','.join(str(tmp_path / f'{name}.jsonl') for name in order)
  dataset = rlla.load(seed=0, data=data)
  tasks = [*dataset.train, *dataset.evals['held_out']]
  assert len(tasks) == 60
  assert all(rlla.has_rationale(task.ground_truth) for task in tasks)


def test_placeholders_are_demonstrations_only_for_want_of_others(tmp_path):
  rows = [make_row(i, thought=PLACEHOLDER) for i in range(60)]
  data = write(tmp_path / 'a.jsonl', rows)
  dataset = rlla.load(seed=0, data=data)
  assert [d.task for d in dataset.demonstrations] == dataset.train
  # A single real rationale among the training rows, and it stands alone.
  real = dataset.train[5]
  rows[int(real.task_id.removeprefix('own_'))]['output'] = make_row(0)['output']
  write(tmp_path / 'a.jsonl', rows)
  dataset = rlla.load(seed=0, data=data)
  assert [d.task.task_id for d in dataset.demonstrations] == [real.task_id]


def test_a_rationale_that_mentions_the_tags_is_kept(tmp_path):
  rows = make_rows()
  rows[0] = make_row(0, thought='Not <tool_call> but <response> ?', calls=0)
  rows[1] = make_row(1, thought='I write <tool_call>.', calls=2)
  tasks = list(rlla.read_tasks(write(tmp_path / 'a.jsonl', rows)))
  assert [task.kind for task in tasks[:2]] == ['reply', 'parallel']
  assert tasks[0].ground_truth == rows[0]['output']


def make_parquet_row(row, index):
  messages = [('system', row['instruction']), ('user', row['input'])]
  return {
    'data_source': 'rlla',
    'prompt': [{'role': r, 'content': c} for r, c in messages],
    'ability': 'math',
    'reward_model': {'style': 'rule', 'ground_truth': row['output']},
    'extra_info': {'split': 'train', 'index': index},
  }


def write_parquet(path, rows):
  table = pyarrow.Table.from_pylist(
    [make_parquet_row(row, i) for i, row in enumerate(rows)]
  )
  pyarrow.parquet.write_table(table, path)
  return str(path)


def test_parquet_gives_the_tasks_that_json_lines_give(tmp_path):
  rows = make_rows(6)
  for i, row in enumerate(rows):
    row['id'] = f'train_{i}'
  lines = rlla.read_tasks(write(tmp_path / 'train.jsonl', rows))
  parquet = rlla.read_tasks(write_parquet(tmp_path / 'train.parquet', rows))
  assert list(parquet) == list(lines)


def test_bad_parquet_is_named(tmp_path):
  bad = tmp_path / 'bad.parquet'
  bad.write_bytes(b'PAR1 not really')
  with pytest.raises(ValueError, match=r'bad\.parquet: not a parquet file'):
    list(rlla.read_tasks(str(bad)))
  row = make_parquet_row(make_row(0), 0)
  swapped = {**row, 'prompt': row['prompt'][::-1]}
  table = pyarrow.Table.from_pylist([row, swapped])
  pyarrow.parquet.write_table(table, bad)
  with pytest.raises(ValueError, match=r'bad\.parquet: row 1: "prompt": roles'):
    list(rlla.read_tasks(str(bad)))


@pytest.mark.parametrize(
  ('fields', 'problem'),
  [
    ({'instruction': None}, r'"instruction" is of type NoneType, not str'),
    ({'input': ''}, r'"input" is empty'),
    ({'instruction': '1. Name: f'}, r'"instruction": tool 1: no'),
    ({'output': '<think> x </think>'}, 'neither <tool_call> nor <response>'),
    (
      {'output': '<think> x </think>\n<tool_call>\n{"a": \n</tool_call>'},
      '"output": not a line of JSON',
    ),
    ({'input': '\ud800'}, 'surrogates not allowed'),
  ],
)
def test_a_bad_row_is_named(tmp_path, fields, problem):
  rows = [make_row(0), make_row(1), make_row(2, **fields)]
  data = write(tmp_path / 'a.jsonl', rows)
  with pytest.raises(ValueError, match=rf'a\.jsonl:3: .*{problem}'):
    rlla.load(seed=0, data=data)


def test_a_missing_field_is_named(tmp_path):
  row = make_row(0)
  del row['output']
  with pytest.raises(ValueError, match=r'a\.jsonl:1: no field "output", only'):
    rlla.load(seed=0, data=write(tmp_path / 'a.jsonl', [row]))


def test_two_prompts_of_one_id_are_refused(tmp_path):
  rows = [make_row(0, id='x'), make_row(1, id='x')]
  with pytest.raises(ValueError, match="two prompts have the id 'x'"):
    rlla.load(seed=0, data=write(tmp_path / 'a.jsonl', rows))


def test_without_rows_the_flag_is_named(tmp_path):
  with pytest.raises(ValueError, match='--data is missing: expected a folder'):
    rlla.load(seed=0)
  with pytest.raises(ValueError, match=r"--data=.*nothing' does not exist"):
    rlla.load(seed=0, data=str(tmp_path / 'nothing'))
  with pytest.raises(ValueError, match='holds no such file: expected'):
    rlla.load(seed=0, data=str(tmp_path))
  data = write(tmp_path / 'a.jsonl', [make_row(0)])
  with pytest.raises(ValueError, match=r'--data=.*too few for a split'):
    rlla.load(seed=0, data=data)


def test_folder_pattern_and_list_name_the_same_files(tmp_path):
  for name in 'ab':
    rows = [make_row(f'{name}{i}') for i in range(20)]
    write(tmp_path / f'{name}.jsonl', rows)
  (tmp_path / 'README.md').write_text('not a row')
  listed = ','.join(str(tmp_path / f'{name}.jsonl') for name in 'aba')
  expected = [f'own_{name}{i}' for name in 'ab' for i in range(20)]
  for data in (str(tmp_path), str(tmp_path / '*.jsonl'), listed):
    assert [task.task_id for task in rlla.read_tasks(data)] == expected


def test_real_rows():
  # Its description counts 322 and 57 rows, one prompt in both files.
  folder = shared_data.path('rlla')
  tasks = list(rlla.read_tasks(str(folder)))
  assert len(tasks) == 322 + 57
  dataset = rlla.load(seed=0, data=str(folder))
  held_out = dataset.evals['held_out']
  distinct = [*dataset.train, *held_out]
  assert len(distinct) == len({(t.system, t.user) for t in distinct}) == 378
  assert not {t.user for t in held_out} & {t.user for t in dataset.train}
  # The rationales are those of the SFT file, and of no other.
  sft = {task.task_id for task in dataset.train if 'sft' in task.task_id}
  assert {d.task.task_id for d in dataset.demonstrations} == sft
  for task in tasks:
    assert task.tools
    assert prompts.render_tools(task.tools) in task.system
    assert task.system.count('\nParameters: ') == len(task.tools)


def test_kinds_of_real_rows():
  path = shared_data.path('rlla', 'rlla_sft.jsonl')
  tasks = list(rlla.read_tasks(str(path)))
  # Counted another way: lines with a call, replies by the answer's last tag.
  expected = collections.Counter()
  for line in path.read_bytes().splitlines():
    answer = json.loads(line)['output'].rpartition('</think>')[2]
    calls = answer.count('\n{"name": ')
    reply = answer.endswith('</response>') and not calls
    expected['reply' if reply else 'single' if calls == 1 else 'parallel'] += 1
  assert collections.Counter(task.kind for task in tasks) == expected
  assert expected['reply'] == 46
  trapped = [
    task
    for task in tasks
    if '<tool_call>' in tool_calls.section(task.ground_truth, 'think')
  ]
  assert trapped and all(rlla.has_rationale(t.ground_truth) for t in trapped)


def test_real_rows_want_a_call_just_where_toolrls_bound_says_so():
  # The gate of a solved group hung on out_max > 1 once, which is right for
  # ToolRL's reward alone. Several rationales mention the tags.
  tasks = list(rlla.read_tasks(str(shared_data.path('rlla'))))
  tasks += seal_tools.load(
    seed=0, data=str(shared_data.path('seal_tools'))
  ).train
  by_bound = [
    toolrl.toolrl(task.ground_truth, task).maximum > 1 for task in tasks
  ]
  assert [scoring.wants_call(task) for task in tasks] == by_bound
  # Counted another way: by the kind that the reader gave each.
  assert by_bound == [task.kind != 'reply' for task in tasks]
  assert {*by_bound} == {True, False}
