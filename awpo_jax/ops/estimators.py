"""Advantage estimators, one small function per value of the flag `estimator`.

Each takes the rewards of a rollout batch, f32[P, G] and 0 where not valid, and
its `Samples`; it returns f32[P, G], or f32[P, G, T] where tokens differ. AWPO
calls it for the outcome and for the mixed reward; with `gate=none` what is left
is the estimator itself, on the outcome. mu and s are mean and standard
deviation over the valid samples of a group.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, collectives, masked
from awpo_jax.ops import samples as samples_lib

Array = types.Array
Samples = samples_lib.Samples
Functions = Mapping[str, Callable[..., Array]]

_WHITEN_EPSILON = 1e-8  # Under the root, as in verl.
_DGPO_EPSILON = 1e-4


def standardize(
  rewards: Array,
  valid: Array,
  *,
  ddof: int,
  eps: float,
  std_floor: float = 0.0,
) -> Array:
  """(r - mu) / (max(s, std_floor) + eps), exactly 0 where flat or not valid.

  A group that differs by less than the floor keeps small advantages; all others
  have what they have without it.
  """
  stats = masked.group_stats(rewards, valid, ddof=ddof)
  deviation = masked.fill(rewards, valid) - stats.mean[:, None]
  std = jnp.maximum(stats.std, std_floor)[:, None]
  return masked.fill(deviation, valid) / (std + eps)


def centered(rewards: Array, samples: Samples) -> Array:
  """r - mu; 0 where not valid or alone."""
  stats = masked.group_stats(rewards, samples.valid)
  return masked.fill(rewards - stats.mean[:, None], samples.counted)


# Norms over the whole batch.


def moments(
  values: Array, weights: Array, ddof: int, all_sum: types.AllSum
) -> tuple[Array, Array]:
  """Mean and variance, f32 scalars, under weights, over all devices.

  Args:
    values: f32[...].
    weights: f32[...], of the same shape, at least 0; their sum is the count.
    ddof: subtracted from the count in the variance.
    all_sum: adds each leaf of a tree up over all devices.
  """
  total, count = all_sum((jnp.sum(weights * values), jnp.sum(weights)))
  mean = total / jnp.maximum(count, 1.0)
  squares = all_sum(jnp.sum(weights * jnp.square(values - mean)))
  return mean, squares / jnp.maximum(count - ddof, 1.0)


def token_norm(
  values: Array,
  samples: Samples,
  *,
  all_sum: types.AllSum,
  std_floor: float = 0.0,
  **_,
) -> Array:
  """(x - mean) / sqrt(var + 1e-8) over the tokens of the batch, as verl's.

  Long answers weigh more. A row without a token has no say and is 0.
  """
  weights = samples.mask & samples.valid[..., None]
  if values.ndim == 2:
    weights = jnp.sum(weights, axis=-1)
  weights = weights.astype(jnp.float32)
  mean, variance = moments(values, weights, 1, all_sum)
  std = jnp.sqrt(variance + _WHITEN_EPSILON)
  scaled = (values - mean) / jnp.maximum(std, std_floor)
  return masked.fill(scaled, weights > 0)


def row_norm(
  values: Array,
  samples: Samples,
  *,
  all_sum: types.AllSum,
  ddof: int,
  eps: float,
  std_floor: float = 0.0,
  **_,
) -> Array:
  """(x - mean) / (std + eps) over the rows of the batch, as TRL's."""
  if values.ndim == 3:
    raise ValueError(
      'batch_norm=row knows one advantage a row, but a KL in the reward gives '
      'tokens their own: set batch_norm=token'
    )
  weights = samples.valid.astype(jnp.float32)
  mean, variance = moments(values, weights, ddof, all_sum)
  std = jnp.maximum(masked.sqrt(variance), std_floor)
  scaled = (values - mean) / (std + eps)
  return masked.fill(scaled, samples.valid)


