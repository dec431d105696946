"""One step of a phase: `sft` on demonstrations, `rl` on rollouts."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.rollout import demonstrations as demonstrations_lib
from awpo_jax.rollout import prompts as prompts_lib
from awpo_jax.rollout import sampling
from awpo_jax.training import chunks, processes, scored, sharding, train_step
from awpo_jax.training import experiment as experiment_lib
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
    rollout: what was sampled and scored, on the host; None for `sft`.
  """

  phase: str
  updates: Sequence[train_step.StepMetrics]
  metrics: Mapping[str, Any]
  ids: Sequence[str]
  transcripts: Sequence[Mapping[str, Any]]
  started: float
  rollout: types.Rollout | None = None


def make_sft_step(
  experiment: experiment_lib.Experiment,
  programs: programs_lib.Programs,
  mesh: jax.sharding.Mesh,
) -> Step:
  """One update on the next demonstrations."""
  config, tokenizer = experiment.config, experiment.tokenizer
  size, micro = config.sft.sft_batch, config.sft.sft_micro
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
      overlong=_cut_or_error(config.data.overlong),
      task_ids=[item.task.task_id for item in chosen],
      reader=experiment.reader,
    )
    batch = sharding.split(_imitation(prompts, completions), parts)
    batch = jax.tree.map(lambda x: x[own], batch)
    (batch,) = sharding.cut(batch, minibatches=1, micro=micro)
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


def _cut_or_error(overlong: str) -> str:
  return 'error' if overlong == 'drop' else overlong


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
    mesh: see `sharding`.
    reference: what `programs.reference` gave at the start of RL; only called
      where `--kl_coef` is not 0.
  """
  config = experiment.config
  dealt = sharding.deal(
    config.rl.prompts_per_step,
    minibatches=config.rl.minibatches,
    parts=sharding.parts(mesh),
  )[sharding.own_parts(mesh)]
  # This process has these prompts alone, in order; `dealt` counts among them.
  rows = np.sort(dealt.ravel())
  dealt = np.searchsorted(rows, dealt)

  def step(state, index):
    started = time.perf_counter()
    clock = _Clock(started)
    every, prompts = next_prompts(experiment, index)
    tasks, prompts = (
      [every[i] for i in rows],
      jax.tree.map(lambda x: x[rows], prompts),
    )
    samples = sample_ids(prompts.ids, config.rl.samples)
    completions, texts = chunks.sample(
      experiment,
      programs.sample[prompts.tokens.shape[-1]],
      mesh,
      state.params,
      tasks,
      prompts,
      samples,
      sampling.facts(config.run.seed, 'train', index, 0),
    )
    clock.lap('sample')
    rollout, metrics, transcripts = score_rollout(
      experiment, tasks, prompts, samples, completions, texts
    )
    clock.lap('score')
    shape = prompts.tokens.shape[-1], rollout.completions.tokens.shape[-1]
    references = (reference(),) if reference and config.loss.kl_coef else ()
    prepared = programs.prepare[shape](
      state.params,
      sharding.place_split(jax.tree.map(lambda x: x[dealt], rollout), mesh),
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
    updates = []
    for part in sharding.cut(
      batch, minibatches=config.rl.minibatches, micro=config.rl.micro
    ):
      state, update = programs.update['rl'][shape](
        state, sharding.place_split(part, mesh)
      )
      updates.append(update)
    # The next rollout needs these parameters: waiting here costs nothing and
    # makes the times true.
    jax.block_until_ready(state.params)
    clock.lap('update')
    metrics |= {name: _mean(*pair) for name, pair in sums.items()}
    metrics |= clock.laps
    metrics['time/step'] = time.perf_counter() - started
    sampled = completions.policy_mask.sum() / clock.laps['time/sample']
    metrics['tokens/sampled_per_second'] = float(sampled)
    return state, Report(
      phase='rl',
      updates=updates,
      metrics=metrics,
      ids=[task.task_id for task in every],
      transcripts=transcripts,
      started=started,
      rollout=rollout,
    )

  return step


class _Clock:
  """Seconds between the parts of a step, as `time/<part>`."""

  def __init__(self, started: float):
    self._last = started
    self.laps: dict[str, float] = {}

  def lap(self, name: str) -> None:
    now = time.perf_counter()
    self.laps[f'time/{name}'] = now - self._last
    self._last = now


def _mean(total: float, count: float) -> float | None:
  return float(total) / float(count) if count else None


def next_prompts(
  experiment: experiment_lib.Experiment, index: int
) -> tuple[list[types.Task], types.Prompts]:
  """Tasks and padded prompts of a rollout batch, by its number."""
  config = experiment.config
  size = config.rl.prompts_per_step
  order = range(index * size, (index + 1) * size)
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
    overlong=_cut_or_error(data.overlong),
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
) -> tuple[types.Rollout, dict[str, Any], list[dict[str, Any]]]:
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
    The rollout, the means of the reward's parts, and transcripts.
  """
  config = experiment.config
  if texts is None:
    texts = prompts_lib.decode_completions(
      experiment.tokenizer, completions, experiment.stop_ids
    )
  rewards, parts = scored.score(experiment, texts, tasks)
  # Of every process: they run the same program, and one writes.
  told = processes.gather(
    {
      'longest': int(completions.mask.sum(axis=-1).max()),
      'parts': {name: scored.sum_and_count(x) for name, x in parts.items()},
      'transcripts': scored.transcripts(config, tasks, prompts, texts, rewards),
    }
  )
  longest = max(x['longest'] for x in told)
  width = min(x for x in config.data.response_buckets if x >= longest)
  completions = jax.tree.map(
    lambda x: x[:, :, :width] if x.ndim == 3 else x, completions
  )
  names = dict.fromkeys(name for x in told for name in x['parts'])
  metrics = {
    f'reward/{name}': _mean(
      *np.sum([x['parts'].get(name, (0, 0)) for x in told], axis=0)
    )
    for name in names
  }
  shown = [x for process in told for x in process['transcripts']]
  transcripts = [row for _, row in sorted(shown, key=lambda x: x[0])]
  rollout = types.Rollout(
    prompts=prompts,
    completions=completions,
    rewards=rewards,
    sample_ids=samples,
  )
  return rollout, metrics, transcripts


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
