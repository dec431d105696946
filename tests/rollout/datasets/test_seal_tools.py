"""Seal-Tools: a folder of our own, and the real one where it is at hand."""

import json

import pytest

from awpo_jax.rollout.datasets import seal_tools
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.text import prompts, tool_calls
from tests.helpers import shared_data


def make_tool(name, **fields):
  return {
    'api_name': name,
    'api_description': f'Does {name}.',
    'field': 'tests',
    'parameters': {
      'a': {'type': 'int', 'description': 'first'},
      'b': {'type': 'str', 'description': 'second'},
    },
    'required': ['a'],
    'responses': {},
    **fields,
  }


def make_row(row_id, *calls):
  calling = [{'api': name, 'parameters': values} for name, values in calls]
  return {'id': row_id, 'query': f'request {row_id}', 'calling': calling}


FOLDER = {
  'tool.jsonl': [make_tool('f'), make_tool('g'), make_tool('h')],
  'candidates.jsonl': [
    {'id': row_id, 'candidates': ['g', 'f']}
    for row_id in ('one', 'two', 'chained', 'unoffered', 'in', 'out')
  ],
  'dev.jsonl': [
    make_row('one', ('f', {'a': 1, 'b': 'x'})),
    make_row('two', ('f', {'a': 2}), ('g', {})),
    make_row('chained', ('f', {'a': 1}), ('g', {'b': ['API_call_0']})),
    make_row('unoffered', ('h', {'a': 1})),
  ],
  'test_in_domain.jsonl': [make_row('in', ('f', {'a': 3}))],
  'test_out_domain.jsonl': [make_row('out', ('f', {'a': 4}))],
}


def write(folder, **changes):
  for name, rows in {**FOLDER, **changes}.items():
    lines = [json.dumps(row) + '\n' for row in rows]
    (folder / name).write_text(''.join(lines))
  return str(folder)


def test_rows_become_tasks(tmp_path, caplog):
  dataset = seal_tools.load(seed=0, data=write(tmp_path))
  one, two = dataset.train
  assert [one.kind, two.kind] == ['single', 'parallel']
  assert one.task_id == 'seal_tools_one'
  assert one.user == (
    '**Dialogue Records History**\n<user> request one </user>'
  )
  # Offered in the order of candidates.jsonl; what is optional says so.
  assert [tool.name for tool in one.tools] == ['g', 'f']
  assert one.tools[1].parameters == {
    'a': {'type': 'int', 'description': 'first'},
    'b': {'type': 'str', 'description': 'second', 'required': False},
  }
  assert one.system == prompts.rlla_system(one.tools)
  assert one.ground_truth == (
    '<think> The request needs one call: f with a = 1, b = x. </think>\n'
    '<tool_call>\n{"name": "f", "parameters": {"a": 1, "b": "x"}}\n</tool_call>'
  )
  assert two.ground_truth == (
    '<think> The request needs 2 calls: f with a = 2; g with no parameters. '
    '</think>\n<tool_call>\n{"name": "f", "parameters": {"a": 2}}\n'
    '{"name": "g", "parameters": {}}\n</tool_call>'
  )
  demonstrations = [(d.task, d.response) for d in dataset.demonstrations]
  assert demonstrations == [(t, t.ground_truth) for t in (one, two)]
  ids = {k: [t.task_id for t in v] for k, v in dataset.evals.items()}
  assert ids == {
    'in_domain': ['seal_tools_in'],
    'out_domain': ['seal_tools_out'],
  }
  assert 'dev.jsonl: 1 rows left out: a parameter is the result' in caplog.text
  assert 'dev.jsonl: 1 rows left out: a right call is not' in caplog.text


def upstream(row_id, *names):
  """A row of dataset_for_finetune/, in the words that are there."""
  tools = [make_tool(name) for name in names]
  asks = (
    'Output format: [{"api": "", "parameters": {"": ""}}]\n\nInput:\n'
    f"api_list = {tools}\ntask_instruction = \"Say 'api_name': 'x'.\"\n"
  )
  talk = [{'from': 'human', 'value': asks}, {'from': 'gpt', 'value': '[]'}]
  return {'id': row_id, 'conversations': talk}


