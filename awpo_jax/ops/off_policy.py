"""Where sampler and trainer disagree: what to start from, how to correct.

v = l_old - l_roll, of trainer and sampler, on the tokens the policy chose
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked, surrogate

Array = types.Array
Functions = Mapping[str, Callable[..., Array]]


def from_sampler(sampler: Array, trainer: Callable[[], Array]) -> Array:
  """The sampler's own: the ratio corrects any disagreement by itself."""
  return sampler


def from_trainer(sampler: Array, trainer: Callable[[], Array]) -> Array:
  """The trainer's before the first update: ratios begin at exactly 1."""
  return trainer()


# What the log-probabilities that a ratio starts from are.
OLD_LOGPROBS: Functions = {'sampler': from_sampler, 'trainer': from_trainer}


def token_level(v: Array) -> Array:
  """v_t of each token."""
  return v


def row_level(v: Array) -> Array:
  """sum_t v_t, the same for all tokens of a row."""
  total = jnp.sum(v, axis=-1, keepdims=True)
  total = jnp.clip(total, -surrogate.MAX_LOG_RATIO, surrogate.MAX_LOG_RATIO)
  return jnp.broadcast_to(total, v.shape)


LEVELS: Functions = {'token': token_level, 'row': row_level}


def uncorrected(w: Array, *, low: float | None, high: float | None) -> Array:
  """1."""
  return jnp.ones_like(w)


def tis(w: Array, *, low: float | None, high: float | None) -> Array:
  """min(w, C), truncated importance sampling; C = 2 unless `high` is given."""
  return jnp.minimum(w, 2.0 if high is None else high)


def icepop(w: Array, *, low: float | None, high: float | None) -> Array:
  """w where low <= w <= high, else 0; 0.5 and 5 unless they are given."""
  low, high = (0.5 if low is None else low), (5.0 if high is None else high)
  return jnp.where((w >= low) & (w <= high), w, 0.0)


MISMATCHES: Functions = {'none': uncorrected, 'tis': tis, 'icepop': icepop}


def mismatch_weights(
  trainer: Array,
  sampler: Array,
  mask: Array,
  *,
  mismatch: str,
  mismatch_level: str,
  mismatch_low: float | None,
  mismatch_high: float | None,
  **_,
) -> Array:
  """Weights of the per-token loss, w = exp(v), truncated or masked.

  Args:
    trainer: float[..., T], l_old.
    sampler: float[..., T], l_roll.
    mask: bool[..., T], the policy's tokens.
    mismatch: a key of `MISMATCHES`.
    mismatch_level: a key of `LEVELS`.
    mismatch_low, mismatch_high: bounds; None for the defaults of `mismatch`.

  Returns:
    f32[..., T], constant under differentiation; 0 where masked.

  Raises:
    ValueError: if a flag value is unknown.
  """
  correct = choices.pick('mismatch', MISMATCHES, mismatch)
  level = choices.pick('mismatch_level', LEVELS, mismatch_level)
  w = jnp.exp(level(surrogate.log_ratio(trainer, sampler, mask)))
  corrected = correct(w, low=mismatch_low, high=mismatch_high)
  return jax.lax.stop_gradient(masked.fill(corrected, mask))
