"""Which flags do not go together, each with its remedy.

Which numbers a flag may be stands at its field; what is here is about several
flags, or about values that have a form.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from awpo_jax.config import algorithm_checks, flags
from awpo_jax.config.flags import Rule
from awpo_jax.models import induction_init, lora_layers
from awpo_jax.rollout.text import templates


def rules(config: Any) -> Iterator[Rule]:
  """Whether each rule is broken, and what to say then.

  Ranges hold for every flag. Rules between flags of a phase that the run does
  not have are not looked at.

  Args:
    config: `experiment.Config`.
  """
  for section in dataclasses.fields(config):
    yield from flags.range_rules(getattr(config, section.name))
  yield from _run_rules(config.run)
  yield from _nothing_to_do(config)
  yield from _devices_rules(config.devices)
  for name in ('prompt_buckets', 'response_buckets'):
    yield buckets_rule(name, getattr(config.data, name))
  yield date_rule(config.data.template_date)
  yield from judge_rules(config.judge, config.data.judge)
  yield from _environment_rules(config.environment, config.data)
  yield from _model_rules(config.model)
  yield (
    config.model.dtype == 'float16'
    and bool(config.run.sft_steps or config.run.rl_steps),
    '--dtype=float16 turns small gradients into 0, as losses are not scaled '
    'here: train with --dtype=bfloat16.',
  )
  yield (
    config.model.init_weights == 'pretrained' and bool(config.run.init_from),
    f'--init_weights=pretrained starts from --model, but '
    f'--init_from={config.run.init_from} is set: leave one of them out.',
  )
  if config.run.sft_steps:
    yield _multiple(config.sft, 'sft_batch', of='sft_micro')
  if config.run.rl_steps:
    yield from _rl_rules(config.rl)
    yield from _slots_rules(config.rl, config.environment)
    yield from _decode_rules(config)
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


def _run_rules(run) -> Iterator[Rule]:
  total = run.sft_steps + run.rl_steps
  yield (
    not run.output_dir,
    '--output_dir is not set: name the folder of the run.',
  )
  window = run.profile_steps
  yield (
    bool(window)
    and (len(window) != 2 or not window[0] <= window[1] <= max(total, 1)),
    f'{flags.as_flag("profile_steps", window)}: name a first and a last step, '
    f'neither after step {total}, where the run ends.',
  )


def _nothing_to_do(config) -> Iterator[Rule]:
  """A run without steps only measures the model it starts from."""
  run, model = config.run, config.model
  at_random = (
    model.init_weights in induction_init.INIT_WEIGHTS
    or model.model.endswith('.json')
  )
  yield (
    run.sft_steps + run.rl_steps <= 0
    and (not run.init_from and at_random or bool(run.dry_run)),
    '--sft_steps and --rl_steps are both 0, so there is nothing to do: set one '
    'of them, or name weights to evaluate with --model or --init_from.',
  )
  yield (
    run.sft_steps + run.rl_steps <= 0 and not run.eval_at_start,
    '--sft_steps and --rl_steps are both 0, which evaluates at the start only, '
    'but --eval_at_start=false: leave it out, or set a number of steps.',
  )


def _devices_rules(devices) -> Iterator[Rule]:
  yield (
    bool(devices.mesh) and devices.parallelism != 'sharded',
    f'--mesh={devices.mesh} needs --parallelism=sharded: with pmap every '
    'device holds the whole state.',
  )
  yield (
    bool(devices.mesh) and parse_mesh(devices.mesh) is None,
    f'--mesh={devices.mesh}: expected the form data:8,model:4.',
  )
  yield (
    devices.process_id >= max(devices.processes, 1),
    f'--process_id={devices.process_id} must be below '
    f'--processes={devices.processes}.',
  )
  given = bool(devices.coordinator) or devices.processes > 1
  yield (
    given and devices.distributed != 'flags',
    '--coordinator and --processes need --distributed=flags, not '
    f'{devices.distributed}.',
  )
  yield (
    devices.distributed == 'flags' and not devices.coordinator,
    '--distributed=flags needs --coordinator=HOST:PORT.',
  )


def buckets_rule(name: str, lengths: tuple[int, ...]) -> Rule:
  """What is wrong with the lengths that programs are compiled for."""
  return (
    not lengths or list(lengths) != sorted(set(lengths)),
    f'{flags.as_flag(name, lengths)}: name at least one length, in rising '
    'order.',
  )


def date_rule(text: str) -> Rule:
  """What is wrong with `--template_date`."""
  try:
    templates.parse_date(text)
  except ValueError as error:
    return True, str(error)
  return False, ''


def _environment_rules(environment, data) -> Iterator[Rule]:
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
  shares = judge.judge_noise + judge.judge_against + judge.judge_vain
  yield (
    round(shares, 9) > 1,
    f'--judge_noise, --judge_against and --judge_vain sum to {shares:g}: they '
    'are shares of the answers, so lower one of them.',
  )
  yield (
    name == 'none' and shares > 0,
    '--judge=none has no scores that --judge_noise, --judge_against or '
    '--judge_vain could change: leave them out, or name a judge.',
  )
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
    '--judge_url is no plain http address such as http://localhost:8000/v1. A '
    'key belongs into the environment variable AWPO_JUDGE_API_KEY.',
  )
  sent = ('temperature', judge.judge_token_limit_name)
  unknown = [name for name in judge.judge_omit if name not in sent]
  yield (
    bool(unknown),
    f'--judge_omit={",".join(unknown)}: only {" and ".join(sent)} can be left '
    'out.',
  )
  omitted = 'temperature' in judge.judge_omit
  yield (
    omitted and judge.judge_temperature != 0,
    '--judge_omit=temperature does not send --judge_temperature='
    f'{judge.judge_temperature}: set only one of them.',
  )
  yield (
    judge.judge_samples > 1 and judge.judge_temperature == 0 and not omitted,
    f'--judge_samples={judge.judge_samples} gives equal replies with '
    '--judge_temperature=0: raise the temperature, or set --judge_samples=1.',
  )


def _model_rules(model) -> Iterator[Rule]:
  yield (
    not model.model,
    '--model is not set: name a Hugging Face model or a config.json, for '
    'example --model=experiments/models/quickstart.json.',
  )
  targets, known = model.lora_targets, lora_layers.LORA_TARGETS
  yield (
    model.lora_rank > 0
    and (
      not targets
      or not set(targets) <= set(known)
      or len(set(targets)) < len(targets)
    ),
    f'{flags.as_flag("lora_targets", targets)}: name some of '
    f'{",".join(known)}, each once. Set --lora_rank=0 for no adapters.',
  )


def _multiple(section: Any, name: str, of: str) -> Rule:
  """One flag has to be a multiple of another, unless that is 0."""
  value, unit = getattr(section, name), getattr(section, of)
  return (
    unit > 0 and value % unit != 0,
    f'--{name}={value} is not a multiple of --{of}={unit}.',
  )


def _rl_rules(rl) -> Iterator[Rule]:
  unit = max(rl.minibatches * rl.micro, 1)
  yield (
    rl.prompts_per_step % unit != 0,
    f'--prompts_per_step={rl.prompts_per_step} is not a multiple of '
    f'--minibatches={rl.minibatches} x --micro={rl.micro}.',
  )
  yield _multiple(rl, 'prompts_per_step', of='rollout_micro')


def _slots_rules(rl, environment) -> Iterator[Rule]:
  yield (
    rl.slots_shared > 1 and not rl.slots,
    f'--slots_shared={rl.slots_shared} needs --slots, which is 0: set it.',
  )
  for name in ('slots', 'samples') if rl.slots else ():
    yield _multiple(rl, name, of='slots_shared')
  yield (
    rl.slots > 0 and environment.environment != 'none',
    f'--slots={rl.slots}: episodes of --environment='
    f'{environment.environment} are sampled without slots, so leave --slots '
    'at 0.',
  )


def _decode_rules(config: Any) -> Iterator[Rule]:
  kernel = config.model.decode_attention
  for flag, used in (
    (f'--slots={config.rl.slots}', config.rl.slots > 0),
    (
      f'--environment={config.environment.environment}',
      config.environment.environment != 'none',
    ),
  ):
    yield (
      used and kernel != 'parts',
      f'--decode_attention={kernel} is for answers that are sampled together, '
      f'without {flag}: leave one of them out.',
    )


def _advantage_rules(advantage) -> Iterator[Rule]:
  weight, band = advantage.mix_weight, advantage.band
  yield (
    advantage.mix == 'convex' and (weight == 0 or weight >= 1),
    f'--mix=convex needs --mix_weight strictly between 0 and 1, not {weight}.',
  )
  yield (
    len(band) != 2 or band[0] > band[1],
    f'{flags.as_flag("band", band)}: name two solve rates in rising order.',
  )


def _loss_rules(loss) -> Iterator[Rule]:
  yield (
    # CISPO and GMPO bound other things than a distance to 1 from below.
    loss.clip_max >= 1 and loss.loss not in ('cispo', 'gmpo'),
    f'--clip_max={loss.clip_max} must be below 1 with --loss={loss.loss}.',
  )
  yield (
    loss.clip == 'linear' and loss.clip_min > loss.clip_max,
    f'--clip_min={loss.clip_min} must not be above --clip_max={loss.clip_max}.',
  )
  yield (
    loss.kl_coef > 0
    and loss.kl_estimator == 'k1'
    and loss.kl_placement == 'loss',
    '--kl_estimator=k1 holds nothing back, as the gradient of its mean is 0: '
    'set k3+, k2 or k3, or --kl_placement=reward.',
  )


def rounding_warning(config: Any) -> str | None:
  """A warning for parameters that are not float32; None if they are.

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