def test_upstream_has_the_tools_on_offer_in_its_prompts(tmp_path):
  expected = seal_tools.load(seed=0, data=write(tmp_path))
  (tmp_path / 'candidates.jsonl').unlink()
  (tmp_path / 'dataset_for_finetune').mkdir()
  for name in ('dev', 'test_in_domain', 'test_out_domain'):
    rows = [upstream(x['id'], 'g', 'f') for x in FOLDER[f'{name}.jsonl']]
    file = tmp_path / 'dataset_for_finetune' / f'{name}.json'
    file.write_text(json.dumps(rows, indent=2))
  assert seal_tools.load(seed=0, data=str(tmp_path)) == expected
  file.write_text(json.dumps([{'id': 'out', 'conversations': []}]))
  with pytest.raises(ValueError, match=r'out_domain\.json.*lists no tools'):
    seal_tools.load(seed=0, data=str(tmp_path))


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(ValueError, match='--data is missing: expected Seal-Tool'):
    seal_tools.load(seed=0)
  write(tmp_path)
  (tmp_path / 'candidates.jsonl').unlink()
  with pytest.raises(ValueError, match=r'no dataset_for.*/dev\.json there'):
    seal_tools.load(seed=0, data=str(tmp_path))
  with pytest.raises(ValueError, match='no rows, or none that can be used'):
    unusable = FOLDER['dev.jsonl'][2:]
    seal_tools.load(seed=0, data=write(tmp_path, **{'dev.jsonl': unusable}))


@pytest.mark.parametrize('none', [None, ''])
def test_a_call_without_parameters(tmp_path, none):
  rows = [*FOLDER['dev.jsonl'], make_row('in', ('f', none))]
  data = write(tmp_path, **{'dev.jsonl': rows})
  *_, task = seal_tools.load(seed=0, data=data).train
  assert '{"name": "f", "parameters": {}}' in task.ground_truth


@pytest.mark.parametrize(
  ('name', 'row', 'problem'),
  [
    ('tool', make_tool('f'), "a second tool named 'f'"),
    ('tool', make_tool('i', required=None), '"required" is of type NoneType'),
    ('tool', make_tool('i', parameters={'a': 1}), '"a" is of type int'),
    ('candidates', {'id': 'x', 'candidates': ['f', 'i']}, r"\['i'\] are not"),
    ('dev', make_row('y', ('f', {})), "'y' has no candidates"),
    ('candidates', {'id': 'one', 'candidates': []}, "a second row 'one'"),
    ('candidates', {'id': True, 'candidates': []}, 'not a text or a whole'),
    ('dev', make_row('one', ('f', {'a': 1})), "a second row 'one'"),
    ('dev', make_row('one') | {'calling': ['f']}, r'calling\[0\]" is of'),
    ('dev', make_row('one'), '"calling" is empty'),
    ('dev', make_row('one', ('f', [1])), '"parameters" is of type list'),
    ('dev', ['no', 'object'], 'a list, not an object'),
  ],
)
def test_a_bad_row_is_named(tmp_path, name, row, problem):
  rows = [*FOLDER[f'{name}.jsonl'], row]
  data = write(tmp_path, **{f'{name}.jsonl': rows})
  place = rf'{name}\.jsonl:{len(rows)}: '
  with pytest.raises(ValueError, match=rf'{place}.*{problem}'):
    seal_tools.load(seed=0, data=data)


def test_a_line_that_is_not_json_is_named(tmp_path):
  data = write(tmp_path)
  with (tmp_path / 'dev.jsonl').open('a') as file:
    file.write('\n{"id": \n')
  with pytest.raises(ValueError, match=r'dev\.jsonl:6: not JSON'):
    seal_tools.load(seed=0, data=data)


