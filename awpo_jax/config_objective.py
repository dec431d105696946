"""Flags of the objective: from rewards to advantages, and the loss on them."""

import dataclasses
from collections.abc import Collection
from typing import Any

from awpo_jax.ops import (
  algorithms,
  estimators,
  losses,
  mechanisms,
  policy_losses,
  selection,
  shapers,
)
from awpo_jax.ops import clip_high as clip_high_lib
from awpo_jax.ops import mismatch as mismatch_lib


def flag(default: Any, help_text: str, choices: Collection[str] = ()) -> Any:
  """A field that becomes a flag: its default, its help, its choices.

  A dict of functions stays what it is: an entry that is added before the flags
  are defined is one more choice.
  """
  metadata = {'help': help_text, 'choices': choices}
  return dataclasses.field(default=default, metadata=metadata)


# What `--kl_coef` weighs, and where it enters.
KL_PLACEMENTS = ('loss', 'reward')


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
  """From rewards to advantages; of `algorithms.rollout_advantages`."""

  advantage: str = flag(
    'awpo',
    'How outcome and reasoning become one advantage.',
    algorithms.ADVANTAGES,
  )
  estimator: str = flag(
    'grpo',
    'Advantage of one reward; with gate and difficulty none, the algorithm.',
    estimators.ESTIMATORS,
  )
  batch_norm: str = flag(
    'token',
    'Norm over the batch, of gdpo and the reinforce_pp estimators.',
    estimators.BATCH_NORMS,
  )
  eps: float = flag(1e-6, 'Added to standard deviations that divide.')
  correct: float | None = flag(
    None,
    'Share of the way from the worst to the best outcome from which on a '
    'sample is correct, for what must tell: no default.',
  )
  reward_parts: tuple[str, ...] = flag(
    ('format', 'correctness'),
    'Parts of the outcome that gdpo_parts standardises apart, by the names '
    'that the reward reports.',
  )
  condition: str = flag(
    'none', 'Where the reasoning reward counts.', algorithms.CONDITIONS
  )
  length_buffer: int = flag(
    0, 'Last tokens of the limit over which the outcome is lowered; 0: none.'
  )
  length_penalty: float = flag(1.0, 'What is lost at the limit.')
  reward_scale: str = flag(
    'raw', 'Scale of the outcome.', mechanisms.REWARD_SCALES
  )
  mix: str = flag(
    'sum', 'How the mixed reward adds the reasoning.', mechanisms.MIXES
  )
  mix_weight: float = flag(1.0, 'Weight of the reasoning reward in the mix.')
  mix_advantage: str = flag(
    'mixed',
    'What the gate leans towards: the mixed or the reasoning advantage.',
    mechanisms.MIX_ADVANTAGES,
  )
  mix_std_floor: float = flag(
    0.02,
    'Least standard deviation that normalises what the gate leans towards (of '
    'gdpo and papo: the reasoning); with 0 the smallest differences have full '
    'size.',
  )
  ddof: int = flag(1, 'Degrees of freedom taken from the variance: 0 or 1.')
  gate: str = flag('ratio', 'Gate w of each group.', mechanisms.GATES)
  tau: float = flag(
    0.5, 'Outcome variance up to which the gate `binary` opens.'
  )
  saturation: str = flag(
    'solved_calls',
    'Groups whose gate stays shut: those solved where a call is wanted '
    '(solved_calls), all those solved (solved), or none.',
    mechanisms.SATURATIONS,
  )
  difficulty: str = flag(
    'banded', 'Weight d of each group.', mechanisms.DIFFICULTIES
  )
  band: tuple[float, ...] = flag(
    (0.2, 0.8), 'Solve rates the difficulty `banded` favors.'
  )
  base: float = flag(1.0, 'Difficulty weight outside of the band.')
  priority: float = flag(1.5, 'Difficulty weight inside of the band.')
  floor: float = flag(0.0, 'Smallest weight of the difficulty `parabola`.')
  difficulty_scope: str = flag(
    'whole', 'What d multiplies.', mechanisms.DIFFICULTY_SCOPES
  )
  combine: str = flag(
    'convex', 'How the gate joins both advantages.', mechanisms.COMBINATIONS
  )


