"""The loop of a run: steps, evaluations, checkpoints, and how it ends."""

import contextlib
import dataclasses
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax

from awpo_jax import types
from awpo_jax.checkpointing import checkpoints, initial_params, run_folder
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import device_checks, processes, sharding
from awpo_jax.reporting import metrics as metrics_lib
from awpo_jax.reporting import profiler, rollout_archive
from awpo_jax.reporting import progress as progress_lib
from awpo_jax.rollout.rewards.judges import patient
from awpo_jax.training import divergence, held_out, idle, judge, signals
from awpo_jax.training import setup as setup_lib
from awpo_jax.training import steps as steps_lib
from awpo_jax.training.collection import prefetch
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import shapes
from awpo_jax.training.update import optimizer, train_step


def train(
  config: config_lib.Config, *, started: float | None = None
) -> float | None:
  """Runs an experiment to its end, or on from its last checkpoint.

  Args:
    config: checked.
    started: `time.perf_counter()` from when on the run's seconds count, e.g.
      before the imports; now, if None.

  Returns:
    `time.perf_counter()` up to which they are counted in the last line of
    metrics; None where the run had ended before.

  Raises:
    ConfigError: flags contradict the devices or the run in `--output_dir`, or
      name what is not there.
    CheckpointError: `--init_from` or the run's own checkpoint does not fit.
    faults.NonFiniteError, faults.ReplicaError: the run cannot go on.
    signals.Stopped: after SIGTERM or SIGINT, where reward or judge cannot be
      had, and after some steps without a valid answer; everything is saved.
  """
  started = time.perf_counter() if started is None else started
  folder = pathlib.Path(config.run.output_dir)
  if config.devices.cpu_devices > 1:
    jax.config.update('jax_num_cpu_devices', config.devices.cpu_devices)
  processes.join(config.devices)
  mesh = sharding.make_mesh(config.devices)
  problems = list(device_checks.check_devices(config, sharding.parts(mesh)))
  if problems:
    raise flags_lib.ConfigError('\n'.join(problems))
  if config.run.wandb_project:
    with initial_params.refusing(ModuleNotFoundError):
      metrics_lib.import_wandb(config.run.wandb_project)
  initial_params.use_compilation_cache(config)
  with (
    signals.handled_by(signals.stop_at_start),
    run_folder.claimed(folder, config)
    if processes.is_first()
    else contextlib.nullcontext(lambda: None) as keep_folder,
  ):
    # A `ValueError` of anything later is no mistake in the flags: it keeps its
    # type, and `experiments/train.py` its traceback.
    with (
      initial_params.refusing(ValueError, *initial_params.ABSENT),
      processes.one_after_another(),
    ):
      experiment = setup_lib.make_experiment(config)
      held_out.check_best_metric(experiment)
    with contextlib.closing(
      checkpoints.make_manager(
        folder / checkpoints.RUN_SUBFOLDER,
        keep=config.run.keep_checkpoints,
        best_metric=config.run.best_metric or None,
        keep_steps=(config.run.sft_steps,),
      )
    ) as manager:
      return _Run(experiment, mesh, manager, keep_folder, started).run()