def test_real_rows():
  # Its description counts 2,054 rows, 2,046 with the right calls on offer, and
  # 85 with a parameter that is an earlier result.
  folder = shared_data.path('seal_tools')
  offered = seal_tools.read_candidates(
    folder / 'candidates.jsonl', seal_tools.read_tools(folder / 'tool.jsonl')
  )
  assert len(offered) == 2054
  tasks, unoffered, chained = [], 0, 0
  for name in seal_tools.SPLITS.values():
    usable, left_out = seal_tools.read_tasks(folder / name, offered)
    tasks.extend(usable)
    unoffered += left_out['a right call is not among the offered tools']
    chained += left_out['a parameter is the result of an earlier call']
  assert (unoffered, chained) == (8, 85)
  assert len(tasks) == len({t.task_id for t in tasks}) == 2054 - 8 - 85
  for task in tasks:
    easy = '-easy-' in task.task_id
    assert task.kind == ('single' if easy else 'parallel')
    assert len(task.tools) == 5
    assert prompts.parse_tools(task.system) == task.tools


def test_real_demonstrations_are_right():
  dataset = seal_tools.load(seed=0, data=str(shared_data.path('seal_tools')))
  for demonstration in dataset.demonstrations[::10]:
    truth = demonstration.task.ground_truth
    score = toolrl.outcome_reward(demonstration.response, truth)
    assert (score.format, score.correctness) == (1, 3)
    answer = tool_calls.parse(demonstration.response)
    for call in answer.calls:
      assert call.name in answer.thought


def test_bad_rows_are_left_out_where_that_is_allowed(tmp_path):
  data = write(tmp_path, **{'dev.jsonl': [*FOLDER['dev.jsonl'], {'id': 'one'}]})
  skipped = []
  dataset = seal_tools.load(seed=0, data=data, skipped=skipped)
  assert len(dataset.train) == 2
  assert len(skipped) == 1 and 'dev.jsonl:5: no field "query"' in skipped[0]


def test_what_hangs_on_a_bad_tool_is_left_out_with_it(tmp_path):
  tools = [make_tool('f'), make_tool('g', required=None), make_tool('h')]
  candidates = [
    {'id': row_id, 'candidates': ['f', 'h']} for row_id in ('one', 7, 'in')
  ] + [{'id': 'out', 'candidates': ['g']}, {'id': 'last', 'candidates': ['f']}]
  data = write(
    tmp_path,
    **{
      'tool.jsonl': tools,
      'candidates.jsonl': candidates,
      'dev.jsonl': [make_row('one', ('f', {})), make_row('7', ('h', {}))],
      'test_out_domain.jsonl': [
        make_row('out', ('g', {})),
        make_row('last', ('f', {})),
      ],
    },
  )
  with pytest.raises(ValueError, match=r'tool\.jsonl:2: "required"'):
    seal_tools.load(seed=0, data=data)
  skipped = []
  dataset = seal_tools.load(seed=0, data=data, skipped=skipped)
  assert [task.task_id for task in dataset.train] == [
    'seal_tools_one',
    'seal_tools_7',
  ]
  assert len(dataset.evals['out_domain']) == 1
  places = [text.rpartition('/')[2].split(': ')[0] for text in skipped]
  assert places == [
    'tool.jsonl:2',
    'candidates.jsonl:4',
    'test_out_domain.jsonl:1',
  ]


def make_splits():
  """Rows of one, two and three calls; tools of each split's own."""
  tools = [make_tool(f'{split}{i}') for split in 'abc' for i in range(9)]
  files = {'tool.jsonl': tools, 'candidates.jsonl': []}
  names = ('dev', 'test_in_domain', 'test_out_domain')
  for split, name in zip('abc', names, strict=True):
    rows = []
    for i in range(12):
      own = [f'{split}{(i + k) % 9}' for k in range(5)]
      calls = [(tool, {'a': i}) for tool in own[: 1 + i % 3]]
      rows.append(make_row(f'{split}_{i}', *calls))
      files['candidates.jsonl'].append(
        {'id': f'{split}_{i}', 'candidates': own}
      )
    files[f'{name}.jsonl'] = rows
  return files


