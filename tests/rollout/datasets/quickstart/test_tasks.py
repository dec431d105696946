"""Tests of the quickstart's task generator."""

import collections
import datetime
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys

import pytest
import tokenizers

from awpo_jax.rollout.datasets.quickstart import tasks as tasks_lib
from awpo_jax.rollout.environments import quickstart_tools
from awpo_jax.rollout.rewards import scoring, toolrl
from awpo_jax.rollout.text import tool_calls

# What only a request for that tool, or for something unserved, says.
CUES = {
  'get_weather': 'weather|forecast',
  'book_train': 'train|rail',
  'book_hotel': 'hotel',
  'send_email': 'email|mail',
  'call_person': 'call|phone',
  'set_timer': 'timer|countdown',
  'add_event': 'calendar|event',
  'convert_dollars': 'dollars',
  'compute_tip': 'tip',
  'buy_item': 'buy|order|shop',
  'find_recipe': 'recipe|cook',
  'average': 'average|mean',
  'play_song': 'song|play',
  'order_taxi': 'taxi|cab',
  'translate': 'translate|latin',
  'tell_joke': 'joke',
}
TYPES = {'string': str, 'integer': int, 'float': float, 'list': list}
QWEN_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


@pytest.fixture(scope='module')
def dataset():
  return tasks_lib.load(seed=3)


@pytest.fixture(scope='module')
def train(dataset):
  return dataset.train[:2000]


@pytest.fixture(scope='module')
def tasks(dataset, train):
  """Tasks of every part of the data set."""
  demonstrated = [one.task for one in dataset.demonstrations]
  return [*train, *demonstrated, *sum(dataset.evals.values(), [])]


def gold_calls(task):
  return tool_calls.parse(task.ground_truth).calls


def request(task):
  return re.fullmatch(
    r'\*\*Dialogue Records History\*\*\n<user> (.*) </user>', task.user
  ).group(1)


def typed_values(task):
  """(declared type, scalar) of every argument that is not an enum."""
  tools = {tool.name: tool for tool in task.tools}
  for call in gold_calls(task):
    for name, value in call.parameters.items():
      schema = tools[call.name].parameters[name]
      if 'enum' not in schema:
        for item in value if isinstance(value, list) else [value]:
          yield schema['type'], item


def skeleton(task):
  """The request of a one-call task with its values blanked."""
  text = request(task).lower()
  for value in gold_calls(task)[0].parameters.values():
    items = value if isinstance(value, list) else [value]
    for item in items:
      text = re.sub(rf'\b{re.escape(str(item).lower())}\b', '_', text, count=1)
  return re.sub(r'_(, _)* and _', '_', text)


def test_gold_answer_has_the_best_outcome(tasks):
  for task in tasks:
    outcome = toolrl.outcome_reward(task.ground_truth, task.ground_truth)
    # Format 1, and 3 for perfect calls; a reply is scored by format alone.
    assert outcome == ((1, 0) if task.kind == 'none' else (1, 3))


def test_layout_of_kinds(tasks):
  for task in tasks:
    answer = tool_calls.parse(task.ground_truth)
    expected = {'single': 1, 'parallel': 2, 'none': 0}[task.kind]
    assert len(answer.calls) == expected
    assert scoring.wants_call(task) == (expected > 0)
    assert (answer.response is None) == (task.kind != 'none')
    assert len({json.dumps(call) for call in answer.calls}) == expected


def test_two_calls_are_never_the_same(monkeypatch):
  draw_call = quickstart_tools.draw_call
  made = []

  def draw_each_twice(*args, **kwargs):
    made.append(made[-1] if len(made) % 2 else draw_call(*args, **kwargs))
    return made[-1]

  monkeypatch.setattr(tasks_lib, '_SAME_TOOL_SHARE', 1.0)
  monkeypatch.setattr(quickstart_tools, 'draw_call', draw_each_twice)
  first, second = gold_calls(tasks_lib.Tasks('t', 0, kinds={'parallel': 1})[0])
  assert first.name == second.name
  assert first != second


def test_thought_names_the_tool_and_grounds_every_value(tasks):
  for task in tasks:
    thought = tool_calls.parse(task.ground_truth).thought
    assert all(call.name in thought for call in gold_calls(task))
    assert all(json.dumps(value) in thought for _, value in typed_values(task))
    assert ('but no tool offers it' in thought) == (task.kind == 'none')
    # Sentence by sentence: what is said, and then what it needs.
    needs = re.split(
      r'This needs [^:,]+(?::.*?|, but .*?)\. ?(?=[A-Z]|$)', thought
    )
    assert ''.join(needs).strip() == request(task)
    assert len(thought.split()) <= 40 + len(request(task).split())


