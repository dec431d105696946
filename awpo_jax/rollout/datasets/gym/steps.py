"""Intermediate states of generators' tasks, computed from the request alone.

Of those the package records the states of three, the machines of strings and
of counts; sums and products have them by their order, from left to right. A
thought names each behind an equals sign. Nothing here needs the package.
"""

import decimal
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

_MAX_CHARS = 1 << 14
_MAX_STATES = 1000  # The package stops there, too.
_T = TypeVar('_T')


class Steps(NamedTuple):
  """What a right thought passes.

  Attributes:
    states: at least one; the last is the answer.
    thought: that names them all.
  """

  states: tuple[str, ...]
  thought: str


_VALUE = re.compile(r'=[ \t]*(-?\w*(?:\.\d+)?(?: \d+)*)')


def said(thought: str) -> list[str]:
  """The values behind equals signs: a number, a word, or counts in a row."""
  return _VALUE.findall(thought)


def same(one: str, other: str) -> bool:
  """Whether values are alike as texts or as numbers."""
  try:
    return one == other or decimal.Decimal(one) == decimal.Decimal(other)
  except decimal.InvalidOperation:
    return False


_NUMBER = r'-?\d{1,9}(?:\.\d{1,9})?'
_SUM = re.compile(
  r'State the final answer to the following arithmetic problem: '
  rf'({_NUMBER}(?: [+-] {_NUMBER}){{1,15}}) ='
)
_PRODUCT = re.compile(
  rf'Solve the following multiplication: ({_NUMBER}(?: \* {_NUMBER}){{1,15}})\.'
)
_OPERATORS = {'+': operator.add, '-': operator.sub, '*': operator.mul}
_EXACT = decimal.Context(prec=400)


def _chain(pattern: re.Pattern[str]) -> Callable[[str], Steps | None]:
  """Reader of an expression, which is worked out from left to right."""

  def read(text: str) -> Steps | None:
    found = pattern.search(text[:_MAX_CHARS])
    if not found:
      return None
    first, *rest = found[1].split(' ')
    states, thought = [first], first
    with decimal.localcontext(_EXACT):
      for sign, number in zip(rest[::2], rest[1::2], strict=True):
        pair = map(decimal.Decimal, (states[-1], number))
        states.append(f'{_OPERATORS[sign](*pair):f}')
        thought += f' {sign} {number} = {states[-1]}'
    return Steps(tuple(states[1:]), thought)

  return read


def _until_repeated(
  state: _T, following: Callable[[_T], _T | None]
) -> list[_T]:
  """A state and those after it, up to the end or the first repetition."""
  states = [state]
  while len(states) <= _MAX_STATES:
    new = following(states[-1])
    if new is None or new in states:
      break
    states.append(new)
  return states


def _written(states: Iterable[str]) -> Steps:
  first, *rest = states
  passed = tuple(rest) or (first,)  # Where nothing applies it is the answer.
  return Steps(passed, ' = '.join((first, *passed)))


# What a rule says of a string -> a pattern and what takes its place, once.
_RULES: Mapping[str, tuple[str, str]] = {
  "prefix is 'ab'": ('^ab', 'ca'),
  "suffix is 'ac'": ('ac$', 'cb'),
  "prefix is 'bc'": ('^bc(.*)$', r'\1aa'),
  "suffix is 'bb'": ('bb$', ''),
  "prefix is 'cb'": ('^cb(.*?).?$', r'aa\1'),
  "prefix is 'ca'": ('^ca(.*)$', r'bb\1c'),
  "suffix is 'cc'": ('^(.*)cc$', r'a\1b'),
  "prefix is 'aa'": ('^aa', 'a'),
  "contains 'abc'": ('abc', 'cab'),
  "contains 'bca'": ('bca', ''),
  "ends with 'ba'": ('ba$', 'ab'),
  "starts with 'cc'": ('^cc', ''),
  "contains 'acb'": ('acb', 'bca'),
  "ends with 'ca'": ('ca$', 'c'),
  "starts with 'bb'": ('^bb', 'b'),
  "ends with 'aa'": ('aa$', 'cc'),
  "contains 'ca' (not at the start)": ('^(.+?)ca', r'\1'),
  "contains an even number of 'b's (and at least one 'b')": (
    '^([^b]*(?:b[^b]*b[^b]*)+)$',
    r'\1ab',
  ),
  'length is greater than 15': ('', ''),  # Its middle goes, see `_rewritten`.
  "starts with 'ac'": ('^ac', 'zz'),
}
_RULE = re.compile(r'^\d+\. If the string ([^,\n]+), ', re.M)
_STRING = re.compile(r'above list of rules:\n([abc]{1,64})$', re.M)


