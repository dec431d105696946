"""Flags from the rewards of a rollout batch to its advantages."""

import dataclasses

from awpo_jax.config.flags import flag
from awpo_jax.ops import advantages, awpo, estimators, gates, rivals
from awpo_jax.ops import difficulty as difficulty_lib
from awpo_jax.ops import trust as trust_lib


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
  """From rewards to advantages."""

  advantage: str = flag(
    'awpo',
    'How the rewards for outcome and reasoning become one advantage. '
    'gdpo_parts uses the parts of the outcome and no reasoning.',
    advantages.ADVANTAGES,
  )
  estimator: str = flag(
    'grpo',
    'How one reward becomes an advantage. With --gate=none and '
    '--difficulty=none it is the whole algorithm. docs/algorithms.md names the '
    'paper of each.',
    estimators.ESTIMATORS,
  )
  batch_norm: str = flag(
    'token',
    'How gdpo, gd2po, sa_mrpo, reinforce_pp, reinforce_pp_baseline and '
    '--saw_on=advantages normalize advantages over the batch: over its tokens, '
    'over its answers (row), or not at all.',
    estimators.BATCH_NORMS,
  )
  eps: float = flag(
    1e-6,
    'Number added to the standard deviations that rewards are divided by. It '
    'is rarely changed.',
    above=0,
  )
  correct: float | None = flag(
    None,
    'Share of the way from the worst to the best outcome from which on an '
    'answer counts as correct. It has to be set for --shaper=arm, '
    '--advantage=papo, --condition=correct, --estimator=sign and '
    '--estimator=maxrl.',
    above=0,
    maximum=1,
  )
  reward_parts: tuple[str, ...] = flag(
    ('format', 'correctness'),
    'Parts of the outcome that --advantage=gdpo_parts standardizes separately, '
    'separated by commas, under the names that the reward function reports.',
  )
  gd2po_tau: float | None = flag(
    None,
    'Smallest absolute sum of the two standardized rewards, in units of the '
    'sum of their absolute values, with which --advantage=gd2po keeps an '
    'answer whose two signs disagree. If it is not set, none of those is kept.',
    above=0,
    maximum=1,
  )
  saw_on: str = flag(
    'rewards',
    'Whether the weights of --advantage=saw are those of the rewards before '
    'they are standardized, or of the advantages.',
    rivals.SAW_ON,
  )
  sa_gamma: float | None = flag(
    None,
    'Power g of the weight (1 - s)^g that --advantage=sa_mrpo gives a reward, '
    's being how close its mean is to its best, from 0 to 1. sa_mrpo needs it; '
    '0 weighs all rewards alike.',
    minimum=0,
  )
  condition: str = flag(
    'none',
    'Where the reasoning reward counts: everywhere (none), or only where the '
    'outcome is correct, see --correct.',
    advantages.CONDITIONS,
  )
  length_buffer: int = flag(
    0,
    'Number of last tokens before the length limit over which the outcome is '
    'lowered linearly, against answers that grow too long. 0 lowers nothing.',
    minimum=0,
  )
  length_penalty: float = flag(
    1.0,
    'By how much the outcome of an answer at the length limit is lowered, with '
    '--length_buffer.',
    minimum=0,
  )
  reward_scale: str = flag(
    'raw',
    'Scale of the outcome: as it is (raw), or divided by the span of outcomes '
    'that the prompt allows (unit), so that all prompts weigh alike.',
    awpo.REWARD_SCALES,
  )
  mix: str = flag(
    'sum',
    'How outcome and reasoning are mixed, m being --mix_weight: '
    'outcome + m reasoning (sum), or (1 - m) outcome + m reasoning (convex).',
    awpo.MIXES,
  )
  mix_weight: float = flag(
    1.0,
    'Weight of the reasoning in the mixed reward; with --mix=convex it has to '
    'be below 1 and above 0. Lower it for a judge that is often wrong.',
    minimum=0,
  )
  mix_advantage: str = flag(
    'mixed',
    'Advantage towards which the gate leans: that of the mixed reward, or that '
    'of the reasoning alone.',
    awpo.MIX_ADVANTAGES,
  )
  mix_std_floor: float = flag(
    0.02,
    'Smallest standard deviation by which the reward that the gate leans '
    'towards is divided (with gdpo and papo: the reasoning). With 0, '
    'differences of the judge count in full however small they are.',
    minimum=0,
  )
  ddof: int = flag(
    1,
    'Standard deviations of a group divide by its size minus this number: 1 is '
    'unbiased, 0 is biased.',
    minimum=0,
    maximum=1,
  )
  gate: str = flag(
    'ratio',
    'Gate w of each group, which says how far its advantage leans from the '
    'outcome to the mixed reward: by the standard deviations of the two '
    '(ratio) or of outcome and reasoning (share), 1 where outcomes hardly vary '
    '(binary), 1 (always), or 0, which needs no judge (none).',
    gates.GATES,
  )
  tau: float = flag(
    0.5,
    "Variance of a group's outcomes up to which --gate=binary is open.",
    minimum=0,
  )
  tau_of: str = flag(
    'raw',
    'What --tau is: a variance (raw), or a share of the largest variance that '
    'the bounds of the outcome allow (share).',
    gates.TAUS,
  )
  trust: str = flag(
    'agreement',
    'What the gate is multiplied by, measured in the groups in which outcome '
    'and reasoning both vary: the mean of their correlations, held down by '
    '--trust_prior (agreement), or how far that mean exceeds its standard '
    'error, in units of --trust_kappa (confident). none multiplies by nothing.',
    trust_lib.TRUSTS,
  )
  trust_prior: float = flag(
    1.0,
    'Number of further groups with the correlation --trust_start that '
    '--trust=agreement assumes. With more of them measured ones count less.',
    above=0,
  )
  trust_start: float = flag(
    0.0,
    'Trust while there is no group in which outcome and reasoning both vary. '
    'With --trust=agreement it is also the correlation of the groups that '
    '--trust_prior assumes. Above 0 it uses a good judge before any outcome '
    'has been right, and a bad one, too.',
    minimum=0,
    maximum=1,
  )
  trust_kappa: float = flag(
    0.4,
    'How far the mean correlation has to exceed its standard error until '
    '--trust=confident trusts the judge fully.',
    above=0,
  )
  saturation: str = flag(
    'solved_calls',
    'Groups whose gate stays shut: those in which every answer makes the right '
    'call (solved_calls), those in which every answer is right (solved), or '
    'none.',
    gates.SATURATIONS,
  )
  difficulty: str = flag(
    'banded',
    'Weight d of each group, a function of its solve rate p: --priority within '
    '--band and --base outside of it (banded), 4 p (1 - p) (parabola), or 1 '
    '(none).',
    difficulty_lib.DIFFICULTIES,
  )
  difficulty_of: str = flag(
    'reward',
    'What p is: how far the mean outcome lies between its bounds (reward), or '
    'the share of answers whose outcome is the best that the prompt allows '
    '(solved).',
    difficulty_lib.SOLVE_RATES,
  )
  difficulty_norm: str = flag(
    'none',
    'Whether the weights are used as they are (none), or divided by their mean '
    'over the groups of the batch (mean), so that they change which groups '
    'count and not how large the step is.',
    difficulty_lib.DIFFICULTY_NORMS,
  )
  band: tuple[float, ...] = flag(
    (0.2, 0.8),
    'Lowest and highest solve rate of the groups that --difficulty=banded '
    'favors.',
    minimum=0,
    maximum=1,
  )
  base: float = flag(1.0, 'Weight of a group outside of --band.', minimum=0)
  priority: float = flag(1.5, 'Weight of a group within --band.', minimum=0)
  floor: float = flag(
    0.0,
    'Smallest weight of a group with --difficulty=parabola. With 0 groups that '
    'are all right or all wrong teach nothing.',
    minimum=0,
  )
  difficulty_scope: str = flag(
    'whole',
    'What d multiplies: the whole advantage, or only its mixed part.',
    awpo.COMBINATIONS['convex'],
  )
  combine: str = flag(
    'convex',
    'How the gate w joins the two advantages: (1 - w) outcome + w mixed '
    '(convex), or outcome + w mixed (additive).',
    awpo.COMBINATIONS,
  )
  gate_level: str = flag(
    'advantage',
    'What the gate joins: the two advantages (advantage), or the two rewards, '
    'of which one advantage is then made (reward).',
    awpo.GATE_LEVELS,
  )
  reasoning_tokens: str = flag(
    'all',
    'Tokens that the gated part of the advantage acts on: all tokens of an '
    'answer (all), or only those of its thought, which the judge has read '
    "(thought). The outcome's part always acts on all tokens.",
    awpo.REASONING_TOKENS,
  )
