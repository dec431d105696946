"""AWPO's advantages and clip radius, composed from `mechanisms`.

Our reading of arXiv:2512.19126; everything here is computed once per rollout
batch, over all devices, and is constant for differentiation.
"""

import dataclasses
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, estimators, masked
from awpo_jax.ops import group_stats as group_stats_lib

Array = types.Array
Functions = Mapping[str, Callable[..., Array]]

EPSILON = 1e-6  # of the denominators
TOLERANCE = 1e-6  # of the thresholds, which float32 cannot hit exactly


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

# Rewards f32[P, G], 0 where not valid -> advantages, shaped alike or [P, G, T];
# `std_floor` is the least standard deviation that may divide, by default 0.
Standardize = Callable[..., Array]


@types.record
class Advantages:
  """Advantages with everything they were made of; all constants.

  Attributes:
    advantages: f32[P, G]; exactly 0 where not valid.
    gate: f32[P] in [0, 1], w; 0 where not counted.
    difficulty: f32[P], d; 0 where not counted.
    counted: bool[P], True where two or more samples are valid.
    solve_rate: f32[P] in [0, 1], p; 0 where not counted.
    outcome_std: f32[P], s_out, after the reward scale.
    mix_std: f32[P], s_mix, after the reward scale.
    outcome_advantages: f32[P, G], A_out.
    mix_advantages: f32[P, G], A_mix, or what `mix_advantage` put in its place.
  """

  advantages: Array
  gate: Array
  difficulty: Array
  counted: Array
  solve_rate: Array
  outcome_std: Array
  mix_std: Array
  outcome_advantages: Array
  mix_advantages: Array


def valid_samples(
  outcome_valid: Array, reasoning_valid: Array, *, gate: str
) -> Array:
  """Which samples take part: those whose needed rewards were had.

  Args:
    outcome_valid: bool[P, G].
    reasoning_valid: bool[P, G].
    gate: a key of `awpo.GATES`; with `none` the judge's failures change
      nothing.

  Returns:
    bool[P, G].

  Raises:
    ValueError: if `gate` is unknown.
  """
  choices.pick('gate', GATES, gate)
  outcome_valid = jnp.asarray(outcome_valid, bool)
  if gate == 'none':
    return outcome_valid
  return outcome_valid & jnp.asarray(reasoning_valid, bool)


def grpo_advantages(rewards: Array, valid: Array, *, ddof: int = 1) -> Array:
  """Group-relative advantages of GRPO (arXiv:2402.03300).

    A = (R - mu) / (s + 1e-6) over the valid samples of the group

  Args:
    rewards: float[P, G]; anything, even NaN, where not valid.
    valid: bool[P, G].
    ddof: 1 for the unbiased standard deviation, 0 for the biased one.

  Returns:
    f32[P, G], constant under differentiation; exactly 0 where not valid, in
    groups with fewer than two valid samples, and where all rewards are equal.
  """
  chex.assert_rank([rewards, valid], 2)
  valid = jnp.asarray(valid, bool)
  return jax.lax.stop_gradient(
    estimators.standardize(rewards, valid, ddof=ddof)
  )


@dataclasses.dataclass(frozen=True)
class Parts:
  """AWPO's mechanisms as functions, one per flag, their numbers bound."""

  scale: Callable[..., Array]
  mix: Callable[..., Array]
  chosen: Callable[..., Array]
  gate: Callable[..., Array]
  saturated: Callable[..., Array]
  difficulty: Callable[..., Array]
  scope: Callable[..., Array]
  share: Callable[..., Array]


def make_parts(
  *,
  reward_scale: str,
  mix: str,
  mix_weight: float,
  mix_advantage: str,
  gate: str,
  tau: float,
  saturation: str,
  difficulty: str,
  band: tuple[float, float],
  base: float,
  priority: float,
  floor: float,
  difficulty_scope: str,
  combine: str,
) -> Parts:
  """The functions that flag values name; arguments as of `awpo_advantages`."""
  pick = choices.pick
  weight = pick('difficulty', DIFFICULTIES, difficulty)
  mixed = pick('mix', MIXES, mix)
  opened = pick('gate', GATES, gate)
  numbers = {'band': band, 'base': base, 'priority': priority, 'floor': floor}
  return Parts(
    scale=pick('reward_scale', REWARD_SCALES, reward_scale),
    mix=lambda out, rea: mixed(out, rea, mix_weight=mix_weight),
    chosen=pick('mix_advantage', MIX_ADVANTAGES, mix_advantage),
    gate=lambda s_out, s_mix: opened(s_out, s_mix, tau=tau),
    saturated=pick('saturation', SATURATIONS, saturation),
    difficulty=lambda p: weight(p, **numbers),
    scope=pick('difficulty_scope', DIFFICULTY_SCOPES, difficulty_scope),
    share=pick('combine', COMBINATIONS, combine),
  )


def _bounds(low: Array, high: Array, counted: Array) -> tuple[Array, ...]:
  """out_min, out_max and their distance, all f32[P] and safe to divide by."""
  # A prompt without a group may lack bounds too: any will do there.
  low = masked.fill(low, counted, 0.0)
  high = masked.fill(high, counted, 1.0)
  return low, high, jnp.where(high > low, high - low, 1.0)


def _joined(parts: Parts, w: Array, d: Array, a_out: Array, a_mix: Array):
  """The two advantages, weighted and added, shaped like them."""

  def column(x: Array) -> Array:
    return x.reshape(-1, *(1,) * (a_out.ndim - 1))

  share = column(parts.share(w))
  return parts.scope(column(d), share * a_out, column(w) * a_mix)