def _string(text: str) -> Steps | None:
  """Reader of `string_manipulation`."""
  text = text[:_MAX_CHARS]
  conditions, found = _RULE.findall(text), _STRING.search(text)
  if not found or not conditions or not set(conditions) <= set(_RULES):
    return None
  return _written(
    _until_repeated(found[1], lambda x: _rewritten(x, conditions))
  )


def _rewritten(string: str, conditions: Sequence[str]) -> str | None:
  """The string by the first rule that applies; None where none does."""
  for condition in conditions:
    if condition == 'length is greater than 15':
      middle = len(string) // 2
      if len(string) > 15:
        return string[:middle] + string[middle + 1 :]
      continue
    new, count = re.subn(*_RULES[condition], string, count=1)
    if count:
      return new
  return None


_COUNT = r'(\d{1,3})'
_MACHINES = re.compile(
  rf'you have {_COUNT} machine A, {_COUNT} machine B, and {_COUNT} machine C\.'
)
_BLOCKS = re.compile(
  rf'you have {_COUNT} \[A\], {_COUNT} \[B\], and {_COUNT} \[C\] blocks\.'
)
# What each rule adds to the counts, in the order in which rules are tried.
_DISMANTLED = (
  (-1, 0, 0, 2, 1, 0),
  (0, -2, 0, 1, 0, 0),
  (0, 0, -2, 0, 1, 0),
  (1, -1, -1, 0, 0, 0),
  (0, 0, 0, -1, -1, 1),
)
_COMBINED = (
  (-1, -1, -1, 1, 0, 0, 0, 0, 0),
  (-1, -1, 0, 0, 0, 1, 0, 0, 0),
  (0, -1, -1, 0, 1, 0, 0, 0, 0),
  (0, 0, -2, 0, 0, 1, 0, 0, 0),
  (0, 0, 0, -1, 0, -1, 1, 1, 0),
  (0, 0, 0, 0, -2, 0, 0, 0, 1),
)


def _counts(
  pattern: re.Pattern[str], rules: Sequence[tuple[int, ...]]
) -> Callable[[str], Steps | None]:
  """Reader of a machine of counts: the first rule that none falls below 0."""

  def following(counts: tuple[int, ...]) -> tuple[int, ...] | None:
    for rule in rules:
      new = tuple(map(operator.add, counts, rule))
      if min(new) >= 0:
        return new
    return None

  def read(text: str) -> Steps | None:
    found = pattern.search(text[:_MAX_CHARS])
    if not found:
      return None
    given = tuple(map(int, found.groups()))
    start = given + (0,) * (len(rules[0]) - len(given))
    states = _until_repeated(start, following)
    return _written(' '.join(map(str, state)) for state in states)

  return read


READERS: Mapping[str, Callable[[str], Steps | None]] = {
  'chain_sum': _chain(_SUM),
  'decimal_chain_sum': _chain(_SUM),
  'products': _chain(_PRODUCT),
  'string_manipulation': _string,
  'string_splitting': _counts(_MACHINES, _DISMANTLED),
  'string_synthesis': _counts(_BLOCKS, _COMBINED),
}
"""Generator -> what reads its request, text around it; None: it is another."""
