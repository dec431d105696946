"""The loop of a run: steps of its phases, evaluations, and how it ends."""

import contextlib
import dataclasses
import pathlib
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax

from awpo_jax import types
from awpo_jax.checkpointing import initial_params, run_folder
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import device_checks, processes, sharding
from awpo_jax.reporting import profiler, trackers
from awpo_jax.rollout.rewards.judges import patient
from awpo_jax.training import bookkeeping, held_out, idle, judge, signals
from awpo_jax.training import setup as setup_lib
from awpo_jax.training import steps as steps_lib
from awpo_jax.training.collection import sample
from awpo_jax.training.programs import compile as compile_lib
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
    divergence.NonFiniteError, divergence.ReplicaError: the run cannot go on.
    signals.Stopped: after SIGTERM or SIGINT, where no reward or score can be
      obtained, and after several steps without a valid answer; all is saved.
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
  with initial_params.refusing(ModuleNotFoundError):
    trackers.check(
      wandb=config.run.wandb_project, trackio=config.run.trackio_project
    )
  config = run_folder.settled(folder, config, mesh.devices.flat[0].platform)
  initial_params.use_compilation_cache(config.run.compilation_cache)
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
      processes.working(lambda: 'Reading the data and the tokenizer'),
      processes.one_after_another(),
    ):
      experiment = setup_lib.make_experiment(config)
      held_out.check_best_metric(
        config, experiment.data.dataset, experiment.scorer
      )
    with contextlib.closing(bookkeeping.make_manager(config)) as manager:
      book = bookkeeping.Book(config, manager, keep_folder, started)
      return _Run(config, experiment, mesh, book).run()


