import itertools
import json
import random
import re
import time

import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import english, rubric
from awpo_jax.rollout.text import tool_calls
from tests.helpers import mutations, shared_data

USER = '**Dialogue Records History**\n<user> {} </user>'
OSLO = USER.format('What is the weather in Oslo?')
GET_WEATHER = types.Tool(
  'get_weather',
  'Current weather of a city.',
  {'city': {'type': 'string', 'description': 'Name of the city.'}},
)
GET_TIME = types.Tool('get_time', 'Local time.', {'city': {'type': 'string'}})
TOOLS = (GET_WEATHER, GET_TIME)
GOOD = 'The user wants the weather in Oslo. get_weather fits: city is Oslo.'


def score(thought, *, user=OSLO, tools=TOOLS, calls=None, reply=None):
  if calls is None and reply is None:
    calls = [('get_weather', {'city': 'Oslo'})]
  text = tool_calls.render_answer(thought, calls or (), reply)
  return rubric.score_thought(user, tools, text)


def test_a_good_short_thought_scores_near_one():
  assert score(GOOD).total > 0.95


@pytest.mark.parametrize(
  ('thought', 'part', 'at_most'),
  [
    ('I will call a tool.', 'relevance', 0.1),
    ('', 'relevance', 0.0),
    # Content words weather (1) and Oslo (2): 1 - (2/3)^2 = 5/9.
    (GOOD.replace('Oslo', 'Paris'), 'relevance', 5 / 9),
    (GOOD.replace('Oslo', 'Paris'), 'grounding', 0.0),
    (GOOD.replace('Oslo', 'Paris'), 'support', 0.5),
    # Names and numbers: Oslo twice, three that nobody knows: (1 + 2/5) / 2.
    (f'{GOOD} The mayor is Narvik Quist 1997.', 'support', 0.7),
    (GOOD.replace('get_weather', 'get_time'), 'tools', 0.0),
    ('weather Oslo get_weather city Oslo', 'order', 0.25),
    ('the in Oslo. is of user to the a get_weather and', 'order', 0.5),
    ('What is the weather in Oslo?', 'originality', 0.0),
    ('Current weather of a city.', 'originality', 0.0),
    (' '.join([GOOD] * 3), 'variety', 0.0),
    (' '.join(['the reasoning is perfect'] * 20), 'modesty', 0.0),
    (f'{GOOD} My reasoning is perfect.', 'modesty', 2 / 3),
    ('It is Oslo.', 'length', 0.5 + 0.5 * 3 / 8),
    (GOOD * 200, 'length', 0.0),
  ],
)
def test_each_flaw_lowers_its_part_and_the_total(thought, part, at_most):
  flawed = score(thought)
  assert getattr(flawed, part) <= at_most + 1e-9
  assert flawed.total < 0.75 < score(GOOD).total


def test_relevance_by_hand():
  # Weights: book 1, 9 2, trains 1, Oslo 2; all but book is covered: c = 5/6.
  got = rubric.relevance({'train', 'oslo', '9', 'x'}, 'book 9 trains to Oslo')
  assert got == pytest.approx(1 - (1 / 6) ** 2)
  assert rubric.relevance(set(), 'call the tool') == 1.0


def test_relevance_looks_at_the_last_request():
  user = '<user> Trains to Bergen. </user>\n<obs> none </obs>\n' + OSLO
  assert score(GOOD, user=user).relevance == score(GOOD).relevance
  assert score(GOOD, user=f'{OSLO}\n<user> Trains. </user>').relevance == 0.0


def test_grounding_by_hand():
  # One value of two in the thought: once backed by the dialogue, once not.
  said, dialogue = {'oslo', '7'}, {'oslo', '9'}
  calls = (tool_calls.ToolCall('a', {'x': 'Oslo', 'y': 7.0, 'z': 9}),)
  answer = tool_calls.Answer('', calls, None)
  got = rubric.grounding(said, dialogue, answer)
  assert got == pytest.approx((1.0 + 0.6 + 0.0) / 3)
  flags = (tool_calls.ToolCall('a', {'x': True, 'y': None, 'z': []}),)
  assert rubric.grounding(said, dialogue, answer._replace(calls=flags)) == 1.0


