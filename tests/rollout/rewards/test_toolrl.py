import gzip
import json
import random
import re
import time

import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.text import tool_calls
from tests.helpers import mutations, shared_data


def answer(*calls, thought='x'):
  lines = '\n'.join(c if isinstance(c, str) else json.dumps(c) for c in calls)
  return f'<think> {thought} </think>\n<tool_call>\n{lines}\n</tool_call>'


def call(name, **parameters):
  return {'name': name, 'parameters': parameters}


def _solved(response, truth):
  task = types.Task(
    task_id='', system='', user='', tools=(), ground_truth=truth, kind=''
  )
  return toolrl.toolrl(response, task).solved


REPLY = '<think> x </think>\n<response> hi </response>'
BOTH = answer(call('a')) + '\n<response> hi </response>'
GOLD = answer(call('a', x=1, y='p'), call('b', z=2))


def test_vectors_of_the_original_scorer():
  file = shared_data.path('rlla', 'reward_vectors.jsonl.gz')
  lines = gzip.decompress(file.read_bytes()).splitlines()
  rows = [json.loads(line) for line in lines]
  assert len(rows) == 1906
  for row in rows:
    outcome = toolrl.outcome_reward(row['response'], row['ground_truth'])
    assert outcome == (row['format'], row['correctness']), row


@pytest.mark.parametrize(
  ('predicted', 'correctness'),
  [
    # S_max = 1 + (1 + 2) + (1 + 1) = 6, so correctness = S - 3.
    ([call('b', z=2), call('a', x=1, y='p')], 3.0),  # order is free
    ([call('a', x=1, y='p')], 0.5),  # names 1/2, a: 1 + 2
    ([call('a', x=1, y='q'), call('b', z=2)], 2.0),  # 1 + (1 + 1) + 2
    ([call('a', x=1), call('b', z=2)], 1.5),  # 1 + (1/2 + 1) + 2
    ([call('a', x=1.0, y='p'), call('b', z=2)], 3.0),  # 1 == 1.0
    ([call('a', x=True, y='p'), call('b', z=2)], 3.0),  # 1 == True
    ([call('a', x='1', y='p'), call('b', z=2)], 2.0),  # 1 != '1'
    ([call('A', x=1, y='p'), call('b', z=2)], 1 / 3 - 1),  # 1/3 + 2 - 3
    ([call('a', x=1, y='p'), call('b', z=2), call('c')], 2 / 3 + 2),
    # Names 2/3; the second `a` is the better one.
    ([call('a', x=1), call('a', x=1, y='p'), call('b', z=2)], 2 / 3 + 2),
    # Names 1/3, of both `a` the better: 1/3 + 3 - 3.
    ([call('a', x=1), call('a', x=1, y='p')], 1 / 3),
    # A wrong name needs no parameters: 1/3 + 2 - 3.
    ([{'name': 'c'}, call('b', z=2)], 1 / 3 - 1),
    ([{'name': 'a', 'arguments': {}}, call('b', z=2)], -3.0),
    ([{'name': 'a', 'parameters': 'x'}, call('b', z=2)], -3.0),
    ([call('a', x=1, y='p'), {'parameters': {}}], -3.0),
    ([call('a', x=1, y='p'), '', call('b', z=2)], -3.0),
    ([call('a', x=1, y='p'), '{'], -3.0),
    ([call('a', x=1, y='p'), '3'], -3.0),
    ([call('a', x=1, y='p'), {'name': ['b'], 'parameters': {}}], -3.0),
  ],
)
def test_correctness_by_hand(predicted, correctness):
  outcome = toolrl.outcome_reward(answer(*predicted), GOLD)
  assert outcome.format == 1.0
  assert outcome.correctness == pytest.approx(correctness, abs=1e-12)
  assert outcome.total == pytest.approx(correctness + 1.0, abs=1e-12)


def test_a_perfect_call_without_parameters():
  assert toolrl.outcome_reward(answer(call('a')), answer(call('a'))) == (1, 3)


