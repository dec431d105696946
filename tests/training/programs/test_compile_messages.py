"""What is said while programs compile."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import pytest

from awpo_jax.distributed import processes
from awpo_jax.training.programs import compile as compile_lib


def _later(function):
  return functools.partial(jax.jit(function).lower, jnp.ones(3))


def test_which_program_of_how_many(monkeypatch):
  said, now = [], []

  @contextlib.contextmanager
  def working(say):
    now.append(say)
    said.append(say())
    yield
    said.append(say())

  def tells(x):
    said.append(now[0]())
    return x + 1

  monkeypatch.setattr(processes, 'working', working)
  wanted = {
    ('init', 'rl'): _later(lambda x: 2 * x),
    ('update', 'rl', 20, 8): _later(tells),
  }
  compiled = compile_lib._compiled(wanted)
  assert {key: x(jnp.ones(3)).tolist() for key, x in compiled.items()} == {
    ('init', 'rl'): [2, 2, 2],
    ('update', 'rl', 20, 8): [2, 2, 2],
  }
  first, traced, last = said
  assert first == 'Compiling: 0 of 2 programs are ready, now init rl'
  # While the second is traced the first compiles, or is ready already.
  assert traced in (
    'Compiling: 0 of 2 programs are ready, now init rl',
    'Compiling: 1 of 2 programs are ready, now update rl 20 8',
  )
  assert last == 'Compiling: 2 of 2 programs are ready'


def test_a_program_that_does_not_compile_ends_it():
  def broken(x):
    raise TypeError('no such shape')

  wanted = {('init', 'rl'): _later(broken)}
  with pytest.raises(TypeError, match='no such shape'):
    compile_lib._compiled(wanted)
