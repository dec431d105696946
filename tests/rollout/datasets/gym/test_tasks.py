"""Tests of generators' tasks and of what the package takes as right.

Most run with a stand-in for the package, whose rows and scores are known; those
at the end need the package itself.
"""

import ast
import inspect
import itertools
import sys
import time
import types as python_types

import pytest

from awpo_jax import types
from awpo_jax.rollout import datasets
from awpo_jax.rollout.datasets.gym import steps, tasks
from awpo_jax.rollout.rewards import exact, generators, toolrl
from awpo_jax.rollout.rewards.judges import process
from awpo_jax.rollout.text import tool_calls


class Fake:
  """Row i of seed s asks for (s + i) % 97; sums ask what has a state."""

  def __init__(self, name, seed):
    self.name, self.seed = name, seed

  def __getitem__(self, index):
    number = (self.seed + index) % 97
    question = f'What is {number}?'
    if self.name == 'chain_sum':
      question = (
        'State the final answer to the following arithmetic problem: '
        f'{number} + 1 ='
      )
      number += 1
    return {'question': question, 'answer': str(number), 'metadata': {}}

  def score_answer(self, answer, entry):
    if answer == 'raise':
      raise MemoryError
    if answer == 'half':
      return 0.99
    return 1.0 if answer.strip('0 ') == entry['answer'].strip('0 ') else 0.01


def _forget():
  generators.row.cache_clear()
  generators._generator.cache_clear()


@pytest.fixture
def fake(monkeypatch):
  """The package is there, and knows every generator."""
  module = python_types.ModuleType('reasoning_gym')
  module.create_dataset = lambda name, *, seed, size: Fake(name, seed)
  monkeypatch.setitem(sys.modules, 'reasoning_gym', module)
  _forget()
  yield
  _forget()


def _call(submitted, name='submit', key='answer', thought='so'):
  call = tool_calls.ToolCall(name, {key: submitted})
  return tool_calls.render_answer(thought, [call])


SECOND = '{"name": "submit", "parameters": {"answer": "41"}}'


def _task():
  # Seed 0, row 40: the number 40.
  task = tasks._task('train', 'gcd', 0, 40)
  assert 'What is 40?' in task.user
  return task


@pytest.mark.usefixtures('fake')
def test_the_set_by_name():
  dataset = datasets.load('reasoning_gym:gcd,chain_sum', seed=5)
  assert [x.kind for x in dataset.train[:4]] == ['gcd', 'chain_sum'] * 2
  (held_out,) = dataset.evals.values()
  assert list(dataset.evals) == ['held_out'] and len(held_out) == 512
  assert [x.kind for x in held_out[:2]] == ['gcd', 'chain_sum']
  assert len(dataset.train) == 20_000
  # Only sums have a thought that could be shown.
  assert {x.task.kind for x in dataset.demonstrations} == {'chain_sum'}
  (task, response) = (
    dataset.demonstrations[0].task,
    dataset.demonstrations[0].response,
  )
  assert response == task.ground_truth
  # Who is to name the steps is told so; where there are none nobody is.
  hint = 'write = and the result of each step'
  assert hint in task.user and hint not in dataset.train[0].user
  assert process.process([types.JudgeRequest(task.user, (), response)]) == [1.0]
  assert datasets.load('reasoning_gym:gcd', seed=5).demonstrations == []


@pytest.mark.usefixtures('fake')
def test_questions_and_numbers_of_the_parts_are_apart():
  dataset = datasets.load('reasoning_gym:gcd,chain_sum', seed=5)
  parts = {
    'train': dataset.train[:2000],
    'demonstration': [x.task for x in dataset.demonstrations],
    'held_out': dataset.evals['held_out'],
  }
  numbers, questions = {}, {}
  for part, shown in parts.items():
    rows = [task.scenario[generators.KEY] for task in shown]
    numbers[part] = {(name, seed + index) for name, seed, index in rows}
    questions[part] = {task.user for task in shown}
  # The stand-in, like the package, draws a row from seed + index.
  assert len(numbers['train']) == 2000
  assert not numbers['held_out'] & (numbers['train'] | numbers['demonstration'])
  assert not numbers['train'] & numbers['demonstration']
  # All 2 x 97 questions come up, on one side each.
  assert not questions['held_out'] & questions['train']
  assert len(questions['held_out'] | questions['train']) == 2 * 97
  assert questions['demonstration'] <= questions['train']


