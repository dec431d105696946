"""From a scored rollout batch to what the updates need, once per rollout."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import lora
from awpo_jax.ops import advantages as advantages_lib
from awpo_jax.ops import collectives, masked

LogprobsFn = Callable[
  [types.ArrayTree, types.Batch], tuple[types.Array, types.Array]
]


@types.record
class Prepared:
  """The constants of a rollout batch, [P, ...] of this device.

  Attributes:
    batch: `types.Batch` without the axis of microbatches.
    trainer_logprobs: for `types.Rollout`.
    metrics: name -> f32[2], a sum and its count over all devices.
  """

  batch: types.Batch
  trainer_logprobs: types.Array | None
  metrics: dict[str, types.Array]


def prepare_rollout(
  params: types.ArrayTree,
  rollout: types.Rollout,
  reference: types.ArrayTree | None = None,
  *,
  awpo_advantages: Callable[..., advantages_lib.Advantages],
  clip_radius: Callable[..., types.Array],
  gate: str,
  logprobs: LogprobsFn | None,
  micro: int,
  ref_logprobs: LogprobsFn | None = None,
  axis_name: str | None = None,
) -> Prepared:
  """Advantages, clip radius, old and reference log-probabilities.

  It runs over all devices and before mini-batches are cut, so that no
  statistic depends on the cut.

  Args:
    params: of the policy before the first update.
    rollout: of this device.
    reference: what the reference policy does not share with `params`: of all
      that is trained (`lora.split`), the values it has there.
    awpo_advantages: `advantages.awpo_advantages` with its flags bound.
    clip_radius: `advantages.clip_radius` with its flags bound.
    gate: name of the gate; `none` needs no reasoning reward.
    logprobs: log-probabilities under the trainer for `--old_logprobs=trainer`;
      None takes the sampler's.
    micro: prompts whose log-probabilities are computed at once.
    ref_logprobs: log-probabilities under the reference for the KL term; None
      for none.
    axis_name: of the data axis.

  Returns:
    `Prepared`.
  """
  all_sum = collectives.make_all_sum(axis_name)
  rewards, completions = rollout.rewards, rollout.completions
  valid = advantages_lib.valid_samples(
    rewards.outcome_valid, rewards.reasoning_valid, gate=gate
  )
  shaped = awpo_advantages(
    rewards.outcome,
    rewards.reasoning,
    valid,
    rewards.outcome_min,
    rewards.outcome_max,
  )
  radius = clip_radius(shaped.gate, shaped.counted, all_sum=all_sum)
  batch = types.Batch(
    prompt_tokens=rollout.prompts.tokens,
    prompt_mask=rollout.prompts.mask,
    tokens=completions.tokens,
    mask=completions.mask,
    positions=completions.positions,
    policy_mask=completions.policy_mask,
    valid=valid,
    old_logprobs=completions.logprobs,
    advantages=shaped.advantages,
    clip_radius=jnp.broadcast_to(radius, shaped.gate.shape),
  )
  trainer_logprobs = None
  if logprobs is not None:
    trainer_logprobs = _in_pieces(logprobs, params, batch, micro)
    batch = dataclasses.replace(batch, old_logprobs=trainer_logprobs)
  if ref_logprobs is not None:
    params = lora.join(reference, lora.split(params)[1])
    batch = dataclasses.replace(
      batch, ref_logprobs=_in_pieces(ref_logprobs, params, batch, micro)
    )
  return Prepared(
    batch=batch,
    trainer_logprobs=trainer_logprobs,
    metrics=all_sum(_metrics(rollout, batch, shaped)),
  )


def _in_pieces(logprobs: LogprobsFn, params, batch, micro: int) -> types.Array:
  """Log-probabilities, `micro` prompts at a time, 0 where not the policy's."""
  pieces = jax.tree.map(lambda x: x.reshape(-1, micro, *x.shape[1:]), batch)
  values = jax.lax.map(lambda piece: logprobs(params, piece)[0], pieces)
  values = values.reshape(batch.tokens.shape)
  return jnp.where(batch.policy_mask, values, 0.0)


def _metrics(
  rollout: types.Rollout,
  batch: types.Batch,
  shaped: advantages_lib.Advantages,
) -> dict[str, types.Array]:
  """Sums and counts of what describes the rollout and its advantages."""
  rewards, completions = rollout.rewards, rollout.completions
  policy = completions.policy_mask
  gap = jnp.abs(completions.logprobs - batch.old_logprobs)
  moved = jnp.any(batch.advantages != 0, axis=-1)
  amplified = advantages_lib.amplified_groups(shaped)
  pairs = {
    'reward/outcome': (rewards.outcome, rewards.outcome_valid),
    'reward/reasoning': (rewards.reasoning, rewards.reasoning_valid),
    'reward/valid': (batch.valid, jnp.ones_like(batch.valid)),
    'gate/mean': (shaped.gate, shaped.counted),
    'gate/amplified': (amplified, shaped.counted),
    'difficulty/mean': (shaped.difficulty, shaped.counted),
    'difficulty/solve_rate': (shaped.solve_rate, shaped.counted),
    'advantage/abs_mean': (jnp.abs(batch.advantages), batch.valid),
    'advantage/groups': (moved, jnp.ones_like(moved)),
    'length/mean': (
      jnp.sum(policy, axis=-1),
      jnp.ones_like(completions.finished),
    ),
    'length/finished': (
      completions.finished,
      jnp.ones_like(completions.finished),
    ),
    'entropy': (completions.entropy, policy),
    'ratio/sampler_abs_log_mean': (gap, policy),
    'clip/radius': (batch.clip_radius, jnp.ones_like(shaped.counted)),
  }
  return {
    name: jnp.stack([masked.sum(x, mask), masked.count(mask)])
    for name, (x, mask) in pairs.items()
  }
