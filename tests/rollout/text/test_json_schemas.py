"""Parameters in anybody's words become JSON schemas, the required ones named.

What real rows require is counted again here by plain loops over the raw files.
"""

import functools
import json
import re

import jsonschema
import pytest

from awpo_jax import types
from awpo_jax.evaluation import benchmarks
from awpo_jax.evaluation.bfcl import prompts as prompts_lib
from awpo_jax.rollout.datasets import rlla, seal_tools
from awpo_jax.rollout.datasets.bfcl import rows as rows_lib
from awpo_jax.rollout.environments import bfcl, quickstart_tools
from awpo_jax.rollout.text import chat_template, json_schemas, prompts
from tests.helpers import shared_data

VALIDATOR = jsonschema.Draft202012Validator(
  jsonschema.Draft202012Validator.META_SCHEMA
)


@functools.cache
def check(text):
  """Fails where a text is no JSON schema by the metaschema."""
  VALIDATOR.validate(json.loads(text))


def parameters_of(tool):
  """The schema of a tool, a valid one."""
  (schema,) = chat_template.tool_schemas([tool])
  parameters = schema['function']['parameters']
  check(json.dumps(parameters, allow_nan=False))
  return parameters


def required(**parameters):
  return parameters_of(types.Tool('f', 'd', parameters))['required']


def test_ways_to_say_what_may_be_left_out():
  assert required(
    a={'type': 'str'},
    b={'type': 'str', 'required': False},
    c={'type': 'str', 'required': True, 'default': 'x'},
    d={'type': 'str', 'default': 'x'},
    e={'type': 'str', 'default': None},
    f={'type': 'str', 'default': ''},
    g={'type': 'str, optional', 'default': ''},
    h={'type': 'Optional[str]'},
    i={'type': 'str (Optional)'},
    j={'type': 'str', 'optional': True},
    k={'type': 'str', 'optional': 'true'},
    l={'type': 'str', 'required': 'False'},
    m={'type': 'str', 'default': False},
    n={'type': 'str, optional', 'required': True},
    o={'type': ['str', 'null']},
  ) == ['a', 'c', 'f', 'h', 'n', 'o']


def test_a_list_counts_more_than_what_parameters_say():
  spec = {'a': {'type': 'str', 'default': 'x'}, 'b': {'type': 'int'}}
  tool = types.Tool('f', 'd', spec, ('a', 'elsewhere'))
  assert parameters_of(tool)['required'] == ['a']
  assert parameters_of(types.Tool('f', 'd', spec, ()))['required'] == []
  marked = json_schemas.marked(spec, ['a'])
  assert marked == {
    'a': {'type': 'str', 'default': 'x', 'required': True},
    'b': {'type': 'int', 'required': False},
  }
  assert json_schemas.marked(spec, ['b']) == spec


def test_a_schema_as_the_parameters_of_a_listed_tool():
  schema = {
    'type': 'object',
    'properties': {'a': {'type': 'str', 'default': 'x'}, 'b': {'type': 'int'}},
    'required': ['a'],
  }
  text = f'1. Name: f\nDescription: d\nParameters: {json.dumps(schema)}\n'
  (tool,) = prompts.parse_tools(text)
  assert tool.parameters == schema['properties']
  assert parameters_of(tool)['required'] == ['a']
  # Parameters that are called like keywords are parameters.
  plain = {'type': {'type': 'str'}, 'properties': {'type': 'dict'}}
  text = f'1. Name: f\nDescription: d\nParameters: {json.dumps(plain)}\n'
  (tool,) = prompts.parse_tools(text)
  assert tool.parameters == plain and tool.required is None


STRING, INTEGER = {'type': 'string'}, {'type': 'integer'}


