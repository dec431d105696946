"""Tests of intermediate states that are read off requests; no package needed.

The states are worked out by hand from the rules as the requests state them.
"""

import time

import pytest

from awpo_jax.rollout.datasets.gym import steps

SUM = 'State the final answer to the following arithmetic problem: {} ='
PRODUCT = (
  'Solve the following multiplication: {}. Give only the result as your final '
  'answer.'
)
STRING = (
  'Evaluate the following rules in order, and apply the first applicable rule '
  'to the string:\n{}\n\nTransform the following string according to the above '
  'list of rules:\n{}\nIn the thought'
)
MACHINES = (
  'Now, you have {} machine A, {} machine B, and {} machine C. Provide the'
)
BLOCKS = 'Now, you have {} [A], {} [B], and {} [C] blocks. Provide the count'


def _string(string, *conditions):
  rules = '\n'.join(
    f'{i}. If the string {condition}, do what the rule says.'
    for i, condition in enumerate(conditions, start=1)
  )
  return steps.READERS['string_manipulation'](STRING.format(rules, string))


@pytest.mark.parametrize(
  ('name', 'text', 'states'),
  [
    ('chain_sum', SUM.format('4 + 3 - 9 + 0'), ('7', '-2', '-2')),
    ('chain_sum', SUM.format('-4 - -3'), ('-1',)),
    ('decimal_chain_sum', SUM.format('1.5 + 2.25 - 0.75'), ('3.75', '3.00')),
    ('products', PRODUCT.format('7 * 8 * 0 * 9'), ('56', '0', '0')),
    # More digits than a decimal has by default: 999999999^4.
    (
      'products',
      PRODUCT.format(' * '.join(['999999999'] * 4)),
      (
        '999999998000000001',
        '999999997000000002999999999',
        '999999996000000005999999996000000001',
      ),
    ),
    # A: 2X and Y; 2B: X; then X + Y: Z.
    (
      'string_splitting',
      MACHINES.format(1, 2, 0),
      ('0 2 0 2 1 0', '0 0 0 3 1 0', '0 0 0 2 0 1'),
    ),
    # 2C: Y; B + C: A; A: 2X and Y; X + Y: Z twice.
    (
      'string_splitting',
      MACHINES.format(0, 1, 3),
      (
        *('0 1 1 0 1 0', '1 0 0 0 1 0', '0 0 0 2 2 0'),
        *('0 0 0 1 1 1', '0 0 0 0 0 2'),
      ),
    ),
    # A + B + C: {A}; 2C: {C}; {A} + {C}: (A) + (B).
    (
      'string_synthesis',
      BLOCKS.format(1, 1, 3),
      ('0 0 2 1 0 0 0 0 0', '0 0 0 1 0 1 0 0 0', '0 0 0 0 0 0 1 1 0'),
    ),
    # B + C: {B} twice, of which two make (C).
    (
      'string_synthesis',
      BLOCKS.format(0, 2, 2),
      ('0 1 1 0 1 0 0 0 0', '0 0 0 0 2 0 0 0 0', '0 0 0 0 0 0 0 0 1'),
    ),
    # A + B: {C}; A is left.
    ('string_synthesis', BLOCKS.format(2, 1, 0), ('1 0 0 0 0 1 0 0 0',)),
    # Nothing applies: the only state is the answer.
    ('string_synthesis', BLOCKS.format(1, 0, 1), ('1 0 1 0 0 0 0 0 0',)),
  ],
)
def test_states_by_hand(name, text, states):
  found = steps.READERS[name](f'<user> {text} In the thought, .. </user>')
  assert found.states == states
  assert tuple(steps.said(found.thought)) == states


@pytest.mark.parametrize(
  ('condition', 'string', 'new'),
  [
    ("prefix is 'ab'", 'abb', 'cab'),
    ("suffix is 'ac'", 'bac', 'bcb'),
    ("prefix is 'bc'", 'bcbb', 'bbaa'),
    ("suffix is 'bb'", 'acbb', 'ac'),
    ("prefix is 'cb'", 'cbabc', 'aaab'),
    ("prefix is 'cb'", 'cb', 'aa'),
    ("prefix is 'ca'", 'cab', 'bbbc'),
    ("suffix is 'cc'", 'bacc', 'abab'),
    ("prefix is 'aa'", 'aab', 'ab'),
    ("contains 'abc'", 'cabc', 'ccab'),
    ("contains 'bca'", 'abcab', 'ab'),
    ("ends with 'ba'", 'cba', 'cab'),
    ("starts with 'cc'", 'cca', 'a'),
    ("contains 'acb'", 'cacb', 'cbca'),
    ("ends with 'ca'", 'aca', 'ac'),
    ("starts with 'bb'", 'bba', 'ba'),
    ("ends with 'aa'", 'baa', 'bcc'),
    ("contains 'ca' (not at the start)", 'cacab', 'cab'),
    (
      "contains an even number of 'b's (and at least one 'b')",
      'bcb',
      'bcbab',  # Three then.
    ),
    # 16 letters, of which the ninth goes.
    ('length is greater than 15', 'a' * 8 + 'b' + 'a' * 7, 'a' * 15),
    ("starts with 'ac'", 'acb', 'zzb'),
  ],
)
def test_each_rule_by_hand(condition, string, new):
  assert _string(string, condition).states[0] == new
  # Where it does not apply the string is the answer as it is.
  assert _string('c', condition).states == ('c',)


