"""A rollout batch sampled in parts, each judged while the next is sampled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.rollout import prompts as prompts_lib
from awpo_jax.rollout import scoring
from awpo_jax.rollout.judges import judging
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import sharding


def sample(
  experiment: experiment_lib.Experiment,
  program: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
  prompts: types.Prompts,
  samples: np.ndarray,
  facts: np.ndarray,
) -> tuple[types.Completions, list[list[str]]]:
  """Completions of a rollout batch, `--rollout_chunks` parts of it in turn.

  A draw hangs on its sample's id, not on the part it is in: in parts or at once
  the answers are the same but for the rounding of another batch size.

  Args:
    experiment: the run; its judge is asked ahead where there are parts.
    program: sampler of the size of a part.
    mesh: of `sharding.data_mesh`.
    params: of the policy.
    tasks: P of them.
    prompts: theirs, all padded to one length.
    samples: i32[P, G], sample ids.
    facts: of `sampling.facts`.

  Returns:
    Completions [P, G, ..] of NumPy arrays, and their texts [P][G].
  """
  count = experiment.config.rl.rollout_chunks
  devices, judge = mesh.devices.size, experiment.judge
  ahead = count > 1 and isinstance(judge, judging.Judging)
  placed_facts = sharding.place_replicated(facts, mesh)
  size = len(tasks) // count
  parts: list[types.Completions] = []
  texts: list[list[str]] = []
  for start in range(0, len(tasks), size):
    chosen = slice(start, start + size)
    inputs = jax.tree.map(lambda x, at=chosen: x[at], (prompts, samples))
    completions = program(
      params,
      *sharding.place_split(sharding.split(inputs, devices), mesh),
      placed_facts,
    )
    parts.append(sharding.merge(jax.device_get(completions)))
    decoded = prompts_lib.decode_completions(
      experiment.tokenizer, parts[-1], experiment.stop_ids
    )
    if ahead:
      judge.begin(scoring.judge_requests(decoded, tasks[chosen]))
    texts += decoded
  whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
  return whole, texts
