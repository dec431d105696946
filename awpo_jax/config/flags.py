import dataclasses
import typing
from collections.abc import Callable, Collection
from typing import Any

from absl import flags as absl_flags


class ConfigError(ValueError):
  """Flags that contradict each other or lack something; says the remedy."""


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


def flag(default: Any, help_text: str, choices: Collection[str] = ()) -> Any:
  """A field that becomes a flag: its default, its help, its choices.

  A dict of functions stays what it is: an entry that is added before the flags
  are defined is one more choice.
  """
  metadata = {'help': help_text, 'choices': choices}
  return dataclasses.field(default=default, metadata=metadata)
