"""Transcripts as ATIF: by hand, and by the validator of Harbor's own package.

That package needs Python 3.12, and its tests skip where it is not installed.
"""

import importlib.util
import json

import pytest

from awpo_jax.analysis import trajectories

CALL = '{"name": "clock", "parameters": {"city": "Oslo"}}'
TWO = f'<think> both </think>\n<tool_call>\n{CALL}\n{CALL}\n</tool_call>'
TOOL = {
  'name': 'clock',
  'description': 'Tells the time.',
  'parameters': {'city': {'type': 'string', 'description': 'of'}},
}
SINGLE = {
  'step': 5,
  'prompt': 40,
  'sample': 1,
  'task_id': 't',
  'user': 'What time is it?',
  'tools': [TOOL],
  'ground_truth': 'x',
  'response': TWO,
  'outcome': 0.5,
  'reasoning': None,
  'advantage': -1.25,
}
EPISODE = {
  'step': 5,
  'set': '../held/out',
  'user': 'Time?',
  'tools': [],
  'response': 'unused',
  'outcome': 1.0,
  'episode': {
    'turns': [
      {
        'text': '<response> Ask </response>',
        'observations': [['user', 'O']],
      },
      {'text': TWO, 'observations': [['obs', '12'], ['obs', '13']]},
      {'text': TWO, 'observations': [['obs', 'only one']]},
      {'text': 'Noon.', 'observations': []},
    ],
    'state': {},
    'unavailable': '',
  },
}
HOSTILE = {
  'step': 6,
  'user': '\ud800\u202e\x00</script>',
  'tools': [],
  'response': '<think> \udfff ' + 'x' * trajectories.MAX_CHARS,
  'outcome': 'NaN',
  'task_id': '../../etc/passwd',
}
DEEP = {'step': 6, 'user': '', 'tools': [], 'response': '[' * 10**5}
ROWS = [SINGLE, EPISODE, HOSTILE, DEEP]

# Field -> type, of which those that are required stand first.
_FIELDS = {
  'trajectory': (
    {'schema_version': str, 'agent': dict, 'steps': list},
    {'session_id': str, 'trajectory_id': str, 'final_metrics': dict,
     'extra': dict},
  ),
  'agent': (
    {'name': str, 'version': str},
    {'model_name': str, 'tool_definitions': list},
  ),
  'step': (
    {'step_id': int, 'source': str, 'message': str},
    {'reasoning_content': str, 'tool_calls': list, 'observation': dict,
     'llm_call_count': int},
  ),
  'call': (
    {'tool_call_id': str, 'function_name': str, 'arguments': dict},
    {},
  ),
  'result': ({'content': str}, {'source_call_id': str}),
}  # fmt: skip


def _check(name, value):
  required, optional = _FIELDS[name]
  assert required.keys() <= value.keys() <= required.keys() | optional.keys()
  for key, item in value.items():
    assert isinstance(item, (required | optional)[key]), key


def check(trajectory):
  """What the format demands of the fields that we write."""
  _check('trajectory', trajectory)
  _check('agent', trajectory['agent'])
  assert trajectory['schema_version'] == 'ATIF-v1.7'
  for number, step in enumerate(trajectory['steps'], 1):
    _check('step', step)
    assert step['step_id'] == number
    assert step['source'] in ('user', 'agent')
    if step['source'] == 'user':
      assert not step.keys() & _FIELDS['step'][1].keys()
    calls = step.get('tool_calls', [])
    for call in calls:
      _check('call', call)
    ids = [call['tool_call_id'] for call in calls]
    assert len({*ids}) == len(ids)
    for result in step.get('observation', {'results': []})['results']:
      _check('result', result)
      assert result.get('source_call_id') in (None, *ids)


@pytest.fixture
def run(tmp_path):
  folder = tmp_path / 'myrun'
  folder.mkdir()
  (folder / 'flags.json').write_text('{"model": "Qwen/Qwen3-0.6B"}')
  lines = [json.dumps(row) + '\n' for row in ROWS]
  (folder / 'transcripts.jsonl').write_text(''.join(lines))
  return folder