def test_compact_rows(tmp_path):
  data = write(tmp_path, **make_splits())
  full = seal_tools.load(seed=0, data=data)
  got = seal_tools.load_compact(seed=0, data=data)
  again = seal_tools.load_compact(seed=1, data=data)
  assert got == again
  splits = {'a': (got.train, full.train)} | {
    x: (got.evals[name], full.evals[name])
    for x, name in (('b', 'in_domain'), ('c', 'out_domain'))
  }
  offered, places = set(), set()
  for split, (compact, whole) in splits.items():
    # Of 12 rows every third has three calls.
    assert [t.task_id for t in compact] == [
      f'seal_tools_{split}_{i}' for i in range(12) if i % 3 < 2
    ]
    same = {task.task_id: task for task in whole}
    for task in compact:
      calls = tool_calls.parse(task.ground_truth).calls
      names = [tool.name for tool in task.tools]
      assert task.ground_truth == same[task.task_id].ground_truth
      assert len(set(names)) == 3 and all(x[0] == split for x in names)
      assert {call.name for call in calls} < set(names)
      assert prompts.parse_tools(task.system) == task.tools
      assert task.system == prompts.short_system(task.tools)
      offered |= set(names)
      places.add(names.index(calls[0].name))
  # Others than the candidates of the row are drawn, and the right one stands
  # anywhere.
  assert len(offered) > 20 and places == {0, 1, 2}
  assert [(d.task, d.response) for d in got.demonstrations] == [
    (t, t.ground_truth) for t in got.train
  ]


def test_the_drawn_tools_are_always_the_same(tmp_path):
  # With another draw the rows would be another task under the same name. By
  # Python's `random` alone: seeded with the id, `sample` of the tools a0 to a8
  # that are not right, in order, then `shuffle` of right ones and these.
  got = seal_tools.load_compact(seed=0, data=write(tmp_path, **make_splits()))
  drawn = {x.task_id[13:]: [tool.name for tool in x.tools] for x in got.train}
  assert {name: drawn[name] for name in ('0', '1', '3', '4')} == {
    '0': ['a7', 'a0', 'a3'],  # a0 is right,
    '1': ['a4', 'a1', 'a2'],  # a1 and a2,
    '3': ['a3', 'a7', 'a0'],  # a3,
    '4': ['a0', 'a5', 'a4'],  # a4 and a5.
  }


def test_the_drawn_tools_of_real_rows_are_those_of_the_runs_in_docs():
  # As the transcripts of the runs of docs/smollm2.md have them.
  data = str(shared_data.path('seal_tools'))
  got = seal_tools.load_compact(seed=0, data=data)
  rows = [*got.train, *got.evals['in_domain'], *got.evals['out_domain']]
  tasks = {task.task_id: task for task in rows}
  for name, drawn in (
    ('dev-easy-1', 'addCrop getSocialMediaEngagement getCopyrightLaw'),
    (
      'test_in_domain-difficult-633',
      'getVariantFrequency splitDataset getGeneTherapySuccessRate',
    ),
    (
      'test_out_domain-easy-0',
      'getGeostatistics getFilmDetails getMediaRights',
    ),
  ):
    tools = tasks[f'seal_tools_{name}'].tools
    assert [tool.name for tool in tools] == drawn.split()


def test_the_real_rows_are_compact():
  folder = shared_data.path('seal_tools')
  got = seal_tools.load_compact(seed=0, data=str(folder))

  def rows(name):
    return map(json.loads, (folder / name).read_text().splitlines())

  offered = {row['id']: row['candidates'] for row in rows('candidates.jsonl')}
  for name, tasks in (
    ('dev', got.train),
    ('test_in_domain', got.evals['in_domain']),
    ('test_out_domain', got.evals['out_domain']),
  ):
    assert [task.task_id for task in tasks] == [
      f'seal_tools_{row["id"]}'
      for row in rows(f'{name}.jsonl')
      if len(row['calling']) < 3
      and 'API_call_' not in str([x['parameters'] for x in row['calling']])
      and all(call['api'] in offered[row['id']] for call in row['calling'])
    ]
  for task in got.train[:50]:
    assert toolrl.toolrl(task.ground_truth, task).solved
