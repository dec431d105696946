"""One step of a phase: `sft` on demonstrations, `rl` on rollouts."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.config import algorithm
from awpo_jax.distributed import processes, sharding
from awpo_jax.reporting import stopwatch as stopwatch_lib
from awpo_jax.rollout.text import demonstrations as demonstrations_lib
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.collection import collect as collect_lib
from awpo_jax.training.collection import score as score_lib
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import packing, train_step

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
  scored: types.Scored | None = None

  @property
  def rollout(self) -> types.Rollout | None:
    """What was sampled and scored, on the host; None for `sft`."""
    return self.scored.rollout if self.scored else None


def make_sft_step(
  experiment: setup_lib.Experiment,
  programs: compile_lib.Programs,
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
    batch = sharding.split(types.Batch.of(prompts, completions), parts)
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


def make_rl_step(
  experiment: setup_lib.Experiment,
  programs: compile_lib.Programs,
  mesh: jax.sharding.Mesh,
  reference: Callable[[], types.ArrayTree] | None = None,
  collect: Callable[..., Any] | None = None,
) -> Step:
  """A rollout batch, its rewards, and the updates on it.

  Args:
    experiment: the run.
    programs: its programs.
    mesh: see `sharding`.
    reference: what `compile.reference` gave at the start of RL; only called
      where `--kl_coef` is not 0.
    collect: `overlap.Ahead.collect`; None: a batch is sampled when its turn
      comes.
  """
  config, collect = experiment.config, collect or collect_lib._collect
  referred = algorithm.has_reference(config)
  dealt = sharding.deal(
    config.rl.prompts_per_step,
    minibatches=config.rl.minibatches,
    parts=sharding.parts(mesh),
  )[sharding.own_parts(mesh)]
  # This process has these prompts alone, in order; `dealt` counts among them.
  rows = np.sort(dealt.ravel())
  dealt = np.searchsorted(rows, dealt)

  def step(state, index):
    clock = stopwatch_lib.Clock()
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
    metrics |= {name: score_lib.mean(*pair) for name, pair in sums.items()}
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


def _shape(rollout: types.Rollout) -> tuple[int, int]:
  """Prompt and response length."""
  return (
    rollout.prompts.tokens.shape[-1],
    rollout.completions.tokens.shape[-1],
  )