def test_numbers_are_read_however_they_are_written():
  user = USER.format('Invest $10,000 for five years.')
  thought = 'The user wants to invest 10000 for 5 years. I use invest for it.'
  calls = [('invest', {'amount': 10000.0, 'years': '05'})]
  tools = (types.Tool('invest', 'Puts money in a fund.', {}),)
  got = score(thought, user=user, tools=tools, calls=calls)
  assert got.grounding == got.support == 1.0


def test_tool_choice_by_hand():
  words = ['get', 'weather', 'not', 'get', 'time']

  def choice(*names):
    calls = tuple(tool_calls.ToolCall(name, {}) for name in names)
    return rubric.tool_choice(words, TOOLS, tool_calls.Answer('', calls, None))

  assert choice('get_weather', 'get_time') == 1.0
  assert choice('get_weather') == pytest.approx(0.8 + 0.2 / 2)
  assert choice('get_weather', 'pay') == pytest.approx(0.5 * (0.8 + 0.2 / 2))
  assert choice('get') == 0.0  # named, but not on offer


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    # Behind `the` two rules look: no comma, and no word of its own kind.
    ('the user runs', 1.0),
    ('the, user runs', 1 - 3 / 2),
    ('of the of', 1 - 3 / 4),  # two rules for `of`, two for `the`, one broken
    ('Oslo. the user', 1 - 3 / 3),  # one for the full stop, two for `the`
    ('Oslo. The user', 1.0),
    ('Oslo The user', 1 - 3 / 3),
    # One function word in ten, 20 % are wanted.
    ('the big red cat sat down near old gray barns', 0.25 + 0.75 * 0.5),
  ],
)
def test_order_by_hand(text, expected):
  assert english.order(text) == pytest.approx(max(0.0, expected))


def test_variety_by_hand():
  # Five 3-grams, three different: (0.6 - 0.5) / 0.3.
  assert rubric.variety(list('abcabca')) == pytest.approx(1 / 3)
  assert rubric.variety(['a']) == 1.0


def test_originality_by_hand():
  # Eight words have four 5-grams; two are copied: (0.7 - 0.5) / 0.5.
  got = rubric.originality(list('abcdefxy'), [list('zabcdef')])
  assert got == pytest.approx(0.4)
  assert rubric.originality(['a'], [[], ['b']]) == 1.0


def test_length_by_hand():
  got = [rubric.length(words) for words in (0, 4, 8, 600, 900, 1200, 9999)]
  assert got == pytest.approx([0.5, 0.75, 1, 1, 0.5, 0, 0])


def test_a_reply_is_judged_by_why_no_call_is_made():
  user = USER.format('Translate the poem into Latin.')
  reply = 'Sorry, no tool can translate a poem.'
  why = 'The user wants a poem in Latin, but no tool here can translate it.'
  good = score(why, user=user, reply=reply)
  lazy = score(
    'I will answer the user in a moment now.', user=user, reply=reply
  )
  assert good.total > 0.9
  assert lazy.total < 0.5 * good.total
  assert score(why, user=user, calls=(), reply='').grounding == 0.0


def test_no_thought_scores_zero():
  for text in (
    '',
    'x',
    '<think> never closed',
    '<think></think>',
    '<think> . </think>',
    f'<think> {"x" * rubric.MAX_CHARS} </think>',
  ):
    assert rubric.score_thought(OSLO, TOOLS, text) == rubric.NO_THOUGHT
  assert rubric.NO_THOUGHT.total == 0.0


def test_scores_are_graded():
  thoughts = (
    'Okay.',
    'I will call a tool.',
    'The user wants the weather. get_weather fits.',
    'The user wants the weather in Oslo, so I look.',
    GOOD,
  )
  totals = [score(thought).total for thought in thoughts]
  assert all(a + 0.1 < b for a, b in itertools.pairwise(totals)), totals


def test_a_call_that_disagrees_with_thought_and_request_scores_lower():
  paris = [('get_weather', {'city': 'Paris'})]
  assert score(GOOD, calls=paris).total < score(GOOD).total - 0.2
  # Thought and call agree on a city that nobody asked for.
  invented = score(GOOD.replace('Oslo', 'Paris'), calls=paris)
  assert invented.grounding == pytest.approx(0.6)
  assert invented.total < score(GOOD).total - 0.2


TEMPLATE = (
  'I should use the appropriate tool with proper parameters to respond to the '
  "user's need."
)


