"""What flags may not say, alone or together, each with its remedy."""

import math
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from awpo_jax.config import algorithm_checks
from awpo_jax.models import lora_layers
from awpo_jax.rollout.text import templates

Rule: TypeAlias = tuple[bool, str]

_NOT_NEGATIVE = (
  'sft_steps',
  'rl_steps',
  'eval_every',
  'transcripts',
  'warmup',
  'sft_warmup',
  'lora_rank',
  'judge_retries',
  'judge_max_calls',
  'judge_max_tokens',
  'rollout_micro',
  'slots',
  'pack_tokens',
  'rollout_devices',
)
_AT_LEAST_ONE = (
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
  'judge_samples',
  'max_turns',
  'observation_tokens',
  'tool_megabytes',
  'tool_chars',
  'tool_workers',
  'judge_reply_tokens',
  'judge_concurrency',
  'slots_shared',
)
_DTYPES = ('float32', 'bfloat16', 'float16')


def rules(config: Any, values: dict[str, Any]) -> Iterator[Rule]:
  """Whether each rule is broken, and what to say then.

  What belongs to a phase that the run does not have is not looked at.

  Args:
    config: `config.Config`.
    values: the same, flag name -> value.
  """
  for name in _NOT_NEGATIVE:
    yield values[name] < 0, f'--{name}={values[name]} is negative.'
  for name in _AT_LEAST_ONE:
    yield values[name] < 1, f'--{name}={values[name]}: at least 1.'
  yield from _run_rules(config.run)
  yield from _devices_rules(config.devices)
  yield from _data_rules(config.data)
  yield from judge_rules(config.judge, config.data.judge)
  yield from _environment_rules(config.environment, config.data)
  yield from algorithm_checks.overlap_rules(config)
  yield from _model_rules(config.model)
  yield (
    config.model.init_weights == 'pretrained' and bool(config.run.init_from),
    f'--init_weights=pretrained starts from --model, but '
    f'--init_from={config.run.init_from} is set: leave one of them out.',
  )
  yield from _optimizer_rules(config.optimizer)
  if config.run.sft_steps:
    yield from _sft_rules(config.sft)
  if config.run.rl_steps:
    yield from _rl_rules(config.rl)
    yield from _slots_rules(config.rl, config.environment)
    yield from _advantage_rules(config.advantage)
    yield from _loss_rules(config.loss)
    yield from algorithm_checks.rules(config)
  yield (
    config.loss.kl_coef != 0 and not config.run.rl_steps,
    f'--kl_coef={config.loss.kl_coef} is a term of RL, but --rl_steps=0: leave '
    'it out, or set --rl_steps.',
  )


def parse_mesh(text: str) -> tuple[int, int] | None:
  """Devices along `data` and `model` of `--mesh`; None: not in that form."""
  match = re.fullmatch(r'data:([1-9]\d{0,5}),model:([1-9]\d{0,5})', text)
  return (int(match[1]), int(match[2])) if match else None


def _above_0(section: Any, names: Iterable[str]) -> Iterator[Rule]:
  for name in names:
    value = getattr(section, name)
    # Comparisons with nan are false, hence the `not`.
    yield (
      not (value > 0 and math.isfinite(value)),
      f'--{name}={value}: a number above 0.',
    )


def _at_least_0(section: Any, names: Iterable[str]) -> Iterator[Rule]:
  for name in names:
    value = getattr(section, name)
    yield (
      not (value >= 0 and math.isfinite(value)),
      f'--{name}={value}: a number, 0 or above.',
    )


def _run_rules(run) -> Iterator[Rule]:
  total = run.sft_steps + run.rl_steps
  yield (
    not run.output_dir,
    '--output_dir is not set: name the folder of the run.',
  )
  yield (
    total <= 0,
    '--sft_steps and --rl_steps are both 0: nothing to do.',
  )
  yield (
    not 0 <= run.seed < 2**31,
    f'--seed={run.seed}: from 0 to {2**31 - 1}.',
  )
  window = run.profile_steps
  yield (
    bool(window)
    and (len(window) != 2 or not 1 <= window[0] <= window[1] <= max(total, 1)),
    f'--profile_steps={window}: a first and a last step, within 1 and '
    f'{total}, the last of the run.',
  )


