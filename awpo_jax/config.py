"""Configuration: frozen dataclasses from whose fields the flags are made.

A flag exists because a field does; its type, default, help and choices stand
there and nowhere else. The choices of a mechanism are the keys of its dict of
functions, so one more entry there is one more value of the flag.
"""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags as absl_flags

from awpo_jax import (
  config_devices,
  config_environment,
  config_judge,
  config_rules,
  config_training,
)
from awpo_jax import config_objective as objective
from awpo_jax.models import adapters, attention_kernels, induction
from awpo_jax.models import config as model_config
from awpo_jax.rollout import prompts, templates


class ConfigError(ValueError):
  """Flags that contradict each other or lack something; says the remedy."""


_flag = objective.flag


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """The run: where it writes, how long it goes, what it keeps."""

  output_dir: str = _flag('', 'Folder of the run; an unfinished one goes on.')
  seed: int = _flag(0, 'Fixes data, initial weights and every draw.')
  init_from: str = _flag(
    '', 'Run or checkpoint whose parameters a new run starts from.'
  )
  sft_steps: int = _flag(0, 'Updates on demonstrations, before any RL.')
  rl_steps: int = _flag(0, 'Rollout batches to train on.')
  eval_every: int = _flag(
    0, 'Steps between evaluations; 0 evaluates where a phase ends.'
  )
  eval_tasks: int = _flag(256, 'Held-out tasks of each evaluation set at most.')
  eval_benchmarks: tuple[str, ...] = _flag(
    (),
    'Benchmarks (bfcl, apibank, mmlu_pro) that are evaluated, too: of each the '
    'same --eval_tasks rows every time.',
  )
  eval_data: str = _flag(
    '', 'Folder of their rows, or one that holds a folder for each.'
  )
  eval_batch: int = _flag(64, 'Prompts answered at once when evaluating.')
  checkpoint_every: int = _flag(50, 'Steps between checkpoints.')
  keep_checkpoints: int = _flag(2, 'Last checkpoints that stay.')
  best_metric: str = _flag(
    '', 'Metric whose best checkpoint stays too: eval/held_out/accuracy, say.'
  )
  transcripts: int = _flag(2, 'Groups of each rollout kept as transcripts.')
  archive: bool = _flag(False, 'Keep every rollout, in <output_dir>/archive.')
  profile_steps: tuple[int, ...] = _flag(
    (), 'First and last step that jax.profiler traces, e.g. 20,22.'
  )
  wandb_project: str = _flag('', 'Also log to this Weights & Biases project.')
  compilation_cache: str = _flag(
    '~/.cache/awpo_jax/xla', 'Folder of compiled programs; empty for none.'
  )
  dry_run: str = _flag(
    '',
    'Compile for these devices, print what the run needs of their memory, and '
    'end: here, h100, or h100:8 for eight.',
  )


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Prompts, tokenizer and rewards."""

  dataset: str = _flag(
    'quickstart',
    'Names joined by commas (quickstart, rlla, seal_tools), or '
    'package.module:function.',
  )
  data: str = _flag('', 'Folder or file of each data set, joined by commas.')
  bad_rows: str = _flag(
    'error', 'A bad row is refused, or left out and said.', ('error', 'skip')
  )
  tokenizer: str = _flag(
    '',
    'Hugging Face tokenizer, path or name; empty: that of --model where its '
    'weights are loaded, else one is trained on the data.',
  )
  vocab_size: int = _flag(1024, 'Tokens of the tokenizer that is trained.')
  prompt_buckets: tuple[int, ...] = _flag(
    (512,), 'Prompt lengths that programs are compiled for.'
  )
  response_buckets: tuple[int, ...] = _flag(
    (128,), 'Completion lengths likewise; the last is the longest answer.'
  )
  overlong: str = _flag(
    'error',
    'A prompt longer than the last bucket: refuse it, drop it and say so, or '
    'cut it on the left.',
    prompts.OVERLONG,
  )
  prompt_style: str = _flag(
    'rlla',
    "Where tools stand: in RLLA's system text, or given to the chat template "
    'as JSON schemas.',
    ('rlla', 'template'),
  )
  enable_thinking: str = _flag(
    'default',
    'Given to a chat template that knows it; default leaves it to that.',
    ('default', 'true', 'false'),
  )
  template_date: str = _flag(
    templates.DATE,
    "What a chat template that writes today's date is told, so that prompts "
    'are the same every day.',
  )
  reward: str = _flag(
    'toolrl',
    'Outcome reward: toolrl, or package.module:function; with an --environment '
    'that is given an episode.',
  )
  judge: str = _flag(
    'rubric',
    'Reasoning judge: rubric (counts words and checks calls, needs no model, '
    'cannot tell whether a thought is reasoning), llm, none, '
    'package.module:function, or, to see what a bad one does, noisy or vain.',
  )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The policy."""

  model: str = _flag(
    '', 'Hugging Face model, path or name; or a config.json without weights.'
  )
  init_weights: str = _flag(
    'auto',
    'How a new run starts, but for --init_from: from the weights of --model '
    '(pretrained), at random (normal), or able to copy (induction). auto: '
    'pretrained, or normal where --model is a config.json.',
    ('auto', 'pretrained', *induction.INIT_WEIGHTS),
  )
  dtype: str = _flag('float32', 'Of activations and cache.')
  param_dtype: str = _flag(
    'float32', 'Of parameters, but for adapters, which are float32.'
  )
  lora_rank: int = _flag(
    0, 'Rank of LoRA adapters, which alone are trained; 0 trains all weights.'
  )
  lora_alpha: float = _flag(32.0, 'Adapters count alpha / rank times.')
  lora_targets: tuple[str, ...] = _flag(
    adapters.LORA_TARGETS, 'Projections that have an adapter.'
  )
  logprob_chunk: int = _flag(128, 'Positions whose logits exist at once.')
  pack_tokens: int = _flag(
    0,
    'Columns of a row that updates fill with several prompts, each with its '
    'answers, in place of --micro; 0 pads them all to their buckets.',
  )
  remat: str = _flag(
    'none',
    'What the backward pass computes anew rather than keeps: of each block all '
    'but its products with weights (products), or all, which costs a second '
    'forward pass (blocks).',
    tuple(model_config.REMATS),
  )
  attention: str = _flag(
    'parts',
    "What reads whole sequences: parts (prompts shared), cuDNN's kernel or "
    "XLA's (prompts broadcast); auto: cudnn where it can be, else parts.",
    attention_kernels.KERNELS,
  )


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything an experiment is."""

  run: RunConfig = RunConfig()
  devices: config_devices.DevicesConfig = config_devices.DevicesConfig()
  data: DataConfig = DataConfig()
  judge: config_judge.JudgeConfig = config_judge.JudgeConfig()
  environment: config_environment.EnvironmentConfig = (
    config_environment.EnvironmentConfig()
  )
  model: ModelConfig = ModelConfig()
  sft: config_training.SftConfig = config_training.SftConfig()
  rl: config_training.RlConfig = config_training.RlConfig()
  optimizer: config_training.OptimizerConfig = config_training.OptimizerConfig()
  advantage: objective.AdvantageConfig = objective.AdvantageConfig()
  shaping: objective.ShapingConfig = objective.ShapingConfig()
  selection: objective.SelectionConfig = objective.SelectionConfig()
  loss: objective.LossConfig = objective.LossConfig()
  numbers: objective.NumbersConfig = objective.NumbersConfig()


# Flags that may differ when an unfinished run goes on: none of its numbers
# hangs on them, or only by how they are rounded.
MAY_CHANGE = (
  config_judge.MAY_CHANGE
  | config_devices.MAY_CHANGE
  | config_environment.MAY_CHANGE
  | frozenset(
    {
      'output_dir',
      'checkpoint_every',
      'keep_checkpoints',
      'transcripts',
      'profile_steps',
      'wandb_project',
      'compilation_cache',
      'dry_run',
      'pack_tokens',
      'attention',
    }
  )
)


def sections() -> dict[str, type]:
  """Name of each section of `Config` -> its dataclass."""
  hints = typing.get_type_hints(Config)
  return {field.name: hints[field.name] for field in dataclasses.fields(Config)}


def define_flags(
  flag_values: absl_flags.FlagValues = absl_flags.FLAGS,
) -> None:
  """Defines a flag for every field of every section."""
  for section in sections().values():
    define_section(section, flag_values)


def define_section(
  section: type, flag_values: absl_flags.FlagValues = absl_flags.FLAGS
) -> None:
  """Defines a flag for every field of a section."""
  hints = typing.get_type_hints(section)
  for field in dataclasses.fields(section):
    _define(field, hints[field.name], _title(section), flag_values)


def _title(section: type) -> str:
  """What the flags of a section stand under."""
  return (section.__doc__ or '').split('\n')[0].rstrip('.')


def help_text(flag_values: absl_flags.FlagValues = absl_flags.FLAGS) -> str:
  """Every flag that `define_flags` has defined, by section."""
  titles = map(_title, sections().values())
  return '\n'.join(flag_values.module_help(title) for title in titles).strip()


def _define(field, hint, module: str, flag_values) -> None:
  name, default, text = field.name, field.default, field.metadata['help']
  options = {'flag_values': flag_values, 'module_name': module}
  if field.metadata['choices']:
    absl_flags.DEFINE_enum(
      name, default, list(field.metadata['choices']), text, **options
    )
  elif typing.get_origin(hint) is tuple:
    absl_flags.DEFINE_list(name, [str(x) for x in default], text, **options)
  else:
    define: dict[Any, Callable[..., Any]] = {
      str: absl_flags.DEFINE_string,
      int: absl_flags.DEFINE_integer,
      float: absl_flags.DEFINE_float,
      bool: absl_flags.DEFINE_bool,
      float | None: absl_flags.DEFINE_float,
    }
    define[hint](name, default, text, **options)


def from_flags(
  flag_values: absl_flags.FlagValues = absl_flags.FLAGS,
) -> Config:
  """The checked configuration that parsed flags describe.

  Raises:
    ConfigError: for a value or combination that makes no sense.
  """
  config = Config(
    **{
      name: read_section(section, flag_values)
      for name, section in sections().items()
    }
  )
  check(config)
  return config


def read_section(section: type, flag_values: absl_flags.FlagValues) -> Any:
  """A section as parsed flags have it, not checked; else as `from_flags`."""
  hints = typing.get_type_hints(section)
  return section(
    **{
      field.name: _value(field.name, flag_values[field.name].value, hints)
      for field in dataclasses.fields(section)
    }
  )


def _value(name: str, value: Any, hints: dict[str, Any]) -> Any:
  if typing.get_origin(hints[name]) is not tuple:
    return value
  kind = typing.get_args(hints[name])[0]
  try:
    return tuple(kind(item) for item in value)
  except ValueError as error:
    raise ConfigError(
      f'--{name}={",".join(value)}: expected {kind.__name__}s joined by commas.'
    ) from error


def parse(arguments: Sequence[str]) -> Config:
  """The configuration of a command line, apart from the global flags.

  Args:
    arguments: e.g. `['--flagfile=experiments/quickstart.flags', '--seed=1']`.

  Raises:
    absl.flags.Error: an unknown flag or a value of the wrong type.
    ConfigError: as `from_flags`.
  """
  flag_values = absl_flags.FlagValues()
  define_flags(flag_values)
  rest = flag_values(['parse', *arguments])[1:]
  if rest:
    raise ConfigError(f'not a flag: {" ".join(rest)}')
  return from_flags(flag_values)


def to_dict(config: Config) -> dict[str, Any]:
  """Flag name -> value, of all sections together."""
  return {
    field.name: getattr(section, field.name)
    for section in (getattr(config, name) for name in sections())
    for field in dataclasses.fields(section)
  }


def to_flagfile(config: Config) -> str:
  """The configuration as a flags file, one `--name=value` a line."""
  lines = []
  for name, value in to_json(config).items():
    if isinstance(value, list):
      lines.append(f'--{name}={",".join(map(str, value))}')
    elif value is not None:
      lines.append(f'--{name}={value}')
  return '\n'.join(lines) + '\n'


def to_json(config: Config) -> dict[str, Any]:
  """As `to_dict`, with lists for tuples."""
  return {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in to_dict(config).items()
  }


def differences(old: dict[str, Any], new: Config) -> list[str]:
  """Flags of a stored run that a new command line would change, as text."""
  return [
    f'--{name}: {old[name]!r} then, {value!r} now'
    for name, value in to_json(new).items()
    if name in old and name not in MAY_CHANGE and old[name] != value
  ]


def check(config: Config) -> None:
  """Refuses what cannot work, before anything is compiled.

  Raises:
    ConfigError: naming the flags and the remedy, all problems at once.
  """
  problems = [
    text for wrong, text in config_rules.rules(config, to_dict(config)) if wrong
  ]
  if problems:
    raise ConfigError('\n'.join(problems))
