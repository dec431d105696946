"""The parts of AWPO, one small function per flag value.

The public summaries of AWPO (arXiv:2512.19126) name its parts: a
variance-aware gate, a difficulty-aware weight, a tailored clip. They do not
give every formula; those below are our reading, and each alternative is a flag
value. The keys of a dict are the choices of the flag named in its comment.

  R_out, R_rea, R_mix   outcome, reasoning and mixed reward       f32[P, G]
  A_out, A_mix          their standardized advantages             f32[P, G]
  s_out, s_mix          standard deviations of the group          f32[P]
  w, d, p               gate, difficulty weight, solve rate       f32[P]
  wbar                  mean gate of the rollout batch            f32[]
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from awpo_jax import types

Array = types.Array
Functions = Mapping[str, Callable[..., Array]]

EPSILON = 1e-6  # of the denominators
TOLERANCE = 1e-6  # of the thresholds, which float32 cannot hit exactly
CLIP_SLOPE = 0.2  # of the clips `harmonic` and `widen`


# Reward scale: what divides R_out and its bounds before anything else.


def raw_scale(span: Array) -> Array:
  """1: rewards as they come."""
  return jnp.ones_like(span)


def unit_scale(span: Array) -> Array:
  """out_max - out_min: every prompt's outcome spans one unit."""
  return span


REWARD_SCALES: Functions = {'raw': raw_scale, 'unit': unit_scale}


# Mixed reward.


def sum_mix(outcome: Array, reasoning: Array, *, mix_weight: float) -> Array:
  """R_mix = R_out + mix_weight R_rea."""
  return outcome + mix_weight * reasoning


def convex_mix(outcome: Array, reasoning: Array, *, mix_weight: float) -> Array:
  """R_mix = (1 - mix_weight) R_out + mix_weight R_rea, 0 < mix_weight < 1."""
  if not 0 < mix_weight < 1:
    raise ValueError(
      'mix=convex needs mix_weight strictly between 0 and 1, got '
      f'{mix_weight!r}; set mix_weight, or mix=sum'
    )
  return (1 - mix_weight) * outcome + mix_weight * reasoning


MIXES: Functions = {'sum': sum_mix, 'convex': convex_mix}


# Which reward the gate lets in.


def mixed_reward(mix: Array, reasoning: Array) -> Array:
  """R_mix: the gated advantage knows the outcome."""
  del reasoning
  return mix


def reasoning_reward(mix: Array, reasoning: Array) -> Array:
  """R_rea: the gated advantage is the judge's alone."""
  del mix
  return reasoning


MIX_ADVANTAGES: Functions = {
  'mixed': mixed_reward,
  'reasoning': reasoning_reward,
}


# Gate.


def ratio_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = s_mix / (s_out + s_mix + eps); 0 if both are 0.

  It leans rather than switches: with the mix `sum` and a judge that agrees with
  the outcome, s_mix >= s_out and so w >= 1/2, up to eps.
  """
  return mix_std / (outcome_std + mix_std + EPSILON)


def binary_gate(outcome_std: Array, mix_std: Array, *, tau: float) -> Array:
  """w = 1 where s_out^2 <= tau and s_mix > 0, else 0."""
  narrow = jnp.square(outcome_std) <= tau + TOLERANCE
  return (narrow & (mix_std > 0)).astype(jnp.float32)


def always_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = 1."""
  del mix_std
  return jnp.ones_like(outcome_std)