def _devices_rules(devices) -> Iterator[Rule]:
  yield (
    bool(devices.mesh) and devices.parallelism != 'sharded',
    f'--mesh={devices.mesh} is for --parallelism=sharded: with pmap every '
    'device holds the whole state.',
  )
  yield (
    bool(devices.mesh) and parse_mesh(devices.mesh) is None,
    f'--mesh={devices.mesh}: as data:8,model:4.',
  )
  yield (
    not 0 <= devices.process_id < devices.processes,
    f'--process_id={devices.process_id}: from 0, below --processes='
    f'{devices.processes}.',
  )
  given = bool(devices.coordinator) or devices.processes > 1
  yield (
    given and devices.distributed != 'flags',
    f'--coordinator and --processes are for --distributed=flags, not '
    f'{devices.distributed}.',
  )
  yield (
    devices.distributed == 'flags' and not devices.coordinator,
    '--distributed=flags needs --coordinator=HOST:PORT.',
  )


def _data_rules(data) -> Iterator[Rule]:
  for name in ('prompt_buckets', 'response_buckets'):
    value = getattr(data, name)
    yield (
      not value or min(value) < 2 or list(value) != sorted(set(value)),
      f'--{name}={value}: lengths of at least 2 in rising order.',
    )
  yield date_rule(data.template_date)


def date_rule(text: str) -> Rule:
  """What is wrong with `--template_date`."""
  try:
    templates.parse_date(text)
  except ValueError as error:
    return True, str(error)
  return False, ''


def _environment_rules(environment, data) -> Iterator[Rule]:
  yield from _above_0(environment, ['tool_seconds'])
  if environment.environment == 'none':
    return
  longest, read = (
    max(data.response_buckets, default=0),
    environment.observation_tokens,
  )
  yield (
    read >= longest,
    f'--observation_tokens={read} leaves no room for an answer in the '
    f'{longest} tokens of an episode, the last of --response_buckets.',
  )


def judge_rules(judge, name: str) -> Iterator[Rule]:
  """What is wrong with the section `judge` where `--judge` is `name`."""
  share = judge.min_judged
  yield (
    share is not None and not 0 <= share <= 1,
    f'--min_judged={share}: a share from 0 to 1.',
  )
  yield from _at_least_0(judge, ['judge_patience'])
  if name != 'llm':
    return
  for flag in ('judge_url', 'judge_model'):
    yield (
      not getattr(judge, flag),
      f'--judge=llm asks a model at an endpoint: set --{flag}.',
    )
  url = urllib.parse.urlsplit(judge.judge_url)
  yield (
    bool(judge.judge_url)
    and (
      url.scheme not in ('http', 'https')
      or not url.netloc
      or bool(url.query or url.fragment)
      or '@' in url.netloc
    ),
    '--judge_url is no plain http address (http://localhost:8000/v1, say); a '
    'key belongs into the environment, AWPO_JUDGE_API_KEY.',
  )
  yield from _above_0(judge, ['judge_scale', 'judge_timeout'])
  yield from _at_least_0(judge, ['judge_temperature', 'judge_backoff'])
  sent = ('temperature', judge.judge_token_limit_name)
  unknown = [name for name in judge.judge_omit if name not in sent]
  yield (
    bool(unknown),
    f'--judge_omit={",".join(unknown)}: only {" and ".join(sent)} are sent '
    'beside model and messages.',
  )
  omitted = 'temperature' in judge.judge_omit
  yield (
    omitted and judge.judge_temperature != 0,
    f'--judge_omit=temperature leaves --judge_temperature='
    f'{judge.judge_temperature} out: set one of them.',
  )
  yield (
    judge.judge_samples > 1 and judge.judge_temperature == 0 and not omitted,
    f'--judge_samples={judge.judge_samples} are all the same at '
    '--judge_temperature=0: raise it, or ask once.',
  )


def _model_rules(model) -> Iterator[Rule]:
  yield (
    not model.model,
    '--model is not set: name a config.json, e.g. '
    '--model=experiments/models/quickstart.json.',
  )
  for name in ('dtype', 'param_dtype'):
    value = getattr(model, name)
    yield value not in _DTYPES, f'--{name}={value}: {", ".join(_DTYPES)}.'
  if model.lora_rank > 0:
    yield from _lora_rules(model)


def _lora_rules(model) -> Iterator[Rule]:
  yield from _above_0(model, ['lora_alpha'])
  targets, known = model.lora_targets, lora_layers.LORA_TARGETS
  yield (
    not targets
    or not set(targets) <= set(known)
    or len(set(targets)) < len(targets),
    f'--lora_targets={",".join(targets)}: some of {",".join(known)}, each '
    'once; --lora_rank=0 for no adapters.',
  )


