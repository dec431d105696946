"""The files of a run: where it starts from, its metrics, its checkpoints."""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax

from awpo_jax.checkpointing import checkpoints, initial_params
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import device_checks, processes, sharding
from awpo_jax.models import config as model_config
from awpo_jax.reporting import metrics as metrics_lib
from awpo_jax.reporting import progress as progress_lib
from awpo_jax.reporting import rollout_archive
from awpo_jax.rollout import messages
from awpo_jax.training import steps as steps_lib
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import shapes
from awpo_jax.training.update import divergence, optimizer, train_step


def phase_of(config: config_lib.Config, step: int) -> str:
  """The phase that step `step` (from 1) belongs to."""
  return 'sft' if step <= config.run.sft_steps else 'rl'


def make_manager(config: config_lib.Config) -> checkpoints.Manager:
  """Of the run's own checkpoints."""
  run = config.run
  return checkpoints.make_manager(
    pathlib.Path(run.output_dir) / checkpoints.RUN_SUBFOLDER,
    keep=run.keep_checkpoints,
    best_metric=run.best_metric or None,
    keep_steps=(run.sft_steps,),
  )


class Book:
  """The files of a run.

  Attributes:
    reference: what the KL term refers to; None before RL, or without one.
    last_saved: step of the last checkpoint; None before the first.
    clock: `time.perf_counter()` up to which seconds are counted.
    elapsed: seconds of the run up to then, also of processes before this one.
    once: goes into the next line alone.
    log, archive, bar: while they are `opened`.
  """

  def __init__(
    self,
    config: config_lib.Config,
    manager: checkpoints.Manager,
    keep_folder: Callable[[], None],
    started: float,
  ) -> None:
    """Nothing is read or written yet.

    Args:
      config: of the run.
      manager: of its checkpoints.
      keep_folder: called when the folder holds something worth it.
      started: `time.perf_counter()` from when on seconds count.
    """
    self._config, self._manager = config, manager
    self.keep_folder = keep_folder
    self._optimizers = optimizer.make_optimizers(config)
    self._schedules = optimizer.make_schedules(config)
    self.reference: Any = None
    self.last_saved: int | None = None
    self.elapsed = 0.0
    self.clock = self._fetched = started
    self.once: dict[str, float] = {}

  def start(
    self, model: model_config.DecoderConfig, mesh: jax.sharding.Mesh
  ) -> tuple[int, train_step.TrainState]:
    """The last checkpoint's state, or a new one; placed on the devices.

    Raises:
      ConfigError: the devices cannot hold the model.
      CheckpointError: what there is does not fit it.
    """
    config = self._config
    problems = list(
      device_checks.check_model(model, initial_params.param_shapes(model), mesh)
    )
    if problems:
      raise flags_lib.ConfigError('\n'.join(problems))
    step = self._manager.latest_step()
    # A run without steps has no phase.
    phase = phase_of(config, step or 1)
    tx = self._optimizers.get(phase, optax.identity())
    if step is None:
      source = config.run.init_from or config.model.model
      with (
        initial_params.refusing(*initial_params.ABSENT),
        processes.working(lambda: f'Initial weights of {source}'),
      ):
        params = initial_params.new_params(config, model, mesh)
      init = compile_lib.make_init(mesh, tx)
      return 0, init(sharding.place_state(params, mesh))
    state = jax.eval_shape(
      lambda p: train_step.init_state(p, tx), initial_params.param_shapes(model)
    )
    example = shapes.Shapes(config, mesh).like(state)
    with processes.working(lambda: f'Loading the checkpoint of step {step}'):
      state, position, _ = checkpoints.restore_checkpoint(
        self._manager, example
      )
    self.elapsed, self.last_saved = position['elapsed'], step
    self.reference = initial_params.restore_reference(
      self._manager, config, step, example.params
    )
    return step, state

  @contextlib.contextmanager
  def opened(self, step: int) -> Iterator[None]:
    """Opens the files for the block, cut to what stands before a step."""
    run, first = self._config.run, processes.is_first()
    total = run.sft_steps + run.rl_steps
    with (
      metrics_lib.MetricsLog(
        run.output_dir,
        resume_step=step,
        chat=messages.chat,
        wandb_project=run.wandb_project or None,
        trackio_project=run.trackio_project or None,
      )
      if first
      else metrics_lib.NoLog() as self.log,
      rollout_archive.writing(self._config, step) as self.archive,
      contextlib.closing(
        progress_lib.Progress(total, step, silent=not first)
      ) as self.bar,
    ):
      yield

  def warm_up(self) -> None:
    """Compiles the few operations that lines are made with."""
    for schedule in self._schedules.values():
      schedule(0)

  def metrics(self, step: int, report: steps_lib.Report) -> dict[str, Any]:
    """The updates' numbers, fetched.

    Raises:
      NonFiniteError, ReplicaError: the run cannot go on with them.
    """
    updates = jax.device_get(report.updates)
    # Its data was prepared while the step before still ran, which lasted until
    # it was fetched; unless the loop paused in between.
    begun = max(report.started, self._fetched)
    self._fetched = time.perf_counter()
    divergence.check(step, report.phase, report.ids, updates, self._good)
    metrics = {'phase': report.phase, **train_step.update_metrics(updates)}
    count = int(updates[-1].updates) - 1
    with jax.transfer_guard('allow'):
      metrics['learning_rate'] = float(self._schedules[report.phase](count))
    metrics['time/step'] = self._fetched - begun
    return {**metrics, **report.metrics}

  def write(
    self, step: int, report: steps_lib.Report, metrics: Mapping[str, Any]
  ) -> None:
    """Writes a step: its line, its transcripts, its rollout."""
    self.log.write_transcripts(step, report.transcripts)
    if self.archive is not None and report.scored is not None:
      self.archive.append(step, report.scored)
    self.line(step, metrics)
    self.keep_folder()
    self.bar.update(
      step, progress_lib.headline(metrics), seconds=metrics['time/step']
    )

  def line(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes a line; the first one also has the seconds of the start."""
    now = time.perf_counter()
    self.elapsed += now - self.clock
    self.clock = now
    times = {'time/elapsed': self.elapsed, **self.once}
    self.once = {}
    count = compile_lib.compile_count()
    self.log.write(step, {**metrics, **times, 'compile/count': count})

  def save(
    self,
    state: train_step.TrainState,
    step: int,
    evaluated: Mapping[str, Any] | None = None,
  ) -> None:
    """Saves the state after a step, with what it was evaluated to."""
    metrics = {
      k: v
      for k, v in (evaluated or {}).items()
      if v is not None and math.isfinite(v)
    }
    phase = phase_of(self._config, step or 1)
    checkpoints.save_checkpoint(
      self._manager,
      step,
      state,
      position={'phase': phase, 'elapsed': self.elapsed},
      flags=config_lib.to_json(self._config),
      metrics=metrics,
    )
    self.last_saved = step

  def finish(self) -> None:
    """Waits until everything is on the disk."""
    self._manager.wait_until_finished()

  def _good(self) -> str:
    """The last good checkpoint, as text."""
    if self.last_saved is None:
      return 'none'
    self._manager.wait_until_finished()
    folder = pathlib.Path(self._config.run.output_dir)
    return str(folder / checkpoints.RUN_SUBFOLDER / str(self.last_saved))