def test_one_file_of_each_in_order(run, tmp_path):
  assert trajectories.export(run, tmp_path / 'out') == 4
  files = sorted((tmp_path / 'out').iterdir())
  assert [x.name for x in files] == [
    'step_000005_0000.json',
    'step_000005_0001.json',
    'step_000006_0000.json',
    'step_000006_0001.json',
  ]
  for path in files:
    made = json.loads(path.read_bytes())
    check(made)
    assert made['trajectory_id'] == f'myrun/{path.stem}'
    assert made['agent']['model_name'] == 'Qwen/Qwen3-0.6B'
    assert path.stat().st_size < trajectories.MAX_CHARS + 5000


@pytest.mark.skipif(
  importlib.util.find_spec('harbor') is None,
  reason='harbor is not installed: pip install harbor, with Python 3.12',
)
def test_the_validator_of_the_format(run, tmp_path):
  from harbor.utils import trajectory_validator

  trajectories.export(run, tmp_path / 'out')
  validator = trajectory_validator.TrajectoryValidator()
  for path in (tmp_path / 'out').iterdir():
    assert validator.validate(path), validator.errors
  broken = json.loads(path.read_bytes())
  del broken['agent']['version']
  assert not validator.validate(broken)


def _made(row):
  return trajectories.trajectory(row, session='r', name='n')


def test_an_answer_with_two_calls():
  made = _made(SINGLE)
  question, answer = made['steps']
  assert question == {
    'step_id': 1,
    'source': 'user',
    'message': 'What time is it?',
  }
  assert (answer['message'], answer['reasoning_content']) == ('', 'both')
  assert [x['arguments'] for x in answer['tool_calls']] == 2 * [
    {'city': 'Oslo'}
  ]
  assert 'observation' not in answer
  (tool,) = made['agent']['tool_definitions']
  assert tool['function']['parameters'] == {
    'type': 'object',
    'properties': {'city': {'type': 'string', 'description': 'of'}},
    'required': ['city'],
  }
  assert made['final_metrics'] == {
    'total_steps': 2,
    'extra': {'outcome': 0.5, 'reasoning': None, 'advantage': -1.25},
  }
  assert made['extra'] == {
    'step': 5,
    'prompt': 40,
    'sample': 1,
    'task_id': 't',
    'ground_truth': 'x',
  }


def test_an_episode():
  made = _made(EPISODE)
  assert [(x['source'], x['message']) for x in made['steps']] == [
    ('user', 'Time?'),
    ('agent', 'Ask'),
    ('user', 'O'),
    ('agent', ''),
    ('agent', ''),
    ('agent', 'Noon.'),
  ]
  calls = made['steps'][3]['tool_calls']
  assert made['steps'][3]['observation']['results'] == [
    {'content': '12', 'source_call_id': calls[0]['tool_call_id']},
    {'content': '13', 'source_call_id': calls[1]['tool_call_id']},
  ]
  # Which call it is of is not known.
  assert made['steps'][4]['observation']['results'] == [{'content': 'only one'}]


def test_steps_and_lengths_that_are_asked_for(run, tmp_path):
  count = trajectories.export(
    run, tmp_path / 'out', chosen=lambda step: step == 6, max_chars=10
  )
  assert count == 2
  made = json.loads((tmp_path / 'out' / 'step_000006_0001.json').read_bytes())
  assert made['steps'][1]['message'] == 10 * '[' + '... (99990 more characters)'


def test_what_a_judge_said_is_cut_too():
  row = {**SINGLE, 'said': 12 * 'x', 'task_id': 'short'}
  made = trajectories.trajectory(row, session='r', name='n', max_chars=10)
  assert made['extra']['said'] == 10 * 'x' + '... (2 more characters)'
  assert made['extra']['task_id'] == 'short'


def test_what_cannot_be_exported(run, tmp_path):
  with pytest.raises(FileNotFoundError, match='output_dir of train.py'):
    trajectories.export(tmp_path, tmp_path / 'out')
  with pytest.raises(ValueError, match='holds files: name a new folder'):
    trajectories.export(run, run)
  with pytest.raises(ValueError, match='tools of a transcript'):
    _made({**SINGLE, 'tools': [{'name': 'x'}]})
  with pytest.raises(ValueError, match='tools of a transcript'):
    _made({**SINGLE, 'tools': [{**TOOL, 'parameters': 3}]})
  (run / 'flags.json').write_text('[]')
  with pytest.raises(ValueError, match=r'flags\.json is not'):
    trajectories.export(run, tmp_path / 'out')
  with pytest.raises(ValueError, match='not a transcript'):
    _made({'step': 1})
