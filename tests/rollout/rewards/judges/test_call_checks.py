"""Checks of calls against schema, request and thought, by hand."""

import math
import time

import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import call_checks
from awpo_jax.rollout.text import tool_calls

HOTEL = types.Tool(
  'book_hotel',
  'Book a hotel room.',
  {
    'city': {'type': 'string'},
    'nights': {'type': 'integer'},
    'room': {'type': 'string', 'enum': ['single', 'double']},
    'price': {'type': 'List[float], optional'},
    'breakfast': {'type': ['boolean', 'null'], 'default': False},
    'floor': {'type': 'int', 'default': ''},
  },
)
TRAIN = types.Tool(
  'bookTrain',
  'Book a train.',
  {'origin': {'type': 'str'}, 'share': {'type': 'float', 'default': 0}},
)
TOOLS = (HOTEL, TRAIN)
STAY = {'city': 'Oslo', 'nights': 2, 'room': 'single'}


def call(name, **parameters):
  return tool_calls.ToolCall(name, parameters)


def hotel(**changes):
  return call('book_hotel', **{**STAY, **changes})


@pytest.mark.parametrize(
  ('made', 'expected'),
  [
    (hotel(), 0),
    (hotel(price=[1, 2.5], breakfast=True, floor=3), 0),
    # None for what need not be there, but not for what must.
    (hotel(price=None), 0),
    (hotel(city=None), 1),
    (hotel(nights='2'), 1),
    (hotel(nights=2.0), 0),
    (hotel(nights=2.5), 1),
    (hotel(nights=True), 1),
    (hotel(city=['Oslo']), 1),
    (hotel(room='suite'), 1),
    (hotel(room=['single']), 1),
    (hotel(price='1, 2'), 1),
    (hotel(breakfast='yes'), 1),
    (hotel(stars=3), 1),
    (call('book_hotel', city='Oslo'), 2),
    (call('sing', city='Oslo'), 1),
    # The schema's own default is text.
    (hotel(floor='3'), call_checks.QUOTED),
    (call('bookTrain', origin='Oslo', share='0.5'), 1),
  ],
)
def test_faults(made, expected):
  assert call_checks.faults([made], TOOLS) == pytest.approx(expected)
  assert call_checks.faults([made, made], TOOLS) == pytest.approx(2 * expected)


def test_no_tools_are_on_offer():
  assert call_checks.faults([hotel()], ()) == 1
  assert call_checks.faults([], ()) == 0


@pytest.mark.parametrize(
  ('request_text', 'made', 'expected'),
  [
    ('A room in Oslo for two nights.', hotel(), 1),
    # City, nights, room: the enum has its evidence in the schema.
    ('A room in Oslo for two nights.', hotel(nights=20), 2 / 3),
    ('A room in Oslo for two nights.', hotel(city='Old Oslo'), 2.5 / 3),
    ('A double in Oslo for two nights.', hotel(), 2 / 3),
    ('A double in Oslo for two nights.', hotel(room='double'), 1),
    ('A double or a single in Oslo, two nights.', hotel(), 1),
    # Derived: a month, a percentage, the beginning of a word.
    ('On May 3, 2026.', call('bookTrain', origin='2026-05-03'), 1),
    ('On May 3, 2026.', call('bookTrain', origin='2026-06-03'), 2 / 3),
    ('It is 4.5% of it.', call('bookTrain', share=0.045), 1),
    ('It is 4.5% of it.', call('bookTrain', share=0.45), 0),
    ('In French.', call('bookTrain', origin='fr'), 1),
    ('In French.', call('bookTrain', origin='f'), 0),
    ('In French.', call('bookTrain', origin=True, share=None), 1),
    ('Set 1,250 aside.', call('bookTrain', share=1250.0), 1),
  ],
)
def test_evidence(request_text, made, expected):
  got = call_checks.evidence([made], request_text, TOOLS)
  assert got == pytest.approx(expected)


def test_evidence_may_stand_earlier_but_the_choice_is_the_last_requests():
  dialogue = '<user> A double in Oslo. </user><user> Two nights. </user>'
  assert call_checks.evidence([hotel()], dialogue, TOOLS) == 1


