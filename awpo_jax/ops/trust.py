"""Trust: how far the gate may follow the judge (ours).

The gate asks whether the outcome varies, never whether the judge is right:
where all outcomes of a group are equal it opens fully, and nothing there
contradicts the judge. Trust, one number of a rollout batch, is measured where
both rewards vary, and w is multiplied by it everywhere. It is not part of the
paper.

  corr_g   Pearson's correlation of R_out and R_rea over the valid samples of a
           group in which both vary
  n        the number of those groups in the rollout batch, over all devices
  mean     their mean correlation
  G        the mean number of their valid samples
"""

from collections.abc import Callable

import chex
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, collectives, masked

Array = types.Array


@types.record
class Trust:
  """Trust and what it was made of; numbers of the whole rollout batch.

  Attributes:
    trust: f32 scalar in [0, 1].
    groups: f32 scalar, n.
    agreement: f32 scalar in [-1, 1], the mean correlation; 0 where n = 0.
  """

  trust: Array
  groups: Array
  agreement: Array


def full(total: Array, groups: Array, degrees: Array, **_) -> Array:
  """1: the gate as it is."""
  return jnp.ones_like(total)


def agreement(
  total: Array,
  groups: Array,
  degrees: Array,
  *,
  trust_prior: float,
  trust_start: float,
  **_,
) -> Array:
  """clip((sum_g corr_g + prior start) / (n + prior), 0, 1).

  The prior is that number of further groups with the correlation `trust_start`,
  which is the trust with no group to go by, n = 0. With 0 nothing is trusted
  before an outcome has been right: a good judge helps least where it is needed
  most, and a bad one cannot harm there.
  """
  total = total + trust_prior * trust_start
  return jnp.clip(total / (groups + trust_prior), 0.0, 1.0)


def confident(
  total: Array,
  groups: Array,
  degrees: Array,
  *,
  trust_kappa: float,
  trust_start: float,
  **_,
) -> Array:
  """clip((mean - 1 / sqrt(n (G - 1))) / trust_kappa, 0, 1).

  It is `trust_start` where n = 0.

  What is taken away is the standard error of the mean correlation of a judge of
  pure noise: a correlation over G samples then has variance 1 / (G - 1). From
  trust_kappa on the rest is trusted in full.
  """
  mean = total / jnp.maximum(groups, 1.0)
  error = 1.0 / jnp.sqrt(jnp.maximum(degrees, 1.0))
  earned = jnp.clip((mean - error) / trust_kappa, 0.0, 1.0)
  return jnp.where(groups > 0, earned, trust_start)


# Each is given the sum of the correlations, n, and n (G - 1).
TRUSTS: dict[str, Callable[..., Array]] = {
  'none': full,
  'agreement': agreement,
  'confident': confident,
}


def correlations(
  outcome: Array, reasoning: Array, valid: Array
) -> tuple[Array, Array]:
  """Pearson's correlation of two rewards within each group.

  Args:
    outcome: float[P, G]; anything, even NaN, where not valid.
    reasoning: likewise.
    valid: bool[P, G].

  Returns:
    f32[P] in [-1, 1] up to rounding, and bool[P]: where both rewards vary;
    elsewhere the correlation is exactly 0.
  """
  chex.assert_equal_shape([outcome, reasoning, valid])
  scores, varies = [], []
  for rewards in (outcome, reasoning):
    stats = masked.group_stats(rewards, valid, ddof=0)
    deviation = masked.fill(rewards, valid) - stats.mean[:, None]
    std = jnp.where(stats.std > 0, stats.std, 1.0)[:, None]
    scores.append(deviation / std)
    varies.append(stats.std > 0)
  both = varies[0] & varies[1]
  return masked.fill(
    masked.mean(scores[0] * scores[1], valid, axis=1), both
  ), both


def batch_trust(
  outcome: Array,
  reasoning: Array,
  valid: Array,
  *,
  trust: str,
  all_sum: types.AllSum = collectives.identity,
  **numbers,
) -> Trust:
  """Trust in the judge of a rollout batch.

  Args:
    outcome: float[P, G]; anything, even NaN, where not valid.
    reasoning: likewise.
    valid: bool[P, G].
    trust: a key of `TRUSTS`.
    all_sum: adds each leaf of a tree up over all devices.
    **numbers: of those functions, `trust_prior` and the like.

  Returns:
    `Trust`, equal on all devices.

  Raises:
    ValueError: if `trust` is unknown.
  """
  function = choices.pick('trust', TRUSTS, trust)
  corr, both = correlations(outcome, reasoning, valid)
  degrees = masked.sum(masked.count(valid, axis=1) - 1.0, both)
  total, groups, degrees = all_sum((jnp.sum(corr), masked.count(both), degrees))
  return Trust(
    trust=function(total, groups, degrees, **numbers),
    groups=groups,
    agreement=total / jnp.maximum(groups, 1.0),
  )


def trusted_gate(
  w: Array,
  outcome: Array,
  reasoning: Array,
  valid: Array,
  *,
  gate: str,
  trust: str,
  all_sum: types.AllSum,
  **flags,
) -> tuple[Array, Trust | None]:
  """t w, and what t was made of; w itself where gate or trust is `none`.

  Args:
    w: f32[P], the gate of each group.
    outcome, reasoning, valid: of `batch_trust`.
    gate: the flag; neither reward is read where it is `none`.
    trust: a key of `TRUSTS`.
    all_sum: adds each leaf of a tree up over all devices.
    **flags: of `batch_trust`.
  """
  if 'none' in (gate, trust):
    return w, None
  made = batch_trust(
    outcome, reasoning, valid, trust=trust, all_sum=all_sum, **flags
  )
  return made.trust * w, made
