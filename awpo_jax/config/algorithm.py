"""Flags from advantages to the loss; those before are in `advantage.py`."""

import dataclasses
from typing import Any

from awpo_jax.config.flags import flag
from awpo_jax.ops import (
  advantages,
  clipping,
  estimators,
  policy_losses,
  surrogate,
)
from awpo_jax.ops import aggregation as aggregation_lib

# What `--kl_coef` weighs, and where it enters.
KL_PLACEMENTS = ('loss', 'reward')


@dataclasses.dataclass(frozen=True)
class ShapingConfig:
  """Shaping of finished advantages."""

  shaper: str = flag(
    'none',
    'What is added to finished advantages: nothing, a bonus for entropy within '
    'the thought (egpo), or a shift by confidence (arm).',
    advantages.SHAPERS,
  )
  egpo_lambda: float = flag(
    0.4, 'Weight of the entropy bonus of --shaper=egpo.', minimum=0
  )
  egpo_alpha: float = flag(
    2.0,
    'The entropy that --shaper=egpo rewards is cut off at the absolute '
    'advantage divided by this number.',
    above=0,
  )
  arm_alpha: float | None = flag(
    None,
    'Weight of the shift of --shaper=arm, which needs it; the paper leaves it '
    'open.',
    minimum=0,
  )


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
  """Selection of groups, answers and tokens to train on."""

  empty_groups: str = flag(
    'count',
    'Whether groups without any advantage count in the averages of the loss '
    '(count) or are left out of them (drop).',
    aggregation_lib.EMPTY_GROUPS,
  )
  sampling_rounds: int = flag(
    1,
    'Largest number of rounds of sampling that fill a batch with groups that '
    'have an advantage (dynamic sampling). Each round costs a rollout.',
    minimum=1,
  )
  unfinished: str = flag(
    'train',
    'Whether answers that the length limit cut off are trained on (train) or '
    'not (drop).',
    aggregation_lib.UNFINISHED,
  )
  entropy_share: float = flag(
    1.0,
    'Share of the tokens that are trained on, those of highest entropy; 1 is '
    'all of them.',
    above=0,
    maximum=1,
  )


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The loss: surrogate, trust region, entropy bonus and KL divergence."""

  loss: str = flag(
    'ppo',
    'Loss of the policy on given advantages. docs/algorithms.md names the '
    'paper of each.',
    policy_losses.LOSSES,
  )
  clip: str = flag(
    'linear',
    'Clip radius of ratios, a function of the mean gate: falling from '
    '--clip_max to --clip_min (linear), falling by up to a sixth (harmonic), '
    'growing by up to a fifth (widen), or --clip_max (fixed).',
    clipping.CLIPS,
  )
  clip_scope: str = flag(
    'batch',
    'Whose gate the radius follows: the mean gate of the rollout batch, or '
    "each group's own.",
    clipping.CLIP_SCOPES,
  )
  clip_min: float = flag(
    0.1, 'Radius of --clip=linear where the mean gate is 1.', above=0
  )
  clip_max: float = flag(
    0.2,
    'Clip radius where the mean gate is 0: how far the probability ratio of a '
    'token may move from 1. It has to be below 1, except for --loss=cispo and '
    '--loss=gmpo. Lower it if training is unstable.',
    above=0,
  )
  clip_high_factor: float = flag(
    1.0,
    'Upper radius divided by the lower one. 1.4 is the clip-higher of DAPO.',
    above=0,
  )
  clip_high: str = flag(
    'factor',
    'Upper radius: the lower one times --clip_high_factor (factor), to which '
    'adaptive adds up to --clip_high_delta for high advantages.',
    clipping.CLIP_HIGHS,
  )
  clip_high_delta: float | None = flag(
    None,
    'Largest number that --clip_high=adaptive adds to the upper radius. It '
    'needs this number; the paper leaves it open.',
    above=0,
  )
  aggregation: str = flag(
    'token-mean',
    'How the losses of tokens become one number: the mean over all tokens, or '
    'the mean over answers of their mean, their sum, or their sum divided by '
    'the length limit (norm), or the plain sum.',
    aggregation_lib.AGGREGATIONS,
  )
  entropy_coef: float = flag(
    0.0,
    'Weight of an entropy bonus. Raise it if answers become alike too early.',
    minimum=0,
  )
  kl_coef: float = flag(
    0.0,
    'Weight of the KL divergence to the policy at the start of RL. Raise it if '
    'the policy drifts too far from there. With 0 no copy of that policy is '
    'kept in memory, unless --loss=apa needs one.',
    minimum=0,
  )
  kl_estimator: str = flag(
    'k3+',
    'Estimator of that KL divergence. k3+ has the value of k3 and the gradient '
    'of k2, which is that of the reverse KL divergence.',
    surrogate.KL_ESTIMATORS,
  )
  kl_placement: str = flag(
    'loss',
    'Whether the KL divergence is a term of the loss or is taken from the '
    'reward.',
    KL_PLACEMENTS,
  )
  mismatch: str = flag(
    'none',
    'Weights of the loss that correct for differences between the '
    'log-probabilities of sampler and trainer: truncated at --mismatch_high '
    '(tis), or 0 outside of --mismatch_low and --mismatch_high (icepop).',
    surrogate.MISMATCHES,
  )
  mismatch_level: str = flag(
    'token',
    'Whether each token has its own weight (token), or each answer has one '
    '(row).',
    surrogate.LEVELS,
  )
  mismatch_low: float | None = flag(
    None,
    'Lower bound of the weights of icepop; 0.5 if not set.',
    above=0,
  )
  mismatch_high: float | None = flag(
    None,
    'Upper bound of these weights; if not set, 2 for tis and 5 for icepop.',
    above=0,
  )


@dataclasses.dataclass(frozen=True)
class NumbersConfig:
  """Numbers that single losses need."""

  dual_clip: float | None = flag(
    None,
    'Bound on the ratio of --loss=ppo where the advantage is negative; 3 is '
    'usual. There is no bound if it is not set.',
    above=1,
  )
  sapo_tau: tuple[float, ...] = flag(
    (1.0, 1.05),
    'Temperatures of --loss=sapo: the first for advantages above 0, the second '
    'for the others.',
    above=0,
  )
  tv_bound: float = flag(
    0.15,
    'How far --loss=dppo_tv lets the probability of a token change.',
    above=0,
  )
  tv_max_ratio: float = flag(
    20.0, 'Bound on the ratio of --loss=dppo_tv.', above=0
  )
  apa_lambda: float = flag(
    0.1,
    'Temperature of --loss=apa. A lower one lets the policy move further.',
    above=0,
  )
  disco_score: str = flag(
    'log-likelihood',
    'Score by which --loss=disco compares right and wrong answers: their mean '
    'log-likelihood or their mean ratio.',
    policy_losses.SCORES,
  )
  disco_tau: float = flag(
    10.0,
    'Temperature of --loss=disco. Set it to 1 with --disco_score=ratio.',
    above=0,
  )
  disco_beta: float = flag(
    1e3, 'Weight of the trust region of --loss=disco.', above=0
  )
  disco_delta: float = flag(
    1e-4,
    'KL divergence up to which the trust region of --loss=disco costs nothing.',
    minimum=0,
  )


def has_reference(config: Any) -> bool:
  """Whether the policy at the start of RL is kept, for a KL or for the loss."""
  needed = config.loss.loss in policy_losses.REFERRED
  return bool(config.run.rl_steps and (config.loss.kl_coef or needed))


def old_logprobs(config: Any, platform: str) -> str:
  """The key of `surrogate.OLD_LOGPROBS` that `--old_logprobs` stands for.

  Sampler and trainer are one model with the same parameters, adapters and
  temperature, and both score the whole vocabulary. What is left between them
  is the order of their sums: about 1e-7 in float32. In 16 bits it is 1e-2, and
  accelerators multiply float32 matrices in fewer bits than it has (TF32, or
  passes of bfloat16).

  Args:
    config: `experiment.Config`.
    platform: of the devices, as `jax.Device.platform` has it.
  """
  if config.rl.old_logprobs != 'auto':
    return config.rl.old_logprobs
  exact = config.model.dtype == 'float32' and platform == 'cpu'
  # A correction from sampler to trainer needs both.
  return 'sampler' if exact and config.loss.mismatch == 'none' else 'trainer'


def reward_parts(config: Any) -> tuple[str, ...] | None:
  """Parts of the outcome that the algorithm takes apart; None for none."""
  advantage = config.advantage
  apart = advantage.advantage == 'gdpo_parts'
  return advantage.reward_parts if apart else None


def needs_thinking(config: Any) -> bool:
  """Whether the algorithm asks for the tokens of the chain of thought."""
  return config.shaping.shaper == 'egpo' or gates_thoughts(config)


def gates_thoughts(config: Any) -> bool:
  """Whether the gated part of the advantage acts on the thought alone."""
  advantage = config.advantage
  gated = advantage.advantage == 'awpo' and advantage.gate != 'none'
  return gated and advantage.reasoning_tokens == 'thought'


def has_token_advantages(config: Any) -> bool:
  """Whether the tokens of an answer have advantages of their own."""
  loss = config.loss
  returns = config.advantage.estimator in estimators.TOKEN_RETURNS
  in_reward = loss.kl_coef > 0 and loss.kl_placement == 'reward'
  return (returns and in_reward) or gates_thoughts(config)
