"""Flags of the objective: from rewards to advantages, and the loss on them."""

import dataclasses
from typing import Any

from awpo_jax.config import flags
from awpo_jax.ops import (
  advantages,
  awpo,
  clipping,
  estimators,
  kl,
  policy_losses,
  selection,
  shaping,
)
from awpo_jax.ops import aggregation as aggregation_lib
from awpo_jax.ops import off_policy as off_policy_lib

# What `--kl_coef` weighs, and where it enters.
KL_PLACEMENTS = ('loss', 'reward')


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
  """From rewards to advantages; of `advantages.rollout_advantages`."""

  advantage: str = flags.flag(
    'awpo',
    'How outcome and reasoning become one advantage.',
    advantages.ADVANTAGES,
  )
  estimator: str = flags.flag(
    'grpo',
    'Advantage of one reward; with gate and difficulty none, the algorithm.',
    estimators.ESTIMATORS,
  )
  batch_norm: str = flags.flag(
    'token',
    'Norm over the batch, of gdpo and the reinforce_pp estimators.',
    estimators.BATCH_NORMS,
  )
  eps: float = flags.flag(1e-6, 'Added to standard deviations that divide.')
  correct: float | None = flags.flag(
    None,
    'Share of the way from the worst to the best outcome from which on a '
    'sample is correct, for what must tell: no default.',
  )
  reward_parts: tuple[str, ...] = flags.flag(
    ('format', 'correctness'),
    'Parts of the outcome that gdpo_parts standardises apart, by the names '
    'that the reward reports.',
  )
  condition: str = flags.flag(
    'none', 'Where the reasoning reward counts.', advantages.CONDITIONS
  )
  length_buffer: int = flags.flag(
    0, 'Last tokens of the limit over which the outcome is lowered; 0: none.'
  )
  length_penalty: float = flags.flag(1.0, 'What is lost at the limit.')
  reward_scale: str = flags.flag(
    'raw', 'Scale of the outcome.', awpo.REWARD_SCALES
  )
  mix: str = flags.flag(
    'sum', 'How the mixed reward adds the reasoning.', awpo.MIXES
  )
  mix_weight: float = flags.flag(
    1.0, 'Weight of the reasoning reward in the mix.'
  )
  mix_advantage: str = flags.flag(
    'mixed',
    'What the gate leans towards: the mixed or the reasoning advantage.',
    awpo.MIX_ADVANTAGES,
  )
  mix_std_floor: float = flags.flag(
    0.02,
    'Least standard deviation that normalises what the gate leans towards (of '
    'gdpo and papo: the reasoning); with 0 the smallest differences have full '
    'size.',
  )
  ddof: int = flags.flag(
    1, 'Degrees of freedom taken from the variance: 0 or 1.'
  )
  gate: str = flags.flag('ratio', 'Gate w of each group.', awpo.GATES)
  tau: float = flags.flag(
    0.5, 'Outcome variance up to which the gate `binary` opens.'
  )
  saturation: str = flags.flag(
    'solved_calls',
    'Groups whose gate stays shut: those solved where a call is wanted '
    '(solved_calls), all those solved (solved), or none.',
    awpo.SATURATIONS,
  )
  difficulty: str = flags.flag(
    'banded', 'Weight d of each group.', awpo.DIFFICULTIES
  )
  band: tuple[float, ...] = flags.flag(
    (0.2, 0.8), 'Solve rates the difficulty `banded` favors.'
  )
  base: float = flags.flag(1.0, 'Difficulty weight outside of the band.')
  priority: float = flags.flag(1.5, 'Difficulty weight inside of the band.')
  floor: float = flags.flag(
    0.0, 'Smallest weight of the difficulty `parabola`.'
  )
  difficulty_scope: str = flags.flag(
    'whole', 'What d multiplies.', awpo.COMBINATIONS['convex']
  )
  combine: str = flags.flag(
    'convex', 'How the gate joins both advantages.', awpo.COMBINATIONS
  )


