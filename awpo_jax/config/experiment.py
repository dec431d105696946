"""Configuration: frozen dataclasses, whose fields define the flags.

What is said of a flag stands at its field, see `flags.py`. The choices of a
mechanism are the keys of its dict of functions, so one more entry there is one
more value of the flag.
"""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from awpo_jax.config import advantage as advantage_lib
from awpo_jax.config import algorithm, checks, flags, phases
from awpo_jax.config import data as data_lib
from awpo_jax.config import sections as sections_lib
from awpo_jax.ops import surrogate

# Flags of earlier versions without which a run has other numbers.
_GONE = ('overlap',)
BEFORE = {'trust': 'none', 'mix_std_floor': 0.0}
"""What a run did that is older than a flag with another default."""


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything an experiment is."""

  run: sections_lib.RunConfig = sections_lib.RunConfig()
  devices: sections_lib.DevicesConfig = sections_lib.DevicesConfig()
  data: data_lib.DataConfig = data_lib.DataConfig()
  judge: data_lib.JudgeConfig = data_lib.JudgeConfig()
  environment: data_lib.EnvironmentConfig = data_lib.EnvironmentConfig()
  model: sections_lib.ModelConfig = sections_lib.ModelConfig()
  sft: phases.SftConfig = phases.SftConfig()
  rl: phases.RlConfig = phases.RlConfig()
  optimizer: phases.OptimizerConfig = phases.OptimizerConfig()
  advantage: advantage_lib.AdvantageConfig = advantage_lib.AdvantageConfig()
  shaping: algorithm.ShapingConfig = algorithm.ShapingConfig()
  selection: algorithm.SelectionConfig = algorithm.SelectionConfig()
  loss: algorithm.LossConfig = algorithm.LossConfig()
  numbers: algorithm.NumbersConfig = algorithm.NumbersConfig()


def sections() -> dict[str, type]:
  """Name of each section of `Config` -> its dataclass."""
  hints = typing.get_type_hints(Config)
  return {field.name: hints[field.name] for field in dataclasses.fields(Config)}


def define_flags(
  flag_values: absl_flags.FlagValues = absl_flags.FLAGS,
) -> None:
  """Defines a flag for every field of every section."""
  for section in sections().values():
    flags.define_section(section, flag_values)


def help_text(flag_values: absl_flags.FlagValues = absl_flags.FLAGS) -> str:
  """Every flag that `define_flags` has defined, by section."""
  titles = map(flags.title, sections().values())
  return '\n'.join(flag_values.module_help(title) for title in titles).strip()


def from_flags(
  flag_values: absl_flags.FlagValues = absl_flags.FLAGS,
) -> Config:
  """The checked configuration that parsed flags describe.

  Raises:
    ConfigError: for a value or combination that makes no sense.
  """
  config = Config(
    **{
      name: flags.read_section(section, flag_values)
      for name, section in sections().items()
    }
  )
  check(config)
  return config


def parse(arguments: Sequence[str]) -> Config:
  """The configuration of a command line, apart from the global flags.

  Args:
    arguments: e.g. `['--flagfile=experiments/quickstart.flags', '--seed=1']`.

  Raises:
    absl.flags.Error: an unknown flag or a value of the wrong type.
    ConfigError: as `from_flags`.
  """
  return from_flags(flags.parse(arguments, sections().values()))


def to_dict(config: Config) -> dict[str, Any]:
  """Flag name -> value, of all sections together."""
  return {
    field.name: getattr(section, field.name)
    for section in (getattr(config, name) for name in sections())
    for field in dataclasses.fields(section)
  }


def to_flagfile(config: Config) -> str:
  """The configuration as a flags file, one `--name=value` a line."""
  lines = [
    flags.as_flag(name, value)
    for name, value in to_dict(config).items()
    if value is not None
  ]
  return '\n'.join(lines) + '\n'


def to_json(config: Config) -> dict[str, Any]:
  """As `to_dict`, with lists for tuples."""
  return {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in to_dict(config).items()
  }


def settled(
  config: Config, platform: str, began: dict[str, Any] | None = None
) -> Config:
  """The configuration without the `auto` of `--old_logprobs`.

  Args:
    config: checked.
    platform: of the devices, as `jax.Device.platform` has it.
    began: the stored flags of a run that goes on: it keeps what it began with.
  """
  old = (began or {}).get('old_logprobs', '')
  if config.rl.old_logprobs != 'auto' or old not in surrogate.OLD_LOGPROBS:
    old = algorithm.old_logprobs(config, platform)
  rl = dataclasses.replace(config.rl, old_logprobs=old)
  return dataclasses.replace(config, rl=rl)


def differences(old: dict[str, Any], new: Config) -> list[str]:
  """Flags of a stored run that a new command line would change, as text."""
  gone = [
    f'--{name}: {old[name]!r} then, and no such flag now: go on with the '
    'version that the run began with'
    for name in _GONE
    if old.get(name)
  ]
  return gone + flags.differences(
    BEFORE | old, to_json(new), sections().values()
  )


def check(config: Config) -> None:
  """Refuses what cannot work, before anything is compiled.

  Raises:
    ConfigError: naming the flags and the remedy, all problems at once.
  """
  flags.refuse(checks.rules(config))