@pytest.mark.parametrize('thought', ['Okay.', 'get_weather, Oslo.', TEMPLATE])
def test_a_short_or_fixed_thought_is_worth_little_but_something(thought):
  got = score(thought).total
  assert 0.0 < got < 0.5 < score(GOOD).total
  # More than the best of thoughts for an answer that cannot be right.
  assert score(TEMPLATE).total > score(GOOD, calls=[('sing', {'a': 1})]).total


@pytest.mark.parametrize(
  ('thought', 'calls'),
  [
    (f'{GOOD[:-1]}, but none of this is right.', None),
    (f'{GOOD} All of the above is wrong.', None),
    (f'{GOOD} I must not call get_weather.', None),
    (GOOD.replace('get_weather', 'get_time'), None),
    (GOOD, [('get_time', {'city': 'Oslo'})]),
    (GOOD, [('get_rain', {'city': 'Oslo'})]),
    (GOOD, [('get_weather', {'city': ['Oslo']})]),
    (GOOD, [('get_weather', {'town': 'Oslo'})]),
    (GOOD, [('get_weather', {})]),
    (GOOD, [('get_weather', {'city': 'Oslo', 'days': 3})]),
    (GOOD, [('get_weather', {'city': 'Paris'})]),
    (GOOD.replace('Oslo', 'Paris'), [('get_weather', {'city': 'Paris'})]),
  ],
)
def test_what_cannot_be_right_has_less_than_half(thought, calls):
  flawed = score(thought, calls=calls).total
  assert flawed < 0.5 * score(GOOD).total


def test_an_answer_that_cannot_be_read_counts_as_a_fault():
  text = f'<think> {GOOD} </think>\n<tool_call>\nget_weather\n</tool_call>'
  got = rubric.score_thought(OSLO, TOOLS, text)
  assert got.schema == pytest.approx(0.3) and got.tools == 0.0


def test_what_counting_cannot_tell():
  # A template, filled from request and call, says no more than they do.
  asks = 'What is the weather in Oslo?'
  template = f'The user says: {asks} I call get_weather, as city is Oslo.'
  assert score(template).total > 0.7
  # Both cities are asked for, and the wrong one of them is called.
  user = USER.format('I leave Paris. What is the weather in Oslo?')
  calls = [('get_weather', {'city': 'Paris'})]
  thought = 'The user leaves Paris and wants the weather. get_weather has it.'
  assert score(thought, user=user, calls=calls).total > 0.7


def test_rubric_is_a_judge():
  good = tool_calls.render_answer(GOOD, [('get_weather', {'city': 'Oslo'})])
  requests = [types.JudgeRequest(OSLO, TOOLS, text) for text in (good, 'x')]
  assert rubric.rubric(requests) == [score(GOOD).total, 0.0]
  assert rubric.rubric([]) == []


def test_never_raises_and_stays_in_the_unit_interval():
  answers = list(mutations.broken_answers(3000))
  answers += [f'<think> {text} </think>\n{text}' for text in answers[:1000]]
  scores = [rubric.score_thought(OSLO, TOOLS, text) for text in answers]
  assert all(0.0 <= part <= 1.0 for parts in scores for part in parts)
  assert all(0.0 <= parts.total <= 1.0 for parts in scores)
  # A broken user text or an empty list of tools does not raise either.
  for text in answers[:500]:
    rubric.score_thought(text, (), mutations.GOOD)