def no_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = 0: the outcome alone."""
  del mix_std
  return jnp.zeros_like(outcome_std)


GATES: Functions = {
  'ratio': ratio_gate,
  'binary': binary_gate,
  'always': always_gate,
  'none': no_gate,
}


# Saturation: where the gate stays shut, whichever gate it is.


def calls_by_bound(outcome_max: Array) -> Array:
  """bool[P], prompts that want a call, by ToolRL's bounds: out_max > 1.

  For rewards of which nothing else is known; of any other reward the bounds say
  nothing about calls.
  """
  return outcome_max > 1


def solved(solve_rate: Array, wants_call: Array) -> Array:
  """p = 1: every sample has the best outcome."""
  del wants_call
  return solve_rate >= 1 - TOLERANCE


def solved_calls(solve_rate: Array, wants_call: Array) -> Array:
  """p = 1 where a call is wanted: every sample made the right one.

  Where only a reply is expected the outcome of ToolRL's reward is format alone,
  and the judge stays on.
  """
  return solved(solve_rate, wants_call) & wants_call


def never_saturated(solve_rate: Array, wants_call: Array) -> Array:
  """Nowhere."""
  del wants_call
  return jnp.zeros_like(solve_rate, bool)


SATURATIONS: Functions = {
  'solved_calls': solved_calls,
  'solved': solved,
  'none': never_saturated,
}


# Difficulty weight.


def banded_difficulty(
  solve_rate: Array,
  *,
  band: tuple[float, float],
  base: float,
  priority: float,
  **_,
) -> Array:
  """d = priority where band[0] <= p <= band[1], else base."""
  low, high = band
  inside = (solve_rate >= low - TOLERANCE) & (solve_rate <= high + TOLERANCE)
  return jnp.where(inside, jnp.float32(priority), jnp.float32(base))


def parabola_difficulty(solve_rate: Array, *, floor: float, **_) -> Array:
  """d = max(floor, 4 p (1 - p)).

  With floor 0 it is 0 in all-right and all-wrong groups, exactly where the
  ratio gate opens fully: it throws the reasoning signal away there.
  """
  return jnp.maximum(4.0 * solve_rate * (1.0 - solve_rate), floor)


def no_difficulty(solve_rate: Array, **_) -> Array:
  """d = 1."""
  return jnp.ones_like(solve_rate)


DIFFICULTIES: Functions = {
  'banded': banded_difficulty,
  'parabola': parabola_difficulty,
  'none': no_difficulty,
}


# Combination: the parts of the two advantages, and what d multiplies.


def convex_share(gate: Array) -> Array:
  """A = d [(1 - w) A_out + w A_mix]: the outcome's share is 1 - w."""
  return 1.0 - gate


def additive_share(gate: Array) -> Array:
  """A = d [A_out + w A_mix]: the outcome's share is 1."""
  return jnp.ones_like(gate)


COMBINATIONS: Functions = {'convex': convex_share, 'additive': additive_share}


def whole_scope(difficulty: Array, outcome: Array, mix: Array) -> Array:
  """d multiplies both parts: d (outcome + mix)."""
  return difficulty * (outcome + mix)


def mixed_scope(difficulty: Array, outcome: Array, mix: Array) -> Array:
  """d multiplies only the gated part: outcome + d mix."""
  return outcome + difficulty * mix


DIFFICULTY_SCOPES: Functions = {'whole': whole_scope, 'mixed': mixed_scope}


# Clip radius, from wbar, the mean gate.


def linear_clip(wbar: Array, *, clip_min: float, clip_max: float) -> Array:
  """clip_max - (clip_max - clip_min) wbar."""
  return clip_max - (clip_max - clip_min) * wbar


def harmonic_clip(wbar: Array, *, clip_max: float, **_) -> Array:
  """clip_max / (1 + 0.2 wbar)."""
  return clip_max / (1.0 + CLIP_SLOPE * wbar)


def widening_clip(wbar: Array, *, clip_max: float, **_) -> Array:
  """clip_max (1 + 0.2 wbar)."""
  return clip_max * (1.0 + CLIP_SLOPE * wbar)


def fixed_clip(wbar: Array, *, clip_max: float, **_) -> Array:
  """clip_max."""
  return jnp.full_like(wbar, clip_max)


CLIPS: Functions = {
  'linear': linear_clip,
  'harmonic': harmonic_clip,
  'widen': widening_clip,
  'fixed': fixed_clip,
}
