"""Shapes and placement of what the compiled programs are called with."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.config import algorithm
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.training.programs import options


class Shapes:
  """Shapes of the programs' arguments, as they will be placed.

  Attributes:
    where_split: the sharding of what has a device axis.
  """

  def __init__(
    self, config: config_lib.Config, mesh: jax.sharding.Mesh
  ) -> None:
    self._config = config
    self._mesh = mesh
    self._devices = sharding.parts(mesh)
    self._layout = options.make_layout(config)
    self._whole = sharding.replicated(mesh)
    self.where_split = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(sharding.DATA_AXIS)
    )

  def like(self, tree: types.ArrayTree) -> types.ArrayTree:
    """Shapes of a state or of its parameters, as they are placed."""
    return jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      tree,
      sharding.state_shardings(tree, self._mesh),
    )

  def split(self, tree: types.ArrayTree) -> types.ArrayTree:
    """A tree whose leaves have a device axis."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self.where_split
      ),
      tree,
    )

  def array(self, dtype: Any, *shape: int) -> Any:
    """An array of which each device holds a part of this shape."""
    return jax.ShapeDtypeStruct(
      (self._devices, *shape), dtype, sharding=self.where_split
    )

  def sampler(self, rows: int, prompt: int, samples: int) -> tuple[Any, ...]:
    """Prompts, sample ids and facts: the sampler's, after the parameters."""
    facts = jax.ShapeDtypeStruct((4,), jnp.int32, sharding=self._whole)
    ids = self.array(jnp.int32, rows, samples)
    return self._prompts(rows, prompt), ids, facts

  def _prompts(self, rows, prompt):
    return types.Prompts(
      tokens=self.array(jnp.int32, rows, prompt),
      mask=self.array(jnp.bool_, rows, prompt),
      ids=self.array(jnp.int32, rows),
    )

  def rollout(
    self, rows: int, prompt: int, samples: int, response: int
  ) -> types.Rollout:
    """A scored rollout batch."""
    shape = (rows, samples, response)
    group = (rows, samples)
    return types.Rollout(
      prompts=self._prompts(rows, prompt),
      completions=types.Completions(
        tokens=self.array(jnp.int32, *shape),
        mask=self.array(jnp.bool_, *shape),
        policy_mask=self.array(jnp.bool_, *shape),
        positions=self.array(jnp.int32, *shape),
        turn=self.array(jnp.int32, *shape),
        logprobs=self.array(jnp.float32, *shape),
        entropy=self.array(jnp.float32, *shape),
        finished=self.array(jnp.bool_, *group),
      ),
      rewards=types.Rewards(
        outcome=self.array(jnp.float32, *group),
        outcome_valid=self.array(jnp.bool_, *group),
        reasoning=self.array(jnp.float32, *group),
        reasoning_valid=self.array(jnp.bool_, *group),
        outcome_min=self.array(jnp.float32, rows),
        outcome_max=self.array(jnp.float32, rows),
        wants_call=self.array(jnp.bool_, rows),
        parts=self._parts(group),
      ),
      sample_ids=self.array(jnp.int32, *group),
      thinking=(
        self.array(jnp.bool_, *shape)
        if algorithm.needs_thinking(self._config)
        else None
      ),
      layout=self._laid_out(rows),
    )

  def _parts(self, group: tuple[int, int]) -> dict[str, Any] | None:
    names = algorithm.reward_parts(self._config)
    if names is None:
      return None
    return {name: self.array(jnp.float32, *group) for name in names}

  def on_host(self, rollout: types.Rollout) -> types.Rollout:
    """Shapes of a rollout batch as it is sampled, [parts * P, ...]."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (x.shape[0] * x.shape[1], *x.shape[2:]), x.dtype
      ),
      dataclasses.replace(rollout, layout=None),
    )

  def _laid_out(self, prompts: int) -> Any:
    """The layout of that many prompts of each device; None: padded."""
    if self._layout is None:
      return None
    like = self._layout.like(prompts)
    return jax.tree.map(lambda x: self.array(x.dtype, *x.shape), like)

  def prepared(self, prompt: int, response: int) -> types.Batch:
    """A prepared rollout batch: the groups of its mini-batches in one axis."""
    rows = self._config.rl.prompts_per_step // self._devices
    return jax.tree.map(
      lambda x: self.array(x.dtype, rows, *x.shape[3:]),
      self.batch('rl', prompt, response),
    )

  def batch(self, phase: str, prompt: int, response: int) -> types.Batch:
    """A mini-batch of a phase."""
    rl, sft = self._config.rl, self._config.sft
    if phase == 'sft':
      prompts, micro, samples = sft.sft_batch, sft.sft_micro, 1
    else:
      prompts, micro = rl.prompts_per_step // rl.minibatches, rl.micro
      samples = rl.samples
    if self._layout is not None:
      micro = prompts // self._devices
    group = (prompts // self._devices // micro, micro)
    row, token = (*group, samples), (*group, samples, response)
    rl_phase = phase == 'rl'
    referred = rl_phase and algorithm.has_reference(self._config)
    loss = self._config.loss

    def optional(wanted, shape):
      return self.array(jnp.float32, *shape) if wanted else None

    by_token = rl_phase and algorithm.has_token_advantages(self._config)
    return types.Batch(
      prompt_tokens=self.array(jnp.int32, *group, prompt),
      prompt_mask=self.array(jnp.bool_, *group, prompt),
      tokens=self.array(jnp.int32, *token),
      mask=self.array(jnp.bool_, *token),
      positions=self.array(jnp.int32, *token),
      policy_mask=self.array(jnp.bool_, *token),
      old_logprobs=self.array(jnp.float32, *token),
      advantages=self.array(jnp.float32, *(token if by_token else row)),
      clip_radius=self.array(jnp.float32, *group),
      ref_logprobs=optional(referred, token),
      clip_high=optional(rl_phase and loss.clip_high != 'factor', row),
      correction=optional(rl_phase and loss.mismatch != 'none', token),
      layout=self._laid_out(prompts // self._devices),
    )
