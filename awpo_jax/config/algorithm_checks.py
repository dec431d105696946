"""Which parts of an algorithm do not go together, each with its remedy."""

from collections.abc import Iterator
from typing import Any

from awpo_jax.config import algorithm, flags
from awpo_jax.config.flags import Rule
from awpo_jax.ops import advantages, estimators, policy_losses

# Flag value -> the flag that it needs and that has no default, as its source
# leaves it open.
_REQUIRED = (
  ('shaping', 'shaper', 'arm', 'shaping', 'arm_alpha'),
  ('loss', 'clip_high', 'adaptive', 'loss', 'clip_high_delta'),
  ('shaping', 'shaper', 'arm', 'advantage', 'correct'),
  ('advantage', 'advantage', 'papo', 'advantage', 'correct'),
  ('advantage', 'condition', 'correct', 'advantage', 'correct'),
  ('advantage', 'estimator', 'sign', 'advantage', 'correct'),
  ('advantage', 'estimator', 'maxrl', 'advantage', 'correct'),
  ('advantage', 'advantage', 'sa_mrpo', 'advantage', 'sa_gamma'),
)


def rules(config: Any) -> Iterator[Rule]:
  """Whether each rule is broken, and what to say then.

  Args:
    config: `experiment.Config`.
  """
  yield from _number_rules(config)
  yield from _required_rules(config)
  yield from _joint_rules(config)
  yield from _loss_rules(config)
  yield from _reward_rules(config)
  yield from _token_rules(config)


def _number_rules(config: Any) -> Iterator[Rule]:
  tau = config.numbers.sapo_tau
  yield (
    len(tau) != 2,
    f'{flags.as_flag("sapo_tau", tau)}: name two temperatures.',
  )
  rounds = config.selection.sampling_rounds
  yield (
    rounds > 1 and config.advantage.estimator == 'reinforce_pp',
    f'--sampling_rounds={rounds} looks for groups with an advantage, but '
    '--estimator=reinforce_pp has no baseline of the group, so all have: set '
    'it to 1, or --estimator=reinforce_pp_baseline.',
  )
  buffer, limit = config.advantage.length_buffer, config.data.response_buckets
  yield (
    bool(limit) and buffer > limit[-1],
    f'--length_buffer={buffer} is longer than the longest answer of '
    f'{flags.as_flag("response_buckets", limit)}.',
  )


def _required_rules(config: Any) -> Iterator[Rule]:
  for section, flag, wanted, other, name in _REQUIRED:
    value = getattr(getattr(config, section), flag)
    yield (
      value == wanted and getattr(getattr(config, other), name) is None,
      f'--{flag}={wanted} needs --{name}, which has no default.',
    )


def _joint_rules(config: Any) -> Iterator[Rule]:
  advantage, data = config.advantage, config.data
  name = advantage.advantage
  reads = advantages.reads_reasoning(advantage=name, gate=advantage.gate)
  which, other = f'--gate={advantage.gate}', ', or set --gate=none'
  if name != 'awpo':
    which, other = f'--advantage={name}', ''
  yield (
    data.judge == 'none' and reads,
    f'--judge=none gives no reasoning reward, but {which} needs one: name a '
    f'judge{other}.',
  )
  if name != 'awpo':
    yield (
      advantage.estimator != 'grpo',
      f'--advantage={name} has an estimator of its own: leave out '
      f'--estimator={advantage.estimator}.',
    )
  alone = f'--advantage={name}' if name != 'awpo' else ''
  if advantage.estimator in estimators.OF_CORRECT:
    alone = f'--estimator={advantage.estimator}'
  if alone:
    for flag in ('gate', 'difficulty'):
      value = getattr(advantage, flag)
      yield (
        value != 'none',
        f'{alone} knows no {flag}: set --{flag}=none, not {value}.',
      )
    yield (
      config.loss.clip == 'linear'
      and config.loss.loss in policy_losses.CLIPPED,
      f'{alone} has no gate for --clip=linear to follow: set --clip=fixed.',
    )
  yield from _gate_rules(advantage)
  yield (
    advantage.condition != 'none' and not reads,
    f'--condition={advantage.condition} is about the reasoning, which '
    f'--advantage={name} with --gate={advantage.gate} does not read: leave it '
    'out.',
  )
  yield (
    advantage.condition != 'none'
    and advantage.gate != 'none'
    and advantage.trust != 'none',
    f'--condition={advantage.condition} makes the reasoning agree with the '
    f'outcome, which --trust={advantage.trust} would measure: leave one out.',
  )
  yield (
    name == 'gdpo_parts' and not advantage.reward_parts,
    '--advantage=gdpo_parts needs --reward_parts: name at least one.',
  )
  yield (
    name == 'gdpo_parts' and advantage.length_buffer > 0,
    f'--length_buffer={advantage.length_buffer} lowers the outcome as a whole, '
    f'of which --advantage={name} reads the parts: leave it out.',
  )


