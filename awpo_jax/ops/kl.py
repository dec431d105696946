"""Estimates of KL(policy || reference): the flag `kl_estimator`.

They are functions of u = log policy - log reference of a sampled token.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, surrogate

Array = types.Array

MAX_K3 = 10.0


def k1(u: Array) -> Array:
  """k1 = u: unbiased, may be negative; as a loss its gradient is zero-mean."""
  return u


def k2(u: Array) -> Array:
  """k2 = u^2 / 2: as a loss it has the gradient of the reverse KL."""
  return 0.5 * jnp.square(u)


def k3(u: Array) -> Array:
  """k3 = exp(-u) + u - 1, at most 10: unbiased and never negative."""
  # expm1 keeps the digits that 1 would swallow where u is small.
  return jnp.minimum(jnp.expm1(-u) + u, MAX_K3)


def _with_gradient_of_k2(u: Array, value: Array) -> Array:
  half = k2(u)
  return half - jax.lax.stop_gradient(half) + jax.lax.stop_gradient(value)


def k1_plus(u: Array) -> Array:
  """The value of k1 with the gradient of k2."""
  return _with_gradient_of_k2(u, k1(u))


def k3_plus(u: Array) -> Array:
  """The value of k3 with the gradient of k2.

  A low-variance figure to report and, where the policy itself has drawn the
  tokens, the gradient of KL(policy || reference); k3's own is that of
  KL(reference || policy).
  """
  return _with_gradient_of_k2(u, k3(u))


KL_ESTIMATORS: dict[str, Callable[[Array], Array]] = {
  'k1': k1,
  'k2': k2,
  'k3': k3,
  'k1+': k1_plus,
  'k3+': k3_plus,
}


def kl_estimate(
  logprobs: Array,
  ref_logprobs: Array,
  mask: Array,
  *,
  kind: str,
) -> Array:
  """Estimate of KL(policy || reference) at each token.

    u = logprobs - ref_logprobs, clamped to [-20, 20]

  k1, k2 and k3 of u as in http://joschu.net/blog/kl-approx.html; k3 is capped
  at 10. Outside of the clamps the gradient is 0. As a term of a loss, on tokens
  that the policy has drawn, k2, k1+ and k3+ have the expected gradient of that
  KL; k1 has none.

  Args:
    logprobs: float[N, T], of the policy.
    ref_logprobs: float[N, T], held constant under differentiation.
    mask: bool[N, T], True where the policy chose the token.
    kind: a key of `KL_ESTIMATORS`.

  Returns:
    f32[N, T]; 0 where masked.

  Raises:
    ValueError: if `kind` is unknown.
  """
  estimator = choices.pick('kl', KL_ESTIMATORS, kind)
  reference = jax.lax.stop_gradient(ref_logprobs)
  return estimator(surrogate.log_ratio(logprobs, reference, mask))
