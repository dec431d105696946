"""What can be wrong with a run, each as one function of its metrics.

A check is an entry of `CHECKS`: what is measured, the limit beyond which it is
an ailment, and the words. The same words stand in docs/metrics.md, in a section
that has the title of the check.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from awpo_jax.analysis import records

_SOLVED = 0.9
_COLLAPSED = 0.01  # Of the entropy, in nats.
_LEFT_OUT = 'data/left_out/'


@dataclasses.dataclass(frozen=True)
class Check:
  """One thing that can be wrong.

  Attributes:
    title: of its section in docs/metrics.md.
    metric: that shows it.
    side: of the limit on which it is wrong, `below` or `above`.
    limit: in the units of `measure`.
    of: which figure of the metric is measured.
    why: what it means.
    remedy: what to do.
    measure: the figure; None where the run does not have what it needs, or
      where it would say nothing.
  """

  title: str
  metric: str
  side: str
  limit: float
  of: str
  why: str
  remedy: str
  measure: Callable[[records.Record], float | None]

  @property
  def rule(self) -> str:
    """Metric and limit in words."""
    return f'{self.figure}: {self.side} {self.limit:g}'

  @property
  def figure(self) -> str:
    """What is measured, in words."""
    return f'{self.metric}, {self.of}'

  def is_wrong(self, value: float) -> bool:
    """Whether a figure is beyond the limit."""
    return value < self.limit if self.side == 'below' else value > self.limit


def _recent(name: str) -> Callable[[records.Record], float | None]:
  return lambda record: record.recent(name)


def _judged(record: records.Record) -> bool:
  """Whether the run has a judge. Without flags: whether a judge ever scored."""
  if 'judge' in record.flags:
    return record.flags['judge'] != 'none'
  return record.values('reward/reasoning').size > 0


def left_out(record: records.Record) -> float | None:
  """How much of the data was left out by length, all parts together."""
  first = record.rows[0] if record.rows else {}
  parts = [
    value
    for name, value in first.items()
    if name.startswith(_LEFT_OUT) and records.is_number(value)
  ]
  return float(sum(parts)) if parts else None


def compilations(record: records.Record) -> float | None:
  """How often `compile/count` grew within one start of the run."""
  rows = [
    row for row in record.rows if records.is_number(row.get('compile/count'))
  ]
  pairs = [
    row['compile/count'] > before['compile/count']
    for before, row in itertools.pairwise(rows)
    if 'time/setup' not in row
  ]
  return float(sum(pairs)) if pairs else None


def silent_steps(record: records.Record) -> float | None:
  """Share of the last steps at which a judge gave no score at all."""
  rows = [row for row in record.rows if row.get('phase') == 'rl'][
    -records.LAST :
  ]
  if not (rows and _judged(record)):
    return None
  return float(np.mean([row.get('reward/reasoning') is None for row in rows]))


def judge_spread(record: records.Record) -> float | None:
  """The spread of scores in groups; of answers that are alike it is 0."""
  entropy = record.recent('entropy')
  alike = entropy is not None and entropy < _COLLAPSED
  if alike or not _judged(record):
    return None
  return record.recent('reward/reasoning_std')


def largest_move(record: records.Record) -> float | None:
  """The largest log ratio of a token; of one update a rollout it is always 0,
  which says nothing."""
  one = record.flags.get('minibatches') == 1
  return None if one else record.largest('ratio/abs_log_max')


def rounded_away(record: records.Record) -> float | None:
  """The last phase alone is looked at: each phase has its own learning rate."""
  phase = record.rows[-1].get('phase', '') if record.rows else ''
  return record.recent('update/rounded_away', phase)


def gradient_excess(record: records.Record) -> float | None:
  """The gradient's norm over the norm that it is clipped to."""
  norm, most = record.recent('grad_norm'), record.flags.get('max_grad_norm')
  return (
    norm / most
    if norm is not None and records.is_number(most) and most
    else None
  )


