"""BFCL's simulators: recorded results and states, the check, the turns."""

import ast
import gzip
import importlib.util
import json

import pytest

from awpo_jax.rollout.datasets.bfcl import episodes as rows_lib
from awpo_jax.rollout.datasets.bfcl import rows
from awpo_jax.rollout.datasets.bfcl import tasks as tasks_lib
from awpo_jax.rollout.environments import bfcl, protocol, sandbox
from awpo_jax.rollout.rewards import scoring
from awpo_jax.rollout.text import tool_calls
from tests.helpers import shared_data

needs_package = pytest.mark.skipif(
  importlib.util.find_spec('bfcl_eval') is None
  or importlib.util.find_spec('mpmath') is None,
  reason='pip install --no-deps bfcl-eval && pip install mpmath',
)


def call(_name, **parameters):
  return tool_calls.ToolCall(_name, parameters)


@pytest.fixture(scope='module')
def pool():
  made = sandbox.Pool(sandbox.Limits(chars=1 << 22))
  yield made
  made.close()


@pytest.fixture(scope='module')
def environment():
  made = bfcl.BfclEnvironment(sandbox.Limits())
  yield made
  made.close()


def gold(task):
  return [
    [tool_calls.ToolCall(*each) for each in turn]
    for turn in task.scenario['truth']
  ]


