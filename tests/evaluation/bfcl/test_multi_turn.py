"""Multi-turn rows: what is asked, when it ends, what it is worth."""

import importlib.util
import json
import random

import pytest

from awpo_jax.evaluation import answers as answers_lib
from awpo_jax.evaluation import benchmarks, results
from awpo_jax.evaluation.bfcl import multi_turn
from awpo_jax.rollout.datasets.bfcl import episodes
from awpo_jax.rollout.datasets.bfcl import rows as rows_lib
from awpo_jax.rollout.environments import bfcl, sandbox
from awpo_jax.rollout.text import chat_template, prompts, tool_calls
from tests.helpers import bfcl_dialogues, shared_data

SAY = '<think> x </think>\n<response> y </response>'


def call(_name, **parameters):
  return tool_calls.ToolCall(_name, parameters)


def ask(*calls):
  return tool_calls.render_answer('x', calls)


def load(folder, style='rlla'):
  source = benchmarks.Source(str(folder), chat_template.Style(style))
  return {item.row_id: item for item in benchmarks.load_bfcl(source)}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return bfcl_dialogues.write(tmp_path_factory.mktemp('rows'))


@pytest.fixture(scope='module')
def items(folder):
  return load(folder)


def test_says_what_is_missing(folder, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'--no-deps bfcl-eval.*--categories=s'):
    load(folder)


@pytest.mark.parametrize(
  ('decoded', 'expected'),
  [
    (None, ()),
    ([], ()),
    (
      [{'ls': {}}, {'cd': {'folder': 'x'}}],
      (call('ls'), call('cd', folder='x')),
    ),
    ([{'cd': '{"folder": "x"}'}], (call('cd', folder='x'),)),
    *(([{'ls': none}], (call('ls'),)) for none in ('', ' ', None, 'null')),
    # As upstream, which then takes the whole answer for none.
    ([{'ls': {}}, {'cd': ['x']}], ()),
    ([{'cd': 'x'}], ()),
  ],
)
def test_calls(decoded, expected):
  assert multi_turn.calls_of(decoded) == expected


def test_a_call_as_text():
  text = multi_turn.call_text(call('f', a="it's", b=[1, None]))
  assert text == 'f(a="it\'s",b=[1, None])'


@bfcl_dialogues.needs_package
class TestPrompts:
  def test_rlla(self, items):
    episode = items['multi_turn_base_0'].episode()
    first = next(episode)
    assert first == items['multi_turn_base_0'].talk
    head = (
      '**Dialogue Records History**\n<user> Copy a.txt to b.txt, then list.\n'
      f'{multi_turn.REQUEST} </user>'
    )
    assert first.messages[1]['content'] == head
    tools = prompts.parse_tools(first.messages[0]['content'])
    assert {'cp', 'ls', 'add'} <= {tool.name for tool in tools}
    step = ask(call('ls'), call('nowhere'))
    head += (
      f'\n{step}\n<obs> The tool call ls() has been made. It returned: '
      '{"current_directory_content": ["a.txt"]} </obs>\n'
      '<obs> The tool call nowhere() has been made. It returned: Error during '
      'execution: there is no tool nowhere </obs>'
    )
    got = episode.send(step).messages[1]['content']
    assert got == f'{head}\n<user> {multi_turn.AGAIN} </user>'
    # The request to go on stands at the end alone.
    got = episode.send(SAY).messages[1]['content']
    assert got == (
      f'{head}\n{SAY}\n<user> How many words?\n{multi_turn.REQUEST} </user>'
    )
    with pytest.raises(StopIteration):
      episode.send('')

  def test_template(self, folder):
    item = load(folder, 'template')['multi_turn_miss_func_0']
    episode = item.episode()
    first = next(episode)
    named = {tool['function']['name']: tool for tool in first.tools}
    assert 'add' not in named and len(first.messages) == 1
    assert named['cp']['function']['parameters']['required'] == [
      'source',
      'destination',
    ]
    text = '<tool_call>\n{"name": "ls", "arguments": {"a": true}}\n</tool_call>'
    assert [dict(x) for x in episode.send(text).messages[1:]] == [
      {'role': 'assistant', 'content': text},
      {
        'role': 'tool',
        'name': 'ls',
        'content': '{"current_directory_content": ["a.txt"]}',
      },
    ]
    after = episode.send('No such tool.')
    assert after.messages[-1]['content'] == (
      'I have updated some more functions you can choose from. What about now?'
    )
    assert after.tools[-1]['function']['name'] == 'add'

  @pytest.mark.parametrize('style', ['rlla', 'rlla_template'])
  def test_later_tools_stand_in_the_text(self, folder, style):
    episode = load(folder, style)['multi_turn_miss_func_0'].episode()
    first = next(episode)
    assert bool(first.tools) == (style == 'rlla_template')
    said = episode.send(SAY).messages[1]['content']
    assert '<user> 1. Name: add\nDescription: ' in said
    assert 'Name: add' not in first.messages[0]['content']


