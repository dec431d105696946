"""The compiled sampler of several turns, and its use on a batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.rollout import episodes, sampling, turns
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import mapping, sharding
from awpo_jax.training import shapes as shapes_lib


class TurnPrograms(NamedTuple):
  """Both over all devices; see `turns`.

  Attributes:
    begin: (params, prompts, sample ids, facts) -> (state, shared).
    go_on: (params, state, shared, facts, tokens, lengths) -> state.
  """

  begin: Callable[..., Any]
  go_on: Callable[..., Any]


def lower(
  experiment: experiment_lib.Experiment,
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
    lower: of `programs.lower_programs`.
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
    return turns.begin(
      params,
      prompts,
      sample_ids,
      sampling.fact_key(facts),
      max_tokens=config.data.response_buckets[-1],
      observation_tokens=config.environment.observation_tokens,
      pad_id=experiment.pad_id,
      **common,
    )

  def go_on(params, state, shared, facts, tokens, lengths, *, axis_name):
    del axis_name
    key = sampling.fact_key(facts)
    return turns.go_on(params, state, shared, key, tokens, lengths, **common)

  mapped = functools.partial(mapping.mapped, mesh=mesh, out_axes=0)
  return (
    mapped(begin, in_axes=(None, 0, 0, None)),
    mapped(go_on, in_axes=(None, 0, 0, None, 0, 0), donate=(1,)),
  )


def play(
  experiment: experiment_lib.Experiment,
  programs: TurnPrograms,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
  prompts: types.Prompts,
  samples: np.ndarray,
  facts: types.Array,
) -> tuple[types.Completions, list[list[episodes.Episode]]]:
  """G episodes of each task; see `episodes.play`.

  Args:
    experiment: the run, with an environment.
    programs: compiled for these shapes.
    mesh: see `sharding`.
    params: of the policy.
    tasks: P of them.
    prompts: theirs.
    samples: i32[P, G], sample ids.
    facts: placed, of `sampling.facts`.

  Returns:
    Completions [P, G, ..] of NumPy arrays, and the episodes [P][G].
  """
  devices, shape = sharding.parts(mesh), samples.shape
  shared: list[Any] = []

  def place(tree):
    return sharding.place_split(sharding.split(tree, devices), mesh)

  def begin():
    state, rest = programs.begin(params, *place((prompts, samples)), facts)
    shared.append(rest)
    return state

  def go_on(state, *read):
    return programs.go_on(params, state, shared[0], facts, *place(read))

  def rows(state):
    seen = state.completions.tokens, state.length, state.completions.finished
    return episodes.Rows(*sharding.merge(jax.device_get(seen)))

  state, played, cut = episodes.play(
    episodes.Sampler(begin, go_on, rows),
    [task for task in tasks for _ in range(shape[1])],
    experiment.episode_rules(),
  )
  got = sharding.merge(jax.device_get(state.completions))
  got = got.replace(finished=got.finished & ~cut)
  return (
    jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), got),
    [played[p * shape[1] : (p + 1) * shape[1]] for p in range(shape[0])],
  )
