"""Functions of every kind, as somebody might hand them over as tools."""

import asyncio
import enum
import functools
import math


async def lookup(city: str) -> str:
  """Looks up a city.

  Args:
    city: its name.
  """
  await asyncio.sleep(0)
  return f'{city}: 5'


async def never(city: str) -> str:
  """Waits for what never comes.

  Args:
    city: its name.
  """
  await asyncio.Event().wait()
  return city


async def refuse(city: str) -> str:
  """Fails after a while.

  Args:
    city: its name.
  """
  await asyncio.sleep(0)
  raise ValueError(f'no {city}')


loops = []


async def loop_number(city: str) -> str:
  """Says in which event loop it runs.

  Args:
    city: its name.
  """
  loop = asyncio.get_running_loop()
  if loop not in loops:
    loops.append(loop)
  return f'{city} {loops.index(loop)} of {len(loops)}'


@functools.wraps(lookup)
def wrapped(*args, **kwargs):
  return lookup(*args, **kwargs)


# Found by workers under the name that it has here.
wrapped.__qualname__ = wrapped.__name__ = 'wrapped'


def hidden_stream(city: str) -> str:
  """Returns a generator without being one.

  Args:
    city: its name.
  """
  return (letter for letter in city)


def thing(city: str) -> object:
  """Returns what has an address for its text.

  Args:
    city: its name.
  """
  return [object(), city]


def stream(city: str) -> str:
  """Streams a city.

  Args:
    city: its name.
  """
  yield city


async def async_stream(city: str) -> str:
  """Streams a city.

  Args:
    city: its name.
  """
  yield city


def many(*cities: str) -> str:
  """Takes any number.

  Args:
    cities: their names.
  """
  return str(cities)


def named(**cities: str) -> str:
  """Takes any names.

  Args:
    cities: their names.
  """
  return str(cities)


def positional(city: str, /) -> str:
  """Takes a place.

  Args:
    city: its name.
  """
  return city


class Klass:
  """Makes an object.

  Args:
    city: its name.
  """

  def __init__(self, city: str):
    self.city = city

  def method(self, city: str) -> str:
    """A method.

    Args:
      city: its name.
    """
    return city


class Colour(enum.IntEnum):
  RED = 3


MISSING = object()


def defaults(
  city: str,
  days: int = 3,
  unit: str = None,
  metric: bool = True,
  share: float = 0.5,
  note: str = '',
  names: list[str] = ('a', 'b'),
  table: dict = {'k': [1, None]},  # noqa: B006
  colour: int = Colour.RED,
  limit: float = math.inf,
  start: float = math.nan,
  raw: str = b'x',
  other: str = MISSING,
  keys: dict = {1: 2},  # noqa: B006
  half: str = '\ud800',
  big: int = 10**5000,
) -> str:
  """Has defaults of all kinds.

  Args:
    city: a name.
    days: how many.
    unit: C or F.
    metric: whether.
    share: a part.
    note: a text.
    names: texts.
    table: an object.
    colour: a number.
    limit: a number.
    start: a number.
    raw: a text.
    other: a text.
    keys: an object.
    half: a text.
    big: a number.
  """
  return f'{days!r} {unit!r} {metric!r}'