@pytest.mark.usefixtures('fake')
def test_the_seed_decides():
  def users(seed):
    drawn = tasks.Tasks('train', seed, 9, ('gcd',))
    return [x.user for x in drawn]

  assert users(1) == users(1)
  # Rows of neighbouring seeds are no shift of one another, as 1 + 1 = 2 + 0.
  assert users(1)[1:] != users(2)[:-1]


@pytest.mark.usefixtures('fake')
def test_too_few_questions_are_refused_by_name(monkeypatch):
  monkeypatch.setattr(tasks, '_is_held_out', lambda _: False)
  with pytest.raises(ValueError, match='gcd: 64 questions drawn, and none for'):
    tasks.Tasks('held_out', 0, 9, ('gcd',))[0]


@pytest.mark.usefixtures('fake')
@pytest.mark.parametrize(
  ('response', 'value'),
  [
    (_call('40'), 1),
    (_call('040'), 1),  # The package's scorer says so.
    (_call(' 40 '), 1),
    (_call('41'), 0),
    (_call('half'), 0),
    (_call('raise'), 0),
    (_call(''), 0),
    (_call(40), 0),
    (_call(['40']), 0),
    (_call('0' * 1022 + '40'), 1),
    (_call('0' * 1023 + '40'), 0),
    (_call('40', name='send'), 0),
    (_call('40', key='text'), 0),
    (_call('040') + '\n<response> done </response>', 0),
    # A second call, though the first is right.
    (_call('040').replace('\n</tool_call>', f'\n{SECOND}\n</tool_call>'), 0),
    ('<think> 40 </think>', 0),
    ('<think> so </think>\n<tool_call>\n{"name": "submit"\n</tool_call>', 0),
    (_call('040').replace('</tool_call>', '{}\n</tool_call>'), 0),
    ('', 0),
  ],
)
def test_the_outcome_is_the_packages(response, value):
  assert exact.exact(response, _task()).value == value
  score = toolrl.toolrl(response, _task())
  assert (score.minimum, score.maximum) == (-3, 4)
  assert score.solved == bool(value)
  assert (score.value == 4) == bool(value)


@pytest.mark.usefixtures('fake')
def test_partial_credit_is_as_toolrl_has_it():
  # One value of one parameter is wrong: 2 of 3 points, so 6 2/3 - 3, and 1.
  assert toolrl.toolrl(_call('41'), _task()).value == pytest.approx(2)


@pytest.mark.usefixtures('fake')
def test_other_tasks_have_the_reference_that_they_have():
  task = types.Task('t', '', '', (), 'anything', 'single', {'seed': 1})
  assert generators.reference(_call('40'), task) == 'anything'


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    (
      'reasoning_gym:chain_sums',
      "'chain_sums' is not .* Near it are chain_sum",
    ),
    ('reasoning_gym:gcd,lmc', "'lmc' is not .* Near it are lcm"),
    ('reasoning_gym:gcd,', "'' is not among"),
    ('reasoning_gym', "'' is not among"),
    ('reasoning_gym:', "'' is not among"),
    ('reasoning_gym:????', 'Nothing is near it. All are ab, aiw'),
    # Its scorer computes Fraction('1e999999999').
    (
      'reasoning_gym:coin_flip',
      "'coin_flip' is not among the generators whose",
    ),
    ('reasoning_gym:gcd,gcd', 'gcd,gcd: a generator is named twice'),
  ],
)
def test_a_wrong_name_is_refused(spec, message):
  with pytest.raises(ValueError, match=message):
    datasets.load(spec, seed=0)


def test_a_place_is_refused():
  with pytest.raises(ValueError, match='--data=x: reasoning_gym generates'):
    datasets.load('reasoning_gym:gcd', seed=0, data='x')


def test_a_missing_package_is_refused_with_what_installs_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
  with pytest.raises(ValueError, match=r"`pip install -e '\.\[reasoning\]'`"):
    datasets.load('reasoning_gym:gcd', seed=0)


