"""How outcome and reasoning become one advantage: the flag `advantage`.

`awpo.awpo_advantages` joins them by gate and difficulty weight, whatever the
estimator; the others have their own way of adding two rewards. Each is a
function of the rewards of a rollout batch and of its samples, and gives
`awpo.Advantages`. By name it is given `standardize`, the flag `estimator` as a
function of one reward, `all_sum`, and the other flags of `AdvantageConfig`; it
takes those it needs. What is done to advantages once they are made is the flag
`shaper`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import awpo as awpo_lib
from awpo_jax.ops import (
  choices,
  collectives,
  estimators,
  masked,
  rivals,
)
from awpo_jax.ops import samples as samples_lib

Array = types.Array
Samples = samples_lib.Samples

ARM_SHARE = 0.2  # Of an answer's tokens, the least likely: what ARM looks at.


# Rewards before anything else.


def unconditioned(reasoning: Array, samples: Samples) -> Array:
  """R_rea as it comes."""
  return reasoning


def where_correct(reasoning: Array, samples: Samples) -> Array:
  """R_rea where the outcome is correct, else 0: GDPO's order of priority."""
  return masked.fill(reasoning, samples.correct)


CONDITIONS: dict[str, Callable[..., Array]] = {
  'none': unconditioned,
  'correct': where_correct,
}


def overlong_penalty(
  length: Array, *, max_length: int, buffer: int, penalty: float
) -> Array:
  """DAPO's overlong shaping, added to the outcome (arXiv:2503.14476).

    min(0, -(len - (max_length - buffer)) / buffer * penalty)

  Args:
    length: float[P, G], tokens of each answer.
    max_length: of the longest possible answer.
    buffer: tokens before it over which the penalty grows; 0 for none.
    penalty: at `max_length`.

  Returns:
    f32[P, G] in [-penalty, 0].
  """
  if not buffer:
    return jnp.zeros(length.shape, jnp.float32)
  over = (length - (max_length - buffer)) / buffer
  return jnp.minimum(0.0, -over * penalty).astype(jnp.float32)


# Joint advantages besides AWPO's.


def gdpo(
  rewards: types.Rewards,
  samples: Samples,
  *,
  mix_weight: float,
  mix_std_floor: float,
  ddof: int,
  eps: float,
  **flags,
) -> awpo_lib.Advantages:
  """A_out + mix_weight A_rea, then a norm over the batch (arXiv:2601.05242).

  The published forms differ in that norm: `row` is the paper's and TRL's (with
  eps 1e-4), `token` verl's and the authors' fork's. None has a floor of the
  standard deviation, which is the reasoning's alone here.
  """
  score = functools.partial(
    estimators.standardize, valid=samples.valid, ddof=ddof, eps=eps
  )
  a_out = score(rewards.outcome)
  a_rea = score(rewards.reasoning, std_floor=mix_std_floor)
  total = a_out + mix_weight * a_rea
  total = estimators.normed(total, samples, ddof=ddof, eps=eps, **flags)
  return awpo_lib.ungated(total, rewards, samples)


def gdpo_parts(
  rewards: types.Rewards,
  samples: Samples,
  *,
  reward_parts: Sequence[str],
  ddof: int,
  eps: float,
  **flags,
) -> awpo_lib.Advantages:
  """sum_k A_k over the parts k of the outcome, then a norm over the batch.

  With format and correctness apart it is what arXiv:2601.05242 trains tool
  calling with. A part that is missing, NaN, is left out; no reasoning is read.
  """
  total: Array = jnp.zeros_like(rewards.outcome)
  for name in reward_parts:
    part = choices.pick('reward_parts', rewards.parts or {}, name)
    had = samples.valid & jnp.isfinite(part)
    total += estimators.standardize(part, had, ddof=ddof, eps=eps)
  total = estimators.normed(total, samples, ddof=ddof, eps=eps, **flags)
  return awpo_lib.ungated(total, rewards, samples)


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
  score = functools.partial(estimators.standardize, ddof=ddof, eps=eps)
  a_out = score(samples.correct.astype(jnp.float32), samples.valid)
  right = samples.valid & samples.correct
  spread = masked.group_stats(rewards.reasoning, right, ddof=ddof).std
  a_proc = score(rewards.reasoning, right, std_floor=mix_std_floor)
  a_proc = masked.fill(a_proc, (spread > eps)[:, None])
  return awpo_lib.ungated(a_out + mix_weight * a_proc, rewards, samples)


ADVANTAGES: dict[str, Callable[..., awpo_lib.Advantages]] = {
  'awpo': awpo_lib.awpo_advantages,
  'gdpo': gdpo,
  'gdpo_parts': gdpo_parts,
  'papo': papo,
  'dvao': rivals.dvao,
  'gd2po': rivals.gd2po,
  'saw': rivals.saw,
  'sa_mrpo': rivals.sa_mrpo,
}


