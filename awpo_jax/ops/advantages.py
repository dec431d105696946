"""How outcome and reasoning become one advantage: the flag `advantage`.

`awpo` joins them by gate and difficulty weight, whatever the estimator; the
others have their own way of adding two rewards. Each takes the scored samples
of a rollout batch and gives `awpo.Advantages`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import awpo as awpo_lib
from awpo_jax.ops import choices, collectives, estimators, masked, selection
from awpo_jax.ops import group_stats as group_stats_lib
from awpo_jax.ops import samples as samples_lib

Array = types.Array
Samples = samples_lib.Samples


# Rewards before anything else.


def unconditioned(reasoning: Array, samples: Samples) -> Array:
  """R_rea as it comes."""
  del samples
  return reasoning


def where_correct(reasoning: Array, samples: Samples) -> Array:
  """R_rea where the outcome is correct, else 0: GDPO's order of priority."""
  return masked.fill(reasoning, samples.correct)


CONDITIONS: Mapping[str, Callable[..., Array]] = {
  'none': unconditioned,
  'correct': where_correct,
}


# Joint advantages.


def awpo(
  rewards: types.Rewards,
  samples: Samples,
  *,
  ddof: int,
  eps: float,
  estimator: str,
  batch_norm: str,
  mix_std_floor: float,
  reward_parts: Sequence[str],
  all_sum: types.AllSum,
  **parts,
) -> awpo_lib.Advantages:
  """A = d [(1 - w) A_out + w A_mix], A_out and A_mix by the estimator."""
  del reward_parts  # The outcome is one reward.
  if parts['gate'] == 'none':
    nothing = jnp.zeros_like(rewards.outcome)
    rewards = dataclasses.replace(rewards, reasoning=nothing)

  def standardize(reward: Array, std_floor: float = 0.0) -> Array:
    return estimators.estimate(
      reward,
      samples,
      estimator=estimator,
      batch_norm=batch_norm,
      ddof=ddof,
      eps=eps,
      std_floor=std_floor,
      all_sum=all_sum,
    )

  return awpo_lib.compose(
    rewards.outcome,
    rewards.reasoning,
    samples.valid,
    rewards.outcome_min,
    rewards.outcome_max,
    rewards.wants_call,
    parts=awpo_lib.make_parts(**parts),
    standardize=standardize,
    ddof=ddof,
    mix_std_floor=mix_std_floor,
  )


def gdpo_sum(
  rewards: Array,
  had: Array,
  weights: Array,
  *,
  ddof: int = 1,
  eps: float = 1e-6,
  std_floors: Sequence[float] | None = None,
) -> Array:
  """S = sum_k w_k A_k, A_k of each reward on its own (arXiv:2601.05242).

  Args:
    rewards: float[K, P, G]; anything, even NaN, where not had.
    had: bool[K, P, G].
    weights: f32[K], of the standardized rewards.
    ddof: 1 for unbiased standard deviations, 0 for biased ones.
    eps: added to them.
    std_floors: the least of them that may divide, for each reward; None: 0.

  Returns:
    f32[P, G]; a reward that is the same throughout a group adds 0, one that is
    missing is left out.
  """
  chex.assert_rank([rewards, had], 3)
  floors = std_floors or [0.0] * len(rewards)
  scores = [
    w * estimators.standardize(r, h, ddof=ddof, eps=eps, std_floor=floor)
    for r, h, w, floor in zip(rewards, had, weights, floors, strict=True)
  ]
  return sum(scores[1:], scores[0])


def gdpo(
  rewards: types.Rewards,
  samples: Samples,
  *,
  mix_weight: float,
  mix_std_floor: float,
  ddof: int,
  eps: float,
  batch_norm: str,
  all_sum: types.AllSum,
  **_,
) -> awpo_lib.Advantages:
  """GDPO of outcome (weight 1) and reasoning (`mix_weight`), then a batch norm.

  The published forms differ in that norm: `row` is the paper's and TRL's (with
  eps 1e-4), `token` verl's and the authors' fork's. None has a floor of the
  standard deviation, which is the reasoning's alone here.
  """
  both = jnp.stack([rewards.outcome, rewards.reasoning])
  had = jnp.broadcast_to(samples.valid, both.shape)
  total = gdpo_sum(
    both,
    had,
    jnp.float32([1.0, mix_weight]),
    ddof=ddof,
    eps=eps,
    std_floors=(0.0, mix_std_floor),
  )
  norm = choices.pick('batch_norm', estimators.BATCH_NORMS, batch_norm)
  normed = norm(total, samples, all_sum=all_sum, ddof=ddof, eps=eps)
  return _described(normed, rewards, samples, ddof=ddof, eps=eps)


def gdpo_parts(
  rewards: types.Rewards,
  samples: Samples,
  *,
  reward_parts: Sequence[str],
  ddof: int,
  eps: float,
  batch_norm: str,
  all_sum: types.AllSum,
  **_,
) -> awpo_lib.Advantages:
  """GDPO of the outcome's parts, each of weight 1, then a batch norm.

  With format and correctness apart it is what arXiv:2601.05242 trains tool
  calling with. No reasoning is read.
  """
  parts = rewards.parts or {}
  apart = jnp.stack(
    [choices.pick('reward_parts', parts, name) for name in reward_parts]
  )
  had = samples.valid[None] & jnp.isfinite(apart)
  total = gdpo_sum(apart, had, jnp.ones(len(apart)), ddof=ddof, eps=eps)
  norm = choices.pick('batch_norm', estimators.BATCH_NORMS, batch_norm)
  normed = norm(total, samples, all_sum=all_sum, ddof=ddof, eps=eps)
  unread = jnp.zeros_like(rewards.outcome)
  rewards = dataclasses.replace(rewards, reasoning=unread)
  return _described(normed, rewards, samples, ddof=ddof, eps=eps)