@dataclasses.dataclass(frozen=True)
class ShapingConfig:
  """What is done to advantages once they are made."""

  shaper: str = flag('none', 'Shaping of advantages.', shapers.SHAPERS)
  egpo_lambda: float = flag(0.4, 'Weight of the bonus of egpo.')
  egpo_alpha: float = flag(2.0, 'It is at most |A| over this.')
  arm_alpha: float | None = flag(None, 'Weight of arm; no default.')


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
  """Which groups, answers and tokens are trained on."""

  empty_groups: str = flag(
    'count',
    'Whether groups without any advantage count in denominators.',
    selection.EMPTY_GROUPS,
  )
  sampling_rounds: int = flag(
    1,
    'Rounds of sampling that may fill a batch with groups that have an '
    'advantage under the algorithm.',
  )
  unfinished: str = flag(
    'train', 'Answers that the length limit cut.', selection.UNFINISHED
  )
  entropy_share: float = flag(
    1.0, 'Share of the tokens that is trained on, those of highest entropy.'
  )


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The surrogate, its trust region, and what stands beside it."""

  loss: str = flag('ppo', 'Loss of the policy.', policy_losses.LOSSES)
  clip: str = flag(
    'linear', 'Clip radius as a function of the mean gate.', mechanisms.CLIPS
  )
  clip_min: float = flag(0.1, 'Radius of `linear` where the gate is 1.')
  clip_max: float = flag(0.2, 'Radius where the gate is 0.')
  clip_high_factor: float = flag(1.0, 'Upper radius over the lower one.')
  clip_high: str = flag(
    'factor', 'What the upper radius is besides.', clip_high_lib.CLIP_HIGHS
  )
  clip_high_delta: float | None = flag(
    None, 'What `adaptive` adds to it at most; no default.'
  )
  aggregation: str = flag(
    'token-mean', 'Weights of the tokens.', losses.AGGREGATIONS
  )
  entropy_coef: float = flag(0.0, 'Weight of the entropy bonus.')
  kl_coef: float = flag(
    0.0, 'Weight of the KL to the policy at the start of RL; 0 keeps no copy.'
  )
  kl_estimator: str = flag(
    'k3+',
    'Of that KL: k3+ has the value of k3 and the gradient of k2.',
    losses.KL_ESTIMATORS,
  )
  kl_placement: str = flag(
    'loss', 'Where the KL enters: a term, or part of the reward.', KL_PLACEMENTS
  )
  mismatch: str = flag(
    'none',
    'Weights for where sampler and trainer disagree.',
    mismatch_lib.MISMATCHES,
  )
  mismatch_level: str = flag(
    'token', 'Whether tokens or answers have one.', mismatch_lib.LEVELS
  )
  mismatch_low: float | None = flag(None, 'Lower bound of icepop; else 0.5.')
  mismatch_high: float | None = flag(
    None, 'Upper bound; else 2 for tis, 5 for icepop.'
  )


@dataclasses.dataclass(frozen=True)
class NumbersConfig:
  """Numbers of single losses, by the names of their arguments."""

  dual_clip: float | None = flag(
    None, 'Bound c > 1 of ppo at negative advantages; none is off.'
  )
  sapo_tau: tuple[float, ...] = flag(
    (1.0, 1.05), 'Temperatures of sapo above and below an advantage of 0.'
  )
  tv_bound: float = flag(0.15, 'Change of a probability within dppo_tv.')
  tv_max_ratio: float = flag(20.0, 'Bound of its ratio.')
  apa_lambda: float = flag(0.1, 'Temperature of apa.')
  disco_score: str = flag(
    'log-likelihood', 'What disco compares.', policy_losses.SCORES
  )
  disco_tau: float = flag(10.0, 'Temperature of disco: 1 for ratios.')
  disco_beta: float = flag(1e3, 'Weight of its trust region.')
  disco_delta: float = flag(1e-4, 'KL that costs nothing there.')


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