@pytest.mark.parametrize(
  'block',
  [
    '<tool_call>{c}<tool_call>{{</tool_call>',  # a second opening tag ends it
    '</tool_call> <tool_call>{c}',  # both tags are there, the text ends it
    '<tool_call> {c} </tool_call> <tool_call> junk </tool_call>',
  ],
)
def test_the_first_block_counts(block):
  text = block.format(c=json.dumps(call('a')))
  assert toolrl.outcome_reward(text, answer(call('a'))) == (0, 3)


def test_surrounding_space_is_not_format():
  assert toolrl.outcome_reward(f'\n {REPLY} \n', REPLY) == (1, 0)
  assert toolrl.outcome_reward(f'. {REPLY}', REPLY) == (0, 0)


PATTERNS = {
  '<think> x </think>': (r'^<think>.*?</think>$', ()),
  REPLY: (r'^<think>.*?</think>\n<response>.*?</response>$', ('response',)),
  answer(call('a')): (
    r'^<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>$',
    ('tool_call',),
  ),
  BOTH: (
    r'^<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>\n'
    r'<response>.*?</response>$',
    ('tool_call', 'response'),
  ),
}


@pytest.mark.parametrize('truth', PATTERNS)
def test_format_equals_the_patterns(truth):
  pattern, tags = PATTERNS[truth]
  rng = random.Random(7)
  seams = ('<think>', '</think>', '\n', '<tool_call>', '</tool_call>', 'x')
  seams += ('<response>', '</response>', '</think>\n<response>')
  seams += ('</think>\n<tool_call>\n', '\n</tool_call>\n<response>')
  seen = {True: 0, False: 0}
  for _ in range(6000):
    pieces = [rng.choice(seams) for _ in range(rng.randint(0, 3))]
    text = ''.join(pieces)
    if rng.random() < 0.7:
      cut = rng.randint(0, len(truth))
      text = truth[:cut] + rng.choice(seams) * rng.randint(0, 1) + truth[cut:]
    text = text.strip()
    expected = bool(re.search(pattern, text, re.DOTALL)) and all(
      text.count(f'<{tag}>') == 1 == text.count(f'</{tag}>') for tag in tags
    )
    seen[expected] += 1
    assert toolrl.outcome_reward(text, truth).format == expected, text
  assert min(seen.values()) > 100


@pytest.mark.parametrize(
  ('text', 'truth'),
  [
    # One newline cannot be both the one behind the tag and the one before.
    ('<think> x </think>\n<tool_call>\n</tool_call>', GOLD),
    # Every tag once, in the wrong order.
    (
      '<think> \n</tool_call>\n<response> </think>\n<tool_call>\n </response>',
      BOTH,
    ),
    # Every section, but a tag twice.
    ('<think> <response> </think>\n<response> x </response>', REPLY),
  ],
)
def test_what_only_looks_like_the_format(text, truth):
  assert toolrl.outcome_reward(text, truth).format == 0.0


def test_bounds():
  assert toolrl.outcome_bounds(GOLD) == (-3.0, 4.0)
  assert toolrl.outcome_bounds(BOTH) == (-3.0, 4.0)
  assert toolrl.outcome_bounds(REPLY) == (0.0, 1.0)
  mention = '<think> no <tool_call> </think>\n<response> hi </response>'
  assert toolrl.outcome_bounds(mention) == (0.0, 1.0)


def test_reference_whose_rationale_mentions_the_tags():
  truth = answer(call('a'), thought='a <tool_call> tag, then </tool_call>')
  assert toolrl.outcome_reward(answer(call('a')), truth) == (1, 3)
  assert _solved(answer(call('a')), truth)


def test_every_reference_of_rlla_is_read():
  mentions = 0
  for name in ('rlla_sft', 'rlla_rl_test'):
    lines = shared_data.path('rlla', f'{name}.jsonl').read_bytes()
    for line in lines.splitlines():
      truth = json.loads(line)['output']
      thought, _, rest = truth.partition('</think>')
      mentions += '<tool_call>' in thought
      plain = f'<think> x </think>{rest}'
      _, best = toolrl.outcome_bounds(truth)
      assert toolrl.outcome_reward(plain, truth).total == best
      assert _solved(plain, truth)
  assert mentions == 15  # 17 of all 400 rows


