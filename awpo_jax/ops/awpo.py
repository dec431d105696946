"""AWPO: one advantage of an outcome reward and a reasoning reward.

Our reading of arXiv:2512.19126. The symbols are of one prompt's group, over its
valid samples:

  R_out, R_rea   outcome reward, and reasoning reward in [0, 1]
  R_mix          the two mixed into one
  s_out, s_mix   standard deviations of R_out and R_mix
  A_out, A_mix   advantages of R_out and R_mix alone, by the flag `estimator`
  p              solve rate: where the mean R_out lies between its bounds, or
                 the share of samples at the upper one
  w              gate: how far the group leans on the reasoning
  t              trust in the judge, of the whole batch: w is t times the gate
  d              difficulty weight
  A              d ((1 - w) A_out + w A_mix), the advantage
  radius         clip_max - (clip_max - clip_min) mean(w), over the groups of
                 the whole batch: `clipping.clip_radius`

Every step below is a dict of functions, one for each value of its flag: a new
gate is one function and one entry of `GATES`. A function is given the numbers
of all flags by their names; it takes those it needs and leaves the others to
`**_`. All of it is computed once for each rollout batch and is constant for
differentiation.
"""

from collections.abc import Callable

import chex
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, group_stats, masked, solve_rates
from awpo_jax.ops import samples as samples_lib
from awpo_jax.ops import trust as trust_lib

Array = types.Array
Functions = dict[str, Callable[..., Array]]

EPSILON = 1e-6  # of the denominators
TOLERANCE = 1e-6  # of the thresholds, which float32 cannot hit exactly


# Reward scale: R_out is divided by it. `span` is out_max - out_min.

REWARD_SCALES: Functions = {
  'raw': jnp.ones_like,
  'unit': lambda span: span,
}


# Mixed reward, R_mix.


def sum_mix(
  outcome: Array, reasoning: Array, *, mix_weight: float, **_
) -> Array:
  """R_mix = R_out + mix_weight R_rea."""
  return outcome + mix_weight * reasoning


def convex_mix(
  outcome: Array, reasoning: Array, *, mix_weight: float, **_
) -> Array:
  """R_mix = (1 - mix_weight) R_out + mix_weight R_rea, 0 < mix_weight < 1."""
  if not 0 < mix_weight < 1:
    raise ValueError(
      'mix=convex needs mix_weight strictly between 0 and 1, got '
      f'{mix_weight!r}; set mix_weight, or mix=sum'
    )
  return (1 - mix_weight) * outcome + mix_weight * reasoning


MIXES: Functions = {'sum': sum_mix, 'convex': convex_mix}


# The reward that A_mix is the advantage of: R_mix, or R_rea in its place.

MIX_ADVANTAGES: Functions = {
  'mixed': lambda mix, reasoning: mix,
  'reasoning': lambda mix, reasoning: reasoning,
}


# Gate, w.


def ratio_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = s_mix / (s_out + s_mix + eps); 0 if both are 0.

  It leans rather than switches: with the mix `sum` and a judge that agrees with
  the outcome, s_mix >= s_out and so w >= 1/2, up to eps.
  """
  return mix_std / (outcome_std + mix_std + EPSILON)


def binary_gate(
  outcome_std: Array, mix_std: Array, *, tau: float, **_
) -> Array:
  """w = 1 where s_out^2 <= tau and s_mix > 0, else 0."""
  narrow = jnp.square(outcome_std) <= tau + TOLERANCE
  return (narrow & (mix_std > 0)).astype(jnp.float32)


def always_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = 1."""
  return jnp.ones_like(outcome_std)


def no_gate(outcome_std: Array, mix_std: Array, **_) -> Array:
  """w = 0: the outcome alone."""
  return jnp.zeros_like(outcome_std)


