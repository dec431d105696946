"""The gate w of a group: how far its advantage leans on the reasoning.

`ratio` is our reading of arXiv:2512.19126. The others are plausible too, or
answer what the paper leaves open; `share` is ours.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, masked

Array = types.Array
Functions = dict[str, Callable[..., Array]]

EPSILON = 1e-6  # of the denominators
TOLERANCE = 1e-6  # of the thresholds, which float32 cannot hit exactly


# Gate, w. Beside the two standard deviations it is given `reasoning_std`, and
# `span`, how far apart two outcomes can be after the reward scale: f32[P] each.


def ratio_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = s_mix / (s_out + s_mix + eps); 0 if both are 0.

  It leans rather than switches: with the mix `sum` and a judge that agrees with
  the outcome, s_mix >= s_out and so w >= 1/2, up to eps.
  """
  return mix_std / (outcome_std + mix_std + EPSILON)


def share_gate(
  outcome_std: Array, mix_std: Array, *, reasoning_std: Array, **_
) -> Array:
  """w = s_rea / (s_out + s_rea + eps); 0 if both are 0 (ours).

  The reasoning's own spread against the outcome's: from 0 to 1 whatever they
  are, where the ratio gate starts at 1/2. With the reward scale `unit` neither
  depends on the units of the outcome.
  """
  return reasoning_std / (outcome_std + reasoning_std + EPSILON)


# What `tau` is, as a variance: itself, or a share of the largest that outcomes
# within the span can have, half of them at either bound.
TAUS: dict[str, Callable[..., Array | float]] = {
  'raw': lambda tau, span: tau,
  'share': lambda tau, span: tau * jnp.square(span / 2.0),
}


def binary_gate(
  outcome_std: Array,
  mix_std: Array,
  *,
  tau: float,
  tau_of: str,
  span: Array,
  **_,
) -> Array:
  """w = 1 where s_out^2 <= tau and s_mix > 0, else 0."""
  bound = choices.pick('tau_of', TAUS, tau_of)(tau, span)
  narrow = jnp.square(outcome_std) <= bound + TOLERANCE
  return (narrow & (mix_std > 0)).astype(jnp.float32)


def always_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = 1."""
  return jnp.ones_like(outcome_std)


def no_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = 0: the outcome alone."""
  return jnp.zeros_like(outcome_std)


GATES: Functions = {
  'ratio': ratio_gate,
  'share': share_gate,
  'binary': binary_gate,
  'always': always_gate,
  'none': no_gate,
}


# Saturation: where w is 0, whichever gate it is.


def solved(solve_rate: Array, wants_call: Array) -> Array:
  """p = 1: every sample has the best outcome."""
  return solve_rate >= 1 - TOLERANCE


def solved_calls(solve_rate: Array, wants_call: Array) -> Array:
  """p = 1 where a call is wanted: every sample made the right one.

  Where only a reply is expected the outcome of ToolRL's reward is format alone,
  and the judge stays on.
  """
  return solved(solve_rate, wants_call) & wants_call


def never_saturated(solve_rate: Array, wants_call: Array) -> Array:
  """Nowhere."""
  return jnp.zeros_like(solve_rate, bool)


SATURATIONS: Functions = {
  'solved_calls': solved_calls,
  'solved': solved,
  'none': never_saturated,
}


def group_gate(
  stds: Sequence[Array],
  span: Array,
  solve_rate: Array,
  wants_call: Array,
  counted: Array,
  *,
  gate: str,
  saturation: str,
  **flags,
) -> Array:
  """w of each group by the flags `gate` and `saturation`, before any trust.

  Args:
    stds: s_out, s_mix and s_rea, f32[P] each.
    span: f32[P], out_max - out_min in the scale of s_out.
    solve_rate: f32[P], p.
    wants_call: bool[P].
    counted: bool[P], groups with two or more valid samples.
    gate: a key of `GATES`.
    saturation: a key of `SATURATIONS`.
    **flags: of the gates, `tau` and the like.

  Returns:
    f32[P] in [0, 1]; 0 where a group does not count or is saturated.

  Raises:
    ValueError: if a flag value is unknown.
  """
  s_out, s_mix, s_rea = stds
  w = choices.pick('gate', GATES, gate)(
    s_out, s_mix, reasoning_std=s_rea, span=span, **flags
  )
  saturated = choices.pick('saturation', SATURATIONS, saturation)
  return masked.fill(w, counted & ~saturated(solve_rate, wants_call))