@dataclasses.dataclass(frozen=True)
class ShapingConfig:
  """What is done to advantages once they are made."""

  shaper: str = flags.flag('none', 'Shaping of advantages.', shaping.SHAPERS)
  egpo_lambda: float = flags.flag(0.4, 'Weight of the bonus of egpo.')
  egpo_alpha: float = flags.flag(2.0, 'It is at most |A| over this.')
  arm_alpha: float | None = flags.flag(None, 'Weight of arm; no default.')


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
  """Which groups, answers and tokens are trained on."""

  empty_groups: str = flags.flag(
    'count',
    'Whether groups without any advantage count in denominators.',
    selection.EMPTY_GROUPS,
  )
  sampling_rounds: int = flags.flag(
    1,
    'Rounds of sampling that may fill a batch with groups that have an '
    'advantage under the algorithm.',
  )
  unfinished: str = flags.flag(
    'train', 'Answers that the length limit cut.', selection.UNFINISHED
  )
  entropy_share: float = flags.flag(
    1.0, 'Share of the tokens that is trained on, those of highest entropy.'
  )


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The surrogate, its trust region, and what stands beside it."""

  loss: str = flags.flag('ppo', 'Loss of the policy.', policy_losses.LOSSES)
  clip: str = flags.flag(
    'linear', 'Clip radius as a function of the mean gate.', clipping.CLIPS
  )
  clip_min: float = flags.flag(0.1, 'Radius of `linear` where the gate is 1.')
  clip_max: float = flags.flag(0.2, 'Radius where the gate is 0.')
  clip_high_factor: float = flags.flag(1.0, 'Upper radius over the lower one.')
  clip_high: str = flags.flag(
    'factor', 'What the upper radius is besides.', clipping.CLIP_HIGHS
  )
  clip_high_delta: float | None = flags.flag(
    None, 'What `adaptive` adds to it at most; no default.'
  )
  aggregation: str = flags.flag(
    'token-mean', 'Weights of the tokens.', aggregation_lib.AGGREGATIONS
  )
  entropy_coef: float = flags.flag(0.0, 'Weight of the entropy bonus.')
  kl_coef: float = flags.flag(
    0.0, 'Weight of the KL to the policy at the start of RL; 0 keeps no copy.'
  )
  kl_estimator: str = flags.flag(
    'k3+',
    'Of that KL: k3+ has the value of k3 and the gradient of k2.',
    kl.KL_ESTIMATORS,
  )
  kl_placement: str = flags.flag(
    'loss', 'Where the KL enters: a term, or part of the reward.', KL_PLACEMENTS
  )
  mismatch: str = flags.flag(
    'none',
    'Weights for where sampler and trainer disagree.',
    off_policy_lib.MISMATCHES,
  )
  mismatch_level: str = flags.flag(
    'token', 'Whether tokens or answers have one.', off_policy_lib.LEVELS
  )
  mismatch_low: float | None = flags.flag(
    None, 'Lower bound of icepop; else 0.5.'
  )
  mismatch_high: float | None = flags.flag(
    None, 'Upper bound; else 2 for tis, 5 for icepop.'
  )


@dataclasses.dataclass(frozen=True)
class NumbersConfig:
  """Numbers of single losses, by the names of their arguments."""

  dual_clip: float | None = flags.flag(
    None, 'Bound c > 1 of ppo at negative advantages; none is off.'
  )
  sapo_tau: tuple[float, ...] = flags.flag(
    (1.0, 1.05), 'Temperatures of sapo above and below an advantage of 0.'
  )
  tv_bound: float = flags.flag(0.15, 'Change of a probability within dppo_tv.')
  tv_max_ratio: float = flags.flag(20.0, 'Bound of its ratio.')
  apa_lambda: float = flags.flag(0.1, 'Temperature of apa.')
  disco_score: str = flags.flag(
    'log-likelihood', 'What disco compares.', policy_losses.SCORES
  )
  disco_tau: float = flags.flag(10.0, 'Temperature of disco: 1 for ratios.')
  disco_beta: float = flags.flag(1e3, 'Weight of its trust region.')
  disco_delta: float = flags.flag(1e-4, 'KL that costs nothing there.')


def has_reference(config: Any) -> bool:
  """Whether the policy at the start of RL is kept, for a KL or for the loss."""
  needed = config.loss.loss in policy_losses.REFERRED
  return bool(config.run.rl_steps and (config.loss.kl_coef or needed))


def reward_parts(config: Any) -> tuple[str, ...] | None:
  """Parts of the outcome that the algorithm takes apart; None for none."""
  advantage = config.advantage
  apart = advantage.advantage == 'gdpo_parts'
  return advantage.reward_parts if apart else None


def has_token_advantages(config: Any) -> bool:
  """Whether the tokens of an answer have advantages of their own."""
  loss = config.loss
  returns = config.advantage.estimator in estimators.TOKEN_RETURNS
  in_reward = loss.kl_coef > 0 and loss.kl_placement == 'reward'
  return returns and in_reward
