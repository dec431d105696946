"""Typed arguments of the quickstart task and the values they take.

Values come from spaces that are cut in two by a stable hash of the value, so a
held-out value can never be drawn for training. Strings are two common words: a
held-out one is an unseen pair of words that were each seen, which asks for
copying, not for spelling. An enum is a closed set and is not cut.
"""

import dataclasses
import datetime
import hashlib
import random
from collections.abc import Mapping
from typing import Any, TypeAlias

Value: TypeAlias = str | int | float | list

HELD_OUT_SHARE = 5  # one value in so many is held out

WORDS: Mapping[str, tuple[str, str]] = {
  'place': (
    'Port New Old East West North South Lake Mount Saint Fort Upper Lower Glen '
    'Castle Bay',
    'Alden Marlow Hollis Verin Tarn Osmar Kelby Drayton Elsin Bruck Soria '
    'Wexley Pella Norva Adair Linden Morven Galt Rowan Tilsit Corby Hazel '
    'Quill Ardan',
  ),
  'person': (
    'Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karla Leon '
    'Maria Nils Olga Peter Rosa Simon Tara Victor',
    'Adler Berg Costa Dunn Ebert Frost Grant Hart Ivers Jansen Keller Lund '
    'Moss Novak Olsen Price Quinn Reyes Stone Tanner',
  ),
  'topic': (
    'budget team sales summer design safety office garden project family '
    'school music travel market health staff',
    'review plans report notes update party lunch survey workshop photos '
    'meeting figures visit contract ideas draft',
  ),
  'product': (
    'red blue green black white steel glass wooden paper cotton small large '
    'folding plastic copper leather',
    'kettle lamps chairs mugs boxes pens plates ropes gloves bags spoons '
    'shelves pillows towels buckets hooks',
  ),
  'food': (
    'smoked fresh dried roast wild sweet baby frozen pickled brown golden '
    'spicy',
    'trout beans onions rice carrots tofu lentils corn apples spinach '
    'mushrooms peppers',
  ),
}
_PAIRS = {
  source: (first.split(), second.split())
  for source, (first, second) in WORDS.items()
}
_FIRST_DAY = datetime.date(2026, 1, 1).toordinal()
_DAYS = 365


@dataclasses.dataclass(frozen=True)
class Argument:
  """A typed argument of a tool.

  Attributes:
    name: the parameter's name.
    type: `string`, `integer`, `float`, `enum`, `date` or `list`.
    source: for a string, and for a list of strings, the key of `WORDS`.
    bounds: smallest and largest integer, of a list's items too.
    choices: the members of an enum.
  """

  name: str
  type: str
  source: str = ''
  bounds: tuple[int, int] = (10, 999)
  choices: tuple[str, ...] = ()

  def schema(self) -> dict[str, Any]:
    """The JSON description that the prompt shows."""
    if self.type == 'enum':
      return {'type': 'string', 'enum': list(self.choices)}
    return {'type': self.type}


def is_held_out(source: str, value: Value) -> bool:
  """Whether one scalar value belongs to the held-out part of its space."""
  digest = hashlib.sha256(f'{source}:{value}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') % HELD_OUT_SHARE == 0


def draw(rng: random.Random, argument: Argument, *, held_out: bool) -> Value:
  """A value of the argument's type from the training or held-out part."""
  if argument.type == 'enum':
    return rng.choice(argument.choices)
  if argument.type != 'list':
    return _draw_scalar(rng, argument, held_out)
  items: list[Value] = []
  length = rng.choice((2, 3))
  while len(items) < length:
    item = _draw_scalar(rng, argument, held_out)
    if item not in items:
      items.append(item)
  return items


def _draw_scalar(
  rng: random.Random, argument: Argument, held_out: bool
) -> str | int | float:
  while True:
    source, value = _propose(rng, argument)
    if is_held_out(source, value) == held_out:
      return value


def _propose(
  rng: random.Random, argument: Argument
) -> tuple[str, str | int | float]:
  """A scalar with the name of the space that it is drawn from."""
  if argument.source:
    first, second = _PAIRS[argument.source]
    return argument.source, f'{rng.choice(first)} {rng.choice(second)}'
  if argument.type == 'date':
    day = datetime.date.fromordinal(_FIRST_DAY + rng.randrange(_DAYS))
    return 'date', f'{day:%B} {day.day}'
  if argument.type == 'float':
    # A last digit other than 0 keeps it a float however it is written.
    return 'float', float(f'{rng.randint(10, 99)}.{rng.randint(1, 9)}')
  return 'integer', rng.randint(*argument.bounds)