def no_norm(values: Array, samples: Samples, **_) -> Array:
  """As they are."""
  return values


BATCH_NORMS: Functions = {'token': token_norm, 'row': row_norm, 'none': no_norm}


def normed(
  values: Array, samples: Samples, *, batch_norm: str, **flags
) -> Array:
  """The values under a norm over the batch, a key of `BATCH_NORMS`."""
  function = choices.pick('batch_norm', BATCH_NORMS, batch_norm)
  return function(values, samples, **flags)


# Estimators.


def grpo(
  rewards: Array, samples: Samples, *, ddof, eps, std_floor, **_
) -> Array:
  """(r - mu) / (s + eps) (arXiv:2402.03300)."""
  return standardize(
    rewards, samples.valid, ddof=ddof, eps=eps, std_floor=std_floor
  )


def dr_grpo(rewards: Array, samples: Samples, **_) -> Array:
  """r - mu (arXiv:2503.20783): hard and easy groups keep their size."""
  return centered(rewards, samples)


def batch_std(
  rewards: Array, samples: Samples, *, all_sum, ddof, eps, std_floor, **_
) -> Array:
  """(r - mu) / (std over the batch + eps) (arXiv:2508.08221)."""
  weights = samples.valid.astype(jnp.float32)
  deviation = masked.sqrt(moments(rewards, weights, ddof, all_sum)[1])
  return centered(rewards, samples) / (jnp.maximum(deviation, std_floor) + eps)


def rloo(rewards: Array, samples: Samples, **_) -> Array:
  """r - mean of the others = G / (G - 1) (r - mu) (arXiv:2402.14740)."""
  count = masked.count(samples.valid, axis=1)[:, None]
  return centered(rewards, samples) * count / jnp.maximum(count - 1.0, 1.0)


def reinforce_pp(rewards: Array, samples: Samples, **flags) -> Array:
  """REINFORCE++ (arXiv:2501.03262): returns of tokens, then the batch norm.

    R_t = r - sum_{u >= t} beta kl_u,   no baseline of the group

  Without a KL in the reward R_t = r for every token of a row.
  """
  returns: Array = rewards
  if samples.penalty is not None:
    paid = masked.fill(samples.penalty, samples.mask)
    later = jnp.cumsum(paid[..., ::-1], axis=-1)[..., ::-1]
    returns = masked.fill(rewards[..., None] - later, samples.mask)
  return normed(returns, samples, **flags)


def reinforce_pp_baseline(rewards: Array, samples: Samples, **flags) -> Array:
  """REINFORCE++ with r - mu for the reward (arXiv:2501.03262)."""
  kept = dataclasses.replace(samples, valid=samples.counted)
  return normed(centered(rewards, samples), kept, **flags)


def opo(rewards: Array, samples: Samples, **_) -> Array:
  """r - sum(len r) / sum(len) (arXiv:2505.23585): long answers weigh more."""
  total = jnp.sum(samples.length * rewards, axis=1)
  length = jnp.sum(samples.length, axis=1)
  stats = masked.group_stats(rewards, samples.valid)
  # Rounded, the mean of equal rewards need not equal them.
  baseline = jnp.where(stats.flat, stats.mean, total / jnp.maximum(length, 1))
  return masked.fill(rewards - baseline[:, None], samples.counted)


def gpg(rewards: Array, samples: Samples, *, all_sum, **_) -> Array:
  """(N / number of rewards that are not 0) (r - mu) (arXiv:2504.02546)."""
  rows, nonzero = all_sum(
    (masked.count(samples.valid), masked.count(samples.valid & (rewards != 0)))
  )
  return centered(rewards, samples) * rows / jnp.maximum(nonzero, 1.0)