@bfcl_dialogues.needs_package
class TestScores:
  @pytest.mark.parametrize('style', ['rlla', 'template', 'rlla_template'])
  def test_the_ground_truth(self, folder, style):
    items = load(folder, style)
    assert len(items) == 5
    for item in items.values():
      assert item.score(item.gold, 0).correct, item.row_id

  @pytest.mark.parametrize(
    ('row', 'texts', 'error'),
    [
      ('base_1', [SAY], 'multi_turn:empty_turn_model_response'),
      (
        'base_1',
        [ask(call('cat', file_name='a.txt')), SAY],
        'multi_turn:instance_state_mismatch',
      ),
      (
        'base_1',
        [ask(call('touch', file_name='c')), SAY],
        'multi_turn:execution_response_mismatch',
      ),
      # 21 steps end it: in the last turn it is scored, else it is not.
      (
        'base_1',
        [ask(call('pwd'))] * 19
        + [ask(call('cat', file_name='a.txt'))]
        + [ask(call('touch', file_name='c'))],
        None,
      ),
      ('base_0', [ask(call('pwd'))] * 21, 'multi_turn:force_terminated'),
      ('base_1', [ask(call('pwd'))] * 20, multi_turn.UNFINISHED),
      ('base_0', [SAY], multi_turn.UNFINISHED),
      ('base_0', [''], multi_turn.UNFINISHED),
      # A tool runs before it is on offer, as upstream has it; its result still
      # does not stand for a turn without a call.
      (
        'miss_func_0',
        [ask(call('add', a=1, b=2)), SAY, SAY],
        'multi_turn:empty_turn_model_response',
      ),
      (
        'miss_func_0',
        [ask(call('add', a=1, b=2)), SAY, ask(call('no_tool')), SAY],
        None,
      ),
      (
        'miss_param_0',
        [ask(call('rm', file_name='a.txt')), SAY, SAY],
        'multi_turn:empty_turn_model_response',
      ),
    ],
  )
  def test_by_hand(self, items, row, texts, error):
    result = items[f'multi_turn_{row}'].score(texts, 0)
    assert result.error == error and result.correct == (error is None)
    assert bool(result.reason) == bool(error)
    assert sum(map(len, result.decoded)) == len(texts) == len(result.replies)

  def test_files_and_page(self, items, tmp_path):
    chosen = [items['multi_turn_base_0'], items['multi_turn_base_1']]
    answers = answers_lib.Answers(tmp_path / 'answers.jsonl')
    texts = [[ask(call('pwd')), SAY, '<script>'], [ask(call('pwd'))]]
    answers.append(
      [
        {'id': x.row_id, 'sample': 0, 'answers': t, 'seconds': 1, 'tokens': 1}
        for x, t in zip(chosen, texts, strict=True)
      ]
    )
    answers.close()
    scored = results.score(chosen, answers.texts, 1)
    assert results.too_long(scored, answers.texts) == ['multi_turn_base_1']
    results.write_leaderboard(tmp_path, 'm', scored)
    name = 'm/multi_turn/BFCL_v4_multi_turn_base'
    first, second = _rows(tmp_path / 'result' / f'{name}_result.json')
    pwd = '<tool_call>\n{"name": "pwd", "arguments": {}}\n</tool_call>'
    assert first['result'] == [
      [pwd, '<response> y </response>'],
      ['<script>'],
    ]
    # Upstream takes what is no list for a row that it could not ask.
    assert second['result'].startswith('Error during inference')
    head, first, second = _rows(tmp_path / 'score' / f'{name}_score.json')
    assert head['accuracy'] == 0 and head['total_count'] == 2
    assert first['error'] == {
      'error_message': ['another state of GorillaFileSystem'],
      'error_type': 'multi_turn:instance_state_mismatch',
    }
    assert first['model_result_decoded'] == [[[{'pwd': {}}], []], [[]]]
    page = results.failures_page('t', scored)
    assert '<script>"' not in page and '&lt;script&gt;' in page
    assert '<h3>obs</h3><pre>{&quot;current_working_directory' in page
    assert '<h3>user</h3><pre>How many words?' in page
    assert '<h3>verdict</h3><pre>another state of GorillaFile' in page