class _Run:
  """The state of the loop between steps."""

  def __init__(
    self,
    experiment: setup_lib.Experiment,
    mesh: jax.sharding.Mesh,
    manager: checkpoints.Manager,
    keep_folder: Callable[[], None],
    started: float,
  ) -> None:
    self.experiment = experiment
    self.config = experiment.config
    self.mesh = mesh
    self.manager = manager
    self.keep_folder = keep_folder
    run = self.config.run
    self.total = run.sft_steps + run.rl_steps
    self.schedules = optimizer.make_schedules(self.config)
    self.optimizers = optimizer.make_optimizers(self.config)
    self.stop_signal: int | None = None
    self.stopping = False
    self.problem = ''  # Why it must stop without a signal.
    self.watch = idle.Watch(self.config, lambda: self.patient)
    self.profiler = profiler.Profiler(run.profile_steps, run.output_dir)
    self.last_saved: int | None = None
    self.reference: Any = None  # What the KL term refers to.
    self.patient: patient.Judging | None = None
    self.ahead: prefetch.Ahead | None = None
    self.under_way: types.Completions | None = None
    self.elapsed = 0.0
    self.clock = self.fetched = started
    self.once: dict[str, float] = {}

  def run(self) -> float | None:
    step, state = self._start()
    if step >= self.total:
      print(f'Nothing to do: the run ended at step {step}.', file=sys.stderr)
      return None
    self._compile(state)
    if step == 0:
      left_out = self.experiment.left_out.items()
      self.once |= {f'data/left_out/{name}': n for name, n in left_out}
    run = self.config.run
    with (
      metrics_lib.MetricsLog(
        run.output_dir,
        resume_step=step,
        wandb_project=run.wandb_project or None,
      )
      if processes.is_first()
      else metrics_lib.NoLog() as self.log,
      rollout_archive.writing(self.config, step) as self.archive,
      contextlib.closing(
        progress_lib.Progress(self.total, step, silent=not processes.is_first())
      ) as self.bar,
      # Closed after the judge, for whose scores it may be waiting.
      prefetch.ahead(self.config, self.under_way) as self.ahead,
      judge.patient(
        self.experiment.judge, self.config, self.bar.message
      ) as self.patient,
      signals.handled_by(self._on_signal),
      jax.transfer_guard('disallow'),
    ):
      self.experiment = dataclasses.replace(self.experiment, judge=self.patient)
      parts = self.experiment, self.programs, self.mesh
      collect = self.ahead.collect if self.ahead else None
      steps = {
        'sft': steps_lib.make_sft_step(*parts),
        'rl': steps_lib.make_rl_step(*parts, lambda: self.reference, collect),
      }
      if step == 0 and run.init_from:
        self._log(0, {'phase': 'start', **self._evaluate(state, 0)})
      self._steps(state, step, steps)
    return self.clock

  def _start(self) -> tuple[int, train_step.TrainState]:
    """The last checkpoint's state, or a new one; placed on the devices."""
    model = self.experiment.decoder.config
    problems = list(
      device_checks.check_model(
        model, initial_params.param_shapes(model), self.mesh
      )
    )
    if problems:
      raise flags_lib.ConfigError('\n'.join(problems))
    step = checkpoints.latest_step(self.manager)
    phase = self._phase(step or 1)
    if step is None:
      with initial_params.refusing(*initial_params.ABSENT):
        params = initial_params.new_params(self.config, model, self.mesh)
      return 0, self._new_state(params, phase)
    state = jax.eval_shape(
      lambda p: train_step.init_state(p, self.optimizers[phase]),
      initial_params.param_shapes(model),
    )
    example = shapes.Shapes(self.config, self.mesh).like(state)
    found, position, _ = checkpoints.restore_checkpoint(
      self.manager, prefetch.stored(self.config, example, step)
    )
    state, self.under_way = prefetch.apart(found)
    self.elapsed, self.last_saved = position['elapsed'], step
    self.reference = initial_params.restore_reference(
      self.manager, self.config, step, example.params
    )
    return step, state

  def _new_state(self, params, phase: str) -> train_step.TrainState:
    init = compile_lib.make_init(self.mesh, self.optimizers[phase])
    return init(sharding.place_state(params, self.mesh))

  def _compile(self, state: train_step.TrainState) -> None:
    begun = time.perf_counter()
    compile_lib.compile_count()  # Counts from here.
    self.programs = compile_lib.compile_programs(
      self.experiment, self.mesh, state, self.optimizers
    )
    for schedule in self.schedules.values():
      schedule(0)  # Compiles its few operations, too.
    self.once = {
      'time/setup': begun - self.clock,
      'time/compile': time.perf_counter() - begun,
    }

  def _phase(self, step: int) -> str:
    """The phase that step `step` (from 1) belongs to."""
    return 'sft' if step <= self.config.run.sft_steps else 'rl'

  def _steps(
    self, state, first: int, steps: Mapping[str, steps_lib.Step]
  ) -> None:
    run = self.config.run
    pending: tuple[int, steps_lib.Report] | None = None
    for done in range(first, self.total):
      step, phase = done + 1, self._phase(done + 1)
      if done == run.sft_steps and phase == 'rl':
        state = self._begin_rl(state, done)
      index = done if phase == 'sft' else done - run.sft_steps
      self.profiler.before(step)
      try:
        state, report = steps[phase](state, index)
      except (types.JudgeUnavailable, types.BadReturn) as error:
        self._stop_unscored(state, done, pending, error)
      self.profiler.after(step, state.params)
      if pending:
        self._write(*pending)
      pending = step, report
      # Looked at once: a signal that comes later is for the next step.
      told = [x for x in processes.gather(self.stop_signal) if x]
      self.stop_signal = told[0] if told else None
      self.problem = self.watch.after(report)
      self.stopping = bool(told and step < self.total or self.problem)
      if self._pauses(step):
        if self.ahead:
          self.ahead.settle()
        self._write(*pending, state=state)
        pending = None
      if self.stopping:
        self._stop(step)

  def _begin_rl(self, state, done: int) -> train_step.TrainState:
    """The state before the first rollout; keeps what the KL term refers to."""
    if done:
      state = self.programs.init['rl'](state.params)
    if self.programs.reference is not None:
      self.reference = self.programs.reference(state.params)
      if self.last_saved is None:  # A resumed run reads it there.
        self._save(state, done, None)
    return state

  def _pauses(self, step: int) -> bool:
    """Whether step's numbers are needed before the next one starts."""
    return self._saves(step) or self._evaluates(step)

  def _saves(self, step: int) -> bool:
    run = self.config.run
    return (
      step % run.checkpoint_every == 0
      or step in (run.sft_steps, self.total)
      or self.stopping
      # Else the best one of an evaluation in between would be lost.
      or bool(run.best_metric and self._evaluates(step))
    )

  def _evaluates(self, step: int) -> bool:
    run = self.config.run
    at_end = step in (run.sft_steps, self.total)
    return at_end or bool(run.eval_every and step % run.eval_every == 0)

  def _write(self, step: int, report: steps_lib.Report, *, state=None) -> None:
    """Checks a step's numbers and writes its line; then saves, if it is time.

    A checkpoint of step n is thus saved only when step n is known to be
    finite and its line is written.
    """
    metrics = self._metrics(step, report)
    evaluated = None
    if state is not None and self._evaluates(step):
      try:
        evaluated = self._evaluate(state, step)
      except types.BadReturn as error:  # The step is to be saved first.
        self.problem, self.stopping = str(error), True
      metrics |= evaluated or {}
    self.log.write_transcripts(step, report.transcripts)
    if self.archive is not None and report.scored is not None:
      self.archive.append(step, report.scored)
    self._log(step, metrics)
    self.keep_folder()
    self.bar.update(step, progress_lib.headline(metrics))
    if state is not None and self._saves(step):
      self._save(state, step, evaluated)

  def _log(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes a line, the first since the start with what that took."""
    now = time.perf_counter()
    self.elapsed += now - self.clock
    self.clock = now
    times = {'time/elapsed': self.elapsed, **self.once}
    self.once = {}
    count = compile_lib.compile_count()
    self.log.write(step, {**metrics, **times, 'compile/count': count})

  def _save(self, state, step: int, evaluated) -> None:
    best = self.config.run.best_metric
    metrics = {
      k: v
      for k, v in (evaluated or {}).items()
      if v is not None and math.isfinite(v)
    }
    checkpoints.save_checkpoint(
      self.manager,
      step,
      self.ahead.saved(state) if self.ahead else state,
      position={'phase': self._phase(step or 1), 'elapsed': self.elapsed},
      flags=config_lib.to_json(self.config),
      # It may not be had this once: no judge answered, or it is infinite.
      metrics=metrics if not best or best in metrics else None,
    )
    self.last_saved = step

  def _metrics(self, step: int, report: steps_lib.Report) -> dict[str, Any]:
    """The updates' numbers, fetched; raises where one is not finite."""
    updates = jax.device_get(report.updates)
    # Its data was prepared while the step before still ran, which lasted until
    # it was fetched; unless the loop paused in between.
    begun = max(report.started, self.fetched)
    self.fetched = time.perf_counter()
    divergence.check(step, report.phase, report.ids, updates, self._good)
    metrics = {'phase': report.phase, **train_step.update_metrics(updates)}
    count = int(updates[-1].updates) - 1
    with jax.transfer_guard('allow'):
      metrics['learning_rate'] = float(self.schedules[report.phase](count))
    metrics['time/step'] = self.fetched - begun
    return {**metrics, **report.metrics}

  def _good(self) -> str:
    if self.last_saved is None:
      return 'none'
    self.manager.wait_until_finished()
    folder = pathlib.Path(self.config.run.output_dir)
    return str(folder / checkpoints.RUN_SUBFOLDER / str(self.last_saved))

  def _evaluate(self, state, step: int) -> dict[str, Any]:
    """Accuracy on every held-out set; the answers go to the transcripts."""
    started = time.perf_counter()
    metrics, rows = held_out.evaluate(
      self.experiment, self.programs, self.mesh, state.params
    )
    self.log.write_transcripts(step, rows)
    return {**metrics, 'time/eval': time.perf_counter() - started}

  def _on_signal(self, signum: int, _: Any) -> None:
    if self.stop_signal is not None:
      raise KeyboardInterrupt
    self.stop_signal = signum
    if self.patient:
      self.patient.hurry()
    self.bar.message('Stopping after this step; once more to stop at once.')

  def _stop_unscored(self, state, done: int, pending, error) -> NoReturn:
    """Ends before step `done` + 1, which changed nothing: that is saved."""
    self.stopping = True
    if pending:
      self._write(*pending, state=state)
    elif self.last_saved != done:
      self._save(state, done, None)
    self.keep_folder()
    self.problem = str(error)
    lasting = types.BadReturn, types.JudgeRefused
    self._stop(done, passes=not isinstance(error, lasting))

  def _stop(self, step: int, *, passes: bool = False) -> NoReturn:
    """Ends after step `step`, which is saved."""
    self.manager.wait_until_finished()
    if self.stop_signal is not None:
      raise signals.Stopped(
        f'Stopped by {signal.Signals(self.stop_signal).name} after step {step},'
        ' which is saved: the same command goes on from there.',
        self.stop_signal,
      )
    then = 'the same command' if passes else 'once that is mended the command'
    raise signals.Stopped(
      f'{self.problem} Step {step} is saved: {then} goes on from there.',
      passes=passes,
    )