def test_every_rule_is_worked_out_above():
  marks = [x for x in test_each_rule_by_hand.pytestmark if x.args]
  assert {row[0] for row in marks[0].args[1]} == set(steps._RULES)
  assert len(steps._RULES) == 20  # As many as the package has.


def test_the_first_rule_applies_until_a_state_repeats():
  # abb: 'ab' to 'ca': cab; 'ca' to 'bb' and c: bbbc; 'bb' to 'b': bbc, bc; then
  # 'bc' goes and aa comes: aa, which nothing changes.
  rules = (
    "prefix is 'ab'",
    "prefix is 'ca'",
    "starts with 'bb'",
    "prefix is 'bc'",
  )
  assert _string('abb', *rules).states == ('cab', 'bbbc', 'bbc', 'bc', 'aa')
  # acb: bca; gone. An empty string is a state as well.
  found = _string('acb', "contains 'acb'", "contains 'bca'")
  assert found.states == ('bca', '')
  assert steps.said(found.thought) == ['bca', '']
  # ca: bbc, bc, aa, 'aa' to 'cc': cc, 'cc' to a and b: ab, that to ca again,
  # which is not counted.
  rules += "ends with 'aa'", "suffix is 'cc'"
  assert _string('ca', *rules).states == ('bbc', 'bc', 'aa', 'cc', 'ab')
  assert _string('ba', "ends with 'ba'", "prefix is 'ab'").states == (
    'ab',
    'ca',
  )
  assert _string('aa', "prefix is 'aa'", "ends with 'aa'").states == ('a',)
  assert _string('bacb', "contains 'acb'", "contains 'bca'").states == (
    *('bbca', 'b'),
  )


@pytest.mark.parametrize(
  'text',
  [
    '',
    SUM.format('4'),
    SUM.format('4 * 3'),
    SUM.format('4 + x'),
    SUM.format(' + '.join('1' * 40)),
    SUM.format('9' * 40 + ' + 1'),
    PRODUCT.format('4 + 3'),
    MACHINES.format(1, 2, 3000),
    BLOCKS.format('', 1, 1),
    STRING.format("1. If the string prefix is 'ab', go.", 'xyz'),
    STRING.format("1. If the string prefix is 'qq', go.", 'abc'),
    STRING.format('', 'abc'),
    'x' * (1 << 14) + SUM.format('4 + 3'),
  ],
)
def test_what_is_no_such_request(text):
  assert [reader(text) for reader in steps.READERS.values()] == [None] * 6


@pytest.mark.parametrize(
  ('thought', 'values'),
  [
    ('4 + 3 = 7 - 9 = -2', ['7', '-2']),
    ('4+3=7. So 7 - 9 = -2, done', ['7', '-2']),
    ('1.5 + 2 = 3.5\n3.5 + 1 = 4.5', ['3.5', '4.5']),
    ('1 0 0 = 0 2 1 = 0 0 12', ['0 2 1', '0 0 12']),
    ('abc = cab = ', ['cab', '']),
    ('I say 7', []),
  ],
)
def test_what_a_thought_says(thought, values):
  assert steps.said(thought) == values


def test_numbers_are_alike_however_they_are_written():
  assert steps.same('3', '3.00') and steps.same('-0', '0')
  assert not steps.same('3', '4') and not steps.same('a', '3')
  assert steps.same('0 1', '0 1') and not steps.same('0 1', '01')
  assert not steps.same('', '0')


@pytest.mark.parametrize(
  'text',
  [
    'State the final answer to the following arithmetic problem: ' * 10**5,
    SUM.format('1 + ' * 10**6),
    '1. If the string ' * 10**5,
    '1. If the string a, ' * 10**5,
    'you have 1 machine A, ' * 10**5,
    # The rules that make strings longer meet only a bounded number of states.
    STRING.format(
      "1. If the string contains an even number of 'b's (and at least one "
      "'b'), append.\n2. If the string suffix is 'cc', do.",
      'bcb' * 21,
    ),
  ],
)
def test_work_on_hostile_requests_is_bounded(text):
  begun = time.perf_counter()
  for reader in steps.READERS.values():
    reader(text)
  for value in ('=' * 10**5, '= ' * 10**5, '=' + '1 ' * 10**5, '=1.' * 10**5):
    steps.said(value)
  assert time.perf_counter() - begun < 5
