"""One step of a phase: `sft` on demonstrations, `rl` on rollouts."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import config_objective, types
from awpo_jax.rollout import demonstrations as demonstrations_lib
from awpo_jax.rollout import prompts as prompts_lib
from awpo_jax.rollout import sampling
from awpo_jax.training import (
  chunks,
  filling,
  packing,
  processes,
  rounds,
  sharding,
  train_step,
)
from awpo_jax.training import clock as clock_lib
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import programs as programs_lib
from awpo_jax.training import scored as scored_lib

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
  size = config.sft.sft_batch
  shown = experiment.dataset.demonstrations
  parts, own = sharding.parts(mesh), sharding.own_parts(mesh)

  def step(state, index):
    started = time.perf_counter()
    order = range(index * size, (index + 1) * size)
    chosen = [shown[experiment.demonstration_order[i]] for i in order]
    prompts, completions = demonstrations_lib.demonstration_batch(
      tokenizer,
      [experiment.encode_prompt(item.task) for item in chosen],
      chosen,
      list(order),
      prompt_buckets=config.data.prompt_buckets,
      response_buckets=config.data.response_buckets,
      pad_id=experiment.pad_id,
      stop_ids=experiment.stop_ids,
      overlong=config.data.overlong,
      task_ids=[item.task.task_id for item in chosen],
      reader=experiment.reader,
      opened=experiment.opened([item.task for item in chosen]),
    )
    batch = sharding.split(_imitation(prompts, completions), parts)
    batch = jax.tree.map(lambda x: x[own], batch)
    (batch,) = packing.cut(batch, config, 'sft')
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
  collect: Callable[..., Any] | None = None,
) -> Step:
  """A rollout batch, its rewards, and the updates on it.

  Args:
    experiment: the run.
    programs: its programs.
    mesh: see `sharding`.
    reference: what `programs.reference` gave at the start of RL; only called
      where `--kl_coef` is not 0.
    collect: `overlap.Ahead.collect`; None: a batch is sampled when its turn
      comes.
  """
  config, collect = experiment.config, collect or _collect
  referred = config_objective.has_reference(config)
  dealt = sharding.deal(
    config.rl.prompts_per_step,
    minibatches=config.rl.minibatches,
    parts=sharding.parts(mesh),
  )[sharding.own_parts(mesh)]
  # This process has these prompts alone, in order; `dealt` counts among them.
  rows = np.sort(dealt.ravel())
  dealt = np.searchsorted(rows, dealt)

  def step(state, index):
    clock = clock_lib.Clock()
    scored, metrics, transcripts = collect(
      experiment, programs, mesh, state.params, index, rows, clock
    )
    rollout = scored.rollout
    shape = _shape(rollout)
    references = (reference(),) if reference and referred else ()
    prepared = programs.prepare[shape](
      state.params,
      sharding.place_split(
        packing.read(jax.tree.map(lambda x: x[dealt], rollout), config), mesh
      ),
      *references,
    )
    batch, trainer_logprobs = sharding.fetch_split(
      (prepared.batch, prepared.trainer_logprobs)
    )
    sums = jax.device_get(prepared.metrics)
    rollout = dataclasses.replace(
      rollout, trainer_logprobs=sharding.collect(trainer_logprobs, dealt)
    )
    clock.lap('prepare')
    state, updates = _update(
      programs.update['rl'][shape], state, batch, config, mesh
    )
    clock.lap('update')
    metrics |= {name: scored_lib.mean(*pair) for name, pair in sums.items()}
    ids = processes.gather([task.task_id for task in scored.tasks])
    return state, Report(
      phase='rl',
      updates=updates,
      metrics=metrics | clock.laps | {'time/step': clock.total()},
      ids=[name for some in ids for name in some],
      transcripts=transcripts,
      started=clock.started,
      scored=scored._replace(rollout=rollout),
    )

  return step


def _update(program, state, batch, config, mesh):
  """An update on each mini-batch of a prepared rollout batch."""
  updates = []
  for part in packing.cut(batch, config, 'rl'):
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
  rows: np.ndarray,
  clock: clock_lib.Clock,
) -> rounds.Collected:
  """A rollout batch of prompts `rows`, those of this process."""

  def useful(rollout: types.Rollout) -> np.ndarray:
    return programs.useful[_shape(rollout)](rollout)

  return rounds.collect(
    experiment,
    lambda number: draw(
      experiment, programs, mesh, params, index, rows, number
    ),
    score_rollout,
    clock,
    useful if programs.useful else None,
  )


def _shape(rollout: types.Rollout) -> tuple[int, int]:
  """Prompt and response length."""
  return (
    rollout.prompts.tokens.shape[-1],
    rollout.completions.tokens.shape[-1],
  )


def draw(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  index: int,
  rows: np.ndarray,
  number: int = 0,
) -> rounds.Sampled:
  """Samples a round of the rollout batch of a step."""
  tasks, prompts = next_prompts(experiment, index, number)
  tasks = [tasks[i] for i in rows]
  prompts = jax.tree.map(lambda x: x[rows], prompts)
  samples = sample_ids(prompts.ids, experiment.config.rl.samples)
  completions, texts = chunks.sample(
    experiment,
    programs.sample[prompts.tokens.shape[-1]],
    mesh,
    params,
    tasks,
    prompts,
    samples,
    sampling.facts(experiment.config.run.seed, 'train', index, number),
  )
  return rounds.Sampled(tasks, prompts, samples, completions, texts)


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
  texts: Sequence[Sequence[Any]] | None = None,
) -> tuple[filling.Scored, list[dict[str, Any]]]:
  """Rewards of a rollout batch, cut to the response bucket it needs.

  Args:
    experiment: the run.
    tasks: P of them.
    prompts: theirs.
    samples: i32[P, G], sample ids.
    completions: of the sampler.
    texts: the completions decoded, or their episodes, [P][G]; None: to be
      decoded here.

  Returns:
    The batch, and transcripts.
  """
  config = experiment.config
  if texts is None:
    texts = prompts_lib.decode_completions(
      experiment.tokenizer,
      completions,
      experiment.stop_ids,
      experiment.opened(tasks),
    )
  rewards, parts, lost = scored_lib.score(experiment, texts, tasks)
  # Of every process: they run the same program, and one writes.
  told = processes.gather(
    {
      'longest': int(completions.mask.sum(axis=-1).max()),
      'transcripts': scored_lib.transcripts(
        config, tasks, prompts, texts, rewards, parts['solved']
      ),
    }
  )
  longest = max(x['longest'] for x in told)
  width = min(x for x in config.data.response_buckets if x >= longest)
  completions = jax.tree.map(
    lambda x: x[:, :, :width] if x.ndim == 3 else x, completions
  )
  shown = [x for process in told for x in process['transcripts']]
  transcripts = [row for _, row in sorted(shown, key=lambda x: x[0])]
  rollout = types.Rollout(
    prompts=prompts,
    completions=completions,
    rewards=rewards,
    sample_ids=samples,
    thinking=scored_lib.thinking_of(experiment, tasks, completions),
  )
  return filling.Scored(tasks, rollout, parts, lost), transcripts


def answer(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  mesh: jax.sharding.Mesh,
  params: types.ArrayTree,
  tasks: Sequence[types.Task],
) -> list[Any]:
  """A greedy answer or episode of each task, `--eval_batch` at a time."""
  size, texts = experiment.config.run.eval_batch, []
  every = np.arange(size).reshape(sharding.parts(mesh), -1)
  rows = every[sharding.own_parts(mesh)].ravel()
  for start in range(0, len(tasks), size):
    chosen = list(tasks[start : start + size])
    # The last batch is filled up with its first task: one shape, one program.
    chosen += chosen[:1] * (size - len(chosen))
    prompts = encode_batch(experiment, chosen, list(range(size)))
    prompts = jax.tree.map(lambda x: x[rows], prompts)
    _, groups = chunks.sample_part(
      experiment,
      programs.evaluate[prompts.tokens.shape[-1]],
      mesh,
      params,
      [chosen[i] for i in rows],
      prompts,
      sample_ids(prompts.ids, 1),
      sharding.place_replicated(sampling.facts(0, 'eval', 0, 0), mesh),
    )
    # Every process has the answers to its own tasks.
    found = [[int(i), group[0]] for i, group in zip(rows, groups, strict=True)]
    told = dict(pair for some in processes.gather(found) for pair in some)
    texts += [told[i] for i in range(size)]
  return texts[: len(tasks)]
