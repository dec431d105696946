"""Methods of 2026 that join two rewards; entries of the flag `advantage`.

Of a group, for reward k: s_k its standard deviation and A_k = (r_k - mean) /
s_k. The rewards are the outcome, of weight 1, and the reasoning, of weight
`mix_weight`. None has a gate, a difficulty weight or a floor of s_k. How sure
we are of each formula stands in docs/algorithms.md.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import (
  awpo,
  choices,
  difficulty,
  estimators,
  masked,
)
from awpo_jax.ops import samples as samples_lib

Array = types.Array
Samples = samples_lib.Samples

_TINY = 1e-8  # As in GD2PO's code.


def _standardized(
  rewards: types.Rewards, samples: Samples, ddof: int, eps: float
) -> tuple[Array, Array]:
  """A_out and A_rea, f32[P, G] each."""
  a_out, a_rea = (
    estimators.standardize(r, samples.valid, ddof=ddof, eps=eps)
    for r in (rewards.outcome, rewards.reasoning)
  )
  return a_out, a_rea


def dvao(
  rewards: types.Rewards,
  samples: Samples,
  *,
  mix_weight: float,
  ddof: int,
  eps: float,
  **_,
) -> awpo.Advantages:
  """A = sum_k w_k s_k A_k / sum_l w_l s_l (DVAO, arXiv:2605.25604).

  As s_k A_k = r_k - mean, that is the naive sum of rewards, centered, over the
  sum of their standard deviations in place of the sum's own.
  """
  total = rewards.outcome + mix_weight * rewards.reasoning
  s_out, s_rea = (
    masked.group_stats(r, samples.valid, ddof=ddof).std
    for r in (rewards.outcome, rewards.reasoning)
  )
  spread = (s_out + mix_weight * s_rea)[:, None]
  made = estimators.centered(total, samples) / (spread + eps)
  return awpo.ungated(made, rewards, samples)


def gd2po(
  rewards: types.Rewards,
  samples: Samples,
  *,
  mix_weight: float,
  gd2po_tau: float | None,
  ddof: int,
  eps: float,
  batch_norm: str,
  all_sum: types.AllSum,
  **_,
) -> awpo.Advantages:
  """GDPO's sum without the samples whose A_k disagree (arXiv:2606.16771).

  Those are dropped in which one A_k is above 0 and the other below; with
  `gd2po_tau` only where, too, |sum_k A_k| / (sum_k |A_k| + 1e-8) < tau. What is
  left is multiplied by the share of its group that was kept, and normed over
  the batch as if nothing else were there.
  """
  a_out, a_rea = _standardized(rewards, samples, ddof, eps)
  a_rea = mix_weight * a_rea
  total = a_out + a_rea
  agree = a_out * a_rea >= 0
  if gd2po_tau is not None:
    size = jnp.abs(a_out) + jnp.abs(a_rea)
    agree |= jnp.abs(total) / (size + _TINY) >= gd2po_tau
  kept = samples.valid & agree
  everyone = jnp.maximum(masked.count(samples.valid, axis=1), 1.0)
  share = masked.count(kept, axis=1) / everyone
  made = estimators.normed(
    masked.fill(total * share[:, None], kept),
    dataclasses.replace(samples, valid=kept),
    batch_norm=batch_norm,
    ddof=ddof,
    eps=eps,
    all_sum=all_sum,
  )
  return awpo.ungated(made, rewards, samples)


def _on_rewards(
  rewards: types.Rewards, samples: Samples, w_out, w_rea, *, ddof, eps, **_
) -> Array:
  """Advantages of the weighed sum of the rewards."""
  # Centered before they are weighed, as float32 rounds 4 w_out to 2e-7.
  out, rea = (
    estimators.centered(r, samples)
    for r in (rewards.outcome, rewards.reasoning)
  )
  total = w_out * out + w_rea * rea
  return estimators.standardize(total, samples.valid, ddof=ddof, eps=eps)


def _on_advantages(
  rewards: types.Rewards, samples: Samples, w_out, w_rea, *, ddof, eps, **norm
) -> Array:
  """The weighed sum of the advantages, normed over the batch."""
  a_out, a_rea = _standardized(rewards, samples, ddof, eps)
  total = w_out * a_out + w_rea * a_rea
  return estimators.normed(total, samples, ddof=ddof, eps=eps, **norm)


# What SAW's weights are applied to.
SAW_ON: dict[str, Callable[..., Array]] = {
  'rewards': _on_rewards,
  'advantages': _on_advantages,
}


def saw(
  rewards: types.Rewards,
  samples: Samples,
  *,
  saw_on: str,
  ddof: int,
  eps: float,
  batch_norm: str,
  all_sum: types.AllSum,
  **_,
) -> awpo.Advantages:
  """w_k = 2 cv_k / sum_l cv_l, cv_k = std / |mean| (SAW, arXiv:2606.07705).

  Both are over the batch. The outcome is taken from its worst value on, the +3
  of the paper for ToolRL's correctness. There is no weight but these.
  """
  weights = samples.valid.astype(jnp.float32)
  low = masked.fill(rewards.outcome_min, samples.comparable)[:, None]
  variations = []
  for reward in (rewards.outcome - low, rewards.reasoning):
    mean, variance = estimators.moments(
      masked.fill(reward, samples.valid), weights, ddof, all_sum
    )
    variations.append(masked.sqrt(variance) / (jnp.abs(mean) + eps))
  total = variations[0] + variations[1]
  unit = 2.0 / jnp.where(total > 0, total, 1.0)
  w_out, w_rea = (unit * cv for cv in variations)
  made = choices.pick('saw_on', SAW_ON, saw_on)(
    rewards,
    samples,
    w_out,
    w_rea,
    ddof=ddof,
    eps=eps,
    batch_norm=batch_norm,
    all_sum=all_sum,
  )
  return awpo.ungated(made, rewards, samples)


def sa_mrpo(
  rewards: types.Rewards,
  samples: Samples,
  *,
  mix_weight: float,
  sa_gamma: float,
  ddof: int,
  eps: float,
  batch_norm: str,
  all_sum: types.AllSum,
  **_,
) -> awpo.Advantages:
  """A = sum_k w_k (1 - s_k)^sa_gamma A_k, then a norm (arXiv:2608.16072).

  s_k, how saturated a reward is, is its mean over the batch between its bounds,
  0 and 1 for the reasoning. With sa_gamma 0 it is GDPO.
  """
  low = masked.fill(rewards.outcome_min, samples.comparable)[:, None]
  span = difficulty.outcome_span(rewards, samples)[:, None]
  reached, judged, count = all_sum(
    (
      masked.sum((rewards.outcome - low) / span, samples.valid),
      masked.sum(rewards.reasoning, samples.valid),
      masked.count(samples.valid),
    )
  )
  f_out, f_rea = (
    jnp.clip(1.0 - total / jnp.maximum(count, 1.0), 0.0, 1.0) ** sa_gamma
    for total in (reached, judged)
  )
  a_out, a_rea = _standardized(rewards, samples, ddof, eps)
  made = estimators.normed(
    f_out * a_out + mix_weight * f_rea * a_rea,
    samples,
    batch_norm=batch_norm,
    ddof=ddof,
    eps=eps,
    all_sum=all_sum,
  )
  return awpo.ungated(made, rewards, samples)