def compose(
  outcome: Array,
  reasoning: Array,
  valid: Array,
  outcome_min: Array,
  outcome_max: Array,
  wants_call: Array,
  *,
  parts: Parts,
  standardize: Standardize,
  ddof: int,
  mix_std_floor: float,
) -> Advantages:
  """AWPO's advantages from its parts and an estimator, `standardize`.

    A = d [(1 - w) A_out + w A_mix]

  Args:
    outcome, reasoning, valid, outcome_min, outcome_max, wants_call: as of
      `awpo_advantages`.
    parts: of `make_parts`.
    standardize: makes A_out of R_out and A_mix of R_mix.
    ddof: of the standard deviations that the gate compares.
    mix_std_floor: as of `awpo_advantages`.

  Returns:
    `Advantages`.
  """
  chex.assert_rank([outcome, reasoning, valid], 2)
  chex.assert_equal_shape([outcome, reasoning, valid])
  chex.assert_shape([outcome_min, outcome_max, wants_call], outcome.shape[:1])
  counted = masked.count(valid, axis=1) >= 2
  low, high, span = _bounds(outcome_min, outcome_max, counted)
  # Rewards: scaled, mixed, standardized.
  unit = parts.scale(span)
  r_out = masked.fill(outcome, valid) / unit[:, None]
  r_rea = masked.fill(reasoning, valid)
  r_mix = parts.mix(r_out, r_rea)
  a_out = standardize(r_out)
  a_mix = standardize(parts.chosen(r_mix, r_rea), std_floor=mix_std_floor)
  # Gate and difficulty weight: one number per group.
  out, mix = (
    group_stats_lib.group_stats(r, valid, ddof=ddof) for r in (r_out, r_mix)
  )
  p = jnp.clip((out.mean - low / unit) / (span / unit), 0.0, 1.0)
  w = masked.fill(parts.gate(out.std, mix.std), ~parts.saturated(p, wants_call))
  w, d = masked.fill(w, counted), masked.fill(parts.difficulty(p), counted)
  return jax.lax.stop_gradient(
    Advantages(
      advantages=_joined(parts, w, d, a_out, a_mix),
      gate=w,
      difficulty=d,
      counted=counted,
      solve_rate=masked.fill(p, counted),
      outcome_std=out.std,
      mix_std=mix.std,
      outcome_advantages=a_out,
      mix_advantages=a_mix,
    )
  )


def awpo_advantages(
  outcome: Array,
  reasoning: Array,
  valid: Array,
  outcome_min: Array,
  outcome_max: Array,
  wants_call: Array | None = None,
  *,
  reward_scale: str = 'raw',
  mix: str = 'sum',
  mix_weight: float = 1.0,
  mix_advantage: str = 'mixed',
  ddof: int = 1,
  gate: str = 'ratio',
  tau: float = 0.5,
  saturation: str = 'solved_calls',
  difficulty: str = 'banded',
  band: tuple[float, float] = (0.2, 0.8),
  base: float = 1.0,
  priority: float = 1.5,
  floor: float = 0.0,
  difficulty_scope: str = 'whole',
  combine: str = 'convex',
  mix_std_floor: float = 0.02,
) -> Advantages:
  """AWPO's advantages (our reading), once per rollout batch: see `compose`.

  With gate and difficulty `none` this is `grpo_advantages(outcome, valid)`, bit
  for bit, and `reasoning` is not looked at. The flags are keys of the dicts of
  `mechanisms`, and their numbers.

  Args:
    outcome: float[P, G], R_out; anything, even NaN, where not valid.
    reasoning: float[P, G] in [0, 1], R_rea; likewise.
    valid: bool[P, G], from `valid_samples` with the same gate.
    outcome_min, outcome_max: float[P], bounds of each prompt's outcome.
    wants_call: bool[P], whether a right answer to the prompt calls a tool;
      None: as ToolRL's bounds say, `awpo.calls_by_bound`.
    mix_std_floor: A_mix is divided by at least this, max(s_mix, floor) + eps.
      Where outcomes are equal nothing else bounds what a judge's smallest
      differences come to. The gate compares the standard deviations as they
      are: it asks which reward varies, not by how much.

  Returns:
    `Advantages`; a group with fewer than two valid samples is 0 throughout.

  Raises:
    ValueError: if a flag value is unknown or `mix_weight` out of range.
  """
  valid = jnp.asarray(valid, bool)
  if wants_call is None:
    wants_call = calls_by_bound(jnp.asarray(outcome_max))
  parts = make_parts(
    reward_scale=reward_scale,
    mix=mix,
    mix_weight=mix_weight,
    mix_advantage=mix_advantage,
    gate=gate,
    tau=tau,
    saturation=saturation,
    difficulty=difficulty,
    band=band,
    base=base,
    priority=priority,
    floor=floor,
    difficulty_scope=difficulty_scope,
    combine=combine,
  )
  return compose(
    outcome,
    masked.fill(reasoning, valid & (gate != 'none')),
    valid,
    outcome_min,
    outcome_max,
    wants_call,
    parts=parts,
    standardize=lambda r, **floor: estimators.standardize(
      r, valid, ddof=ddof, **floor
    ),
    ddof=ddof,
    mix_std_floor=mix_std_floor,
  )


def amplified_groups(result: Advantages, *, threshold: float = 0.1) -> Array:
  """bool[P]: equal outcomes, and tiny reasoning differences made large.

  Where all outcomes are equal an open gate divides the judge's differences by
  their own standard deviation, or by the floor: worth logging how often.

  Args:
    result: what `awpo_advantages` returned.
    threshold: s_mix below which the differences count as tiny.

  Returns:
    bool[P], True where s_out = 0, 0 < s_mix < threshold and the gate is open.
  """
  tiny = (result.mix_std > 0) & (result.mix_std < threshold)
  return tiny & (result.outcome_std == 0) & (result.gate > 0)
