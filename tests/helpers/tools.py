"""Functions that the tests of tools hand to workers; some are ill-behaved."""

import os
import sys
import time

ran = []


def add(a: int, b: int = 1) -> int:
  """Adds two numbers.

  Args:
    a: one number.
    b: the other.
  """
  return a + b


def describe(word: str) -> dict:
  """Describes a word.

  Args:
    word: any.
  """
  return {'word': word, 'letters': len(word)}


def wait(seconds: float) -> str:
  """Takes its time.

  Args:
    seconds: so much of it.
  """
  time.sleep(seconds)
  return 'waited'


def process() -> int:
  """The number of the process that it runs in."""
  return os.getpid()


def spin() -> None:
  """Never ends."""
  while True:
    pass


def fill(megabytes: int) -> int:
  """Takes memory.

  Args:
    megabytes: so much of it.
  """
  return len(bytearray(megabytes << 20))


def talk(letters: int) -> str:
  """Says much.

  Args:
    letters: so much.
  """
  print('nobody reads this')
  sys.stdout.flush()
  return 'x' * letters


def leave(code: int) -> None:
  """Ends the process at once.

  Args:
    code: of the exit.
  """
  os._exit(code)


def stop() -> None:
  """Asks the interpreter to exit."""
  sys.exit('bye')


def fail(why: str) -> None:
  """Fails.

  Args:
    why: a reason.
  """
  raise ValueError(why)


def surrogate() -> str:
  """A text that is no UTF-8."""
  return 'a\ud800b'


def unhinted(a):
  """Lacks a type.

  Args:
    a: untyped.
  """
  return a


ALL = (add, describe, wait, spin, fill, talk, leave, stop, fail, surrogate)


def counter(scenario):
  """A factory of tools with state: a counter from `scenario['start']`."""
  state = {'value': scenario['start']}

  def increase(by=1):
    state['value'] += by
    return state['value']

  def hang():
    state['value'] += 1000
    time.sleep(60)

  return {'increase': increase, 'hang': hang}, lambda: dict(state)


def broken(scenario):
  """A factory that makes nothing."""
  raise RuntimeError(f'no such scenario: {scenario["start"]}')
