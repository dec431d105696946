"""The compiled sampler of several turns, and its use on a batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.distributed import device_map
from awpo_jax.rollout.sampling import multi_turn, sampler
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.programs import shapes as shapes_lib


class TurnPrograms(NamedTuple):
  """Both over all devices; see `turns`.

  Attributes:
    begin: (params, prompts, sample ids, facts) -> (state, shared).
    go_on: (params, state, shared, facts, tokens, lengths) -> state.
  """

  begin: Callable[..., Any]
  go_on: Callable[..., Any]


def lower(
  experiment: setup_lib.Experiment,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  lower: Callable[..., Any],
  arguments: Sequence[Any],
  *,
  temperature: float,
) -> TurnPrograms:
  """Both programs for one prompt length.

  Args:
    experiment: the run, with an environment.
    mesh: see `sharding`.
    params: shapes of the parameters, as they are placed.
    lower: of `compile.lower_programs`.
    arguments: of `shapes.Shapes.sampler`.
    temperature: of the sampler.
  """
  begin, go_on = _make(experiment, mesh, temperature=temperature)
  state, shared = jax.eval_shape(begin, params, *arguments)
  shapes = shapes_lib.Shapes(experiment.config, mesh)
  state, shared = shapes.split(state), shapes.split(shared)
  rows = state.length.shape[1]
  width = experiment.config.environment.observation_tokens
  read = shapes.array(jnp.int32, rows, width), shapes.array(jnp.int32, rows)
  return TurnPrograms(
    lower(begin, params, *arguments),
    lower(go_on, params, state, shared, arguments[-1], *read),
  )


def _make(experiment, mesh, *, temperature: float):
  config = experiment.config
  common = {
    'decoder': experiment.decoder,
    'stop_ids': experiment.stop_ids,
    'temperature': temperature,
  }

  def begin(params, prompts, sample_ids, facts, *, axis_name):
    del axis_name  # Rows of different devices have nothing to say to another.
    return multi_turn.begin(
      params,
      prompts,
      sample_ids,
      sampler.fact_key(facts),
      max_tokens=config.data.response_buckets[-1],
      observation_tokens=config.environment.observation_tokens,
      pad_id=experiment.pad_id,
      **common,
    )

  def go_on(params, state, shared, facts, tokens, lengths, *, axis_name):
    del axis_name
    key = sampler.fact_key(facts)
    return multi_turn.go_on(
      params, state, shared, key, tokens, lengths, **common
    )

  mapped = functools.partial(device_map.mapped, mesh=mesh, out_axes=0)
  return (
    mapped(begin, in_axes=(None, 0, 0, None)),
    mapped(go_on, in_axes=(None, 0, 0, None, 0, 0), donate=(1,)),
  )
