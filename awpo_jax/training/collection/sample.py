"""A rollout batch sampled in chunks, each judged while the next is sampled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.distributed import sharding
from awpo_jax.rollout.environments import episodes
from awpo_jax.rollout.rewards import scoring
from awpo_jax.rollout.rewards.judges import patient
from awpo_jax.rollout.text import prompts as prompts_lib
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.programs import multi_turn


def sample(
  experiment: setup_lib.Experiment,
  program: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
  prompts: types.Prompts,
  samples: np.ndarray,
  facts: np.ndarray,
) -> tuple[types.Completions, list[list[Any]]]:
  """Completions of a rollout batch, `--rollout_micro` of a device at once.

  A draw hangs on its sample's id, not on the part it is in: in parts or at once
  the answers are the same but for the rounding of another batch size.

  Args:
    experiment: the run; its judge is asked ahead where there are parts.
    program: sampler of the size of a part.
    mesh: see `sharding`.
    params: of the policy.
    tasks: P of them, those of this process.
    prompts: theirs, all padded to one length.
    samples: i32[P, G], sample ids.
    facts: of `sampler.facts`.

  Returns:
    Completions [P, G, ..] of NumPy arrays, and their texts [P][G]; with an
    environment episodes.
  """
  own, judge = len(sharding.own_parts(mesh)), experiment.judge
  placed_facts = sharding.place_replicated(facts, mesh)
  # The same number on each device of this process.
  size = own * (experiment.config.rl.rollout_micro or len(tasks) // own)
  ahead = None
  if size < len(tasks) and isinstance(judge, patient.Judging):
    ahead = judge
  parts: list[types.Completions] = []
  texts: list[list[Any]] = []
  for start in range(0, len(tasks), size):
    chosen = slice(start, start + size)
    inputs = jax.tree.map(lambda x, at=chosen: x[at], (prompts, samples))
    completions, decoded = sample_part(
      experiment,
      program,
      mesh,
      params,
      tasks[chosen],
      inputs[0],
      inputs[1],
      placed_facts,
    )
    parts.append(completions)
    if ahead is not None:
      ahead.begin(scoring.judge_requests(decoded, tasks[chosen]))
    texts += decoded
  whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
  return whole, texts


def sample_part(
  experiment: setup_lib.Experiment,
  program: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
  prompts: types.Prompts,
  samples: np.ndarray,
  facts: types.Array,
) -> tuple[types.Completions, list[list[Any]]]:
  """Completions and texts, or episodes, of as many prompts as `program` has.

  Arguments and results as of `sample`, but that `facts` are placed.
  """
  if isinstance(program, multi_turn.TurnPrograms):
    return play(
      experiment, program, mesh, params, tasks, prompts, samples, facts
    )
  inputs = sharding.split((prompts, samples), len(sharding.own_parts(mesh)))
  completions = program(params, *sharding.place_split(inputs, mesh), facts)
  completions = sharding.merge(sharding.fetch_split(completions))
  return completions, prompts_lib.decode_completions(
    experiment.tokenizer,
    completions,
    experiment.stop_ids,
    experiment.opened(tasks),
  )


def play(
  experiment: setup_lib.Experiment,
  programs: multi_turn.TurnPrograms,
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
    facts: placed, of `sampler.facts`.

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