def _gate_rules(advantage: Any) -> Iterator[Rule]:
  """What needs the gated part of AWPO's advantage to be apart."""
  tokens, level = advantage.reasoning_tokens, advantage.gate_level
  for flag, value, usual in (
    ('reasoning_tokens', tokens, 'all'),
    ('gate_level', level, 'advantage'),
  ):
    yield (
      advantage.advantage != 'awpo' and value != usual,
      f'--{flag}={value} is about the gate, which --advantage='
      f'{advantage.advantage} does not know: leave it out.',
    )
  for flag, value, usual in (
    ('reasoning_tokens', tokens, 'all'),
    ('difficulty_scope', advantage.difficulty_scope, 'whole'),
  ):
    yield (
      level == 'reward' and value != usual,
      f'--gate_level=reward makes one advantage of both rewards, in which '
      f'--{flag}={value} finds no part of its own: leave one out.',
    )


def _loss_rules(config: Any) -> Iterator[Rule]:
  loss, numbers = config.loss, config.numbers
  name = loss.loss
  grouped = name in policy_losses.GROUP_LOSSES
  yield (
    grouped != (config.advantage.estimator == 'sign'),
    f'--loss={name} and --estimator={config.advantage.estimator}: '
    'disco takes --estimator=sign, and only it does.',
  )
  yield (
    name not in policy_losses.CLIPPED
    and (loss.clip != 'fixed' or loss.clip_high != 'factor'),
    f'--loss={name} has no clip: set --clip=fixed and --clip_high=factor.',
  )
  yield (
    numbers.dual_clip is not None and name != 'ppo',
    f'--dual_clip={numbers.dual_clip} belongs to --loss=ppo, not {name}: leave '
    'it out.',
  )
  wanted = 'seq-mean-token-mean'
  yield (
    name in policy_losses.ROW_LOSSES and loss.aggregation != wanted,
    f'--loss={name} has one number an answer: set --aggregation={wanted}, not '
    f'{loss.aggregation}.',
  )
  yield (
    grouped and loss.aggregation != 'token-mean',
    f'--loss={name} bounds a mean over tokens: set --aggregation=token-mean, '
    f'not {loss.aggregation}.',
  )
  yield (
    grouped and loss.mismatch != 'none',
    f'--mismatch={loss.mismatch} weighs tokens or answers, but --loss={name} '
    'compares groups: set --mismatch=none.',
  )
  yield (
    loss.mismatch != 'none' and config.rl.old_logprobs == 'sampler',
    f'--mismatch={loss.mismatch} corrects from sampler to trainer, but with '
    '--old_logprobs=sampler the ratio does it already: set '
    '--old_logprobs=trainer or --mismatch=none.',
  )


def _reward_rules(config: Any) -> Iterator[Rule]:
  """A KL in the reward, and losses that hold to the reference themselves."""
  loss, advantage = config.loss, config.advantage
  yield (
    loss.kl_coef > 0 and loss.loss in policy_losses.REFERRED,
    f'--loss={loss.loss} holds to the policy at the start by itself: leave out '
    f'--kl_coef={loss.kl_coef}.',
  )
  in_reward = loss.kl_placement == 'reward'
  yield (
    in_reward and not loss.kl_coef > 0,
    '--kl_placement=reward needs --kl_coef above 0.',
  )
  for flag in ('gate', 'difficulty'):
    value = getattr(advantage, flag)
    yield (
      in_reward and value != 'none',
      f'--kl_placement=reward changes the reward that --{flag}={value} reads: '
      f'set --{flag}=none.',
    )
  yield (
    in_reward
    and (
      advantage.advantage != 'awpo'
      or advantage.estimator in estimators.OF_CORRECT
    ),
    f'--kl_placement=reward needs one graded reward, not '
    f'--advantage={advantage.advantage} with '
    f'--estimator={advantage.estimator}.',
  )


def _token_rules(config: Any) -> Iterator[Rule]:
  """Advantages and selections of tokens, where a loss knows only answers."""
  name = config.loss.loss
  whole = name in policy_losses.ROW_LOSSES or name in policy_losses.GROUP_LOSSES
  shaper = config.shaping.shaper
  yield (
    shaper != 'none' and config.advantage.estimator == 'sign',
    f'--shaper={shaper} changes the size of an advantage, but '
    '--estimator=sign has none: set --shaper=none.',
  )
  share = config.selection.entropy_share
  yield (
    share < 1 and name in (*policy_losses.ROW_LOSSES, 'gspo_token'),
    f'--entropy_share={share} leaves tokens out, but --loss={name} is of whole '
    'answers: set --entropy_share=1.',
  )
  yield (
    algorithm.gates_thoughts(config)
    and (whole or config.loss.clip_high == 'adaptive' or shaper != 'none'),
    '--reasoning_tokens=thought gives tokens advantages of their own, which '
    f'--loss={name} with --clip_high={config.loss.clip_high} and '
    f'--shaper={shaper} does not know.',
  )
  by_token = config.advantage.estimator == 'reinforce_pp' and (
    config.loss.kl_placement == 'reward'
  )
  yield (
    by_token and (whole or config.loss.clip_high == 'adaptive'),
    f'--estimator=reinforce_pp with --kl_placement=reward gives tokens '
    f'advantages of their own, which --loss={name} with '
    f'--clip_high={config.loss.clip_high} does not know.',
  )
  yield (
    by_token and (shaper != 'none' or config.advantage.batch_norm == 'row'),
    f'--estimator=reinforce_pp with --kl_placement=reward gives tokens '
    f'advantages of their own, which --shaper={shaper} and '
    f'--batch_norm={config.advantage.batch_norm} do not know.',
  )
