"""Answers of the policy: rollouts to train on, and those to be evaluated."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import processes, sharding
from awpo_jax.reporting import stopwatch
from awpo_jax.rollout.environments import episodes
from awpo_jax.rollout.rewards import scorer as scorer_lib
from awpo_jax.rollout.sampling import sampler
from awpo_jax.rollout.text import codec as codec_lib
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import multi_turn


class Sampled(NamedTuple):
  """Answers before they are scored.

  Attributes:
    tasks: P of them, those of this process.
    prompts: theirs, all padded to one length.
    samples: i32[P, G], sample ids.
    completions: [P, G, ..] of NumPy arrays.
    texts: [P][G], the completions decoded; with an environment the episodes.
  """

  tasks: Sequence[types.Task]
  prompts: types.Prompts
  samples: np.ndarray
  completions: types.Completions
  texts: Sequence[Sequence[Any]]


class Collected(NamedTuple):
  """A rollout batch, sampled and scored in as many rounds as it took.

  Attributes:
    scored: the batch.
    metrics: what is logged of it.
    transcripts: of its first round.
  """

  scored: types.Scored
  metrics: dict[str, Any]
  transcripts: list[dict[str, Any]]


# (number of a round -> what is sampled in it, clock) -> the rounds as a batch.
Collect: TypeAlias = Callable[
  [Callable[[int], Sampled], stopwatch.Clock], Collected
]


@dataclasses.dataclass(frozen=True)
class RolloutSampler:
  """The compiled samplers of a run with all they need but parameters.

  Attributes:
    config: of the run.
    data: its prompts.
    codec: encodes these and decodes answers.
    scorer: whose judge may begin while the rest is sampled.
    rules: how episodes are played; None where an answer is one turn.
    programs: compiled.
    mesh: see `sharding`.
  """

  config: config_lib.Config
  data: setup_lib.Data
  codec: codec_lib.Codec
  scorer: scorer_lib.Scorer
  rules: episodes.Rules | None
  programs: compile_lib.Programs
  mesh: jax.sharding.Mesh

  def rollout(
    self, params: types.ArrayTree, index: int, number: int = 0
  ) -> Sampled:
    """The answers of a step to its prompts, as many to each as flags say.

    They are sampled `--rollout_micro` prompts of a device at once. A draw hangs
    on its sample's id, not on the part it is in: in parts or at once they are
    the same but for the rounding of another batch size.

    Args:
      params: of the policy.
      index: of the step, from 0 at the first of RL.
      number: of the round of sampling in it.
    """
    tasks, prompts, samples = self.next_prompts(index, number)
    facts = sampler.facts(self.config.run.seed, 'train', index, number)
    placed = sharding.place_replicated(facts, self.mesh)
    program = self.programs.sample[prompts.tokens.shape[-1]]
    # The same number on each device of this process.
    own = len(sharding.own_parts(self.mesh))
    size = own * (self.config.rl.rollout_micro or len(tasks) // own)
    parts: list[types.Completions] = []
    texts: list[list[Any]] = []
    for start in range(0, len(tasks), size):
      at = slice(start, start + size)
      inputs = jax.tree.map(lambda x, at=at: x[at], (prompts, samples))
      completions, decoded = self._sample(
        program, params, tasks[at], inputs[0], inputs[1], placed
      )
      parts.append(completions)
      if size < len(tasks):
        self.scorer.ask_ahead(decoded, tasks[at])
      texts += decoded
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return Sampled(tasks, prompts, samples, whole, texts)

  def next_prompts(
    self, index: int, number: int = 0
  ) -> tuple[list[types.Task], types.Prompts, np.ndarray]:
    """Tasks, padded prompts and sample ids of this process.

    A step has prompts for all its rounds, used or not: what a step sees hangs
    on no other step.
    """
    config, size = self.config, self.config.rl.prompts_per_step
    first = (index * config.selection.sampling_rounds + number) * size
    order = range(first, first + size)
    tasks = self.data.tasks(order)
    prompts = self._encode(tasks, order)  # Of all: they share a bucket.
    rows = sharding.own_rows(
      size, minibatches=config.rl.minibatches, mesh=self.mesh
    )
    prompts = jax.tree.map(lambda x: x[rows], prompts)
    ids = sample_ids(prompts.ids, config.rl.samples)
    return [tasks[i] for i in rows], prompts, ids

  def answers(
    self,
    params: types.ArrayTree,
    tasks: Sequence[types.Task],
    texts: list[Any] | None = None,
  ) -> list[Any]:
    """An answer or episode of each task, `--eval_batch` at a time.

    They are added to `texts`, an empty list, as they come. With
    `--eval_temperature` the draws hang on the run's seed, on the place of the
    task and on the token alone: evaluations of one run, and those of runs of
    one seed, draw the same numbers.
    """
    size, texts = self.config.run.eval_batch, [] if texts is None else texts
    facts = sampler.facts(self.config.run.seed, 'eval', 0, 0)
    every = np.arange(size).reshape(sharding.parts(self.mesh), -1)
    rows = every[sharding.own_parts(self.mesh)].ravel()
    for start in range(0, len(tasks), size):
      chosen = list(tasks[start : start + size])
      # The last batch is filled up with its first task: one shape, one program.
      chosen += chosen[:1] * (size - len(chosen))
      prompts = self._encode(chosen, range(start, start + size))
      prompts = jax.tree.map(lambda x: x[rows], prompts)
      _, groups = self._sample(
        self.programs.evaluate[prompts.tokens.shape[-1]],
        params,
        [chosen[i] for i in rows],
        prompts,
        sample_ids(prompts.ids, 1),
        sharding.place_replicated(facts, self.mesh),
      )
      # Every process has the answers to its own tasks.
      found = [
        [int(i), group[0]] for i, group in zip(rows, groups, strict=True)
      ]
      told = dict(pair for some in processes.gather(found) for pair in some)
      texts += [told[i] for i in range(size)]
    del texts[len(tasks) :]
    return texts

  def _encode(self, tasks, ids: Sequence[int]) -> types.Prompts:
    data = self.config.data
    return self.codec.prompts(
      tasks, ids, buckets=data.prompt_buckets, overlong=data.overlong
    )

  def _sample(
    self,
    program: Any,
    params: types.ArrayTree,
    tasks: Sequence[types.Task],
    prompts: types.Prompts,
    samples: np.ndarray,
    facts: types.Array,
  ) -> tuple[types.Completions, list[list[Any]]]:
    """Completions and texts, or episodes, of as many prompts as it is for."""
    devices = len(sharding.own_parts(self.mesh))
    inputs = sharding.split((prompts, samples), devices)
    placed = (*sharding.place_split(inputs, self.mesh), facts)
    if self.rules is not None:
      return multi_turn.play(
        program, self.rules, self.mesh, params, tasks, placed
      )
    completions = program(params, *placed)
    completions = sharding.merge(sharding.fetch_split(completions))
    return completions, self.codec.decode(completions, tasks)


def sample_ids(prompt_ids: types.Array, samples: int) -> np.ndarray:
  """i32[P, G]: prompt id * G + g, unique in the run."""
  first = np.asarray(prompt_ids, np.int64)[:, None] * samples
  return (first + np.arange(samples)).astype(np.int32)
