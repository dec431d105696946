"""AWPO: one advantage of an outcome reward and a reasoning reward.

Our reading of arXiv:2512.19126. The symbols are of one prompt's group, over its
valid samples:

  R_out, R_rea   outcome reward, and reasoning reward in [0, 1]
  R_mix          the two mixed into one
  s_out, s_mix, s_rea   standard deviations of R_out, R_mix and R_rea
  A_out, A_mix   advantages of R_out and R_mix alone, by the flag `estimator`
  p              solve rate: where the mean R_out lies between its bounds, or
                 the share of samples at the upper one
  w              gate: how far the group leans on the reasoning
  t              trust in the judge, of the whole batch: w is t times the gate
  d              difficulty weight
  A              d ((1 - w) A_out + w A_mix), the advantage; of it the gated
                 part, d w A_mix, may act on the tokens of the thought alone
  radius         clip_max - (clip_max - clip_min) mean(w), over the groups of
                 the whole batch: `clipping.clip_radius`

Every step is a dict of functions, one for each value of its flag: a new gate is
one function and one entry of `gates.GATES`. A function is given the numbers of
all flags by their names; it takes those it needs and leaves the others to
`**_`. All of it is computed once for each rollout batch and is constant for
differentiation.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.ops import choices, gates, masked
from awpo_jax.ops import difficulty as difficulty_lib
from awpo_jax.ops import samples as samples_lib
from awpo_jax.ops import trust as trust_lib

Array = types.Array
Functions = dict[str, Callable[..., Array]]
# s_mix below which the judge's differences count as tiny.
_TINY = 0.1


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
  return (1 - mix_weight) * outcome + mix_weight * reasoning


MIXES: Functions = {'sum': sum_mix, 'convex': convex_mix}


# The reward that A_mix is the advantage of: R_mix, or R_rea in its place.

MIX_ADVANTAGES: Functions = {
  'mixed': lambda mix, reasoning: mix,
  'reasoning': lambda mix, reasoning: reasoning,
}


# Combined advantage, A: of each value of `combine` one formula for each value
# of `difficulty_scope`. The terms with w in front of A_mix are the gated part.

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


# The tokens that the gated part acts on; the outcome's part acts on all.


def on_all(
  a_out: Array, a_mix: Array, samples: samples_lib.Samples
) -> tuple[Array, Array]:
  """Every token of an answer: A_out and A_mix as they are, f32[P, G]."""
  return a_out, a_mix


def on_thought(
  a_out: Array, a_mix: Array, samples: samples_lib.Samples
) -> tuple[Array, Array]:
  """Those of the chain of thought, all that the judge has read (ours).

    A_t = d ((1 - w) A_out + w A_mix [t in the thought])

  f32[P, G, T] both. An answer without a thought has the outcome's part alone.
  """
  if samples.thinking is None:
    raise ValueError(
      'reasoning_tokens=thought needs the tokens of the chain of thought'
    )
  thought = samples.mask & samples.thinking
  a_out = jnp.broadcast_to(a_out[..., None], thought.shape)
  return a_out, masked.fill(a_mix[..., None], thought)


REASONING_TOKENS: dict[str, Callable[..., tuple[Array, Array]]] = {
  'all': on_all,
  'thought': on_thought,
}


# The rewards that are compared.


class Mixed(NamedTuple):
  """The rewards of a rollout batch that AWPO compares, f32[P, G] each.

  Attributes:
    outcome: R_out, in its scale.
    reasoning: R_rea.
    mix: R_mix.
    gated: the one that A_mix is the advantage of, R_mix or R_rea.
    span: f32[P], out_max - out_min in the scale of R_out.
  """

  outcome: Array
  reasoning: Array
  mix: Array
  gated: Array
  span: Array


# What the formula is of. `formula` is that of `COMBINATIONS`, with d, w, and a
# part of the outcome and one that is gated.


def of_advantages(
  formula: Callable[..., Array],
  d: Array,
  w: Array,
  mixed: Mixed,
  samples: samples_lib.Samples,
  *,
  standardize: Callable[..., Array],
  mix_std_floor: float,
  reasoning_tokens: str,
  **_,
) -> Array:
  """Of the advantages A_out and A_mix of the two rewards, f32[P, G]."""
  part = choices.pick('reasoning_tokens', REASONING_TOKENS, reasoning_tokens)
  a_out, a_mix = part(
    standardize(mixed.outcome),
    standardize(mixed.gated, std_floor=mix_std_floor),
    samples,
  )
  return formula(*_columns(d, w, like=a_out), a_out, a_mix)


def of_rewards(
  formula: Callable[..., Array],
  d: Array,
  w: Array,
  mixed: Mixed,
  samples: samples_lib.Samples,
  *,
  standardize: Callable[..., Array],
  mix_std_floor: float,
  **_,
) -> Array:
  """Of the rewards: d times the advantage of (1 - w) R_out + w R_mix (ours).

  The two are standardized once and together, so that the smaller differences
  of one of them stay small beside the other's.
  """
  joint = formula(1.0, w[:, None], mixed.outcome, mixed.gated)
  made = standardize(joint, std_floor=mix_std_floor)
  (d,) = _columns(d, like=made)
  return d * made


GATE_LEVELS: Functions = {'advantage': of_advantages, 'reward': of_rewards}


def _columns(*numbers: Array, like: Array) -> tuple[Array, ...]:
  """Numbers of groups, [P], with further axes of length 1 as `like` has."""
  return tuple(x.reshape(-1, *[1] * (like.ndim - 1)) for x in numbers)


# The method, step by step. `flags` are all flags of the algorithm; each step
# takes its own and hands them on to the functions that they name.


def mix_rewards(
  rewards: types.Rewards,
  samples: samples_lib.Samples,
  *,
  reward_scale: str,
  mix: str,
  mix_advantage: str,
  **flags,
) -> Mixed:
  """R_out and R_rea of each answer, and R_mix of the two."""
  span = difficulty_lib.outcome_span(rewards, samples)
  scale = choices.pick('reward_scale', REWARD_SCALES, reward_scale)(span)
  r_out, r_rea = rewards.outcome / scale[:, None], rewards.reasoning
  r_mix = choices.pick('mix', MIXES, mix)(r_out, r_rea, **flags)
  leaning = choices.pick('mix_advantage', MIX_ADVANTAGES, mix_advantage)
  return Mixed(r_out, r_rea, r_mix, leaning(r_mix, r_rea), span / scale)


def combine_rewards(
  d: Array,
  w: Array,
  mixed: Mixed,
  samples: samples_lib.Samples,
  *,
  combine: str,
  difficulty_scope: str,
  gate_level: str,
  **flags,
) -> Array:
  """A = d ((1 - w) A_out + w A_mix), f32[P, G] or f32[P, G, T]."""
  scopes = choices.pick('combine', COMBINATIONS, combine)
  formula = choices.pick('difficulty_scope', scopes, difficulty_scope)
  if flags['gate'] == 'none':  # There is no gated part to treat otherwise.
    gate_level, flags = 'advantage', flags | {'reasoning_tokens': 'all'}
  level = choices.pick('gate_level', GATE_LEVELS, gate_level)
  return level(formula, d, w, mixed, samples, **flags)


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
    outcome_advantages: A_out, shaped like `advantages`, or f32[P, G] where
      those differ between tokens by the thought alone; None without it.
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
  all_sum: types.AllSum,
  **flags,
) -> Advantages:
  """A = d ((1 - w) A_out + w A_mix), the value `awpo` of the flag `advantage`.

  With gate and difficulty `none` it is A_out, bit for bit: GRPO's advantage.

  Args:
    rewards: f32[P, G], finite where valid.
    samples: of the same rollout batch.
    standardize: f32[P, G] of one reward -> its advantages, f32[P, G] or f32[P,
      G, T]; they are divided by at least `std_floor`, if that is given.
    all_sum: adds each leaf of a tree up over all devices.
    **flags: those of `config.advantage.AdvantageConfig`, by name. Of these
      `ddof` is 1 for unbiased standard deviations in the gate, 0 for
      biased ones, and `mix_std_floor` is what A_mix is divided by at least:
      where outcomes are equal nothing else bounds what a judge's smallest
      differences come to. The gate compares the standard deviations as they
      are: it asks which reward varies, not by how much.

  Returns:
    `Advantages`; a group with fewer than two valid samples is 0 throughout.

  Raises:
    ValueError: if a flag value is unknown.
  """
  valid, counted = samples.valid, samples.comparable
  chex.assert_equal_shape([rewards.outcome, rewards.reasoning, valid])
  # The two rewards of an answer, and how far each varies within a group.
  mixed = mix_rewards(rewards, samples, **flags)
  stds = s_out, s_mix, _ = [
    masked.group_stats(r, valid, ddof=flags['ddof']).std
    for r in (mixed.outcome, mixed.mix, mixed.reasoning)
  ]
  # Solve rate, gate and difficulty weight of a group.
  p = difficulty_lib.group_rate(rewards, samples, **flags)
  w = gates.group_gate(
    stds, mixed.span, p, rewards.wants_call, counted, **flags
  )
  w, trust = trust_lib.trusted_gate(
    w, mixed.outcome, mixed.reasoning, valid, all_sum=all_sum, **flags
  )
  d = difficulty_lib.group_weight(p, counted, all_sum=all_sum, **flags)
  # The combined advantage.
  a = combine_rewards(d, w, mixed, samples, standardize=standardize, **flags)
  return Advantages(
    advantages=a,
    counted=counted,
    solve_rate=p,
    gate=w,
    difficulty=d,
    outcome_std=s_out,
    mix_std=s_mix,
    outcome_advantages=standardize(mixed.outcome),
    mix_advantages=standardize(mixed.gated, std_floor=flags['mix_std_floor']),
    trust=trust,
  )


def ungated(
  advantages: Array, rewards: types.Rewards, samples: samples_lib.Samples
) -> Advantages:
  """Finished advantages of another method, with what is logged of every one."""
  return Advantages(
    advantages=advantages,
    counted=samples.comparable,
    solve_rate=difficulty_lib.solve_rate(rewards, samples),
  )


def amplified_groups(made: Advantages) -> Array:
  """bool[P]: equal outcomes, and tiny reasoning differences made large.

  Where all outcomes are equal an open gate divides the judge's differences by
  their own standard deviation, or by the floor: worth logging how often.

  Args:
    made: advantages of a rollout batch.

  Returns:
    bool[P], True where s_out = 0, 0 < s_mix < .1 and the gate is open.
  """
  tiny = (made.mix_std > 0) & (made.mix_std < _TINY)
  return tiny & (made.outcome_std == 0) & (made.gate > 0) & made.counted
