"""Runs logged to the real packages, offline, and read back from what they keep.

Each runs in a process of its own: the packages look at variables when they are
imported. Where one is not installed its tests skip.
"""

import glob
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from awpo_jax.reporting import trackers
from awpo_jax.rollout import messages

ROOT = pathlib.Path(__file__).parents[2]
CALL = '{"name": "clock", "parameters": {"city": "Oslo"}}'
TEXT = f'<think> hm </think>\n<tool_call>\n{CALL}\n</tool_call>'
# Half of a surrogate pair, and a text that is too long.
WILD = '\ud800' + 'x' * (trackers.MAX_CHARS + 7)
ROLLOUT = [
  {
    'prompt': 0,
    'sample': g,
    'task_id': 't',
    'user': 'What time is it?',
    'response': text,
    'episode': {
      'turns': [{'text': text, 'calls': [], 'observations': [['obs', 'noon']]}]
    },
    'outcome': 0.5,
    'reasoning': None,
    'solved': True,
  }
  for g, text in enumerate([TEXT, WILD])
]
ANSWER = {
  'set': 'held_out', 'task_id': 'e', 'user': 'Hi', 'response': 'Ho',
  'outcome': 1.0, 'solved': False,
}  # fmt: skip

WRITE = """
import json, sys
from awpo_jax.reporting import metrics
from awpo_jax.rollout import messages

service, folder, given = sys.argv[1:]
rollout, answer = json.loads(given)
for resume_step in (0, 1):
  with metrics.MetricsLog(
    folder,
    resume_step=resume_step,
    chat=messages.chat,
    **{f'{service}_project': 'p'},
  ) as log:
    log.write_transcripts(resume_step + 1, rollout)
    if resume_step:
      log.write_transcripts(resume_step + 1, 100 * [answer])
    log.write(resume_step + 1, {'loss': 0.5, 'phase': 'rl', 'eval/x': None})
"""


def _needs(name):
  return pytest.mark.skipif(
    importlib.util.find_spec(name) is None,
    reason=f"{name} is not installed: pip install -e '.[{name}]'",
  )


def _python(source, *arguments, **variables):
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(source), *arguments],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'PYTHONPATH': str(ROOT)} | variables,
  )
  assert done.returncode == 0, done.stderr
  return done


def _logged(service, folder, **variables):
  done = _python(
    WRITE, service, str(folder), json.dumps([ROLLOUT, ANSWER]), **variables
  )
  assert done.stdout == ''
  assert 'the run goes on' not in done.stderr, done.stderr


HISTORY = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2

for path in sys.argv[1:]:
  data = open(path, 'rb').read()
  position, whole = 7, b''  # As LevelDB writes logs, behind a header.
  while position < len(data):
    if 32768 - position % 32768 < 7:  # No room for another one.
      position += 32768 - position % 32768
      continue
    _, length, kind = struct.unpack_from('<IHB', data, position)
    whole += data[position + 7 : position + 7 + length]
    position += 7 + length
    if kind not in (1, 4):  # The rest is in the next block.
      continue
    record, whole = wandb_internal_pb2.Record.FromString(whole), b''
    if record.WhichOneof('record_type') == 'run':
      print(json.dumps({'run': record.run.run_id}))
    if record.WhichOneof('record_type') == 'history':
      print(json.dumps({
        '.'.join(x.nested_key) or x.key: json.loads(x.value_json)
        for x in record.history.item
      }))
"""


@_needs('wandb')
def test_tables_of_wandb(tmp_path):
  folder = tmp_path / 'run'
  _logged('wandb', folder, WANDB_MODE='offline', WANDB_SILENT='true')
  files = sorted(glob.glob(f'{folder}/wandb/offline-run-*/*.wandb'))
  told = [json.loads(x) for x in _python(HISTORY, *files).stdout.splitlines()]
  runs = [x for x in told if 'run' in x]
  # Both processes, one run.
  assert {x['run'] for x in runs} == {(folder / 'wandb_id.txt').read_text()}
  first, second = (x for x in told if 'run' not in x)
  assert (first['_step'], first['loss'], first['phase']) == (1, 0.5, 'rl')
  assert second['_step'] == 2
  assert second['completions/rollout._type'] == 'table-file'
  assert second['completions/rollout.nrows'] == 2
  assert second['completions/held_out.nrows'] == trackers.MAX_ROWS
  path = second['completions/rollout.path']
  *_, path = glob.glob(f'{folder}/wandb/*/files/{path}')
  kept = json.loads(pathlib.Path(path).read_text())
  assert kept['columns'] == list(trackers.COLUMNS)
  row, wild = (dict(zip(kept['columns'], x, strict=True)) for x in kept['data'])
  assert row['response'] == TEXT and row['outcome'] == 0.5
  assert row['solved'] is True and row['reasoning'] is None
  assert wild['response'] == '?' + 'x' * (trackers.MAX_CHARS - 1)


TRACES = """
import json
from trackio import sqlite_storage

