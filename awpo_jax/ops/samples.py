"""The sampled answers, as the functions of advantages see them."""

import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import masked

Array = types.Array


@types.record
class Samples:
  """The samples of a rollout batch; all constants.

  Attributes:
    valid: bool[P, G], True where every needed reward could be computed.
    mask: bool[P, G, T], tokens the policy chose.
    correct: bool[P, G], the outcome reaches the flag `correct`; all False
      where that is not set.
    logprobs: f32[P, G, T], under the policy before the update.
    entropy: f32[P, G, T], of the distribution each token was drawn from.
    thinking: bool[P, G, T], tokens of the chain of thought; None unless asked.
    prompt_logprob: f32[P], mean over the tokens of the prompt; None likewise.
    penalty: f32[P, G, T], KL to the reference times its weight, for a KL in the
      reward; None for none.
  """

  valid: Array
  mask: Array
  correct: Array
  logprobs: Array
  entropy: Array
  thinking: Array | None = None
  prompt_logprob: Array | None = None
  penalty: Array | None = None

  @property
  def comparable(self) -> Array:
    """bool[P], groups with two or more valid samples."""
    return masked.count(self.valid, axis=1) >= 2

  @property
  def counted(self) -> Array:
    """bool[P, G], the valid samples of those groups."""
    return self.valid & self.comparable[:, None]

  @property
  def length(self) -> Array:
    """f32[P, G], tokens the policy chose; 0 where not valid."""
    return masked.fill(masked.count(self.mask, axis=-1), self.valid)


def is_correct(
  outcome: Array, valid: Array, low: Array, high: Array, *, share: float | None
) -> Array:
  """Which samples count as correct: graded rewards need a threshold.

  Args:
    outcome: float[P, G].
    valid: bool[P, G].
    low: float[P], the worst outcome each prompt allows.
    high: float[P], the best.
    share: of the way from `low` to `high`, in (0, 1]; None: none is correct.

  Returns:
    bool[P, G]; False where not valid.
  """
  if share is None:
    return jnp.zeros(outcome.shape, bool)
  # A sum of floats may miss its bound by a rounding.
  needed = low + share * (high - low) - 1e-6
  return (masked.fill(outcome, valid) >= needed[:, None]) & valid