def sign(rewards: Array, samples: Samples, **_) -> Array:
  """1 where correct, -1 where not, for DisCO (arXiv:2505.12366).

  The size of the reward does not matter; the flag `correct` sets what counts.
  A group of one kind compares nothing: 0.
  """
  right = samples.valid & samples.correct
  wrong = samples.valid & ~samples.correct
  both = jnp.any(right, axis=1) & jnp.any(wrong, axis=1)
  signs = jnp.where(samples.correct, 1.0, -1.0)
  return masked.fill(signs, samples.valid & both[:, None])


def maxrl(rewards: Array, samples: Samples, **_) -> Array:
  """(r - mu) / mu, r being 1 where correct, else 0 (MaxRL, arXiv:2602.02710).

  What divides is the share that is correct, by the flag `correct`: a reward
  that can be negative has no such mean. 0 where nothing is correct.
  """
  share = masked.mean(samples.correct, samples.counted, axis=1)[:, None]
  scaled = samples.correct / jnp.where(share > 0, share, 1.0) - 1.0
  return masked.fill(scaled, samples.counted & (share > 0))


def dgpo(rewards: Array, samples: Samples, *, all_sum, **_) -> Array:
  """G (r - mu) / (sum |r - mu| + 1e-4), harder groups first (arXiv:2601.20614).

  Of the n groups of the batch that differ at all each weighs n softmax(-mu /
  2), with mu for the accuracy: rewards are to span one unit.
  """
  stats = masked.group_stats(rewards, samples.valid)
  deviation = centered(rewards, samples)
  count = masked.count(samples.valid, axis=1)
  size = jnp.sum(jnp.abs(deviation), axis=1)
  weight = masked.fill(jnp.exp(-stats.mean / 2), ~stats.flat)
  total, groups = all_sum((jnp.sum(weight), masked.count(~stats.flat)))
  weight *= groups / jnp.where(total > 0, total, 1.0)
  return deviation * (weight * count / (size + _DGPO_EPSILON))[:, None]


ESTIMATORS: dict[str, Callable[..., Array]] = {
  'grpo': grpo,
  'dr_grpo': dr_grpo,
  'batch_std': batch_std,
  'rloo': rloo,
  'reinforce_pp': reinforce_pp,
  'reinforce_pp_baseline': reinforce_pp_baseline,
  'opo': opo,
  'gpg': gpg,
  'sign': sign,
  'maxrl': maxrl,
  'dgpo': dgpo,
}
# Those that ask only whether an answer is correct.
OF_CORRECT = frozenset({'sign', 'maxrl'})
# Those that spread a KL in the reward over tokens by themselves.
TOKEN_RETURNS = frozenset({'reinforce_pp'})


def estimate(
  rewards: Array,
  samples: Samples,
  *,
  estimator: str,
  batch_norm: str,
  ddof: int,
  eps: float,
  std_floor: float = 0.0,
  all_sum: types.AllSum = collectives.identity,
  **_,
) -> Array:
  """Advantages of one reward.

  Args:
    rewards: float[P, G]; anything, even NaN, where not valid.
    samples: of the same rollout batch.
    estimator: a key of `ESTIMATORS`.
    batch_norm: a key of `BATCH_NORMS`, for the estimators that have one.
    ddof: 1 for unbiased standard deviations, 0 for biased ones.
    eps: added to standard deviations that divide.
    std_floor: they are at least this; an estimator that divides by none has no
      use for it.
    all_sum: adds each leaf of a tree up over all devices.

  Returns:
    f32[P, G], or f32[P, G, T] with token returns; 0 where not valid.

  Raises:
    ValueError: if a flag value is unknown.
  """
  function = choices.pick('estimator', ESTIMATORS, estimator)
  rewards = masked.fill(rewards, samples.valid)
  if samples.penalty is not None and estimator not in TOKEN_RETURNS:
    paid = masked.sum(samples.penalty, samples.mask, axis=-1)
    rewards = masked.fill(rewards - paid, samples.valid)
  return function(
    rewards,
    samples,
    batch_norm=batch_norm,
    ddof=ddof,
    eps=eps,
    std_floor=std_floor,
    all_sum=all_sum,
  )
