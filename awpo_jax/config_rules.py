"""What flags may not say, alone or together, each with its remedy."""

from collections.abc import Iterable
from typing import Any


def rules(config: Any, values: dict[str, Any]) -> Iterable[tuple[bool, str]]:
  """Whether each rule is broken, and what to say then.

  Args:
    config: `config.Config`.
    values: the same, flag name -> value.
  """
  run, data, sft, rl = config.run, config.data, config.sft, config.rl
  advantage, loss = config.advantage, config.loss
  yield (
    not run.output_dir,
    '--output_dir is not set: name the folder of the run.',
  )
  yield (
    not config.model.model,
    '--model is not set: name a config.json, e.g. '
    '--model=experiments/models/quickstart.json.',
  )
  yield (
    run.sft_steps + run.rl_steps <= 0,
    '--sft_steps and --rl_steps are both 0: nothing to do.',
  )
  for name in (
    'seed',
    'sft_steps',
    'rl_steps',
    'eval_every',
    'transcripts',
    'warmup',
    'sft_warmup',
  ):
    value = values[name]
    yield value < 0, f'--{name}={value} is negative.'
  for name in (
    'cpu_devices',
    'eval_tasks',
    'eval_batch',
    'checkpoint_every',
    'keep_checkpoints',
    'sft_batch',
    'sft_micro',
    'prompts_per_step',
    'minibatches',
    'micro',
    'logprob_chunk',
  ):
    value = values[name]
    yield value < 1, f'--{name}={value}: at least 1.'
  for name in ('prompt_buckets', 'response_buckets'):
    value = getattr(data, name)
    yield (
      not value or min(value) < 2 or list(value) != sorted(set(value)),
      f'--{name}={value}: lengths of at least 2 in rising order.',
    )
  yield (
    len(run.profile_steps) not in (0, 2)
    or list(run.profile_steps) != sorted(run.profile_steps),
    f'--profile_steps={run.profile_steps}: a first and a last step.',
  )
  if run.sft_steps:
    yield (
      sft.sft_batch % max(sft.sft_micro, 1) != 0,
      f'--sft_batch={sft.sft_batch} is not a multiple of '
      f'--sft_micro={sft.sft_micro}.',
    )
  if run.rl_steps:
    yield from _rl_rules(rl, advantage, loss, data)


def _rl_rules(rl, advantage, loss, data) -> Iterable[tuple[bool, str]]:
  unit = max(rl.minibatches * rl.micro, 1)
  yield (
    rl.prompts_per_step % unit != 0,
    f'--prompts_per_step={rl.prompts_per_step} is not a multiple of '
    f'--minibatches={rl.minibatches} x --micro={rl.micro}.',
  )
  yield (
    rl.samples < 2,
    f'--samples={rl.samples}: a group needs two answers to compare.',
  )
  yield (
    rl.temperature <= 0,
    f'--temperature={rl.temperature}: training samples need one above 0.',
  )
  yield (
    data.judge == 'none' and advantage.gate != 'none',
    f'--judge=none gives no reasoning reward, but --gate={advantage.gate} '
    'needs one: set --gate=none or name a judge.',
  )
  yield (
    advantage.mix == 'convex' and not 0 < advantage.mix_weight < 1,
    f'--mix=convex needs --mix_weight strictly between 0 and 1, not '
    f'{advantage.mix_weight}.',
  )
  yield (
    advantage.ddof not in (0, 1),
    f'--ddof={advantage.ddof}: 0 (biased) or 1 (unbiased).',
  )
  yield (
    len(advantage.band) != 2 or list(advantage.band) != sorted(advantage.band),
    f'--band={advantage.band}: two solve rates in rising order.',
  )
  yield (
    not 0 < loss.clip_min <= loss.clip_max < 1,
    f'--clip_min={loss.clip_min} and --clip_max={loss.clip_max}: need '
    '0 < clip_min <= clip_max < 1.',
  )
  yield (
    loss.dual_clip is not None and loss.dual_clip <= 1,
    f'--dual_clip={loss.dual_clip}: above 1, or leave it out.',
  )