def reasoning_alone(record: records.Record) -> float | None:
  """The rise of the judge's score where that of the outcome does not rise."""
  rises = record.rise('reward/reasoning'), record.rise('reward/outcome')
  if rises[0] is None or rises[1] is None:
    return None
  solved = record.recent('reward/solved')
  if solved is not None and solved > _SOLVED:
    return 0.0  # The outcome has nowhere to rise to.
  return rises[0] if rises[1] <= 0 else 0.0


def outcome_alone(record: records.Record) -> float | None:
  """The rise of the outcome where that of held-out accuracy does not rise."""
  rise = record.rise('reward/outcome')
  name = next(
    (
      key
      for row in record.rows
      for key in row
      if key.startswith('eval/') and key.endswith('/accuracy')
    ),
    None,
  )
  accuracies = record.values(name, '') if name else np.array([])
  first = record.values(name, 'start') if name else np.array([])
  warm = record.values(name, 'sft') if name else np.array([])
  before = [*warm[-1:], *first[-1:], *accuracies[:1]][:1]
  if rise is None or accuracies.size < 2:
    return None
  return rise if accuracies[-1] <= before[0] else 0.0


_RECENT = f'mean of the last {records.LAST} steps of RL'
_LARGEST = 'largest of all steps of RL'
_RISE = 'from the first third of RL to the last, in standard errors'

