"""A decoding loop whose attention reads no more of the cache than is in use.

Shapes are static: the loop has a body for each of a few lengths of the cache,
and works in that of the longest row, on the head of the cache.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.models import cache as cache_lib

# Each length is compiled, about a second on a CPU: a few, none short.
COUNT = 4
_SHORTEST = 48
_State = TypeVar('_State', bound=Any)
_Rest = TypeVar('_Rest')


def run(
  step: Callable[[_State, _Rest, int], tuple[_State, _Rest]],
  state: _State,
  rest: _Rest,
  *,
  count: int = COUNT,
  in_place: bool = False,
  going: Callable[[_Rest], types.Array | bool] = lambda _: True,
) -> tuple[_State, _Rest]:
  """Steps until every row is done, or the rest says that this is enough.

  Args:
    step: advances the rows by one token; its last argument is the number of
      columns of the cache to read, which may be all that it is given.
    state: of N rows, `sampler.SamplerState`: its `done` bool[N], `length`
      i32[N], the columns that each row has written, and `cache`.
    rest: what else a step changes.
    count: lengths at most; they are `ends` of the cache's.
    in_place: a step is given the whole cache. Else the columns are copied out
      before the first step of a length and back after the last.
    going: whether the rest allows another step.

  Returns:
    State and rest at the end.
  """
  lengths = ends(cache_lib.length(state.cache), count)

  def stage(state: _State) -> types.Array:
    # Rows that are done count too: they write into the column after their last.
    longest = jnp.max(state.length)
    return jnp.sum(longest >= np.array(lengths[:-1], np.int32), dtype=jnp.int32)

  def more(carry) -> types.Array:
    state, rest = carry
    return ~jnp.all(state.done) & going(rest)

  def work(carry, *, index: int):
    state, rest = carry
    whole, used = state.cache, lengths[index]
    if not in_place:
      state = state.replace(cache=cache_lib.head(whole, used))
    state, rest = jax.lax.while_loop(
      lambda carry: more(carry) & (stage(carry[0]) == index),
      lambda carry: step(*carry, used),
      (state, rest),
    )
    if not in_place:
      state = state.replace(cache=cache_lib.put_head(whole, state.cache))
    return state, rest

  # One length needs no switch, and `stage` would hold an empty constant, at
  # which jaxlib 0.11.2 crashes where several CPU devices compile it.
  if len(lengths) == 1:
    return jax.lax.while_loop(
      more, lambda carry: step(*carry, lengths[0]), (state, rest)
    )
  bodies = [functools.partial(work, index=i) for i in range(len(lengths))]

  def lap(carry):
    if not in_place:
      return jax.lax.switch(stage(carry[0]), bodies, carry)
    # Those of other lengths take no step. XLA holds the cache twice for a
    # switch, and once for loops in a row.
    for body in bodies:
      carry = body(carry)
    return carry

  return jax.lax.while_loop(more, lap, (state, rest))


def reads_in_place(device: jax.Device) -> bool:
  """Whether attention should read the columns in use where they lie.

  For a GPU, XLA makes them part of the products, and one cache is held. For a
  CPU it would copy them for each token: there they are copied out once.
  """
  return device.platform in ('gpu', 'cuda')


def ends(columns: int, count: int) -> tuple[int, ...]:
  """The lengths that a cache is read to: multiples of one, and all of it.

  Args:
    columns: of the cache.
    count: lengths at most.
  """
  unit = max(_SHORTEST, -(-columns // count))
  return (*range(unit, columns, unit), columns)