def test_says_how_to_install_the_package(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(bfcl.MissingPackage, match='--no-deps bfcl-eval'):
    bfcl.package_folder()


class TestReferenceCalls:
  TOOLS = {
    'cp': bfcl.types.Tool('cp', '', {'source': {}, 'destination': {}}),
  }

  def test_by_hand(self):
    got = bfcl.parse_call("cp('a.txt', destination=['b', -1, {}])", self.TOOLS)
    assert got == call('cp', source='a.txt', destination=['b', -1, {}])

  @pytest.mark.parametrize(
    'text',
    [
      "rm('a')",
      "cp(source=open('a'))",
      "os.cp('a')",
      "cp(**{'a': 1})",
      "cp('a', 'b', 'c')",
      'cp(source=[1e999])',
      'cp',
      'cp(',
    ],
  )
  def test_anything_else_is_refused(self, text):
    with pytest.raises(ValueError, match='reference call'):
      bfcl.parse_call(text, self.TOOLS)


def as_recorded(value, key=None):
  """A state as the traces have it: text keys, files without their names."""
  if isinstance(value, dict):
    if value.get('type') in ('directory', 'file') and 'name' in value:
      inside = {
        k: as_recorded(v, k) for k, v in value.items() if k not in ('name',)
      }
      return {value['name']: inside} if key == 'root' else inside
    if set(value) == {'set'}:
      return [ast.literal_eval(item) for item in value['set']]
    if set(value) == {'tuple'}:
      return as_recorded(value['tuple'])
    return {k.removeprefix('int '): as_recorded(v, k) for k, v in value.items()}
  return [as_recorded(v) for v in value] if isinstance(value, list) else value


@needs_package
@pytest.mark.parametrize('name', rows.MULTI_TURN)
def test_recorded_results_and_states(pool, name):
  folder = shared_data.path('bfcl')
  file = shared_data.path('bfcl', 'multi_turn_traces', f'{name}.jsonl.gz')
  with gzip.open(file, 'rt') as lines:
    traces = {row['id']: row['turns'] for row in map(json.loads, lines)}
  tasks = rows_lib.rows(folder)[name]
  assert len(tasks) == len(traces) == 101
  states = 0
  for task in tasks:
    history = ()
    for recorded, calls in zip(traces[task.task_id], gold(task), strict=True):
      ran = pool.run(
        bfcl.program_of(task.scenario), history, calls, inspect=True
      )
      history = ran.history
      assert list(ran.texts) == recorded['responses'], task.task_id
      if 'state' in recorded:
        got = {k: as_recorded(v) for k, v in ran.state.items()}
        for class_name, state in recorded['state'].items():
          assert got[class_name] == state, (task.task_id, class_name)
          states += 1
    assert bfcl.check(pool, task.scenario, gold(task)).reason == ''
  assert states > 300 or name != 'multi_turn_base'


@needs_package
class TestCheck:
  """The five rules of the check, each broken once."""

  @pytest.fixture
  def task(self):
    return tasks_lib.make_task(
      task_id='t',
      kind='files',
      classes=['GorillaFileSystem'],
      config={
        'GorillaFileSystem': {
          'root': {'home': {'type': 'directory', 'contents': {}}}
        }
      },
      requests=['Make a.', 'Which?', 'Make b.'],
      truth=[
        [call('touch', file_name='a')],
        [],
        [call('touch', file_name='b'), call('ls')],
      ],
    )

  @pytest.mark.parametrize(
    ('change', 'passed', 'reason'),
    [
      ({}, 3, ''),
      # Extra calls are fine as long as the state agrees.
      ({0: [call('pwd'), call('touch', file_name='a'), call('pwd')]}, 3, ''),
      ({0: []}, 0, 'no call'),
      ({0: [call('touch', file_name='c')]}, 0, 'another state'),
      # Nothing is checked where nothing is expected, but it has run.
      ({1: [call('ls')]}, 3, ''),
      ({1: [call('touch', file_name='c')]}, 2, 'another state'),
      ({2: [call('touch', file_name='b')]}, 2, 'a result is missing'),
      # A result of an earlier turn counts, once, if it is the same text.
      ({2: [call('ls'), call('touch', file_name='b')]}, 2, 'a result'),
    ],
  )
  def test_by_hand(self, pool, task, change, passed, reason):
    turns = gold(task)
    for turn, calls in change.items():
      turns[turn] = calls
    verdict = bfcl.check(pool, task.scenario, turns)
    assert verdict.passed == passed
    assert verdict.reason.startswith(reason)
    assert bool(verdict.reason) == bool(reason)

  def test_another_number_of_turns(self, pool, task):
    verdict = bfcl.check(pool, task.scenario, gold(task)[:2])
    assert verdict.reason == '2 turns instead of 3'


def play(environment, task, answers):
  """Steps through answers; the last state and the turns."""
  state, turns = environment.reset(task), []
  for text in answers:
    calls = tool_calls.parse(text).calls
    step = environment.step(state, calls)
    state = step.state
    turns.append(protocol.Turn(text, calls, step.observations))
    if step.done:
      break
  assert json.loads(json.dumps(state)) == state
  return state, turns


@needs_package
class TestEpisodes:
  @pytest.mark.parametrize('index', range(24))
  def test_own_tasks_are_solved_by_their_references(self, environment, index):
    task = tasks_lib.Tasks('train', 3)[index]
    state, turns = play(environment, task, task.references)
    score = environment.outcome(task, state, turns)
    assert score.solved and score.value == 4
    assert len(turns) == len(task.references)
    assert not any(
      'rror' in observation.text
      for turn in turns
      for observation in turn.observations
    )
    # The last call left out: not solved, and the episode is worth less.
    done = tool_calls.render_answer('All is done.', (), 'Done.')
    worse = [*task.references[:-2], done]
    score = environment.outcome(task, *play(environment, task, worse))
    assert not score.solved and score.value < 4

  def test_every_pattern_is_drawn(self):
    kinds = {task.kind for task in tasks_lib.Tasks('train', 3)[:24]}
    assert len(kinds) == len(tasks_lib.PATTERNS)

  def test_a_tool_runs_only_once_it_is_on_offer(self, environment):
    task = tasks_lib.make_task(
      task_id='t',
      kind='sums',
      classes=['MathAPI'],
      config={},
      requests=['Add 1 and 2.', 'New tools.'],
      truth=[[], [call('add', a=1, b=2)]],
      added={'1': ['add']},
    )
    assert 'add' not in [tool.name for tool in task.tools]
    # It has no reference, but says what is to be called.
    assert not task.references and scoring.wants_call(task)
    add = tool_calls.render_answer('x', [call('add', a=1, b=2)])
    reply = tool_calls.render_answer('x', (), 'No tool.')
    state, turns = play(environment, task, [add, reply, add, reply])
    texts = [o.text for turn in turns for o in turn.observations]
    assert texts == [
      'Error during execution: there is no tool add',
      'New tools.',
      '{"result": 3}',
    ]
    assert environment.outcome(task, state, turns).solved

  def test_private_names_do_not_run(self, environment):
    task = tasks_lib.Tasks('train', 3)[0]
    for name in ('_load_scenario', '__init__', '__class__', 'eval', 'quit'):
      step = environment.step(environment.reset(task), [call(name)])
      assert 'there is no tool' in step.observations[0].text
      assert step.state['history'] == []

  def test_the_step_after_the_last_allowed_one_ends_it(self, environment):
    task = next(
      task for task in tasks_lib.Tasks('train', 3)[:24] if task.kind == 'note'
    )
    state = environment.reset(task)
    for number in range(1, 22):
      step = environment.step(state, [call('pwd')])
      state = step.state
      assert step.done == (number == 21)

  def test_a_turn_never_reached_is_not_passed(self, environment):
    task = tasks_lib.make_task(
      task_id='t',
      kind='sums',
      classes=['MathAPI'],
      config={},
      requests=['Add 1 and 2.', 'What now?'],
      truth=[[call('add', a=1, b=2)], []],
    )
    add = tool_calls.render_answer('x', [call('add', a=1, b=2)])
    state, turns = play(environment, task, [add])
    # One of two turns: 1 + 6 / 2 - 3.
    assert environment.outcome(task, state, turns).value == 1


@needs_package
def test_the_data_set(tmp_path):
  with pytest.raises(FileNotFoundError, match='BFCL_v4_multi_turn'):
    rows_lib.load(seed=0, data=str(tmp_path))
  loaded = rows_lib.load(seed=0)
  assert len(loaded.evals['own']) == 64
  first = loaded.train[5]
  assert first == rows_lib.load(seed=0).train[5]
  assert first != rows_lib.load(seed=1).train[5]
