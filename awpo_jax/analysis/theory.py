"""Signal and noise of a policy gradient: what governs an update's potential.

From published summaries of AWPO (arXiv:2512.19126). Z = grad log pi of a
sample, F = E[Z Z^T], U = F^(-1/2) Z, A the advantage as it acts, V = E[A^2],
d the rank of F, B samples in a batch, a the step size, L the smoothness of J.
"""

import chex
import jax.numpy as jnp

from awpo_jax import types

Array = types.Array

_RANK_TOLERANCE = 1e-5  # Of the largest eigenvalue, for float32.


@types.record
class Signal:
  """What the bounds are made of.

  Attributes:
    correlation: f32[] in [0, 1], rho = |E[U A]| / sqrt(d V); 0 where V = 0.
    second_moment: f32[], V.
    rank: f32[], d, eigenvalues of F above a tolerance.
    gradient: f32[K], E[Z A].
    largest_eigenvalue: f32[], of F.
    largest_score: f32[], the largest |Z|.
  """

  correlation: Array
  second_moment: Array
  rank: Array
  gradient: Array
  largest_eigenvalue: Array
  largest_score: Array


def tabular_scores(policy: Array) -> Array:
  """Z of a tabular softmax policy: a logit for each answer to each prompt.

    Z = one_hot(answer) - policy in the block of the answer's prompt, else 0

  Args:
    policy: f32[P, G], the probability of each answer; rows sum to 1.

  Returns:
    f32[P * G, P * G], a row for each answer to each prompt, in order.
  """
  chex.assert_rank(policy, 2)
  prompts, answers = policy.shape
  own = jnp.eye(answers)[None] - policy[:, None, :]
  blocks = jnp.einsum('pgk,pq->pgqk', own, jnp.eye(prompts))
  return blocks.reshape(prompts * answers, prompts * answers)


def second_moment(advantages: Array, weights: Array) -> Array:
  """f32[], V = E[A^2]; advantages f32[N], and weights f32[N] summing to 1."""
  return jnp.sum(weights * jnp.square(advantages))


def signal(scores: Array, advantages: Array, weights: Array) -> Signal:
  """rho, V and the rest, from samples or from the whole distribution.

  From N samples rho is too large by about sqrt(d / (d V N)): compare it with
  that of shuffled advantages.

  Args:
    scores: f32[N, K], Z, or Z projected on K directions.
    advantages: f32[N].
    weights: f32[N], summing to 1: probabilities, or 1 / N.
  """
  chex.assert_rank([scores, advantages, weights], [2, 1, 1])
  moment = second_moment(advantages, weights)
  gradient = jnp.sum((weights * advantages)[:, None] * scores, axis=0)
  fisher = jnp.einsum('n,nk,nl->kl', weights, scores, scores)
  values, vectors = jnp.linalg.eigh(fisher)
  used = values > _RANK_TOLERANCE * values[-1]
  rank = jnp.sum(used).astype(jnp.float32)
  along = jnp.where(used, vectors.T @ gradient, 0.0)
  # |F^(-1/2) g|^2, in the basis of the eigenvectors.
  length = jnp.sum(jnp.square(along) / jnp.where(used, values, 1.0))
  size = rank * moment
  ratio = jnp.where(size > 0, length / jnp.where(size > 0, size, 1.0), 0.0)
  return Signal(
    correlation=jnp.sqrt(ratio),
    second_moment=moment,
    rank=rank,
    gradient=gradient,
    largest_eigenvalue=values[-1],
    largest_score=jnp.sqrt(jnp.max(jnp.sum(jnp.square(scores), axis=1))),
  )


def potential(found: Signal) -> Array:
  """f32[], rho^2 V, which governs what an update can gain."""
  return jnp.square(found.correlation) * found.second_moment


def signal_bound(found: Signal) -> Array:
  """f32[], lambda_max(F) d rho^2 V, at least |grad J|^2."""
  return found.largest_eigenvalue * found.rank * potential(found)


def noise_bound(found: Signal, *, batch: int) -> Array:
  """f32[], (C^2 / B) V, at least the variance of a batch's gradient."""
  return jnp.square(found.largest_score) * found.second_moment / batch


def improvement_bound(
  found: Signal, *, batch: int, step_size: float, smoothness: float
) -> Array:
  """f32[], a (1 + a L / 2) signal + (a^2 L / 2) noise, at least E[J+ - J]."""
  first = step_size * (1.0 + 0.5 * step_size * smoothness)
  second = 0.5 * step_size**2 * smoothness
  return first * signal_bound(found) + second * noise_bound(found, batch=batch)
