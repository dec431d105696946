"""Shapes and placement of what the compiled programs are called with."""

from typing import Any

import jax
import jax.numpy as jnp

from awpo_jax import config as config_lib
from awpo_jax import config_objective, types
from awpo_jax.training import sharding


class Shapes:
  """Shapes of the programs' arguments, as they will be placed."""

  def __init__(
    self, config: config_lib.Config, mesh: jax.sharding.Mesh
  ) -> None:
    self._config = config
    self._devices = mesh.devices.size
    self._whole = sharding.replicated(mesh)
    self._split = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(sharding.DATA_AXIS)
    )

  def like(self, tree: types.ArrayTree) -> types.ArrayTree:
    """A tree that lies whole on every device."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._whole),
      tree,
    )

  def _array(self, dtype, *shape):
    return jax.ShapeDtypeStruct(
      (self._devices, *shape), dtype, sharding=self._split
    )

  def sampler(self, rows: int, prompt: int, samples: int) -> tuple[Any, ...]:
    """Prompts, sample ids and facts: the sampler's, after the parameters."""
    facts = jax.ShapeDtypeStruct((4,), jnp.int32, sharding=self._whole)
    ids = self._array(jnp.int32, rows, samples)
    return self._prompts(rows, prompt), ids, facts

  def _prompts(self, rows, prompt):
    return types.Prompts(
      tokens=self._array(jnp.int32, rows, prompt),
      mask=self._array(jnp.bool_, rows, prompt),
      ids=self._array(jnp.int32, rows),
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
        tokens=self._array(jnp.int32, *shape),
        mask=self._array(jnp.bool_, *shape),
        policy_mask=self._array(jnp.bool_, *shape),
        positions=self._array(jnp.int32, *shape),
        turn=self._array(jnp.int32, *shape),
        logprobs=self._array(jnp.float32, *shape),
        entropy=self._array(jnp.float32, *shape),
        finished=self._array(jnp.bool_, *group),
      ),
      rewards=types.Rewards(
        outcome=self._array(jnp.float32, *group),
        outcome_valid=self._array(jnp.bool_, *group),
        reasoning=self._array(jnp.float32, *group),
        reasoning_valid=self._array(jnp.bool_, *group),
        outcome_min=self._array(jnp.float32, rows),
        outcome_max=self._array(jnp.float32, rows),
      ),
      sample_ids=self._array(jnp.int32, *group),
      thinking=(
        self._array(jnp.bool_, *shape)
        if self._config.shaping.shaper == 'egpo'
        else None
      ),
    )

  def batch(self, phase: str, prompt: int, response: int) -> types.Batch:
    """A mini-batch of a phase."""
    rl, sft = self._config.rl, self._config.sft
    if phase == 'sft':
      prompts, micro, samples = sft.sft_batch, sft.sft_micro, 1
    else:
      prompts, micro = rl.prompts_per_step // rl.minibatches, rl.micro
      samples = rl.samples
    group = (prompts // self._devices // micro, micro)
    row, token = (*group, samples), (*group, samples, response)
    rl_phase = phase == 'rl'
    referred = rl_phase and config_objective.has_reference(self._config)
    loss = self._config.loss

    def optional(wanted, shape):
      return self._array(jnp.float32, *shape) if wanted else None

    by_token = rl_phase and config_objective.has_token_advantages(self._config)
    return types.Batch(
      prompt_tokens=self._array(jnp.int32, *group, prompt),
      prompt_mask=self._array(jnp.bool_, *group, prompt),
      tokens=self._array(jnp.int32, *token),
      mask=self._array(jnp.bool_, *token),
      positions=self._array(jnp.int32, *token),
      policy_mask=self._array(jnp.bool_, *token),
      valid=self._array(jnp.bool_, *row),
      old_logprobs=self._array(jnp.float32, *token),
      advantages=self._array(jnp.float32, *(token if by_token else row)),
      clip_radius=self._array(jnp.float32, *group),
      ref_logprobs=optional(referred, token),
      clip_high=optional(rl_phase and loss.clip_high != 'factor', row),
      correction=optional(rl_phase and loss.mismatch != 'none', token),
    )