@pytest.mark.parametrize(
  'block', ['', '{', '[1]', '{"name": "a", "arguments": {}}']
)
def test_an_unreadable_reference_is_an_error(block):
  with pytest.raises(ValueError, match='reference answer'):
    toolrl.outcome_reward(answer(call('a')), answer(block))


@pytest.mark.parametrize('given', [{}, {'parameters': None}])
def test_a_reference_without_parameters(given):
  gold, full = answer({'name': 'a', **given}), answer(call('a'))
  # Equal lists have +3 at once; else a call without parameters has -3.
  assert toolrl.outcome_reward(gold, gold) == (1, 3)
  assert toolrl.outcome_reward(full, gold) == (1, 3)
  assert toolrl.outcome_reward(gold, full) == (1, -3)
  # Names 1/2 and nothing else, of 1 + 1: 6 (1/2 + 1) / 2 - 3.
  more = answer(call('a'), call('b'))
  assert toolrl.outcome_reward(more, gold) == (1, 1.5)


def test_what_is_solved():
  assert _solved(GOLD, GOLD)
  assert not _solved(answer(call('a', x=1, y='p')), GOLD)
  assert not _solved(f'{GOLD} and more', GOLD)  # format
  assert _solved(REPLY, REPLY)
  assert not _solved(answer(call('a')), REPLY)


@pytest.mark.parametrize(
  ('thought', 'solved'),
  [
    ('I could write a <tool_call> here.', True),
    ('It needs <tool_call> and </tool_call>.', True),
    (f'<tool_call>\n{json.dumps(call("a"))}\n</tool_call>', False),
    ('no </think> <tool_call> {', False),
  ],
)
def test_a_reply_with_a_call_is_not_solved(thought, solved):
  text = f'<think> {thought} </think>\n<response> hi </response>'
  assert toolrl.outcome_reward(text, REPLY) == (1, 0)
  assert _solved(text, REPLY) == solved


def test_toolrl_is_a_reward():
  task = types.Task('t', '', '', (), GOLD, 'parallel')
  score = toolrl.toolrl(answer(call('a', x=1, y='p')), task)
  parts = {'format': 1.0, 'correctness': 0.5}
  assert score == (1.5, -3.0, 4.0, parts, False)
  assert toolrl.toolrl(GOLD, task).solved is True
  # Best outcome, and yet a call where a reply alone is expected.
  text = '<think> x </think>\n<response> <tool_call> </response>'
  score = toolrl.toolrl(text, types.Task('t', '', '', (), REPLY, 'none'))
  assert score == (1.0, 0.0, 1.0, {'format': 1.0, 'correctness': 0.0}, False)


def test_never_raises_and_stays_in_bounds():
  for truth in (GOLD, REPLY, BOTH, '<think> x </think>'):
    worst, best = toolrl.outcome_bounds(truth)
    for text in mutations.broken_answers(1500):
      assert worst <= toolrl.outcome_reward(text, truth).total <= best
      assert _solved(text, truth) in (True, False)


@pytest.mark.parametrize(
  'value', ['NaN', '1e999', '9' * 5000, '[' * 50_000, '"\\ud800"']
)
def test_beyond_the_bounds_has_the_worst_correctness(value):
  text = answer(f'{{"name": "a", "parameters": {{"x": {value}}}}}')
  assert toolrl.outcome_reward(text, GOLD) == (1, -3)


def test_what_is_too_long_to_parse_is_not_solved():
  thought = 'x' * tool_calls.MAX_CHARS
  text = f'<think> {thought} </think>\n<response> hi </response>'
  assert toolrl.outcome_reward(text, REPLY) == (1, 0)
  assert not _solved(text, REPLY)


@pytest.mark.parametrize(
  'unit', ['<think>', '<tool_call>', '<tool_call></tool_call>', '{', '</think>']
)
def test_a_megabyte_takes_no_time(unit):
  inside = unit * (1_000_000 // len(unit))
  start = time.process_time()
  for text in (
    inside,
    f'<think> {inside} </think>\n<response> hi </response>',
    answer(inside),
  ):
    for truth in (GOLD, REPLY):
      toolrl.outcome_reward(text, truth)
      _solved(text, truth)
  assert time.process_time() - start < 0.5