@pytest.mark.parametrize(
  ('word', 'schema'),
  [
    ('str', STRING),
    ('String', STRING),
    ('int', INTEGER),
    ('dict', {'type': 'object'}),
    ('float, optional', {'type': 'number'}),
    ('any', {}),
    ('date', {'type': 'string', 'format': 'date'}),
    ('list[str]', {'type': 'array', 'items': STRING}),
    (
      'List[List[int]]',
      {'type': 'array', 'items': {'type': 'array', 'items': INTEGER}},
    ),
    ('typing.List[int]', {'type': 'array', 'items': INTEGER}),
    ('Tuple[int, int]', {'type': 'array', 'items': INTEGER}),
    ('Tuple[int, ...]', {'type': 'array', 'items': INTEGER}),
    ('Tuple[int, str]', {'type': 'array'}),
    ('Dict[str, int]', {'type': 'object', 'additionalProperties': INTEGER}),
    ('Optional[str]', {'type': ['string', 'null']}),
    ('str | None', {'type': ['string', 'null']}),
    ('int or str', {'type': ['integer', 'string']}),
    ('Union[int, float]', {'type': ['integer', 'number']}),
    (
      'Union[int, List[int]]',
      {'anyOf': [INTEGER, {'type': 'array', 'items': INTEGER}]},
    ),
    ("Literal['a', 'b']", {'enum': ['a', 'b']}),
    (['str', 'null'], {'type': ['string', 'null']}),
    ({'type': 'str'}, STRING),
    (None, {}),
    (7, {}),
    ('', {}),
    ('Book', {'description': '(type: Book)'}),
    (
      'Callable[[float], float]',
      {'description': '(type: Callable[[float], float])'},
    ),
    (
      '__import__("os").system("x")',
      {'description': '(type: __import__("os").system("x"))'},
    ),
  ],
)
def test_types_in_the_words_of_json_schemas(word, schema):
  parameters = parameters_of(types.Tool('f', 'd', {'a': {'type': word}}))
  assert parameters['properties']['a'] == schema


def test_a_long_type_is_no_type():
  word = '[' * 100_000
  parameters = parameters_of(types.Tool('f', 'd', {'a': {'type': word}}))
  assert len(parameters['properties']['a']['description']) < 300


def test_what_is_within_is_put_in_the_same_words():
  spec = {
    'type': 'dict',
    'description': 'x',
    'properties': {
      'a': {'type': 'float', 'required': False},
      'b': {'type': 'list', 'items': 'str'},
      'c': 'int',
    },
  }
  properties = parameters_of(types.Tool('f', 'd', {'o': spec}))['properties']
  assert properties['o'] == {
    'type': 'object',
    'description': 'x',
    'properties': {
      'a': {'type': 'number'},
      'b': {'type': 'array', 'items': STRING},
      'c': INTEGER,
    },
    'required': ['b', 'c'],
  }
  # Where nothing says it, nothing is said; a list stays.
  spec = {'type': 'dict', 'properties': {'a': {'type': 'str'}}}
  assert 'required' not in json_schemas.of(spec)
  assert json_schemas.of({**spec, 'required': ['a', 'a']})['required'] == ['a']


def test_keywords_that_are_none_are_left_out():
  spec = {
    'type': 'int',
    'description': 5,
    'enum': 'a, b',
    'minimum': '1',
    'maximum': 3,
    'exclusiveMinimum': True,
    'maxLength': -1,
    'pattern': ['x'],
    'items': 3,
    'anyOf': [],
    'examples': 'one',
    'example': 'one',
    'default': float('nan'),
  }
  parameters = parameters_of(types.Tool('f', 'd', {'a': spec}))
  assert parameters['properties']['a'] == {
    'type': 'integer',
    'maximum': 3,
    'example': 'one',
    'default': 'NaN',
  }
  assert json_schemas.of({'items': ['str', 'int']}) == {
    'prefixItems': [STRING, INTEGER]
  }


def test_what_may_be_null_says_so_in_its_type():
  spec = {'type': 'str', 'nullable': True, 'enum': ['a']}
  assert json_schemas.of(spec) == {
    'type': ['string', 'null'],
    'enum': ['a', None],
  }
  assert json_schemas.of({'type': 'str', 'nullable': False}) == STRING
  assert json_schemas.of({'nullable': True}) == {}


@pytest.mark.parametrize('request_', quickstart_tools.TOOLS)
def test_our_own_tools_have_valid_schemas(request_):
  parameters = parameters_of(request_.tool())
  assert all('type' in x for x in parameters['properties'].values())


