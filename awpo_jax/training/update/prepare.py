"""From a scored rollout batch to what the updates need, once per rollout."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import lora
from awpo_jax.ops import awpo as awpo_lib
from awpo_jax.ops import collectives, masked
from awpo_jax.ops import samples as samples_lib
from awpo_jax.ops import trust as trust_lib

LogprobsFn = Callable[
  [types.ArrayTree, types.Batch], tuple[types.Array, types.Array]
]


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """Functions of `ops` with their flags bound.

  Attributes:
    samples: `advantages.make_samples`.
    advantages: `advantages.rollout_advantages`.
    shape: `advantages.shape`.
    clip_radius: `clipping.clip_radius`.
    select: `aggregation.selected`.
    clip_high: `clipping.upper_radius`; None where the flags give a multiple.
    correction: `surrogate.mismatch_weights`; None for none.
    penalty: (l_old, l_ref, mask) -> the KL in the reward; None for none.
  """

  samples: Callable[..., samples_lib.Samples]
  advantages: Callable[..., awpo_lib.Advantages]
  shape: Callable[..., types.Array]
  clip_radius: Callable[..., types.Array]
  select: Callable[..., types.Array]
  clip_high: Callable[..., types.Array] | None = None
  correction: Callable[..., types.Array] | None = None
  penalty: Callable[..., types.Array] | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
  """What the trainer computes of a rollout before the first update.

  Attributes:
    old: (sampler's, function of no argument) -> log-probabilities that ratios
      start from, `surrogate.OLD_LOGPROBS`.
    logprobs: of the completions, under given parameters.
    prompt: f32[P], mean log-probability of the prompts' tokens; None for none.
    reference: whether those under the reference are needed.
    micro: prompts of a part scored at once.
    parts: into how many the prompts are cut over devices, where they are global
      arrays.
  """

  old: Callable[..., types.Array]
  logprobs: LogprobsFn
  prompt: Callable[..., types.Array] | None
  reference: bool
  micro: int
  parts: int = 1


@types.record
class Prepared:
  """What a rollout batch keeps constant in its updates, [P, ...] per device.

  Attributes:
    batch: `types.Batch` without the axis of microbatches.
    trainer_logprobs: for `types.Rollout`.
    metrics: name -> f32[2], a sum and its count over all devices.
    groups: name -> f32[P] or f32[P, G], what the transcripts tell of the
      advantages of a group: of those per token the mean over its tokens.
  """

  batch: types.Batch
  trainer_logprobs: types.Array | None
  metrics: dict[str, types.Array]
  groups: dict[str, types.Array] | None = None


def prepare_rollout(
  params: types.ArrayTree,
  rollout: types.Rollout,
  reference: types.ArrayTree | None = None,
  *,
  algorithm: Algorithm,
  scores: Scores,
  axis_name: str | None = None,
) -> Prepared:
  """Log-probabilities, advantages, clip radius, and what is trained on.

  It runs over all devices and before mini-batches are cut, so that no
  statistic depends on the cut.

  Args:
    params: of the policy before the first update.
    rollout: of this device.
    reference: what the reference policy does not share with `params`: of all
      that is trained (`lora.split`), the values it has there.
    algorithm: its flags bound.
    scores: likewise.
    axis_name: of the data axis.
  """
  all_sum = collectives.make_all_sum(axis_name)
  completions = rollout.completions
  batch = _scored(params, rollout, reference, scores)
  samples = _samples(params, rollout, batch, algorithm, scores)
  made = algorithm.advantages(rollout.rewards, samples, all_sum=all_sum)
  advantages = algorithm.shape(made.advantages, samples)
  radius = algorithm.clip_radius(made.gate, made.counted, all_sum=all_sum)
  fields: dict[str, Any] = {}
  if algorithm.clip_high is not None:
    fields['clip_high'] = algorithm.clip_high(
      advantages, radius, samples, all_sum=all_sum
    )
  if algorithm.correction is not None:
    fields['correction'] = algorithm.correction(
      batch.old_logprobs, completions.logprobs, batch.policy_mask
    )
  batch = dataclasses.replace(
    batch,
    advantages=advantages,
    clip_radius=jnp.broadcast_to(radius, made.counted.shape),
    policy_mask=algorithm.select(
      batch.policy_mask & samples.valid[..., None],
      advantages,
      completions.finished,
      completions.entropy,
      all_sum=all_sum,
    ),
    **fields,
  )
  own = batch.old_logprobs is completions.logprobs
  return Prepared(
    batch=batch,
    trainer_logprobs=None if own else batch.old_logprobs,
    metrics=all_sum(_metrics(rollout, batch, made, samples)),
    groups=told(made, advantages, completions.policy_mask),
  )


def _scored(params, rollout, reference, scores: Scores) -> types.Batch:
  """The batch with all log-probabilities, and no advantages yet."""
  completions = rollout.completions
  batch = types.Batch.of(rollout.prompts, completions)

  def score(policy, piece):
    return scores.logprobs(policy, piece)[0]

  def logprobs(policy):
    if rollout.layout is None:
      values = _in_pieces(score, policy, batch, scores)
    else:
      read = functools.partial(score, policy)
      values = rollout.layout.gather(read, batch, parts=scores.parts)
    return jnp.where(batch.policy_mask, values, 0.0)

  old = scores.old(completions.logprobs, lambda: logprobs(params))
  frozen = None
  if scores.reference:
    frozen = logprobs(lora.join(reference, lora.split(params)[1]))
  return dataclasses.replace(batch, old_logprobs=old, ref_logprobs=frozen)


def _samples(
  params, rollout, batch, algorithm: Algorithm, scores: Scores
) -> samples_lib.Samples:
  """The samples for the estimators, with fields that only some of them need."""
  samples = algorithm.samples(rollout, batch.old_logprobs)
  if scores.prompt is not None:
    means = _in_pieces(scores.prompt, params, batch, scores)
    samples = dataclasses.replace(samples, prompt_logprob=means)
  if algorithm.penalty is not None:
    penalty = algorithm.penalty(
      batch.old_logprobs, batch.ref_logprobs, batch.policy_mask
    )
    samples = dataclasses.replace(samples, penalty=penalty)
  return samples


def _in_pieces(
  fn: Callable[..., types.Array], params, batch: types.Batch, scores: Scores
) -> types.Array:
  """`fn` of some prompts at a time: [P, ...].

  Every piece has `micro` prompts of each part, so that no device waits.
  """
  parts, micro = scores.parts, scores.micro

  def cut(x):
    x = x.reshape(parts, -1, micro, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(-1, parts * micro, *x.shape[3:])

  def join(x):
    x = x.reshape(-1, parts, micro, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(-1, *x.shape[3:])

  pieces = jax.tree.map(cut, batch)
  return join(jax.lax.map(lambda piece: fn(params, piece), pieces))


def told(
  made: awpo_lib.Advantages, advantages: types.Array, policy: types.Array
) -> dict[str, types.Array]:
  """What the transcripts say about each group, see `Prepared.groups`.

  Args:
    made: of the algorithm.
    advantages: as they are trained on, shaped.
    policy: bool[P, G, T], tokens that the policy chose.
  """
  found: dict[str, types.Array] = {
    name: jnp.broadcast_to(number, made.counted.shape)
    for name, number in {
      'gate': made.gate,
      'difficulty': made.difficulty,
      'solve_rate': made.solve_rate,
    }.items()
  }
  for name, values in {
    'outcome_advantage': made.outcome_advantages,
    'mix_advantage': made.mix_advantages,
    'advantage': advantages,
  }.items():
    if values is not None:
      per_token = values.ndim == 3
      found[name] = (
        masked.mean(values, policy, axis=-1) if per_token else values
      )
  return found


def _metrics(
  rollout: types.Rollout,
  batch: types.Batch,
  made: awpo_lib.Advantages,
  samples: samples_lib.Samples,
) -> dict[str, types.Array]:
  """Sums and counts of what describes the rollout and its advantages."""
  rewards, completions = rollout.rewards, rollout.completions
  policy, every = completions.policy_mask, jnp.ones_like(completions.finished)
  gap = jnp.abs(completions.logprobs - batch.old_logprobs)
  size: types.Array = jnp.abs(batch.advantages)
  if size.ndim == 3:
    size = masked.mean(size, policy, axis=-1)
  moved = jnp.any(size != 0, axis=-1)
  amplified = awpo_lib.amplified_groups(made)
  pairs: dict[str, tuple[types.Array | float, types.Array]] = {
    'reward/outcome': (rewards.outcome, rewards.outcome_valid),
    'reward/reasoning': (rewards.reasoning, rewards.reasoning_valid),
    'reward/valid': (samples.valid, jnp.ones_like(samples.valid)),
    'gate/mean': (made.gate, made.counted),
    'gate/amplified': (amplified, made.counted),
    'difficulty/mean': (made.difficulty, made.counted),
    'difficulty/solve_rate': (made.solve_rate, made.counted),
    'advantage/abs_mean': (size, samples.valid),
    'advantage/groups': (moved, jnp.ones_like(moved)),
    'length/mean': (jnp.sum(policy, axis=-1), every),
    'length/finished': (completions.finished, every),
    'entropy': (completions.entropy, policy),
    'ratio/sampler_abs_log_mean': (gap, policy),
    'clip/radius': (batch.clip_radius, jnp.ones_like(made.counted)),
    'selection/tokens': (batch.policy_mask, policy),
  }
  if made.trust is not None:
    pairs |= _trust_pairs(made.trust, jnp.ones_like(made.counted))
  if samples.penalty is not None:
    pairs['kl/in_reward'] = samples.penalty, policy
  if batch.correction is not None:
    pairs['mismatch/weight'] = batch.correction, policy
  return {
    name: jnp.stack([masked.sum(x, mask), masked.count(mask)])
    for name, (x, mask) in pairs.items()
  }


def _trust_pairs(
  trust: trust_lib.Trust, groups: types.Array
) -> dict[str, tuple[types.Array | float, types.Array]]:
  """Numbers of the whole batch, the same in every group of this device."""
  agreed = groups & (trust.groups > 0)
  return {
    'trust/mean': (jnp.broadcast_to(trust.trust, groups.shape), groups),
    'trust/groups': (jnp.broadcast_to(trust.groups, groups.shape), groups),
    'trust/agreement': (
      jnp.broadcast_to(trust.agreement, groups.shape),
      agreed,
    ),
  }