def papo(
  rewards: types.Rewards,
  samples: Samples,
  *,
  mix_weight: float,
  mix_std_floor: float,
  ddof: int,
  eps: float,
  **_,
) -> awpo_lib.Advantages:
  """A_out + lam A_proc, decoupled (process-aware PAPO, arXiv:2603.26535).

  A_out is GRPO's of the binary outcome; A_proc standardizes the reasoning over
  the correct samples of a group alone, and is 0 elsewhere, where fewer than two
  are correct, and where they differ by no more than eps. lam is `mix_weight`;
  the floor of the reasoning's standard deviation is not of the paper.
  """
  binary = samples.correct.astype(jnp.float32)
  outcome = estimators.standardize(binary, samples.valid, ddof=ddof, eps=eps)
  right = samples.valid & samples.correct
  spread = group_stats_lib.group_stats(rewards.reasoning, right, ddof=ddof).std
  process = estimators.standardize(
    rewards.reasoning, right, ddof=ddof, eps=eps, std_floor=mix_std_floor
  )
  process = masked.fill(process, (spread > eps)[:, None])
  total = outcome + mix_weight * process
  return _described(total, rewards, samples, ddof=ddof, eps=eps)


def _described(
  total: Array, rewards: types.Rewards, samples: Samples, *, ddof, eps
) -> awpo_lib.Advantages:
  """A finished advantage with what is logged of it: no gate, no weight."""
  valid = samples.valid
  stats = group_stats_lib.group_stats(rewards.outcome, valid, ddof=ddof)
  other = group_stats_lib.group_stats(rewards.reasoning, valid, ddof=ddof)
  counted = stats.count >= 2
  span = jnp.maximum(rewards.outcome_max - rewards.outcome_min, eps)
  rate = jnp.clip((stats.mean - rewards.outcome_min) / span, 0.0, 1.0)
  each = (
    estimators.standardize(r, valid, ddof=ddof, eps=eps)
    for r in (rewards.outcome, rewards.reasoning)
  )
  return awpo_lib.Advantages(
    total,
    jnp.zeros(counted.shape, jnp.float32),
    counted.astype(jnp.float32),
    counted,
    masked.fill(rate, counted),
    stats.std,
    other.std,
    *each,
  )


ADVANTAGES: dict[str, Callable[..., awpo_lib.Advantages]] = {
  'awpo': awpo,
  'gdpo': gdpo,
  'gdpo_parts': gdpo_parts,
  'papo': papo,
}


def reads_reasoning(*, advantage: str, gate: str) -> bool:
  """Whether an algorithm needs a judge: then a sample without is not valid."""
  if advantage == 'gdpo_parts':
    return False
  return advantage != 'awpo' or gate != 'none'


def make_samples(
  rollout: types.Rollout,
  logprobs: Array,
  *,
  advantage: str,
  gate: str,
  correct: float | None,
) -> Samples:
  """What the estimators may know of a rollout batch.

  Args:
    rollout: of this device.
    logprobs: f32[P, G, T], of the policy before the update.
    advantage, gate: flags; they say whether a sample needs a judge.
    correct: share of the way to the best outcome that counts as correct.

  Returns:
    `Samples`, without what only some algorithms ask for.
  """
  rewards, completions = rollout.rewards, rollout.completions
  judged = reads_reasoning(advantage=advantage, gate=gate)
  valid = awpo_lib.valid_samples(
    rewards.outcome_valid,
    rewards.reasoning_valid,
    gate='always' if judged else 'none',
  )
  return Samples(
    valid=valid,
    mask=completions.policy_mask,
    correct=samples_lib.is_correct(
      rewards.outcome,
      valid,
      rewards.outcome_min,
      rewards.outcome_max,
      share=correct,
    ),
    logprobs=logprobs,
    entropy=completions.entropy,
    thinking=rollout.thinking,
  )


def rollout_advantages(
  rewards: types.Rewards,
  samples: Samples,
  *,
  advantage: str = 'awpo',
  condition: str = 'none',
  max_length: int = 0,
  length_buffer: int = 0,
  length_penalty: float = 1.0,
  all_sum: types.AllSum = collectives.identity,
  **flags,
) -> awpo_lib.Advantages:
  """Advantages of a rollout batch by the flags of `AdvantageConfig`.

  Args:
    rewards: of P groups; anything, even NaN, where not valid.
    samples: of `make_samples`.
    advantage: a key of `ADVANTAGES`.
    condition: a key of `CONDITIONS`.
    max_length, length_buffer, length_penalty: of `selection.length_penalty`,
      added to the outcome.
    all_sum: adds each leaf of a tree up over all devices.
    **flags: of the estimator and of AWPO's parts.

  Returns:
    `Advantages`, constant under differentiation; 0 where not valid.

  Raises:
    ValueError: if a flag value is unknown.
  """
  function = choices.pick('advantage', ADVANTAGES, advantage)
  conditioned = choices.pick('condition', CONDITIONS, condition)
  outcome = masked.fill(rewards.outcome, samples.valid)
  if length_buffer:
    outcome += selection.length_penalty(
      masked.count(samples.mask, axis=-1),
      max_length=max_length,
      buffer=length_buffer,
      penalty=length_penalty,
    )
  reasoning = masked.fill(rewards.reasoning, samples.valid)
  rewards = dataclasses.replace(
    rewards, outcome=outcome, reasoning=conditioned(reasoning, samples)
  )
  return jax.lax.stop_gradient(
    function(rewards, samples, all_sum=all_sum, **flags)
  )