def _optimizer_rules(optimizer) -> Iterator[Rule]:
  for name in ('adam_b1', 'adam_b2'):
    value = getattr(optimizer, name)
    yield not 0 <= value < 1, f'--{name}={value}: at least 0 and below 1.'
  yield from _above_0(optimizer, ['adam_eps', 'max_grad_norm'])
  yield from _at_least_0(optimizer, ['weight_decay'])


def _sft_rules(sft) -> Iterator[Rule]:
  yield (
    sft.sft_batch % max(sft.sft_micro, 1) != 0,
    f'--sft_batch={sft.sft_batch} is not a multiple of '
    f'--sft_micro={sft.sft_micro}.',
  )
  yield from _at_least_0(sft, ['sft_learning_rate'])


def _rl_rules(rl) -> Iterator[Rule]:
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
    rl.rollout_micro > 0 and rl.prompts_per_step % rl.rollout_micro != 0,
    f'--prompts_per_step={rl.prompts_per_step} is not a multiple of '
    f'--rollout_micro={rl.rollout_micro}.',
  )
  yield from _above_0(rl, ['temperature'])
  # 0 is the control in which sampling alone makes the numbers move.
  yield from _at_least_0(rl, ['learning_rate'])


def _slots_rules(rl, environment) -> Iterator[Rule]:
  shared = max(rl.slots_shared, 1)
  yield (
    shared > 1 and not rl.slots,
    f'--slots_shared={shared} is of --slots, which is 0: set it.',
  )
  for name in ('slots', 'samples') if rl.slots else ():
    yield (
      getattr(rl, name) % shared != 0,
      f'--{name}={getattr(rl, name)} is not a multiple of '
      f'--slots_shared={shared}.',
    )
  yield (
    rl.slots > 0 and environment.environment != 'none',
    f'--slots={rl.slots}: episodes of --environment='
    f'{environment.environment} go on in their rows, leave --slots at 0.',
  )


def _advantage_rules(advantage) -> Iterator[Rule]:
  if advantage.mix == 'convex':
    yield (
      not 0 < advantage.mix_weight < 1,
      f'--mix=convex needs --mix_weight strictly between 0 and 1, not '
      f'{advantage.mix_weight}.',
    )
  else:
    yield from _at_least_0(advantage, ['mix_weight'])
  yield (
    advantage.ddof not in (0, 1),
    f'--ddof={advantage.ddof}: 0 (biased) or 1 (unbiased).',
  )
  band = advantage.band
  yield (
    len(band) != 2 or not 0 <= band[0] <= band[1] <= 1,
    f'--band={band}: two solve rates from 0 to 1 in rising order.',
  )
  yield from _at_least_0(advantage, ['tau', 'base', 'priority', 'floor'])


def _loss_rules(loss) -> Iterator[Rule]:
  # CISPO and GMPO bound other things than a distance to 1 from below.
  top = 1 if loss.loss not in ('cispo', 'gmpo') else math.inf
  yield (
    not 0 < loss.clip_min <= loss.clip_max < top and loss.clip == 'linear',
    f'--clip_min={loss.clip_min} and --clip_max={loss.clip_max}: need '
    '0 < clip_min <= clip_max < 1.',
  )
  yield (
    not 0 < loss.clip_max < top and loss.clip != 'linear',
    f'--clip_max={loss.clip_max}: above 0 and below {top}.',
  )
  yield from _above_0(loss, ['clip_high_factor'])
  yield from _at_least_0(loss, ['entropy_coef', 'kl_coef'])
  yield (
    loss.kl_coef > 0
    and loss.kl_estimator == 'k1'
    and loss.kl_placement == 'loss',
    '--kl_estimator=k1 holds nothing back: the gradient of its mean is 0. Set '
    'k3+, k2 or k3, or --kl_placement=reward.',
  )


def rounding_warning(config: Any) -> str | None:
  """What to tell whoever trains parameters that are not float32.

  Half a unit in the last place of bfloat16 is 1/512 to 1/256 of a number, of
  float16 1/4096 to 1/2048: what is added is lost below that.
  """
  model = config.model
  if model.param_dtype == 'float32' or model.lora_rank:
    return None
  return (
    f'--param_dtype={model.param_dtype} rounds small updates away, those of '
    'bfloat16 up to 1/256 of the weight; `update/rounded_away` is their share. '
    'Keep --param_dtype=float32 with --dtype=bfloat16, or train adapters '
    '(--lora_rank), which are float32.'
  )