GATES: Functions = {
  'ratio': ratio_gate,
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


# Difficulty weight, d.


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


# What the weights of a batch are divided by. As they are, a weight above 1 on
# most groups is a larger step, too.


def mean_one(difficulty: Array, counted: Array, all_sum: types.AllSum) -> Array:
  """d over its mean in the groups that count, of the batch on all devices.

  Where all weights are 0 they stay so.
  """
  total, count = all_sum(
    (masked.sum(difficulty, counted), masked.count(counted))
  )
  mean = total / jnp.maximum(count, 1.0)
  return difficulty / jnp.where(mean > 0, mean, 1.0)


DIFFICULTY_NORMS: Functions = {
  'none': lambda difficulty, counted, all_sum: difficulty,
  'mean': mean_one,
}


# Combined advantage, A: of each value of `combine` one formula for each value
# of `difficulty_scope`.

COMBINATIONS: dict[str, Functions] = {
  'convex': {
    'whole': lambda d, w, a_out, a_mix: d * ((1 - w) * a_out + w * a_mix),
    'mixed': lambda d, w, a_out, a_mix: (1 - w) * a_out + d * (w * a_mix),
  },
  'additive': {
    'whole': lambda d, w, a_out, a_mix: d * (a_out + w * a_mix),
    'mixed': lambda d, w, a_out, a_mix: a_out + d * (w * a_mix),
  },
}


# The method.


@types.record
class Advantages:
  """Advantages of a rollout batch and what is known of them; all constants.

  Where an algorithm has no gate, no weight or nothing to compare, the number
  that stands for it is the default.

  Attributes:
    advantages: f32[P, G], or f32[P, G, T] where tokens differ; exactly 0 where
      not valid.
    counted: bool[P], True where two or more samples are valid.
    solve_rate: f32[P] in [0, 1], p; 0 where not counted.
    gate: f32[P] in [0, 1], w, trust included; 0 where not counted.
    difficulty: f32[P], d; 0 where not counted.
    outcome_std: f32[P], s_out, after the reward scale.
    mix_std: f32[P], s_mix, after the reward scale.
    outcome_advantages: A_out, shaped like `advantages`; None without it.
    mix_advantages: A_mix, likewise.
    trust: what the gate was multiplied by; None where it was not.
  """

  advantages: Array
  counted: Array
  solve_rate: Array
  gate: Array | float = 0.0
  difficulty: Array | float = 1.0
  outcome_std: Array | float = 0.0
  mix_std: Array | float = 0.0
  outcome_advantages: Array | None = None
  mix_advantages: Array | None = None
  trust: trust_lib.Trust | None = None


def awpo_advantages(
  rewards: types.Rewards,
  samples: samples_lib.Samples,
  *,
  standardize: Callable[..., Array],
  ddof: int,
  reward_scale: str,
  mix: str,
  mix_advantage: str,
  mix_std_floor: float,
  gate: str,
  saturation: str,
  difficulty: str,
  difficulty_of: str,
  difficulty_norm: str,
  difficulty_scope: str,
  combine: str,
  trust: str,
  all_sum: types.AllSum,
  **numbers,
) -> Advantages:
  """A = d ((1 - w) A_out + w A_mix), the value `awpo` of the flag `advantage`.

  With gate and difficulty `none` it is A_out, bit for bit: GRPO's advantage.

  Args:
    rewards: f32[P, G], finite where valid.
    samples: of the same rollout batch.
    standardize: f32[P, G] of one reward -> its advantages, f32[P, G] or f32[P,
      G, T]; they are divided by at least `std_floor`, if that is given.
    ddof: 1 for unbiased standard deviations in the gate, 0 for biased ones.
    mix_std_floor: what A_mix is divided by at least. Where outcomes are equal
      nothing else bounds what a judge's smallest differences come to. The gate
      compares the standard deviations as they are: it asks which reward varies,
      not by how much.
    reward_scale, mix, mix_advantage, gate, saturation, difficulty,
      difficulty_norm, combine: keys of the dicts above.
    difficulty_of: a key of `solve_rates.SOLVE_RATES`.
    trust: a key of `trust.TRUSTS`; not looked at where the gate is `none`.
    all_sum: adds each leaf of a tree up over all devices.
    difficulty_scope: a key of `COMBINATIONS[combine]`.
    **numbers: of those functions, `tau` and the like.

  Returns:
    `Advantages`; a group with fewer than two valid samples is 0 throughout.

  Raises:
    ValueError: if a flag value is unknown or `mix_weight` out of range.
  """
  pick, valid, counted = choices.pick, samples.valid, samples.comparable
  chex.assert_equal_shape([rewards.outcome, rewards.reasoning, valid])
  # The two rewards of an answer, and their mix.
  scale = pick('reward_scale', REWARD_SCALES, reward_scale)
  span = solve_rates.outcome_span(rewards, samples)
  r_out = rewards.outcome / scale(span)[:, None]
  r_rea = rewards.reasoning
  r_mix = pick('mix', MIXES, mix)(r_out, r_rea, **numbers)
  # The advantage of each alone.
  gated = pick('mix_advantage', MIX_ADVANTAGES, mix_advantage)(r_mix, r_rea)
  a_out, a_mix = standardize(r_out), standardize(gated, std_floor=mix_std_floor)
  # Gate and difficulty weight of a group.
  s_out, s_mix = (
    group_stats.group_stats(r, valid, ddof=ddof).std for r in (r_out, r_mix)
  )
  rate = pick('difficulty_of', solve_rates.SOLVE_RATES, difficulty_of)
  p = rate(rewards, samples)
  w = pick('gate', GATES, gate)(s_out, s_mix, **numbers)
  shut = pick('saturation', SATURATIONS, saturation)(p, rewards.wants_call)
  w = masked.fill(w, counted & ~shut)
  earned = None
  if trust != 'none' and gate != 'none':
    earned = trust_lib.batch_trust(
      r_out, r_rea, valid, trust=trust, all_sum=all_sum, **numbers
    )
    w = earned.trust * w
  d = pick('difficulty', DIFFICULTIES, difficulty)(p, **numbers)
  norm = pick('difficulty_norm', DIFFICULTY_NORMS, difficulty_norm)
  d = norm(masked.fill(d, counted), counted, all_sum)
  # The combined advantage.
  scopes = pick('combine', COMBINATIONS, combine)
  formula = pick('difficulty_scope', scopes, difficulty_scope)
  return Advantages(
    advantages=formula(*_columns(d, w, like=a_out), a_out, a_mix),
    counted=counted,
    solve_rate=p,
    gate=w,
    difficulty=d,
    outcome_std=s_out,
    mix_std=s_mix,
    outcome_advantages=a_out,
    mix_advantages=a_mix,
    trust=earned,
  )


def _columns(*numbers: Array, like: Array) -> tuple[Array, ...]:
  """Numbers of groups, [P], with further axes of length 1 as `like` has."""
  return tuple(x.reshape(-1, *[1] * (like.ndim - 1)) for x in numbers)


def ungated(
  advantages: Array, rewards: types.Rewards, samples: samples_lib.Samples
) -> Advantages:
  """Finished advantages of another method, with what is logged of every one."""
  return Advantages(
    advantages=advantages,
    counted=samples.comparable,
    solve_rate=solve_rates.solve_rate(rewards, samples),
  )


def amplified_groups(made: Advantages, *, threshold: float = 0.1) -> Array:
  """bool[P]: equal outcomes, and tiny reasoning differences made large.

  Where all outcomes are equal an open gate divides the judge's differences by
  their own standard deviation, or by the floor: worth logging how often.

  Args:
    made: advantages of a rollout batch.
    threshold: s_mix below which the differences count as tiny.

  Returns:
    bool[P], True where s_out = 0, 0 < s_mix < threshold and the gate is open.
  """
  tiny = (made.mix_std > 0) & (made.mix_std < threshold)
  return tiny & (made.outcome_std == 0) & (made.gate > 0) & made.counted