def test_four_to_six_tools_in_any_order(train):
  assert len(quickstart_tools.TOOLS) >= 10
  counts = collections.Counter(len(task.tools) for task in train)
  assert set(counts) == {4, 5, 6}
  first = collections.Counter(task.tools[0].name for task in train)
  assert set(first) == {tool.name for tool in quickstart_tools.TOOLS}
  # 2,000 first places over 12 tools: 167 each, give or take four times 12.4.
  assert all(117 <= count <= 217 for count in first.values())
  places = collections.Counter(
    [tool.name for tool in task.tools].index(gold_calls(task)[0].name)
    for task in train
    if task.kind == 'single'
  )
  # The tool to call stands first in a quarter to a sixth of some 1,100 tasks.
  assert 0.12 < places[0] / sum(places.values()) < 0.3
  for task in train:
    assert len({tool.name for tool in task.tools}) == len(task.tools)


def test_system_text_lists_the_tools_in_rllas_lines(train):
  for task in train[:50]:
    lines = '\n'.join(
      f'{i}. Name: {tool.name}\nDescription: {tool.description}\n'
      f'Parameters: {json.dumps(tool.parameters)}'
      for i, tool in enumerate(task.tools, start=1)
    )
    assert f'**Available Tools**\n{lines}\n\n**Output Format**' in task.system


def test_system_text_has_at_most_150_tokens_besides_the_tools(dataset):
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN_SPLIT), 'isolated'),
      tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
      ),
    ]
  )
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=1024,
    show_progress=False,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
  )
  texts = [
    one.task.system + one.task.user + one.response
    for one in dataset.demonstrations[:300]
  ]
  tokenizer.train_from_iterator(texts, trainer)
  system = dataset.train[0].system
  start, end = system.index('1. Name'), system.index('\n\n**Output')
  assert 30 <= len(tokenizer.encode(system[:start] + system[end:])) <= 150


def test_all_argument_types_appear(train):
  schemas = [
    schema
    for task in train
    for tool in task.tools
    for schema in tool.parameters.values()
  ]
  assert {schema['type'] for schema in schemas} == {*TYPES, 'date'}
  assert any('enum' in schema for schema in schemas)
  for tool in train[0].tools:
    assert 1 <= len(tool.parameters) <= 3


def test_arguments_have_their_type_and_stand_in_the_request(tasks):
  for task in tasks:
    tools = {tool.name: tool for tool in task.tools}
    for call in gold_calls(task):
      parameters = tools[call.name].parameters
      assert list(call.parameters) == list(parameters)
      for name, value in call.parameters.items():
        schema = parameters[name]
        if schema['type'] == 'date':
          # 2028 has every day of a year.
          day = datetime.datetime.strptime(f'2028 {value}', '%Y %B %d')
          assert f'{day:%B} {day.day}' == value
        else:
          assert type(value) is TYPES[schema['type']]
        assert value in schema.get('enum', [value])
        for item in value if isinstance(value, list) else [value]:
          text = re.escape(str(item))
          assert re.search(rf'(?<![\w.-]){text}(?![\w-]|\.\d)', request(task))


def test_requests_say_what_they_want_and_nothing_else(tasks):
  for task in tasks:
    said = {
      name
      for name, cue in CUES.items()
      if re.search(rf'\b({cue})\b', request(task), re.IGNORECASE)
    }
    offered = {tool.name for tool in task.tools}
    if task.kind == 'none':
      assert said
      assert not said & offered, task
    else:
      assert said == {call.name for call in gold_calls(task)}, task


def test_six_phrasings_or_more_and_no_two_alike():
  for one in (*quickstart_tools.TOOLS, *quickstart_tools.UNSERVED):
    assert len(set(one.phrasings)) >= 8
    for phrasing in one.phrasings:
      fields = set(re.findall(r'{(\w+)}', phrasing))
      assert fields == {argument.name for argument in one.arguments}


def test_held_out_values_are_never_trained_on(dataset):
  trained = {
    value for task in dataset.train[:5000] for value in typed_values(task)
  }
  held_out = {
    value
    for task in tasks_lib.Tasks('values', 3, 3000, held_out_values=True)[:]
    for value in typed_values(task)
  }
  assert {kind for kind, _ in held_out} == {kind for kind, _ in trained}
  assert min(len(trained), len(held_out)) > 600
  assert not trained & held_out
  pairs = [text for kind, text in held_out if kind == 'string']
  texts = '\n'.join(
    one.task.user + one.response for one in dataset.demonstrations
  )
  assert not [pair for pair in pairs if re.search(rf'\b{pair}\b', texts)]


def test_words_of_held_out_values_are_known(dataset):
  words = {
    word
    for task in dataset.evals['values']
    for kind, value in typed_values(task)
    if kind == 'string'
    for word in value.split()
  }
  texts = ' '.join(one.task.user for one in dataset.demonstrations)
  assert words <= set(re.findall(r'\w+', texts))


