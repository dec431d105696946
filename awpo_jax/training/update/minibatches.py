"""Batches on their way to the devices, and the mini-batches of an update.

Where `--pack_tokens` is set, groups of several prompts share a row; the host
does that, and nobody outside of this module knows.
"""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.training.update import packing


def of_demonstrations(
  prompts: types.Prompts,
  completions: types.Completions,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
) -> types.Batch:
  """The one mini-batch of a step of SFT, placed [parts, M, P, ...].

  Args:
    prompts: [P, Sp] of NumPy arrays, the same in all processes.
    completions: [P, 1, Sc], likewise; their advantages are 0 and of no use.
    config: of the run.
    mesh: see `sharding`.
  """
  batch = sharding.split(
    types.Batch.of(prompts, completions), sharding.parts(mesh)
  )
  own = sharding.own_parts(mesh)
  batch = jax.tree.map(lambda x: x[own], batch)
  (batch,) = packing.cut(batch, config, 'sft')
  return sharding.place_split(batch, mesh)


@dataclasses.dataclass(frozen=True)
class Dealer:
  """Deals rollout batches to the devices, and cuts what was made of them.

  Attributes:
    config: of the run.
    mesh: see `sharding`.
  """

  config: config_lib.Config
  mesh: jax.sharding.Mesh

  def place(self, rollout: types.Rollout) -> types.Rollout:
    """A rollout batch [P, ...] of this process, placed [parts, P, ...]."""
    dealt = jax.tree.map(lambda x: x[self._order()], rollout)
    return sharding.place_split(packing.read(dealt, self.config), self.mesh)

  def fetch(self, placed: types.ArrayTree) -> types.ArrayTree:
    """The inverse of `place`, of anything that has its axes."""
    return sharding.collect(sharding.fetch_split(placed), self._order())

  def cut(
    self, batch: types.Batch, program: Callable[..., Iterable[types.Batch]]
  ) -> Iterable[types.Batch]:
    """The mini-batches of a prepared batch, [parts, M, P, ...] each.

    Args:
      batch: as it came from the devices, [parts, P, ...].
      program: cuts it where it lies, unless they are packed.
    """
    if not self.config.model.pack_tokens:
      return program(batch)
    parts = packing.cut(sharding.fetch_split(batch), self.config, 'rl')
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