@pytest.mark.parametrize('unit', ['the ', '<think>', '1,', '"', 'Oslo. ', '{'])
def test_a_megabyte_takes_no_time(unit):
  text = unit * (1_000_000 // len(unit))
  start = time.process_time()
  score(text)
  score(text[: rubric.MAX_CHARS - 2])
  score(GOOD, user=text)
  score(GOOD, reply=text)
  score(GOOD, calls=[('a', {'x': text[:100_000]})])
  assert time.process_time() - start < 2.0


def parse_tools(system):
  pattern = r'\d+\. Name: (.*)\nDescription: (.*)\nParameters: (.*)'
  return tuple(
    types.Tool(name, description, json.loads(parameters))
    for name, description, parameters in re.findall(pattern, system)
  )


@pytest.fixture(scope='module')
def rows():
  """(prompt, user, tools, thought, what follows it) of real rationales."""
  lines = shared_data.path('rlla', 'rlla_sft.jsonl').read_bytes()
  result = []
  for row in map(json.loads, lines.splitlines()):
    thought, _, rest = row['output'].partition('</think>')
    thought = thought.removeprefix('<think>').strip()
    tools = parse_tools(row['instruction'])
    prompt = f'{row["instruction"]}\n{row["input"]}'
    result.append((prompt, row['input'], tools, thought, rest))
  return result


def total(row, thought):
  _, user, tools, _, rest = row
  text = f'<think> {thought} </think>{rest}'
  return rubric.score_thought(user, tools, text).total


@pytest.fixture(scope='module')
def own(rows):
  return [total(row, row[3]) for row in rows]


def shuffled(rng, text):
  words = text.split()
  rng.shuffle(words)
  return ' '.join(words)


@pytest.mark.parametrize(
  ('rival', 'share'),
  [
    (lambda rng, rows, row: rng.choice(rows)[3], 0.90),
    (lambda rng, rows, row: shuffled(rng, row[3]), 0.95),
    (lambda rng, rows, row: ' '.join([row[3]] * 3), 0.95),
    (lambda rng, rows, row: row[0], 0.95),
    (lambda rng, rows, row: row[1], 0.95),
    (lambda rng, rows, row: 'the reasoning is perfect ' * 20, 0.95),
  ],
  ids=['another row', 'shuffled', 'tripled', 'prompt', 'user', 'praise'],
)
def test_real_rationales_outscore(rows, rival, share):
  rng = random.Random(0)
  wins = [
    total(row, row[3]) > total(row, rival(rng, rows, row)) for row in rows
  ]
  assert len(wins) == 322
  assert sum(wins) / len(wins) >= share


def _with_call(change):
  """A rival: the first call, as `change` returns it, before the others."""

  def rival(rng, row):
    _, _, tools, thought, rest = row
    answer = tool_calls.parse(f'<think> {thought} </think>{rest}')
    if not answer.calls:
      return None
    first = change(rng, answer.calls[0], tools)
    if first is None:
      return None
    calls = (first, *answer.calls[1:])
    return tool_calls.render_answer(thought, calls, answer.response)

  return rival


def _mistyped(rng, call, tools):
  if not call.parameters:
    return None
  name = rng.choice(list(call.parameters))
  value = call.parameters[name]
  other = [value] if isinstance(value, str) else json.dumps(value)
  return call._replace(parameters={**call.parameters, name: other})


def _other_tool(rng, call, tools):
  others = [tool.name for tool in tools if tool.name != call.name]
  return call._replace(name=rng.choice(others)) if others else None


def _other_value(rng, call, tools):
  names = [k for k, v in call.parameters.items() if isinstance(v, str)]
  if not names:
    return None
  changed = {**call.parameters, rng.choice(names): 'Narvik Quist 1997'}
  return call._replace(parameters=changed)


@pytest.mark.parametrize(
  ('rival', 'count', 'share'),
  [
    (_with_call(_mistyped), 260, 0.9),
    (_with_call(_other_tool), 170, 0.95),
    (_with_call(_other_value), 200, 0.95),
    (_with_call(lambda rng, call, _: call._replace(name='sing')), 270, 0.95),
    (
      lambda rng, row: (
        f'<think> {row[3].rstrip(".")}, but none of this is right. </think>'
        f'{row[4]}'
      ),
      322,
      0.95,
    ),
    (lambda rng, row: f'<think> {TEMPLATE} </think>{row[4]}', 322, 0.95),
  ],
  ids=['mistyped', 'tool', 'value', 'not on offer', 'taken back', 'template'],
)
def test_right_answers_outscore_wrecked_ones(rows, own, rival, count, share):
  rng = random.Random(0)
  wins = []
  for row, gold in zip(rows, own, strict=True):
    text = rival(rng, row)
    if text is not None:
      _, user, tools, _, _ = row
      wins.append(gold > rubric.score_thought(user, tools, text).total)
  assert len(wins) >= count
  assert sum(wins) / len(wins) >= share


def test_real_rationales_score_high_and_differently(rows, own):
  totals = sorted(own)
  assert totals[len(totals) // 2] > 0.8
  assert len(set(totals)) > 200
  # A fifth quotes a number, calls a tool by a piece of JSON, or the like.
  sound = []
  for _, user, tools, thought, rest in rows:
    text = f'<think> {thought} </think>{rest}'
    parts = rubric.score_thought(user, tools, text)
    if parts.schema * parts.consistency == 1.0:
      sound.append(parts.total)
  assert len(sound) > 0.75 * len(rows)
  assert sorted(sound)[len(sound) // 10] > 0.6
