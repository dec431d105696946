"""The algorithm, a step at a time: sample, score, advantages, updates.

A step of the phase `rl` samples answers (`collection/sample.py`), scores them
(`collection/score.py`), makes advantages of the scores (`update/prepare.py`)
and an update on each mini-batch (`update/train_step.py`). One of the phase
`sft` is an update on demonstrations.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from awpo_jax import types
from awpo_jax.config import algorithm
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import processes
from awpo_jax.reporting import stopwatch
from awpo_jax.rollout.text import codec as codec_lib
from awpo_jax.rollout.text import demonstrations
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.collection import dynamic_sampling, sample
from awpo_jax.training.collection import score as score_lib
from awpo_jax.training.collection import transcripts as transcripts_lib
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import options
from awpo_jax.training.update import minibatches, train_step

Step = Callable[
  [train_step.TrainState, int], tuple[train_step.TrainState, 'Report']
]


def make_collect(
  sampler: sample.RolloutSampler, programs: compile_lib.Programs
) -> sample.Collect:
  """(number of a round -> what is sampled in it, clock) -> a scored batch.

  There is one round, used as it is; with dynamic sampling there may be more.
  The clock gets the laps `sample` and `score`.

  Args:
    sampler: of the run.
    programs: whose `useful` finds the groups that have an advantage.
  """
  config, scorer, codec = sampler.config, sampler.scorer, sampler.codec

  def useful(rollout: types.Rollout):
    program = programs.useful[_lengths(rollout)]
    return jax.device_get(program(jax.device_put(rollout)))

  def collect(draw, clock):
    rounds = dynamic_sampling.Rounds(
      config.selection.sampling_rounds, useful if programs.useful else None
    )
    while not rounds.enough():
      sampled = draw(rounds.number)
      clock.lap('sample')
      rounds.add(sampled, *score_lib.score(sampled, config, scorer, codec))
      clock.lap('score')
    return rounds.collected(codec.pad_id, clock.laps['time/sample'])

  return collect


def make_rl_step(
  sampler: sample.RolloutSampler,
  programs: compile_lib.Programs,
  reference: Callable[[], types.ArrayTree] | None = None,
) -> Step:
  """A rollout batch, its rewards and advantages, and the updates on it.

  Args:
    sampler: of the run.
    programs: its programs.
    reference: what `compile.reference` gave at the start of RL; only called
      where `algorithm.has_reference`.
  """
  collect = make_collect(sampler, programs)
  dealer = minibatches.Dealer(
    sampler.config, sampler.mesh, options.make_layout(sampler.config)
  )
  referred = algorithm.has_reference(sampler.config)

  def step(state, index):
    clock = stopwatch.Clock()
    # Sample and score.
    draw = functools.partial(sampler.rollout, state.params, index)
    scored, metrics, transcripts = collect(draw, clock)
    # Advantages, and what else all updates on the batch have in common.
    shape, placed = _lengths(scored.rollout), dealer.place(scored.rollout)
    references = (reference(),) if reference and referred else ()
    prepared = programs.prepare[shape](state.params, placed, *references)
    scored = _with_logprobs(scored, dealer.fetch(prepared.trainer_logprobs))
    transcripts = transcripts_lib.with_advantages(
      transcripts, scored.rollout.prompts.ids, dealer.fetch(prepared.groups)
    )
    metrics |= _means(prepared.metrics)
    clock.lap('prepare')
    # Updates.
    updates = []
    for minibatch in dealer.cut(prepared.batch, programs.cut.get(shape)):
      state, update = programs.update['rl'][shape](state, minibatch)
      updates.append(update)
    # The next rollout needs these parameters: waiting here costs nothing and
    # makes the times true.
    jax.block_until_ready(state.params)
    clock.lap('update')
    return state, _report(scored, updates, metrics, transcripts, clock)

  return step


def make_sft_step(
  config: config_lib.Config,
  data: setup_lib.Data,
  codec: codec_lib.Codec,
  programs: compile_lib.Programs,
  mesh: jax.sharding.Mesh,
) -> Step:
  """One update on the next demonstrations."""
  size, layout = config.sft.sft_batch, options.make_layout(config)

  def step(state, index):
    started = time.perf_counter()
    order = range(index * size, (index + 1) * size)
    chosen = data.demonstrations(order)
    prompts, completions = demonstrations.batch(
      codec,
      chosen,
      order,
      prompt_buckets=config.data.prompt_buckets,
      response_buckets=config.data.response_buckets,
      overlong=config.data.overlong,
    )
    batch = minibatches.of_demonstrations(
      prompts, completions, config, mesh, layout
    )
    shape = batch.prompt_tokens.shape[-1], batch.tokens.shape[-1]
    state, metrics = programs.update['sft'][shape](state, batch)
    return state, Report(
      phase='sft',
      updates=[metrics],
      metrics={},
      ids=[item.task.task_id for item in chosen],
      transcripts=[],
      started=started,
    )

  return step


@dataclasses.dataclass(frozen=True)
class Report:
  """The results of a step; its updates may still be running.

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


def _lengths(rollout: types.Rollout) -> tuple[int, int]:
  """Lengths of prompts and responses, the key of a program."""
  return (
    rollout.prompts.tokens.shape[-1],
    rollout.completions.tokens.shape[-1],
  )


def _with_logprobs(scored: types.Scored, logprobs) -> types.Scored:
  return scored._replace(
    rollout=dataclasses.replace(scored.rollout, trainer_logprobs=logprobs)
  )


def _means(sums) -> dict[str, float | None]:
  """Means of pairs of a sum and its weight, fetched from the devices."""
  pairs = jax.device_get(sums).items()
  return {name: score_lib.mean(*pair) for name, pair in pairs}


def _report(scored, updates, metrics, transcripts, clock) -> Report:
  ids = processes.gather([task.task_id for task in scored.tasks])
  return Report(
    phase='rl',
    updates=updates,
    metrics=metrics | clock.laps | {'time/step': clock.total()},
    ids=[name for some in ids for name in some],
    transcripts=transcripts,
    started=clock.started,
    scored=scored,
  )