def test_held_out_phrasings_are_never_trained_on(dataset):
  held_out = tasks_lib.Tasks('phrasings', 3, 2000, held_out_phrasings=True)
  seen = [collections.defaultdict(set), collections.defaultdict(set)]
  for found, some in zip(
    seen, (dataset.train[:3000], held_out[:]), strict=True
  ):
    for task in some:
      if task.kind == 'single':
        found[gold_calls(task)[0].name].add(skeleton(task))
  for one in quickstart_tools.TOOLS:
    assert not seen[0][one.name] & seen[1][one.name]
    assert len(seen[0][one.name]) >= 6
    assert len(seen[1][one.name]) >= 2


def test_evals_hold_out_one_thing_each(dataset):
  assert list(dataset.evals) == ['values', 'phrasings']
  assert [len(tasks) for tasks in dataset.evals.values()] == [256, 256]
  trained = {
    text
    for task in dataset.train[:8000]
    for kind, text in typed_values(task)
    if kind == 'string'
  }
  strings = {
    name: [
      text in trained
      for task in tasks
      for kind, text in typed_values(task)
      if kind == 'string'
    ]
    for name, tasks in dataset.evals.items()
  }
  assert not any(strings['values'])
  assert sum(strings['phrasings']) >= 0.9 * len(strings['phrasings'])


def test_two_sentences_share_few_words_in_a_row(train):
  # Drawn blindly they share 0.19 pairs of words on average, so chosen 0.01.
  shared = []
  for task in train:
    if task.kind == 'parallel':
      first, second = re.split(r'[.?] Also ', request(task))
      pairs = [
        set(itertools.pairwise(text.lower().split()))
        for text in (first, second)
      ]
      shared.append(len(pairs[0] & pairs[1]))
  assert len(shared) > 400
  assert sum(shared) / len(shared) < 0.1


def test_kinds_have_their_shares(train):
  counts = collections.Counter(task.kind for task in train)
  # Four standard deviations of a share of 2,000 draws are at most 0.045.
  for kind, share in {'single': 0.55, 'parallel': 0.25, 'none': 0.2}.items():
    assert abs(counts[kind] / len(train) - share) < 0.045
  parallel = [gold_calls(task) for task in train if task.kind == 'parallel']
  same = sum(first.name == second.name for first, second in parallel)
  assert 0 < same < len(parallel) / 2


def test_shares_are_an_argument():
  tasks = tasks_lib.Tasks('train', 0, kinds={'none': 1.0})
  assert {task.kind for task in tasks[:20]} == {'none'}


def test_items_depend_on_seed_and_index_alone(dataset, train):
  again = tasks_lib.load(seed=3)
  assert again.demonstrations == dataset.demonstrations
  assert again.evals == dataset.evals
  assert len(again.train) == 2**31 - 1
  assert again.train[1999] == train[1999]
  assert again.train[-1] == again.train[2**31 - 2]
  assert len({task.task_id for task in train}) == len(train)
  other = tasks_lib.load(seed=4).train
  assert not {task.user for task in other[:20]} & {t.user for t in train[:20]}
  with pytest.raises(IndexError, match='256'):
    tasks_lib.Tasks('values', 0, 256)[256]


def test_equal_in_another_process(dataset):
  code = (
    'import hashlib\n'
    'from awpo_jax.rollout.datasets.quickstart import tasks\n'
    'data = tasks.load(seed=3)\n'
    'text = repr((data.demonstrations, data.evals, data.train[12345]))\n'
    'print(hashlib.sha256(text.encode()).hexdigest())\n'
  )
  text = repr((dataset.demonstrations, dataset.evals, dataset.train[12345]))
  environment = {**os.environ, 'PYTHONHASHSEED': '7'}
  printed = subprocess.run(
    [sys.executable, '-c', code],
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  assert printed.strip() == hashlib.sha256(text.encode()).hexdigest()


def test_files_are_refused():
  with pytest.raises(ValueError, match='--data=somewhere.*drop --data'):
    tasks_lib.load(seed=0, data='somewhere')


def test_the_harder_one_asks_for_two_calls_in_half_of_its_tasks(dataset):
  hard = tasks_lib.load_hard(seed=3)
  assert hard.demonstrations == dataset.demonstrations
  assert {name: len(tasks) for name, tasks in hard.evals.items()} == {
    'values': 512
  }
  for tasks in (hard.train[:1000], hard.evals['values']):
    kinds = collections.Counter(task.kind for task in tasks)
    # Four standard deviations of 512 draws.
    assert abs(kinds['parallel'] / len(tasks) - 0.5) < 0.09
    assert abs(kinds['none'] / len(tasks) - 0.2) < 0.072
  with pytest.raises(ValueError, match='--data=x'):
    tasks_lib.load_hard(seed=3, data='x')
