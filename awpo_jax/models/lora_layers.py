"""Low-rank adapters beside a decoder's projections (LoRA, arXiv:2106.09685)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from awpo_jax import types

LORA_TARGETS = (
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
)
"""Projections that can have an adapter."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Adapters of a decoder: a target's output is W x + (alpha / r) B A x.

  Attributes:
    rank: r, at least 1.
    alpha: above 0.
    targets: of `LORA_TARGETS`, those that have an adapter in every layer.
    dtype: of the adapters' parameters. They are few, and they take updates
      that bfloat16 would round away: float32, whatever the base's dtype is.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...] = LORA_TARGETS
  dtype: Any = jnp.float32

  def __post_init__(self):
    object.__setattr__(self, 'dtype', jnp.dtype(self.dtype))

  @property
  def scale(self) -> float:
    """alpha / r, the factor of the adapters' output."""
    return self.alpha / self.rank


class AdaptedDense(nn.Dense):
  """x W + b + (alpha / r) (x A) B; the sum W + A B never exists.

  A is drawn as PEFT draws it, uniform within 1 / sqrt(in) (Kaiming with
  a = sqrt(5)), and B starts at 0: a new adapter changes nothing, bit for bit.
  Like all parameters they are cast to `dtype` where they are used.
  """

  lora: LoraConfig | None = None

  @nn.compact
  def __call__(self, inputs: types.Array) -> types.Array:
    assert self.lora is not None and self.dtype is not None
    outputs = super().__call__(inputs)
    lora = self.lora
    # Variance 1 / (3 in): uniform within sqrt(3 / (3 in)).
    init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    rank = lora.rank
    if self.has_variable('params', 'lora_a'):
      # Joined with others for decoding, it is as wide as all of them.
      rank = self.get_variable('params', 'lora_a').shape[1]
    down = self.param('lora_a', init, (inputs.shape[-1], rank), lora.dtype)
    up = self.param(
      'lora_b', nn.initializers.zeros, (rank, self.features), lora.dtype
    )
    # On a GPU XLA joins products of one input: it would copy W, with A beside
    # it, whenever the product is taken, in a sampler for each token. An input
    # behind a barrier is another one.
    inputs = jax.lax.optimization_barrier(inputs).astype(self.dtype)
    narrow = inputs @ down.astype(self.dtype)
    return outputs + (lora.scale * narrow) @ up.astype(self.dtype)
