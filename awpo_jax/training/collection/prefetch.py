"""The next rollout batch sampled and scored while this one is trained on.

Batch k + 1 comes from the parameters before the updates on batch k, as batch 0
does from those before its own: it is one step off-policy, for `--mismatch` to
correct. Where all devices do both it is sampled before these updates and scored
beside them. With `--rollout_devices` it is sampled beside them, too, from a
copy of the parameters: updates are given the memory of the original.

A checkpoint holds what is under way as it was sampled. Its scores follow from
that, as those of any batch of a run that goes on.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.reporting import stopwatch as stopwatch_lib
from awpo_jax.training.collection import sample
from awpo_jax.training.update import train_step


@types.record
class Saved:
  """A state as it is stored while a batch is under way.

  Attributes:
    step, params, opt_state: of `train_step.TrainState`.
    ahead: of the next step, before they are cut to a bucket.
  """

  step: types.Array
  params: types.ArrayTree
  opt_state: optax.OptState
  ahead: types.Completions


def stored(
  config: config_lib.Config, state: train_step.TrainState, step: int
) -> train_step.TrainState | Saved:
  """Shapes of what the checkpoint of a step holds.

  Args:
    config: of the run.
    state: shapes of the state.
    step: done.
  """
  begun, run = config.run.sft_steps, config.run
  # The first batch is sampled by the step that trains on it.
  if not config.rl.overlap or not begun < step < begun + run.rl_steps:
    return state
  shape = (
    config.rl.prompts_per_step,
    config.rl.samples,
    config.data.response_buckets[-1],
  )

  def tokens(dtype):
    return jax.ShapeDtypeStruct(shape, dtype)

  # Shapes in place of arrays.
  like: Any = types.Completions
  return _saved(
    state,
    like(
      tokens=tokens(jnp.int32),
      mask=tokens(jnp.bool_),
      policy_mask=tokens(jnp.bool_),
      positions=tokens(jnp.int32),
      turn=tokens(jnp.int32),
      logprobs=tokens(jnp.float32),
      entropy=tokens(jnp.float32),
      finished=jax.ShapeDtypeStruct(shape[:2], jnp.bool_),
    ),
  )


def _saved(state: train_step.TrainState, ahead: types.Completions) -> Saved:
  return Saved(
    step=state.step,
    params=state.params,
    opt_state=state.opt_state,
    ahead=ahead,
  )


def apart(
  found: train_step.TrainState | Saved,
) -> tuple[train_step.TrainState, types.Completions | None]:
  """The state, and what was under way when it was saved."""
  if isinstance(found, train_step.TrainState):
    return found, None
  state = train_step.TrainState(
    step=found.step, params=found.params, opt_state=found.opt_state
  )
  return state, found.ahead


@dataclasses.dataclass
class _Flight:
  """A batch under way; `sampled` is set before it is scored."""

  index: int
  restored: bool = False
  done: concurrent.futures.Future[sample.Collected] | None = None
  sampled: sample.Sampled | None = None

  def run(
    self,
    collect: sample.Collect,
    draw: Callable[[], sample.Sampled],
    clock: stopwatch_lib.Clock,
  ) -> sample.Collected:
    def drawn(number: int) -> sample.Sampled:
      del number  # There is one round.
      if self.sampled is None:
        self.sampled = draw()
      return self.sampled

    # A setting of the thread, and this is another one.
    with jax.transfer_guard('disallow'):
      scored, metrics, transcripts = collect(drawn, clock)
    metrics['time/rollout'] = clock.total()
    if self.restored:  # It was sampled by another process.
      del metrics['tokens/sampled_per_second']
    return sample.Collected(scored, metrics, transcripts)


class Ahead:
  """Has the next batch made by a thread of its own, one at a time."""

  def __init__(
    self,
    config: config_lib.Config,
    restored: types.Completions | None = None,
  ) -> None:
    """Starts nothing yet.

    Args:
      config: of the run.
      restored: of the first batch that is asked for, if it was under way when
        the run was saved.
    """
    self._last = config.run.rl_steps - 1
    self._mesh = sharding.rollout_mesh(config.devices)
    self._pool = concurrent.futures.ThreadPoolExecutor(1, 'rollout')
    self._flight: _Flight | None = None
    self._restored = restored

  def collect(
    self,
    sampler: sample.RolloutSampler,
    collect: sample.Collect,
    params: types.ArrayTree,
    index: int,
    clock: stopwatch_lib.Clock,
  ) -> sample.Collected:
    """The batch of a step; the next one is under way when this returns.

    Args:
      sampler: of the devices that train.
      collect: of `steps.make_collect`, without the sampler.
      params: before the updates on this batch. They may be donated as soon as
        this returns.
      index: of the step, one more than the last time.
      clock: gets the laps `wait`, until the batch is there, and `sample`, until
        the next is under way. That took `time/rollout` in all.

    Raises:
      types.JudgeUnavailable: as `Judging`; what was sampled is still kept by
        `saved`.
    """
    if self._flight is None:
      self._flight = self._begin(sampler, collect, params, index)
      clock.lap('sample')
    assert self._flight.index == index and self._flight.done is not None
    collected = self._flight.done.result()
    clock.lap('wait')
    self._flight = None
    if index < self._last:
      self._flight = self._begin(sampler, collect, params, index + 1)
    clock.lap('sample')
    return collected

  def _begin(
    self,
    sampler: sample.RolloutSampler,
    collect: sample.Collect,
    params: types.ArrayTree,
    index: int,
  ) -> _Flight:
    """Starts a batch, so that nothing of it needs `params` any more."""
    flight, clock = _Flight(index), stopwatch_lib.Clock()
    draw = functools.partial(sampler.rollout, params, index)
    if self._restored is not None:
      flight.sampled = _as_sampled(sampler, index, self._restored)
      self._restored, flight.restored = None, True
    elif self._mesh is None:
      flight.sampled = draw()
    else:
      copy = sharding.place_replicated(params, self._mesh)
      jax.block_until_ready(copy)
      apart = dataclasses.replace(sampler, mesh=self._mesh)
      draw = functools.partial(apart.rollout, copy, index)
    flight.done = self._pool.submit(flight.run, collect, draw, clock)
    return flight

  def settle(self) -> None:
    """Waits until nothing is under way: an evaluation asks the same judge.

    Raises:
      Exception: the next batch could not be sampled. If it could not be scored,
        that is for the step that needs it.
    """
    if self._flight is None or self._flight.done is None:
      return
    error = self._flight.done.exception()
    if error is not None and self._flight.sampled is None:
      raise error

  def saved(
    self, state: train_step.TrainState
  ) -> train_step.TrainState | Saved:
    """What a checkpoint is to hold, once all has settled."""
    if self._flight is None or self._flight.sampled is None:
      return state
    return _saved(state, self._flight.sampled.completions)

  def close(self) -> None:
    """Waits for what is under way, which nobody will ask for."""
    self._pool.shutdown(cancel_futures=True)


def _as_sampled(
  sampler: sample.RolloutSampler, index: int, completions: types.Completions
) -> sample.Sampled:
  """What `rollout` returned before it was saved with a checkpoint."""
  tasks, prompts, samples = sampler.next_prompts(index)
  texts = sampler.codec.decode(completions, tasks)
  return sample.Sampled(tasks, prompts, samples, completions, texts)


@contextlib.contextmanager
def ahead(
  config: config_lib.Config, restored: types.Completions | None
) -> Iterator[Ahead | None]:
  """An `Ahead` where `--overlap` is set, else None; it is closed in the end."""
  if not config.rl.overlap:
    yield None
    return
  with contextlib.closing(Ahead(config, restored)) as made:
    yield made
