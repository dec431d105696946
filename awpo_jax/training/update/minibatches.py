"""Batches on their way to the devices, and the mini-batches of an update."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding


class Layout(Protocol):
  """The layout of tokens where they are not padded; made on the host."""

  def rollout(self, rollout: types.Rollout) -> types.Rollout:
    """A rollout batch [parts, P, ...] with its `layout`."""

  def minibatch(self, batch: types.Batch) -> types.Batch:
    """A mini-batch [parts, 1, P, ...] with its `layout`."""

  def like(self, prompts: int) -> Any:
    """`jax.ShapeDtypeStruct`s of the `layout` of a part of so many prompts."""


def cut(
  batch: types.Batch,
  config: config_lib.Config,
  phase: str,
  layout: Layout | None,
) -> Iterator[types.Batch]:
  """The mini-batches of a phase by `sharding.cut`, laid out.

  One is laid out when it is asked for, while the update before it may still
  run.

  Args:
    batch: NumPy arrays [parts, P, ...] in the order of `sharding.deal`.
    config: of the run.
    phase: `sft` or `rl`.
    layout: of `options.make_layout`.
  """
  minibatches, micro = 1, config.sft.sft_micro
  if phase == 'rl':
    minibatches, micro = config.rl.minibatches, config.rl.micro
  if layout is not None:
    micro = batch.tokens.shape[1] // minibatches
  for part in sharding.cut(batch, minibatches=minibatches, micro=micro):
    yield part if layout is None else layout.minibatch(part)


def of_demonstrations(
  prompts: types.Prompts,
  completions: types.Completions,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  layout: Layout | None = None,
) -> types.Batch:
  """The one mini-batch of a step of SFT, placed [parts, M, P, ...].

  Args:
    prompts: [P, Sp] of NumPy arrays, the same in all processes.
    completions: [P, 1, Sc], likewise; their advantages are 0 and of no use.
    config: of the run.
    mesh: see `sharding`.
    layout: of `options.make_layout`.
  """
  batch = sharding.split(
    types.Batch.of(prompts, completions), sharding.parts(mesh)
  )
  own = sharding.own_parts(mesh)
  batch = jax.tree.map(lambda x: x[own], batch)
  (batch,) = cut(batch, config, 'sft', layout)
  return sharding.place_split(batch, mesh)


@dataclasses.dataclass(frozen=True)
class Dealer:
  """Deals rollout batches to the devices, and cuts what was made of them.

  Attributes:
    config: of the run.
    mesh: see `sharding`.
    layout: of `options.make_layout`.
  """

  config: config_lib.Config
  mesh: jax.sharding.Mesh
  layout: Layout | None = None

  def place(self, rollout: types.Rollout) -> types.Rollout:
    """A rollout batch [P, ...] of this process, placed [parts, P, ...]."""
    dealt = jax.tree.map(lambda x: x[self._order()], rollout)
    if self.layout is not None:
      dealt = self.layout.rollout(dealt)
    return sharding.place_split(dealt, self.mesh)

  def fetch(self, placed: types.ArrayTree) -> types.ArrayTree:
    """The inverse of `place`, of anything that has its axes."""
    return sharding.collect(sharding.fetch_split(placed), self._order())

  def cut(
    self, batch: types.Batch, program: Callable[..., Iterable[types.Batch]]
  ) -> Iterable[types.Batch]:
    """The mini-batches of a prepared batch, [parts, M, P, ...] each.

    Args:
      batch: as it came from the devices, [parts, P, ...].
      program: cuts it where it lies, unless there is a layout.
    """
    if self.layout is None:
      return program(batch)
    fetched = sharding.fetch_split(batch)
    parts = cut(fetched, self.config, 'rl', self.layout)
    return (sharding.place_split(part, self.mesh) for part in parts)

  def _order(self) -> np.ndarray:
    """i32[own parts, ...]: which prompts of this process lie on which part."""
    rl = self.config.rl
    dealt = sharding.deal(
      rl.prompts_per_step,
      minibatches=rl.minibatches,
      parts=sharding.parts(self.mesh),
    )[sharding.own_parts(self.mesh)]
    # This process has these prompts alone, in order.
    return np.searchsorted(np.sort(dealt.ravel()), dealt)
