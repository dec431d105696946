"""One step of a phase: `sft` on demonstrations, `rl` on rollouts."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import config_objective, types
from awpo_jax.ops import algorithms
from awpo_jax.rollout import prompts as prompts_lib
from awpo_jax.rollout import sampling, scoring, thinking
from awpo_jax.training import clock as clock_lib
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import filling, sharding, train_step
from awpo_jax.training import programs as programs_lib

Step = Callable[
  [train_step.TrainState, int], tuple[train_step.TrainState, 'Report']
]


@dataclasses.dataclass(frozen=True)
class Report:
  """What a step leaves to be written, its updates perhaps still running.

  Attributes:
    phase: `sft` or `rl`.
    updates: metrics of its updates, on the devices.
    metrics: numbers already on the host.
    ids: the prompts of the step, for a message.
    transcripts: rows for the transcripts file.
    started: `time.perf_counter()` at the start of the step.
    scored: the rollout batch of the phase `rl`.
  """

  phase: str
  updates: Sequence[train_step.StepMetrics]
  metrics: Mapping[str, Any]
  ids: Sequence[str]
  transcripts: Sequence[Mapping[str, Any]]
  started: float
  scored: filling.Scored | None = None

  @property
  def rollout(self) -> types.Rollout | None:
    """What was sampled and scored, on the host; None for `sft`."""
    return self.scored.rollout if self.scored else None


def make_sft_step(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  mesh: jax.sharding.Mesh,
) -> Step:
  """One update on the next demonstrations."""
  config, tokenizer = experiment.config, experiment.tokenizer
  size, micro = config.sft.sft_batch, config.sft.sft_micro
  demonstrations = experiment.dataset.demonstrations

  def step(state, index):
    started = time.perf_counter()
    order = range(index * size, (index + 1) * size)
    chosen = [demonstrations[experiment.demonstration_order[i]] for i in order]
    prompts, completions = prompts_lib.demonstration_batch(
      tokenizer,
      [experiment.encode_prompt(item.task) for item in chosen],
      [item.response for item in chosen],
      list(order),
      prompt_buckets=config.data.prompt_buckets,
      response_buckets=config.data.response_buckets,
      pad_id=experiment.pad_id,
      stop_ids=experiment.stop_ids,
      overlong=config.data.overlong,
      task_ids=[item.task.task_id for item in chosen],
    )
    batch = _imitation(prompts, completions)
    (batch,) = sharding.cut(
      batch, minibatches=1, devices=mesh.devices.size, micro=micro
    )
    update = programs.update['sft'][_lengths(batch)]
    state, metrics = update(state, sharding.place_split(batch, mesh))
    return state, Report(
      phase='sft',
      updates=[metrics],
      metrics={},
      ids=[item.task.task_id for item in chosen],
      transcripts=[],
      started=started,
    )

  return step


def _lengths(batch: types.Batch) -> tuple[int, int]:
  return batch.prompt_tokens.shape[-1], batch.tokens.shape[-1]


def _imitation(
  prompts: types.Prompts, completions: types.Completions
) -> types.Batch:
  """Demonstrations as a batch: all valid, no advantage, no ratio."""
  groups = completions.tokens.shape[:2]
  return types.Batch(
    prompt_tokens=prompts.tokens,
    prompt_mask=prompts.mask,
    tokens=completions.tokens,
    mask=completions.mask,
    positions=completions.positions,
    policy_mask=completions.policy_mask,
    valid=np.ones(groups, bool),
    old_logprobs=completions.logprobs,
    advantages=np.zeros(groups, np.float32),
    clip_radius=np.zeros(groups[:1], np.float32),
  )


def make_rl_step(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  mesh: jax.sharding.Mesh,
  reference: Callable[[], types.ArrayTree] | None = None,
) -> Step:
  """A rollout batch, its rewards, and the updates on it.

  Args:
    experiment: the run.
    programs: its programs.
    mesh: of `sharding.data_mesh`.
    reference: what `programs.reference` gave at the start of RL; only called
      where `--kl_coef` is not 0.
  """
  config, devices = experiment.config, mesh.devices.size
  referred = config_objective.has_reference(config)

  def step(state, index):
    clock = clock_lib.Clock()
    scored, metrics, transcripts = _collect(
      experiment, programs, mesh, state.params, index, clock
    )
    rollout = scored.rollout
    shape = (
      rollout.prompts.tokens.shape[-1],
      rollout.completions.tokens.shape[-1],
    )
    references = (reference(),) if reference and referred else ()
    prepared = programs.prepare[shape](
      state.params,
      sharding.place_split(sharding.split(rollout, devices), mesh),
      *references,
    )
    prepared = jax.device_get(prepared)
    rollout = dataclasses.replace(
      rollout, trainer_logprobs=sharding.merge(prepared.trainer_logprobs)
    )
    clock.lap('prepare')
    state, updates = _update(
      programs.update['rl'][shape],
      state,
      sharding.merge(prepared.batch),
      config,
      mesh,
    )
    clock.lap('update')
    metrics |= {name: _mean(*pair) for name, pair in prepared.metrics.items()}
    return state, Report(
      phase='rl',
      updates=updates,
      metrics=metrics | clock.laps | {'time/step': clock.total()},
      ids=[task.task_id for task in scored.tasks],
      transcripts=transcripts,
      started=clock.started,
      scored=scored._replace(rollout=rollout),
    )

  return step


def _update(program, state, batch, config, mesh):
  """An update on each mini-batch of a prepared rollout batch."""
  updates = []
  for part in sharding.cut(
    batch,
    minibatches=config.rl.minibatches,
    devices=mesh.devices.size,
    micro=config.rl.micro,
  ):
    state, update = program(state, sharding.place_split(part, mesh))
    updates.append(update)
  # The next rollout needs these parameters: waiting here costs nothing and
  # makes the times true.
  jax.block_until_ready(state.params)
  return state, updates


def _collect(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  index: int,
  clock: clock_lib.Clock,
) -> tuple[filling.Scored, dict[str, Any], list[dict[str, Any]]]:
  """Samples and scores a rollout batch, in as many rounds as it takes.

  Returns:
    The batch, its metrics, and transcripts of the first round.
  """
  config = experiment.config
  judged = algorithms.reads_reasoning(
    advantage=config.advantage.advantage, gate=config.advantage.gate
  )
  rounds: list[filling.Scored] = []
  useful: list[np.ndarray] = []
  transcripts: list[dict[str, Any]] = []
  sampled = 0
  for number in range(config.selection.sampling_rounds):
    tasks, prompts = next_prompts(experiment, index, number)
    samples = sample_ids(prompts.ids, config.rl.samples)
    completions = _sample(
      experiment, programs, mesh, params, prompts, samples, (index, number)
    )
    sampled += int(completions.policy_mask.sum())
    clock.lap('sample')
    scored, rows = score_rollout(
      experiment, tasks, prompts, samples, completions
    )
    transcripts = transcripts or rows
    rounds.append(scored)
    useful.append(filling.differs(scored.rollout.rewards, judged=judged))
    clock.lap('score')
    if sum(map(np.sum, useful)) >= len(tasks):
      break
  filled = filling.fill(rounds, useful, pad_id=experiment.pad_id)
  metrics = part_means(filled.parts)
  metrics['selection/rounds'] = len(rounds)
  metrics['selection/differs'] = float(np.mean(np.concatenate(useful)))
  rate = sampled / clock.laps['time/sample']
  return filled, metrics | {'tokens/sampled_per_second': rate}, transcripts


def _sample(experiment, programs, mesh, params, prompts, samples, numbers):
  """Completions of prompts, on the host; `numbers` are step and round."""
  seed = experiment.config.run.seed
  inputs = sharding.split((prompts, samples), mesh.devices.size)
  completions = programs.sample[prompts.tokens.shape[-1]](
    params,
    *sharding.place_split(inputs, mesh),
    sharding.place_replicated(sampling.facts(seed, 'train', *numbers), mesh),
  )
  return sharding.merge(jax.device_get(completions))


def _mean(total: float, count: float) -> float | None:
  return float(total) / float(count) if count else None


def next_prompts(
  experiment: experiment_lib.Experiment, index: int, number: int = 0
) -> tuple[list[types.Task], types.Prompts]:
  """Tasks and padded prompts of a rollout batch, by step and round.

  A step has prompts for all its rounds, used or not: what a step sees hangs on
  no other step.
  """
  config = experiment.config
  size = config.rl.prompts_per_step
  first = (index * config.selection.sampling_rounds + number) * size
  order = range(first, first + size)
  tasks = [experiment.dataset.train[experiment.prompt_order[i]] for i in order]
  return tasks, encode_batch(experiment, tasks, list(order))


def encode_batch(
  experiment: experiment_lib.Experiment,
  tasks: Sequence[types.Task],
  ids: Sequence[int],
) -> types.Prompts:
  """Prompts of tasks, padded to a bucket."""
  data = experiment.config.data
  return prompts_lib.prompt_batch(
    [experiment.encode_prompt(task) for task in tasks],
    ids,
    buckets=data.prompt_buckets,
    pad_id=experiment.pad_id,
    overlong=data.overlong,
    task_ids=[task.task_id for task in tasks],
  )


def sample_ids(prompt_ids: types.Array, samples: int) -> np.ndarray:
  """i32[P, G]: prompt id * G + g, unique in the run."""
  first = np.asarray(prompt_ids, np.int64)[:, None] * samples
  return (first + np.arange(samples)).astype(np.int32)


def score_rollout(
  experiment: experiment_lib.Experiment,
  tasks: Sequence[types.Task],
  prompts: types.Prompts,
  samples: np.ndarray,
  completions: types.Completions,
) -> tuple[filling.Scored, list[dict[str, Any]]]:
  """Rewards of a rollout batch, cut to the response bucket it needs.

  Returns:
    The batch, and transcripts.
  """
  texts = prompts_lib.decode_completions(
    experiment.tokenizer, completions, experiment.stop_ids
  )
  rewards, parts = scoring.score(
    texts, tasks, reward=experiment.reward, judge=experiment.judge
  )
  longest = int(completions.mask.sum(axis=-1).max())
  width = min(
    x for x in experiment.config.data.response_buckets if x >= longest
  )
  completions = jax.tree.map(
    lambda x: x[:, :, :width] if x.ndim == 3 else x, completions
  )
  transcripts = [
    {
      'task_id': task.task_id,
      'user': task.user,
      'ground_truth': task.ground_truth,
      'response': texts[p][g],
      'outcome': _or_none(rewards.outcome, rewards.outcome_valid, p, g),
      'reasoning': _or_none(rewards.reasoning, rewards.reasoning_valid, p, g),
    }
    for p, task in enumerate(tasks[: experiment.config.run.transcripts])
    for g in range(len(texts[p]))
  ]
  rollout = types.Rollout(
    prompts=prompts,
    completions=completions,
    rewards=rewards,
    sample_ids=samples,
    thinking=_thinking(experiment, completions),
  )
  return filling.Scored(tasks, rollout, parts), transcripts


def _thinking(experiment, completions) -> np.ndarray | None:
  """Tokens of the chain of thought, where the algorithm asks for them."""
  if experiment.config.shaping.shaper != 'egpo':
    return None
  return thinking.thinking_mask(experiment.tokenizer, completions)


def part_means(parts: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Mean of each part of the outcome, where it was had, as `reward/<part>`."""
  return {f'reward/{name}': _finite_mean(x) for name, x in parts.items()}


def _finite_mean(values: np.ndarray) -> float | None:
  had = values[np.isfinite(values)]
  return float(had.mean()) if had.size else None


def _or_none(values, valid, p: int, g: int) -> float | None:
  return float(values[p, g]) if valid[p, g] else None


def answer(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
) -> list[str]:
  """The greedy answer to each task, `--eval_batch` at a time."""
  size, texts = experiment.config.run.eval_batch, []
  for start in range(0, len(tasks), size):
    chosen = list(tasks[start : start + size])
    # The last batch is filled up with its first task: one shape, one program.
    chosen += chosen[:1] * (size - len(chosen))
    prompts = encode_batch(experiment, chosen, list(range(size)))
    inputs = sharding.split(
      (prompts, sample_ids(prompts.ids, 1)), mesh.devices.size
    )
    completions = programs.evaluate[prompts.tokens.shape[-1]](
      params,
      *sharding.place_split(inputs, mesh),
      sharding.place_replicated(sampling.facts(0, 'eval', 0, 0), mesh),
    )
    completions = sharding.merge(jax.device_get(completions))
    texts += [
      group[0]
      for group in prompts_lib.decode_completions(
        experiment.tokenizer, completions, experiment.stop_ids
      )
    ]
  return texts[: len(tasks)]
