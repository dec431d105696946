"""Tests of the reader of requests for two calls."""

import time

import pytest

from awpo_jax.rollout import datasets
from awpo_jax.rollout.datasets.quickstart import requests, tasks
from awpo_jax.rollout.text import tool_calls

USER = (
  '**Dialogue Records History**\n<user> I am 12 nights in East Galt, book a '
  'hotel, suite. Also what can I cook with dried corn, wild rice and baby '
  'beans? </user>'
)


def test_by_hand():
  assert requests.read(USER) == (
    ('book_hotel', {'city': 'East Galt', 'nights': 12, 'room': 'suite'}),
    ('find_recipe', {'foods': ['dried corn', 'wild rice', 'baby beans']}),
  )
  assert requests.states(USER) == (
    'book_hotel',
    'city is "East Galt"',
    'nights is 12',
    'room is "suite"',
    'find_recipe',
    'foods is ["dried corn", "wild rice", "baby beans"]',
  )
  first = 'The bill is 40.2, compute a 15 percent tip.'
  user = f'<user> {first} Also compute the average of 12 and 7. </user>'
  assert requests.read(user) == (
    ('compute_tip', {'bill': 40.2, 'percent': 15}),
    ('average', {'numbers': [12, 7]}),
  )


@pytest.mark.parametrize(
  'held_out', [{}, {'held_out_values': True}, {'held_out_phrasings': True}]
)
def test_it_finds_the_calls_of_the_references(held_out):
  drawn = tasks.Tasks('train', 4, kinds={'parallel': 1.0}, **held_out)[:500]
  for task in drawn:
    answer = tool_calls.parse(task.ground_truth)
    calls = requests.read(task.user)
    assert calls == answer.calls
    for (_, read), (_, gold) in zip(calls, answer.calls, strict=True):
      assert list(map(type, read.values())) == list(map(type, gold.values()))
    assert tuple(requests.said(answer.thought)) == requests.states(task.user)


def test_other_requests_are_not_read():
  for kind in ('single', 'none'):
    for task in tasks.Tasks('train', 4, kinds={kind: 1.0})[:100]:
      assert requests.read(task.user) is None
  timer, unserved = 'Set a timer for 40 minutes.', 'play the song team plans.'
  for said in (
    '',
    timer,
    f'{timer} Also {unserved}',
    f'{timer} Also set a timer for 4000 minutes.',
    f'{timer} Also set a timer for 41 minutes. Also call Anna Berg.',
    f'{timer} Also call Anna Bergson.',
  ):
    assert requests.read(f'<user> {said} </user>') is None
  good = f'<user> {timer} Also call Anna Berg. </user>'
  assert requests.read(good) is not None
  assert requests.read(good + good) is None  # Which of the two is asked?


@pytest.mark.parametrize(
  ('thought', 'said'),
  [
    ('This needs set_timer: minutes is 40.', ['set_timer', 'minutes is 40']),
    ('This needs a: x is "40".', ['a', 'x is "40"']),
    # What stands in the repeated request is not said by the thought.
    (
      'the bill is 4.5, please. This needs tip: bill is 40.25, percent is 15. '
      'Also y is 3.',
      ['tip', 'bill is 40.25', 'percent is 15'],
    ),
    (
      'This needs a: no values. This needs b: x is [1, 2], ',
      ['a', 'b', 'x is [1, 2]'],
    ),
    ('This needs a tool. x is 3', []),
    ('set_timer: minutes is 40.', []),
  ],
)
def test_what_a_thought_says(thought, said):
  assert requests.said(thought) == said


@pytest.mark.parametrize(
  'text',
  [
    'This needs ' * 10**4,
    'This needs a: ' + 'x is 1, ' * 10**4,
    'This needs a: ' + 'x' * 10**5,
    'This needs a: x is "' + 'x is "' * 10**4,
    'This needs a: x is ' + '1.' * 10**5,
    'This needs a: x is ' + '[' * 10**5,
  ],
)
def test_hostile_texts_take_linear_time(text):
  begun = time.perf_counter()
  requests.said(text)
  assert requests.read(f'<user> {text} </user>') is None
  assert time.perf_counter() - begun < 2


def test_the_data_set_of_two_calls():
  two = datasets.load('quickstart_hard:two', seed=2)
  hard = datasets.load('quickstart_hard', seed=2)
  held_out = two.evals['values']
  assert len(held_out) == 512
  assert {x.kind for x in (*held_out, *two.train[:200])} == {'parallel'}
  assert {x.kind for x in hard.train[:200]} == {'single', 'parallel', 'none'}
  assert two.demonstrations == hard.demonstrations
  with pytest.raises(ValueError, match='quickstart_hard:three: expected'):
    datasets.load('quickstart_hard:three', seed=2)