@pytest.mark.usefixtures('fake')
def test_names_behind_commas_belong_to_the_generators():
  mixed = datasets.load(
    'reasoning_gym:gcd,lcm,reasoning_gym:maze', seed=0, data=','
  )
  assert {k: {x.kind for x in v} for k, v in mixed.evals.items()} == {
    'reasoning_gym:gcd,lcm_held_out': {'gcd', 'lcm'},
    'reasoning_gym:maze_held_out': {'maze'},
  }
  # A data set's name is its own, and what follows another's is a data set's.
  with pytest.raises(ValueError, match='--data is missing: expected'):
    datasets.load('reasoning_gym:gcd,rlla', seed=0, data=',')
  with pytest.raises(ValueError, match='neither a known name'):
    datasets.load('links,gcd', seed=0, data=',')


@pytest.mark.usefixtures('fake')
def test_the_judge_of_steps_names_those_that_have_them():
  both = datasets.load('reasoning_gym:chain_sum,gcd', seed=0).evals['held_out']
  process.check(both[:1])
  with pytest.raises(ValueError, match='reasoning_gym:string_splitting'):
    process.check(both[:2])


# With the package.


@pytest.fixture
def package():
  _forget()
  yield pytest.importorskip(
    'reasoning_gym',
    reason="reasoning-gym is not installed: pip install -e '.[reasoning]'",
  )
  _forget()


HOSTILE = [
  *('9' * 1024, '1e999999999', '-1e-999999999', 'nan', 'inf', '1e999999999/1'),
  *('(' * 1024, '[' * 1024, '\n' * 1024, ' ' * 1024, '\0', '1 ' * 512),
  *('9**' * 300 + '9', '__import__("os").abort()', '1,' * 512, '2 × ' * 256),
  *('\\frac{1}{' + '9' * 999 + '}', 'A=' + '9' * 999, '9' * 999 + ' days,1:1'),
]


def _check_generator(name):
  """Same rows each time, a right reference, and hostile answers soon wrong."""
  rows = [dict(generators.row(name, 7 << 32, i)) for i in range(20)]
  _forget()
  for index, row in enumerate(rows):
    again = generators.row(name, 7 << 32, index)
    for key in ('question', 'answer'):
      assert row[key] == again[key]
    assert len(row['answer']) <= generators.MAX_ANSWER
    task = tasks._task('train', name, 7 << 32, index)
    assert exact.exact(task.ground_truth, task).value == 1
    begun = time.perf_counter()
    for text in HOSTILE:
      assert not generators.accepts(name, 7 << 32, index, text), text
    assert time.perf_counter() - begun < 2


@pytest.mark.usefixtures('package')
def test_generators_are_deterministic_and_their_scorers_bounded():
  wrong = {}
  for name in sorted(generators.GENERATORS):
    try:
      _check_generator(name)
    except Exception as error:
      wrong[name] = error
  assert not wrong


def test_no_scorer_evaluates(package):
  evil = {'eval', 'exec', 'parse_expr', 'sympify', 'literal_eval', 'Fraction'}
  for name in sorted(generators.GENERATORS):
    module = inspect.getmodule(type(package.create_dataset(name, seed=1)))
    tree = ast.parse(inspect.getsource(module))
    used = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name)}
    used |= {x.attr for x in ast.walk(tree) if isinstance(x, ast.Attribute)}
    assert not used & evil, name


@pytest.mark.usefixtures('package')
def test_states_are_those_that_the_package_records():
  pairs = itertools.product(steps.READERS, range(300))
  for name, index in pairs:
    row = generators.row(name, 3 << 32, index)
    found = steps.READERS[name](row['question'] + '\nIn the thought, ..')
    assert steps.same(found.states[-1], row['answer'])
    recorded = row['metadata'].get('states')
    if recorded:
      texts = [
        x if isinstance(x, str) else ' '.join(map(str, x)) for x in recorded
      ]
      assert list(found.states) == (texts[1:] or texts)
    assert bool(recorded) == name.startswith('string_')


@pytest.mark.usefixtures('package')
def test_several_generators_as_a_data_set():
  dataset = datasets.load('reasoning_gym:string_splitting,gcd', seed=1)
  for shown in (dataset.train[:40], dataset.evals['held_out'][:40]):
    for task in shown:
      assert exact.exact(task.ground_truth, task).value == 1
  held_out = {x.user for x in dataset.evals['held_out']}
  assert not held_out & {x.user for x in dataset.train[:2000]}