@pytest.mark.parametrize(
  ('request_text', 'made', 'expected'),
  [
    # 2 and 90, New and York are wanted.
    ('Two nights in New York for 90 dollars.', [hotel(city='New York')], 3 / 4),
    ('2 nights in New York for 90.', [hotel(city='York')], 2 / 4),
    # Paris is in no argument: it may say why.
    ('I come from Paris. 2 nights.', [hotel()], 1),
    ('I come from Paris.', [hotel()], 1),
    ('2 nights in New York.', [], 1),
  ],
)
def test_coverage(request_text, made, expected):
  assert call_checks.coverage(made, request_text) == pytest.approx(expected)


def test_fit_by_hand():
  # `book` is of both tools, log 2; `hotel` and `room` of one, log 3 each.
  asked = 'Book me a hotel room.'
  assert call_checks.fit([hotel()], asked, TOOLS) == 1
  got = call_checks.fit([call('bookTrain')], asked, TOOLS)
  assert got == pytest.approx(math.log(2) / (math.log(2) + 2 * math.log(3)))
  both = [hotel(), call('bookTrain')]
  assert call_checks.fit(both, asked, TOOLS) == 1  # no other is on offer
  assert call_checks.fit([call('sing')], asked, TOOLS) == 1  # a fault already
  assert call_checks.fit([hotel()], 'Hello.', TOOLS) == 1


@pytest.mark.parametrize(
  ('thought', 'expected'),
  [
    ('I call book_hotel.', 0),
    ('I like it.', 0),
    ('The bookTrain tool fits.', 1),
    ('bookTrain is for trains, book_hotel for hotels.', 0),
    ('I must not call book_hotel.', 1),
    ('I should never use the book_hotel tool.', 1),
    ('I must not call book_hotel twice, so I call book_hotel once.', 0),
    ('city is Oslo, nights is 2', 0),
    ('city is Paris', 1),
    ('The city parameter should be set to "paris".', 1),
    ('city is Paris, nights is 9.', 2),
    # It changes its mind, towards the call.
    ('city is Paris? No, city is Oslo.', 0),
    ('The city is lovely.', 0),
    ('nights: two', 0),
    ('This is not right.', 1),
  ],
)
def test_contradictions(thought, expected):
  answer = tool_calls.Answer(thought, (hotel(),), None)
  assert call_checks.contradictions(thought, answer, TOOLS) == expected


def test_statements_are_compared_as_evidence_is():
  calls = (call('bookTrain', origin='2026-05-03', share=0.04),)
  for thought in ('origin is May 3', 'share = 4', 'share = 0.04'):
    answer = tool_calls.Answer(thought, calls, None)
    assert call_checks.contradictions(thought, answer, TOOLS) == 0
  answer = tool_calls.Answer('origin is June 3', calls, None)
  assert call_checks.contradictions('origin is June 3', answer, TOOLS) == 1


@pytest.mark.parametrize(
  ('thought', 'expected'),
  [
    ('It is Oslo, but none of this is right.', True),
    ('None of that is true. I call the tool.', True),
    ("That doesn't make sense.", True),
    ('All this is nonsense.', True),
    ('I am mistaken.', True),
    ('My reasoning above is wrong.', True),
    ('This is right.', False),
    ('This is not wrong.', False),
    ('None of these tools fits.', False),
    ("Without that, the tool can't fetch the correct data.", False),
    ("Without that I can't give the correct size.", False),
    ('There is no sign that the ids are incorrect.', False),
    ('The original output is incorrect.', False),
    ('', False),
  ],
)
def test_retracts(thought, expected):
  assert call_checks.retracts(thought) == expected


def test_hostile_calls_take_no_time():
  # As much as a parsed answer may hold.
  names = {f'a {"b " * 20}{i}': 'c' for i in range(2000)}
  long = {'a' * 30_000: 'b' * 30_000, 'a': ['b'] * 20_000}
  calls = (tool_calls.ToolCall('book_hotel', names | long),)
  thought = 'a is "b" ' * 3500
  answer = tool_calls.Answer(thought, calls, None)
  start = time.process_time()
  call_checks.contradictions(thought, answer, TOOLS)
  call_checks.contradictions('not right wrong ' * 2000, answer, TOOLS)
  call_checks.faults(calls, TOOLS)
  call_checks.evidence(calls, 'b 1,000' * 4000, TOOLS)
  call_checks.coverage(calls, 'B C 1,' * 4000)
  call_checks.fit(calls, 'b ' * 16_000, TOOLS)
  assert time.process_time() - start < 2.0