class _Run:
  """The state of the loop between steps."""

  def __init__(
    self,
    config: config_lib.Config,
    experiment: setup_lib.Experiment,
    mesh: jax.sharding.Mesh,
    book: bookkeeping.Book,
  ) -> None:
    self.config = config
    self.experiment = experiment
    self.mesh = mesh
    self.book = book
    self.total = config.run.sft_steps + config.run.rl_steps
    self.stop_signal: int | None = None
    self.stopping = False
    self.problem = ''  # Why it must stop without a signal.
    self.patient: patient.Judging | None = None
    self.watch = idle.Watch(config, lambda: self.patient)
    self.profiler = profiler.Profiler(
      config.run.profile_steps, config.run.output_dir
    )

  def run(self) -> float | None:
    step, state = self.book.start(self.experiment.decoder.config, self.mesh)
    if step >= self.total > 0:
      print(f'Nothing to do: the run ended at step {step}.', file=sys.stderr)
      return None
    self._compile(state)
    data = self.experiment.data
    if step == 0:
      left_out = data.left_out.items()
      self.book.once |= {f'data/left_out/{name}': n for name, n in left_out}
    with (
      self.book.opened(step),
      judge.patient(
        self.experiment.scorer.judge,
        self.config,
        self.book.bar.message,
        processes.working,
      ) as self.patient,
      jax.transfer_guard('disallow'),
    ):
      steps = self._make_steps()
      # A signal until here ends the run at once: nothing is to be saved yet.
      if step == 0 and self._evaluates_first():
        started = {'phase': 'start', **self._evaluate(state, 0)}
        self.book.line(0, started)
      try:
        with signals.handled_by(self._on_signal):
          self._steps(state, step, steps)
      finally:
        self.profiler.close()
    return self.book.clock

  def _compile(self, state: train_step.TrainState) -> None:
    begun = time.perf_counter()
    compile_lib.compile_count()  # Counts from here.
    self.programs = compile_lib.compile_programs(
      self.config,
      self.experiment.decoder,
      self.mesh,
      state,
      optimizer.make_optimizers(self.config),
      stop_ids=self.experiment.codec.stop_ids,
      pad_id=self.experiment.codec.pad_id,
    )
    self.book.warm_up()
    self.book.once = {
      'time/setup': begun - self.book.clock,
      'time/compile': time.perf_counter() - begun,
    }

  def _make_steps(self) -> dict[str, steps_lib.Step]:
    """The step of each phase, once there is a judge that waits."""
    scorer, codec, data, _, rules = self.experiment
    scorer = dataclasses.replace(scorer, judge=self.patient)
    common = self.programs, self.mesh
    self.sampler = sample.RolloutSampler(
      self.config, data, codec, scorer, rules, *common
    )
    return {
      'sft': steps_lib.make_sft_step(self.config, data, codec, *common),
      'rl': steps_lib.make_rl_step(
        self.sampler,
        self.programs,
        lambda: self.book.reference,
      ),
    }

  def _steps(
    self, state, first: int, steps: Mapping[str, steps_lib.Step]
  ) -> None:
    run = self.config.run
    pending: tuple[int, steps_lib.Report] | None = None
    for done in range(first, self.total):
      step, phase = done + 1, bookkeeping.phase_of(self.config, done + 1)
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
      self._look_for_ends(step, report)
      if self._pauses(step):
        self._write(*pending, state=state)
        pending = None
      if self.stopping:
        self._stop(step)

  def _begin_rl(self, state, done: int) -> train_step.TrainState:
    """The state before the first rollout; keeps what the KL term refers to."""
    if done:
      state = self.programs.init['rl'](state.params)
    if self.programs.reference is not None:
      self.book.reference = self.programs.reference(state.params)
      if self.book.last_saved is None:  # A resumed run reads it there.
        self.book.save(state, done)
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

  def _evaluates_first(self) -> bool:
    asked = self.config.run.eval_at_start
    return asked and initial_params.is_trained(self.config)

  def _evaluates(self, step: int) -> bool:
    run = self.config.run
    at_end = step in (run.sft_steps, self.total)
    return at_end or bool(run.eval_every and step % run.eval_every == 0)

  def _write(self, step: int, report: steps_lib.Report, *, state=None) -> None:
    """Checks a step's numbers and writes its line; then saves, if it is time.

    A checkpoint of step n is thus saved only when step n is known to be
    finite and its line is written.
    """
    metrics = self.book.metrics(step, report)
    evaluated = None
    if state is not None and self._evaluates(step):
      try:
        evaluated = self._evaluate(state, step)
      except types.BadReturn as error:  # The step is to be saved first.
        self.problem, self.stopping = str(error), True
      metrics |= evaluated or {}
    self.book.write(step, report, metrics)
    if state is not None and self._saves(step):
      self.book.save(state, step, evaluated)

  def _evaluate(self, state, step: int) -> dict[str, Any]:
    """Accuracy on every held-out set; the answers go to the transcripts."""
    started = time.perf_counter()
    metrics, rows = held_out.evaluate(state.params, self.sampler)
    self.book.log.write_transcripts(step, rows)
    return {**metrics, 'time/eval': time.perf_counter() - started}

  def _look_for_ends(self, step: int, report: steps_lib.Report) -> None:
    """Whether a signal, or what a step has trained on, ends the run after it.

    Looked at once a step: a signal that comes later is for the next one.
    """
    told = [x for x in processes.gather(self.stop_signal) if x]
    self.stop_signal = told[0] if told else None
    self.problem = self.watch.after(report)
    self.stopping = bool(told and step < self.total or self.problem)

  def _on_signal(self, signum: int, _: Any) -> None:
    if self.stop_signal is not None:
      raise KeyboardInterrupt
    self.stop_signal = signum
    if self.patient:
      self.patient.hurry()
    self.book.bar.message(
      'Stopping after this step; once more to stop at once.'
    )

  def _stop_unscored(self, state, done: int, pending, error) -> NoReturn:
    """Ends before step `done` + 1, which changed nothing: that is saved."""
    self.stopping = True
    if pending:
      self._write(*pending, state=state)
    elif self.book.last_saved != done:
      self.book.save(state, done)
    self.book.keep_folder()
    self.problem = str(error)
    lasting = types.BadReturn, types.JudgeRefused
    self._stop(done, passes=not isinstance(error, lasting))

  def _stop(self, step: int, *, passes: bool = False) -> NoReturn:
    """Ends after step `step`, which is saved."""
    self.book.finish()
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
