"""What is done to advantages once they are made: the flag `shaper`.

Each takes advantages f32[P, G] with the `Samples` they are of, and gives
others of that shape.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked
from awpo_jax.ops import samples as samples_lib

Array = types.Array
Samples = samples_lib.Samples

ARM_SHARE = 0.2  # Of an answer's tokens, the least likely: what ARM looks at.


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


SHAPERS: Mapping[str, Callable[..., Array]] = {
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
