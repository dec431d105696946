"""Products with a kernel whose gradients are written out."""

from typing import Any

import chex
import jax

from awpo_jax import types

Array = types.Array


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
  """x W, with the gradients g W^T and x^T g.

  JAX's own gradient of a kernel is (g^T x)^T. On a CPU, XLA then computes what
  g is made of in transposed order, which takes longer than the product itself
  where W widens.

  Args:
    x: [..., K].
    kernel: [K, M].

  Returns:
    [..., M]; differentiable in reverse alone.
  """
  chex.assert_rank(kernel, 2)
  return x @ kernel


def _forward(x, kernel):
  return x @ kernel, (x, kernel)


def _backward(saved, g):
  x, kernel = saved
  rows = x.reshape(-1, x.shape[-1])
  return g @ kernel.T, rows.T @ g.reshape(-1, g.shape[-1])


product.defvjp(_forward, _backward)


def dot_general(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
  """`product` as `flax.linen.Dense` calls its `dot_general`."""
  return product(x, kernel)
