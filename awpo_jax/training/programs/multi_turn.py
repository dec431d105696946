"""The compiled sampler of several turns, and its use on a batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import device_map, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.environments import episodes
from awpo_jax.rollout.sampling import decode_loop, multi_turn, sampler
from awpo_jax.training.programs import shapes as shapes_lib


class TurnPrograms(NamedTuple):
  """The two samplers of `multi_turn`, each over all devices.

  Attributes:
    begin: (params, prompts, sample ids, facts) -> (state, shared).
    go_on: (params, state, shared, facts, tokens, lengths) -> state.
  """

  begin: Callable[..., Any]
  go_on: Callable[..., Any]


def lower(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  lower: Callable[..., Any],
  arguments: Sequence[Any],
  **common: Any,
) -> TurnPrograms:
  """Both programs for one prompt length.

  Args:
    config: of the run, with an environment.
    decoder: the model.
    mesh: see `sharding`.
    params: shapes of the parameters, as they are placed.
    lower: of `compile.lower_programs`.
    arguments: of `shapes.Shapes.sampler`.
    **common: further fields of `sampler.Decoding`.
  """
  tokens = config.data.response_buckets[-1]
  decoding = sampler.Decoding(
    decoder,
    max_tokens=tokens,
    in_place=decode_loop.reads_in_place(mesh.devices.flat[0]),
    **common,
  )
  begin, go_on = _make(config, mesh, decoding)
  state, shared = jax.eval_shape(begin, params, *arguments)
  shapes = shapes_lib.Shapes(config, mesh)
  state, shared = shapes.split(state), shapes.split(shared)
  rows = state.length.shape[1]
  width = config.environment.observation_tokens
  read = shapes.array(jnp.int32, rows, width), shapes.array(jnp.int32, rows)
  return TurnPrograms(
    lower(begin, params, *arguments),
    lower(go_on, params, state, shared, arguments[-1], *read),
  )


def _make(config, mesh, decoding: sampler.Decoding):
  def begin(params, prompts, sample_ids, facts, *, axis_name):
    del axis_name  # Rows of different devices have nothing to say to another.
    return multi_turn.begin(
      params,
      prompts,
      sample_ids,
      sampler.fact_key(facts),
      decoding,
      observation_tokens=config.environment.observation_tokens,
    )

  def go_on(params, state, shared, facts, tokens, lengths, *, axis_name):
    del axis_name
    key = sampler.fact_key(facts)
    return multi_turn.go_on(
      params, state, shared, key, tokens, lengths, decoding
    )

  mapped = functools.partial(device_map.mapped, mesh=mesh, out_axes=0)
  return (
    mapped(begin, in_axes=(None, 0, 0, None)),
    mapped(go_on, in_axes=(None, 0, 0, None, 0, 0), donate=(1,)),
  )


def play(
  programs: TurnPrograms,
  rules: episodes.Rules,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
  arguments: Sequence[Any],
) -> tuple[types.Completions, list[list[episodes.Episode]]]:
  """G episodes of each task; see `episodes.play`.

  Args:
    programs: compiled for these shapes.
    rules: of the episodes.
    mesh: see `sharding`.
    params: of the policy.
    tasks: P of them.
    arguments: placed, of `shapes.Shapes.sampler`.

  Returns:
    Completions [P, G, ..] of NumPy arrays, and the episodes [P][G].
  """
  _, ids, facts = arguments
  shape = len(tasks), ids.shape[-1]
  shared: list[Any] = []

  def begin():
    state, rest = programs.begin(params, *arguments)
    shared.append(rest)
    return state

  def go_on(state, *read):
    read = sharding.split(read, sharding.parts(mesh))
    placed = sharding.place_split(read, mesh)
    return programs.go_on(params, state, shared[0], facts, *placed)

  def rows(state):
    seen = state.completions.tokens, state.length, state.completions.finished
    return episodes.Rows(*sharding.merge(jax.device_get(seen)))

  state, played, cut = episodes.play(
    episodes.Sampler(begin, go_on, rows),
    [task for task in tasks for _ in range(shape[1])],
    rules,
  )
  got = sharding.merge(jax.device_get(state.completions))
  got = got.replace(finished=got.finished & ~cut)
  return (
    jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), got),
    [played[p * shape[1] : (p + 1) * shape[1]] for p in range(shape[0])],
  )