def _rows(path):
  return [json.loads(line) for line in path.read_bytes().splitlines()]


def damaged(turns, rng):
  """The right calls, and rollouts with one thing wrong with them each."""
  yield 'good', turns
  spots = [(t, i) for t, calls in enumerate(turns) for i in range(len(calls))]
  t, i = rng.choice(spots)
  yield 'dropped', _with(turns, t, [*turns[t][:i], *turns[t][i + 1 :]])
  yield 'emptied', _with(turns, t, [])
  known = [(t, i) for t, i in spots if turns[t][i].parameters]
  if known:
    t, i = rng.choice(known)
    name, parameters = turns[t][i]
    key = rng.choice(list(parameters))
    other = call(name, **{**parameters, key: _other(parameters[key])})
    calls = [*turns[t][:i], other, *turns[t][i + 1 :]]
    yield 'altered', _with(turns, t, calls)
  for t, calls in enumerate(turns):
    if len(calls) > 1:
      yield 'reordered', _with(turns, t, calls[::-1])
  yield 'turns reordered', turns[::-1]


def _with(turns, turn, calls):
  return [*turns[:turn], calls, *turns[turn + 1 :]]


def _other(value):
  if isinstance(value, bool):
    return not value
  if isinstance(value, int | float):
    return value + 1
  return f'{value}x' if isinstance(value, str) else []


@pytest.fixture(scope='module')
def upstream():
  name = 'bfcl_eval.eval_checker.multi_turn_eval'
  checker = pytest.importorskip(f'{name}.multi_turn_checker')
  utils = pytest.importorskip(f'{name}.multi_turn_utils')

  def check(row, turns):
    before = set(vars(utils))
    verdict = checker.multi_turn_checker(
      [[[multi_turn.call_text(x)] for x in calls] for calls in turns],
      [list(calls) for calls in row.ground_truth],
      {
        'id': row.row_id,
        'initial_config': row.initial_config,
        'involved_classes': list(row.involved_classes),
      },
      row.category,
      'model',
    )
    # It keeps its simulators as globals, by names that come again.
    for made in set(vars(utils)) - before:
      delattr(utils, made)
    return verdict.get('error_type')

  return check


@pytest.fixture(scope='module')
def pool():
  made = sandbox.Pool(sandbox.Limits(seconds=60, chars=1 << 22))
  yield made
  made.close()


@bfcl_dialogues.needs_package
class TestUpstream:
  """Verdict and error type are those of upstream's own checker."""

  def agrees(self, rows, upstream, pool):
    """Kind of rollout -> whether passed, of all rows."""
    seen = set()
    for row in rows:
      task = episodes.task(row)
      turns = [
        [tool_calls.ToolCall(*x) for x in calls]
        for calls in task.scenario['truth']
      ]
      for kind, made in damaged(turns, random.Random(row.row_id)):
        expected = upstream(row, made)
        got = bfcl.check(pool, task.scenario, made).error_type
        assert got == expected, (row.row_id, kind)
        seen.add((kind, got))
    return seen

  def test_own_rows(self, folder, upstream, pool):
    rows = rows_lib.read(str(folder), rows_lib.MULTI_TURN)
    seen = self.agrees(rows, upstream, pool)
    # A list of names does not survive the other order, a new file does.
    assert {('good', None), ('reordered', None)} <= seen
    assert {error for _, error in seen} == {
      None,
      'multi_turn:empty_turn_model_response',
      'multi_turn:instance_state_mismatch',
      'multi_turn:execution_response_mismatch',
    }
    assert not {('dropped', None), ('altered', None)} & seen

  @pytest.mark.parametrize('category', rows_lib.MULTI_TURN)
  def test_rows_of_the_leaderboard(self, category, upstream, pool):
    rows = rows_lib.read(str(shared_data.path('bfcl')), [category])
    seen = self.agrees(rows[::12], upstream, pool)
    assert ('good', None) in seen and ('emptied', None) not in seen
    assert {kind for kind, _ in seen} >= {'dropped', 'altered', 'reordered'}