def test_a_schema_stays_as_it_is():
  schema = {
    'type': 'object',
    'properties': {
      'a': {'type': ['string', 'null'], 'enum': ['x', None], 'minLength': 1},
      'b': {'anyOf': [STRING, {'$ref': '#/$defs/n'}], 'default': {'k': [1.5]}},
      'c': {'type': 'array', 'items': True, 'uniqueItems': True},
    },
    'required': ['b'],
    'additionalProperties': False,
    '$defs': {'n': {'type': 'number', 'exclusiveMinimum': 0}},
  }
  assert json_schemas.of(schema) == schema


def test_required_in_real_rows_of_rlla():
  folder = shared_data.path('rlla')
  expected, optional = [], 0
  for name in ('rlla_rl_test.jsonl', 'rlla_sft.jsonl'):
    for line in (folder / name).read_bytes().split(b'\n'):
      if not line:
        continue
      system = json.loads(line)['instruction']
      for text in re.findall(r'^Parameters: (\{.*)$', system, re.MULTILINE):
        names = []
        for key, spec in json.loads(text).items():
          kind, default = spec.get('type'), spec.get('default', '')
          says = isinstance(kind, str) and kind[-10:] == ', optional'
          if default == '' and not says:
            names.append(key)
          else:
            optional += 1
        expected.append(names)
  tasks = list(rlla.read_tasks(str(folder)))
  found = [
    parameters_of(tool)['required'] for task in tasks for tool in task.tools
  ]
  assert found == expected
  assert sum(map(len, found)) > 1000 and optional > 500


def test_required_in_real_tools_of_seal_tools():
  path = shared_data.path('seal_tools', 'tool.jsonl')
  expected = {}
  for line in path.read_bytes().split(b'\n'):
    if line:
      row = json.loads(line)
      expected[row['api_name']] = [
        key for key in row['parameters'] if key in row['required']
      ]
  found = {
    name: parameters_of(tool)['required']
    for name, tool in seal_tools.read_tools(path).items()
  }
  assert found == expected
  every = sum(len(json.loads(x)['parameters']) for x in path.open('rb'))
  assert 0 < every - sum(map(len, found.values())) < every


def test_required_in_real_rows_of_bfcl():
  folder = shared_data.path('bfcl')
  expected = {}
  for path in folder.glob('BFCL_v4_*.json'):
    for line in path.read_bytes().split(b'\n'):
      if line and b'"function"' in line:
        row = json.loads(line)
        expected[row['id']] = [
          sorted(set(function['parameters']['required']))
          for function in row['function']
        ]
  rows = rows_lib.read(str(folder), (*rows_lib.NON_LIVE, *rows_lib.LIVE))
  assert len(rows) == len(expected) > 1000
  for row in rows:
    tools = prompts_lib.task(row, '').tools
    shown = [parameters_of(tool) for tool in tools]
    assert [sorted(x['required']) for x in shown] == expected[row.row_id]
    own = [x['function']['parameters'] for x in prompts_lib.talk(row).tools]
    for schema in own:
      check(json.dumps(schema, allow_nan=False))
    assert [sorted(x['required']) for x in own] == expected[row.row_id]


def test_required_in_the_simulators_of_bfcl():
  pytest.importorskip('bfcl_eval')
  for name in bfcl.bfcl_tools.MODULES:
    for doc in bfcl.docs_of(name).values():
      tool = bfcl.documented(name)[doc['name']]
      listed = doc['parameters']['required']
      assert sorted(parameters_of(tool)['required']) == sorted(listed)


def test_real_rows_of_api_bank_give_a_template_no_tools():
  # Theirs stand in the text, in Python's syntax, whatever the style.
  source = benchmarks.Source(
    str(shared_data.path('apibank')), chat_template.Style('template')
  )
  items = benchmarks.load_api_bank(source)
  assert len(items) > 100
  for item in items:
    assert not item.talk.tools and not item.task.tools
    assert 'Parameters: ' in item.task.system
