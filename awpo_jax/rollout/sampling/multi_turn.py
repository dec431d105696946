"""Samples several turns on one cache, so that no token is read twice.

A row stops at the end of a turn. What its tools returned is written behind it,
as tokens that the policy did not choose, and the row goes on. All rows of a
batch advance together; those without anything to read stay where they are.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import decoding_params
from awpo_jax.rollout.sampling import sampler


@types.record
class Shared:
  """What stays the same over the turns of a batch.

  Attributes:
    prefix: keys and values of the prompts.
    positions: i32[N], tokens before the completion of each row.
    sample_ids: i32[N], global.
  """

  prefix: cache_lib.Prefix
  positions: types.Array
  sample_ids: types.Array


def begin(
  params: types.ArrayTree,
  prompts: types.Prompts,
  sample_ids: types.Array,
  key: types.Array,
  decoding: sampler.Decoding,
  *,
  observation_tokens: int,
) -> tuple[sampler.SamplerState, Shared]:
  """Reads the prompts and samples the first turn of every row.

  Args:
    params, prompts, sample_ids, key: as of `sampler.sample`.
    decoding: its stop tokens end a turn, its `max_tokens` are of all turns of a
      row and of what it reads in between.
    observation_tokens: So, that a row may read between two turns.

  Returns:
    The rows at the ends of their first turns, N = P * G of them, and what
    `go_on` needs beside them.
  """
  params = decoding_params.make(decoding.decoder.config, params)
  state, inputs = sampler.prefill(
    params, prompts, sample_ids, key, decoding, spare=observation_tokens
  )
  state = sampler.finish(params, state, inputs, decoding, together=True)
  return state, Shared(
    prefix=inputs.prefix,
    positions=inputs.positions,
    sample_ids=inputs.sample_ids,
  )


def go_on(
  params: types.ArrayTree,
  state: sampler.SamplerState,
  shared: Shared,
  key: types.Array,
  tokens: types.Array,
  lengths: types.Array,
  decoding: sampler.Decoding,
) -> sampler.SamplerState:
  """Rows with something to read go on to the end of their next turn.

  Args:
    params: of the model.
    state: rows at the ends of turns.
    shared: of `begin`.
    key: as for `begin`.
    tokens: i32[N, So], what is to be read, padded on the right.
    lengths: i32[N]; a row of length 0 stays as it is. The others must have
      room: `state.length + lengths` below Sc.
    decoding: as for `begin`.
  """
  params = decoding_params.make(decoding.decoder.config, params)
  inputs = sampler.SamplerInputs(
    prefix=shared.prefix,
    positions=shared.positions,
    sample_ids=shared.sample_ids,
    key=key,
  )
  state = read(params, state, inputs, tokens, lengths, decoding.decoder)
  return sampler.finish(params, state, inputs, decoding)


def read(
  params: types.ArrayTree,
  state: sampler.SamplerState,
  inputs: sampler.SamplerInputs,
  tokens: types.Array,
  lengths: types.Array,
  decoder: decoder_lib.Decoder,
) -> sampler.SamplerState:
  """Appends tokens that the policy did not choose; see `go_on`.

  Their mask is born here: `mask` is True, `policy_mask` stays False, and with
  it log-probability and entropy 0. They count in the turn that reads them.
  """
  chex.assert_rank([tokens, lengths], [2, 1])
  columns = jnp.arange(tokens.shape[1])[None, :]
  resumed = lengths > 0
  own = state.length[:, None] + columns
  positions = inputs.positions[:, None] + own
  bound: Any = functools.partial(decoder.apply, {'params': params})
  # What lies behind a row's last token is overwritten before a query sees it:
  # there the tokens of padding leave their keys.
  hidden, cache = bound(
    tokens,
    positions,
    state.cache,
    state.length,
    prefix=inputs.prefix,
    method='decode',
  )
  last = jnp.maximum(lengths - 1, 0)[:, None, None]
  hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
  turn = state.turn + resumed
  old = state.completions
  end = old.tokens.shape[-1]
  rows = jnp.arange(tokens.shape[0])[:, None]
  target = jnp.where(columns < lengths[:, None], own, end)

  def put(array, value):
    return array.at[rows, target].set(value, mode='drop')

  completions = dataclasses.replace(
    old,
    tokens=put(old.tokens, tokens),
    mask=put(old.mask, True),
    positions=put(old.positions, positions),
    turn=put(old.turn, jnp.broadcast_to(turn[:, None], tokens.shape)),
    finished=old.finished & ~resumed,
  )
  return dataclasses.replace(
    state,
    hidden=jnp.where(resumed[:, None], hidden, state.hidden),
    cache=cache,
    length=state.length + lengths,
    turn=turn,
    done=state.done & ~resumed,
    completions=completions,
  )