storage = sqlite_storage.SQLiteStorage
(run,) = storage.get_runs('p')
traces = storage.get_traces('p', run)
print(json.dumps([run, storage.get_logs('p', run), traces], default=str))
"""


@_needs('trackio')
def test_traces_of_trackio(tmp_path):
  folder, kept = tmp_path / 'run', str(tmp_path / 'kept')
  _logged('trackio', folder, TRACKIO_DIR=kept)
  out = _python(TRACES, TRACKIO_DIR=kept).stdout
  run, logs, traces = json.loads(out.splitlines()[-1])
  # Both processes, one run.
  assert run == f'run-{(folder / "trackio_id.txt").read_text()}'
  lines = [x for x in logs if 'loss' in x]
  assert [(x['step'], x['loss'], x['phase']) for x in lines] == [
    (1, 0.5, 'rl'),
    (2, 0.5, 'rl'),
  ]
  assert len(traces) == 2 + 2 + trackers.MAX_ROWS
  called = [x for x in traces if 'tool_calls' in str(x['messages'])]
  assert sorted(x['step'] for x in called) == [1, 2]
  question, answer, result = called[0]['messages']
  assert question['content'] == 'What time is it?'
  assert answer['reasoning_content'] == 'hm'
  (call,) = answer['tool_calls']
  assert call['function']['name'] == 'clock'
  assert json.loads(call['function']['arguments']) == {'city': 'Oslo'}
  assert result == {
    'role': 'tool',
    'tool_call_id': call['id'],
    'content': 'noon',
  }
  paid = called[0]['metadata']
  assert (paid['outcome'], paid['solved']) == (0.5, True)
  (wild, _) = (x for x in traces if '... (8 more' in str(x['messages'][1]))
  assert len(wild['messages'][1]['content']) < trackers.MAX_CHARS + 40


@pytest.mark.parametrize('name', list(trackers.TITLES))
def test_a_package_that_is_missing(monkeypatch, name):
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(
    ModuleNotFoundError, match=rf"'p'.*\.\[{name}\].*--{name}_project"
  ):
    trackers.load(name, 'p')


def test_answers_by_set_are_bounded():
  rows = [{'n': i} for i in range(100)] + [{'set': 'a', 'n': -1}]
  named = trackers.by_set(rows)
  assert list(named) == ['rollout', 'a']
  assert [x['n'] for x in named['rollout']] == list(range(trackers.MAX_ROWS))
  assert named['a'] == [{'set': 'a', 'n': -1}]


def test_a_chat_of_several_turns():
  said = '<response> Where? </response>'
  two = f'<tool_call>\n{CALL}\n{CALL}\n</tool_call>'
  row = {
    'user': 'Time?',
    'response': 'unused',
    'episode': {
      'turns': [
        {'text': said, 'observations': [['user', 'Oslo']]},
        {'text': two, 'observations': [['obs', '12'], ['obs', '13']]},
        {'text': '<tool_call> {', 'observations': []},
      ]
    },
  }
  chat = messages.chat(row, limit=1000)
  assert [(x['role'], x['content']) for x in chat] == [
    ('user', 'Time?'),
    ('assistant', 'Where?'),
    ('user', 'Oslo'),
    ('assistant', ''),
    ('tool', '12'),
    ('tool', '13'),
    ('assistant', '<tool_call> {'),  # It cannot be read.
  ]
  ids = [x['id'] for x in chat[3]['tool_calls']]
  assert [x['tool_call_id'] for x in chat[4:6]] == ids and len({*ids}) == 2
  assert all('tool_calls' not in x for x in (chat[1], chat[6]))
  # {"city": "Oslo"} has 16 characters.
  call = messages.chat(row, limit=10)[3]['tool_calls'][0]['function']
  assert call['arguments'] == '{"city": "... (6 more characters)'


@pytest.mark.parametrize(
  ('text', 'thought', 'reply', 'calls'),
  [
    ('hm </think> <response> Ho </response>', 'hm', 'Ho', 0),
    ('<think> a </think> plain', 'a', 'plain', 0),
    (f'Look: <tool_call>\n{CALL}\n</tool_call> so', '', 'Look:  so', 1),
    ('<think> cut <tool_call>', '', '<think> cut <tool_call>', 0),
    ('', '', '', 0),
  ],
)
def test_nothing_of_an_answer_is_lost(text, thought, reply, calls):
  (turn,) = messages.turns({'response': text}, limit=100)
  assert (turn.thought, turn.reply) == (thought, reply)
  assert len(turn.calls) == calls


@pytest.mark.parametrize(
  'row', [{}, {'response': 3}, {'episode': []}, {'episode': {'turns': [1]}}]
)
def test_what_is_no_transcript(row):
  with pytest.raises(ValueError, match='not a transcript'):
    messages.turns(row, limit=10)
