"""Which groups, rows and tokens of a rollout batch are trained on.

Shapes stay as they are: what is left out weighs 0, in every denominator too.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, collectives, masked

Array = types.Array
Functions = Mapping[str, Callable[..., Array]]

_HALVINGS = 40


# Groups in which no sample has an advantage.


def count_all(advantages: Array) -> Array:
  """All groups count in the denominator."""
  return jnp.ones(advantages.shape[:1], bool)


def drop_empty(advantages: Array) -> Array:
  """Only groups with an advantage count (DAPO, arXiv:2503.14476)."""
  axes = tuple(range(1, advantages.ndim))
  return jnp.any(advantages != 0, axis=axes)


EMPTY_GROUPS: Functions = {'count': count_all, 'drop': drop_empty}


# Answers that the length limit cut off.


def train_unfinished(finished: Array) -> Array:
  """All answers are trained on."""
  return jnp.ones_like(finished, bool)


def drop_unfinished(finished: Array) -> Array:
  """Overlong filtering: an answer that was cut off is not."""
  return finished


UNFINISHED: Functions = {'train': train_unfinished, 'drop': drop_unfinished}


def length_penalty(
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


def top_entropy(
  entropy: Array,
  mask: Array,
  *,
  share: float,
  all_sum: types.AllSum = collectives.identity,
) -> Array:
  """The tokens of highest entropy of the batch (arXiv:2506.01939).

  The threshold is found by halving, with counts over all devices: no device
  needs the entropies of another.

  Args:
    entropy: f32[..., T], at least 0.
    mask: bool[..., T].
    share: of the tokens to keep, in (0, 1].
    all_sum: adds up over all devices.

  Returns:
    bool[..., T]: all tokens at or above the largest threshold that keeps
    `share` of them; tokens of equal entropy stay or go together.
  """
  if share >= 1:
    return mask
  entropy = masked.fill(entropy, mask)
  wanted = share * all_sum(masked.count(mask))

  def halve(_, bounds):
    low, high = bounds
    middle = 0.5 * (low + high)
    enough = all_sum(masked.count(mask & (entropy >= middle))) >= wanted
    return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

  # No entropy of a vocabulary comes near 100 nats.
  low, _ = jax.lax.fori_loop(
    0, _HALVINGS, halve, (jnp.float32(0.0), jnp.float32(100.0))
  )
  return mask & (entropy >= low)


def selected(
  mask: Array,
  advantages: Array,
  finished: Array,
  entropy: Array,
  *,
  empty_groups: str,
  unfinished: str,
  entropy_share: float,
  all_sum: types.AllSum = collectives.identity,
  **_,
) -> Array:
  """Tokens that the updates train on.

  Args:
    mask: bool[P, G, T], policy tokens of valid samples.
    advantages: f32[P, G] or f32[P, G, T].
    finished: bool[P, G], False where the length limit cut the answer.
    entropy: f32[P, G, T], of the sampler.
    empty_groups: a key of `EMPTY_GROUPS`.
    unfinished: a key of `UNFINISHED`.
    entropy_share: of the tokens to keep, those of highest entropy.
    all_sum: adds up over all devices.

  Returns:
    bool[P, G, T].

  Raises:
    ValueError: if a flag value is unknown.
  """
  keep = choices.pick('empty_groups', EMPTY_GROUPS, empty_groups)(advantages)
  rows = choices.pick('unfinished', UNFINISHED, unfinished)(finished)
  mask = mask & keep[:, None, None] & rows[..., None]
  return top_entropy(entropy, mask, share=entropy_share, all_sum=all_sum)