def reads_reasoning(*, advantage: str, gate: str) -> bool:
  """Whether an algorithm needs a score of the judge for each valid sample."""
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
  **_,
) -> Samples:
  """The samples of a rollout batch, as the estimators see them.

  Args:
    rollout: of this device.
    logprobs: f32[P, G, T], of the policy before the update.
    advantage, gate: flags; they say whether a sample needs a judge.
    correct: share of the way to the best outcome that counts as correct.

  Returns:
    `Samples`, without what only some algorithms ask for.
  """
  rewards, completions = rollout.rewards, rollout.completions
  valid = rewards.outcome_valid
  if reads_reasoning(advantage=advantage, gate=gate):
    valid = valid & rewards.reasoning_valid
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
  advantage: str,
  condition: str,
  max_length: int,
  length_buffer: int,
  length_penalty: float,
  all_sum: types.AllSum = collectives.identity,
  **flags,
) -> awpo_lib.Advantages:
  """Advantages of a rollout batch by the flags of `AdvantageConfig`.

  Args:
    rewards: of P groups; anything, even NaN, where not valid.
    samples: of `make_samples`.
    advantage: a key of `ADVANTAGES`.
    condition: a key of `CONDITIONS`.
    max_length, length_buffer, length_penalty: of `overlong_penalty`, added to
      the outcome.
    all_sum: adds each leaf of a tree up over all devices.
    **flags: of the function that `advantage` names and of
      `estimators.estimate`.

  Returns:
    `Advantages`, constant under differentiation; 0 where not valid.

  Raises:
    ValueError: if a flag value is unknown.
  """
  function = choices.pick('advantage', ADVANTAGES, advantage)
  conditioned = choices.pick('condition', CONDITIONS, condition)
  outcome = masked.fill(rewards.outcome, samples.valid)
  if length_buffer:
    outcome += overlong_penalty(
      masked.count(samples.mask, axis=-1),
      max_length=max_length,
      buffer=length_buffer,
      penalty=length_penalty,
    )
  # A reward that the algorithm does not read may be missing.
  read = reads_reasoning(advantage=advantage, gate=flags['gate'])
  reasoning = masked.fill(rewards.reasoning, samples.valid & read)
  rewards = dataclasses.replace(
    rewards, outcome=outcome, reasoning=conditioned(reasoning, samples)
  )
  standardize = functools.partial(
    estimators.estimate, samples=samples, all_sum=all_sum, **flags
  )
  return jax.lax.stop_gradient(
    function(
      rewards, samples, standardize=standardize, all_sum=all_sum, **flags
    )
  )


# Shaping: f32[P, G] advantages with their samples to others of that shape.


def unshaped(advantages: Array, samples: Samples, **_) -> Array:
  """A."""
  return advantages


def egpo(
  advantages: Array,
  samples: Samples,
  *,
  egpo_lambda: float,
  egpo_alpha: float,
  **_,
) -> Array:
  """A + lam min(H, |A| / alpha) (EGPO / FunRL, arXiv:2508.05118).

  H is the mean entropy over the tokens of the chain of thought, 0 without one.
  The bonus is at most lam |A| / alpha: no sign flips, and what is 0 stays 0.
  """
  if samples.thinking is None:
    raise ValueError('shaper=egpo needs the tokens of the chain of thought')
  thought = samples.mask & samples.thinking
  entropy = masked.mean(samples.entropy, thought, axis=-1)
  bonus = jnp.minimum(entropy, jnp.abs(advantages) / egpo_alpha)
  return advantages + egpo_lambda * bonus


def _least_likely(samples: Samples, share: float) -> Array:
  """bool[P, G, T], the ceil(share * len) least likely tokens of a row."""
  ordered = jnp.where(samples.mask, samples.logprobs, jnp.inf)
  rank = jnp.argsort(jnp.argsort(ordered, axis=-1), axis=-1)
  length = masked.count(samples.mask, axis=-1, keepdims=True)
  return samples.mask & (rank < jnp.ceil(share * length - 1e-6))


def arm(advantages: Array, samples: Samples, *, arm_alpha: float, **_) -> Array:
  """A + a (c(q) - c(o|q)) in groups with a correct sample (arXiv:2602.05281).

  c(q) = exp(mean log-probability of the prompt's tokens), c(o|q) = exp(mean
  over the 20% least likely tokens of the answer): what the policy is sure of
  gains less. Not zero-mean in the group; a is not known from the paper.
  """
  if samples.prompt_logprob is None:
    raise ValueError('shaper=arm needs the log-probability of the prompt')
  low = _least_likely(samples, ARM_SHARE)
  answer = jnp.exp(masked.mean(samples.logprobs, low, axis=-1))
  shift = jnp.exp(samples.prompt_logprob)[:, None] - answer
  shaped = jnp.any(samples.correct, axis=1)
  used = shaped[:, None] & samples.counted & jnp.any(samples.mask, axis=-1)
  return advantages + arm_alpha * masked.fill(shift, used)


SHAPERS: dict[str, Callable[..., Array]] = {
  'none': unshaped,
  'egpo': egpo,
  'arm': arm,
}


def shape(
  advantages: Array, samples: Samples, *, shaper: str, **numbers
) -> Array:
  """Shaped advantages, constant under differentiation; 0 where not valid.

  Raises:
    ValueError: if `shaper` is unknown.
  """
  function = choices.pick('shaper', SHAPERS, shaper)
  shaped = function(advantages, samples, **numbers)
  valid = samples.valid.reshape(
    samples.valid.shape + (1,) * (shaped.ndim - samples.valid.ndim)
  )
  return jax.lax.stop_gradient(masked.fill(shaped, valid))