# In the order of docs/metrics.md: each assumes those above to be in order.
CHECKS = (
  Check(
    'Prompts were left out',
    'data/left_out/<part>',
    'above',
    0,
    'all parts together in the first line',
    'What did not fit the lengths was dropped: the run did not see it.',
    'Longer --prompt_buckets and --response_buckets, and --max_prompt_tokens '
    'and --max_answer_tokens where they are set; with --overlong=error the run '
    'names what does not fit.',
    left_out,
  ),
  Check(
    'Sampler and trainer disagree',
    'ratio/first_abs_log_mean',
    'above',
    0.01,
    _LARGEST,
    'Before the first update all ratios must be 1: the update is not that of '
    'the rollout.',
    'Set --old_logprobs=auto, with which it is 0 up to rounding. If it is not, '
    'that is a bug.',
    lambda record: record.largest('ratio/first_abs_log_mean'),
  ),
  Check(
    'Programs are compiled again',
    'compile/count',
    'above',
    0,
    'how often it grew within one start of the run',
    'A program is compiled during the run, which costs time and not reward.',
    'Fewer and fixed --prompt_buckets and --response_buckets.',
    compilations,
  ),
  Check(
    'Samples are invalid',
    'reward/valid',
    'below',
    0.9,
    _RECENT,
    'Rewards or judgements are missing, so samples drop out. After three steps '
    'in a row without a valid answer the run ends.',
    "Look at the judge's messages and at --min_judged; see Judges that are "
    'models.',
    _recent('reward/valid'),
  ),
  Check(
    'The judge gives no score',
    'reward/reasoning',
    'above',
    0,
    f'share of the last {records.LAST} steps of RL at which it is null',
    'There is a judge, but at some steps it scored no answer.',
    'Try the judge by itself with experiments/judge.py; a judge of your own '
    'returns one number or None for each request.',
    silent_steps,
  ),
  Check(
    'The judge is constant',
    'reward/reasoning_std',
    'below',
    1e-6,
    f'{_RECENT}, where entropy is not below its own limit',
    'The judge scores all answers of a group alike: its reward tells nothing '
    'apart.',
    'Measure the judge with experiments/judge.py; look at --judge_scale and at '
    'what it says in transcripts.jsonl.',
    judge_spread,
  ),
  Check(
    'Answers are cut off',
    'length/finished',
    'below',
    0.8,
    _RECENT,
    'Answers are cut before they end, and cannot be right.',
    'A larger last --response_buckets, or a warm start that ends its answers.',
    _recent('length/finished'),
  ),
  Check(
    'The layout is not known',
    'reward/format',
    'below',
    0.1,
    _RECENT,
    'The layout of answers is not known yet, so correctness cannot be read.',
    'A longer warm start: --sft_steps.',
    _recent('reward/format'),
  ),
  Check(
    'Groups have no spread',
    'advantage/groups',
    'below',
    0.2,
    _RECENT,
    'Almost all groups have equal rewards: there is nothing to compare.',
    'Where reward/solved is near 1 there is nothing left to learn. Otherwise: '
    'other tasks, a longer warm start, more --samples, a higher --temperature, '
    'or --sampling_rounds with --empty_groups=drop.',
    _recent('advantage/groups'),
  ),
  Check(
    'The entropy has collapsed',
    'entropy',
    'below',
    _COLLAPSED,
    _RECENT,
    'All answers of a group are alike. (Runs of the quickstart end near 0.1.)',
    'A higher --temperature, a shorter warm start, a lower --learning_rate, '
    '--entropy_coef, --kl_coef.',
    _recent('entropy'),
  ),
  Check(
    'The clip is never active',
    'ratio/abs_log_max',
    'below',
    0.01,
    _LARGEST,
    'No probability of a token moved by more than a hundredth: the updates '
    'hardly move the policy, and no clip radius matters.',
    'A higher --learning_rate; for LoRA far higher than for all weights.',
    largest_move,
  ),
  Check(
    'Updates are rounded away',
    'update/rounded_away',
    'above',
    0.5,
    f'mean of the last {records.LAST} steps of the phase that came last',
    'Parameters of 16 bits swallow the updates: the learning rate is too small '
    'for them.',
    '--param_dtype=float32, or LoRA.',
    rounded_away,
  ),
  Check(
    'Every gradient is clipped',
    'grad_norm',
    'above',
    10,
    f'over --max_grad_norm, {_RECENT}',
    'Every update is cut to a fraction, and the learning rate no longer means '
    'what it says.',
    'A larger --max_grad_norm, or a lower --learning_rate.',
    gradient_excess,
  ),
  Check(
    'The clip is always active',
    'clip/fraction',
    'above',
    0.1,
    _RECENT,
    'Many tokens have left the trust region. (The first update clips nothing, '
    'and of the others about half of the tokens at most.)',
    'A lower --learning_rate, or fewer --minibatches.',
    _recent('clip/fraction'),
  ),
  Check(
    'The judge is not trusted',
    'trust/mean',
    'below',
    0.05,
    _RECENT,
    'With --trust: judge and outcome do not agree where both vary, or '
    'trust/groups is 0 and nothing tells. The reasoning has no weight.',
    'Measure the judge with experiments/judge.py and take a better one; where '
    'trust/groups is 0, a --trust_start above 0.',
    _recent('trust/mean'),
  ),
  Check(
    'Only the judge is satisfied',
    'reward/reasoning',
    'above',
    3,
    f'rise {_RISE}, where reward/outcome does not rise',
    'The judge is satisfied by something other than being right.',
    'Read transcripts.jsonl; measure the judge with experiments/judge.py; '
    'compare with --gate=none.',
    reasoning_alone,
  ),
  Check(
    'Tiny differences decide',
    'gate/amplified',
    'above',
    0.5,
    _RECENT,
    'Many groups follow tiny differences of the judge.',
    'A larger --mix_std_floor, --saturation=solved, or a judge that tells '
    'answers apart.',
    _recent('gate/amplified'),
  ),
  Check(
    'Held-out tasks do not follow',
    'reward/outcome',
    'above',
    3,
    f'rise {_RISE}, where eval/<set>/accuracy of the first set is no higher at '
    'the end than before RL',
    'Training prompts differ from the held-out ones, or the graded outcome '
    'rises without tasks being solved.',
    'Compare reward/solved, and eval/<set>/accuracy/<kind> kind by kind.',
    outcome_alone,
  ),
)
