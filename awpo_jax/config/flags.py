"""Flags made of the fields of dataclasses, and what every flag has.

A flag exists because a field does. Its type, default, help, choices, the
numbers it may be, and whether a run may go on with another value stand there
and nowhere else.
"""

import dataclasses
import math
import pathlib
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from absl import app
from absl import flags as absl_flags

# Whether a rule is broken, and what to say then.
Rule: TypeAlias = tuple[bool, str]


_FLAGFILE = re.compile('--?flagfile=(.+)')


class ConfigError(ValueError):
  """Flags that contradict each other or lack something; says the remedy."""


@dataclasses.dataclass(frozen=True)
class Range:
  """The finite numbers within the bounds that are given."""

  minimum: float | None = None
  above: float | None = None
  maximum: float | None = None
  below: float | None = None

  def __contains__(self, number: float) -> bool:
    return (
      # Comparisons with nan are false.
      -math.inf < number < math.inf
      and (self.minimum is None or number >= self.minimum)
      and (self.above is None or number > self.above)
      and (self.maximum is None or number <= self.maximum)
      and (self.below is None or number < self.below)
    )

  def __str__(self) -> str:
    """Such as `above 0 and at most 1`."""
    bounds = {
      'at least': self.minimum,
      'above': self.above,
      'at most': self.maximum,
      'below': self.below,
    }
    parts = [f'{word} {x}' for word, x in bounds.items() if x is not None]
    return ' and '.join(parts) or 'a finite number'


def flag(
  default: Any,
  help_text: str,
  choices: Collection[str] = (),
  *,
  may_change: bool = False,
  **bounds: float,
) -> Any:
  """A field of a dataclass that becomes a flag.

  Args:
    default: of the field and of the flag.
    help_text: what it does, its unit, and when to change it; `--help` adds the
      choices, the bounds, the default, and `may_change`.
    choices: the values of a string. A dict of functions stays what it is: an
      entry that is added before the flags are defined is one more choice.
    may_change: whether an unfinished run may go on with another value, as no
      number depends on it, or only by how it is rounded.
    **bounds: of a number, and of each number of a tuple, as in `Range`. Numbers
      have to be finite in any case.
  """
  metadata = {
    'help': help_text,
    'choices': choices,
    'range': Range(**bounds),
    'may_change': may_change,
  }
  return dataclasses.field(default=default, metadata=metadata)


def define_section(
  section: type, flag_values: absl_flags.FlagValues = absl_flags.FLAGS
) -> None:
  """Defines a flag for every field of a section."""
  hints = typing.get_type_hints(section)
  for field in dataclasses.fields(section):
    _define(field, hints[field.name], title(section), flag_values)


def title(section: type) -> str:
  """What `--help` says above the flags of a section."""
  return (section.__doc__ or '').split('\n')[0].rstrip('.')


def _define(field, hint, module: str, flag_values) -> None:
  name, default, text = field.name, field.default, _help(field)
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


def _help(field) -> str:
  """The help text with what else the field says."""
  text, allowed = field.metadata['help'], field.metadata['range']
  if allowed != Range():
    each = 'each number ' if isinstance(field.default, tuple) else ''
    text += f' Allowed: {each}{allowed}.'
  if field.metadata['may_change']:
    text += ' It may be changed when a run is continued.'
  return text


def with_flagfiles(
  arguments: Sequence[str], within: tuple[pathlib.Path, ...] = ()
) -> list[str]:
  """Arguments, each `--flagfile` replaced by the lines of its file.

  As absl does it, but that a file which a file names is looked for where the
  command is given, and then in every folder above the file that names it: from
  any folder `experiments/a.flags` finds `experiments/base.flags`. What is not
  found stays, for absl to refuse it.

  Args:
    arguments: of a command line, or the lines of a flags file.
    within: the flags files that these lines stand in, the innermost last; empty
      for a command line.
  """
  result: list[str] = []
  for i, argument in enumerate(arguments):
    if argument == '--':
      return [*result, *arguments[i:]]
    match = _FLAGFILE.fullmatch(argument)
    file = _find(match[1], within) if match else None
    if file is None:
      result.append(argument)
    elif file not in within:  # Else it names itself.
      lines = map(str.strip, file.read_text(encoding='utf-8').split('\n'))
      kept = [x for x in lines if x and not x.startswith(('#', '//'))]
      result += with_flagfiles(kept, (*within, file))
  return result


def _find(name: str, within: tuple[pathlib.Path, ...]) -> pathlib.Path | None:
  path = pathlib.Path(name).expanduser()
  above = within[-1].parents if within else ()
  places = (path, *(folder / path for folder in above))
  return next((x.resolve() for x in places if x.is_file()), None)


def parse_command(arguments: Sequence[str]) -> list[str]:
  """The `flags_parser` of every program: absl's, after `with_flagfiles`.

  Args:
    arguments: those of the command, the program's name first.

  Returns:
    What is no flag. A flag that is wrong ends the program with a usage message.
  """
  return app.parse_flags_with_usage(with_flagfiles(arguments))


def parse(
  arguments: Sequence[str], sections: Iterable[type]
) -> absl_flags.FlagValues:
  """The flags of a command line that has those of `sections` only.

  Raises:
    absl.flags.Error: an unknown flag or a value of the wrong type.
    ConfigError: an argument that is no flag.
  """
  flag_values = absl_flags.FlagValues()
  for section in sections:
    define_section(section, flag_values)
  rest = flag_values(['parse', *with_flagfiles(arguments)])[1:]
  if rest:
    raise ConfigError(f'not a flag: {" ".join(rest)}')
  return flag_values


def read_section(section: type, flag_values: absl_flags.FlagValues) -> Any:
  """A section as parsed flags have it, not checked.

  Raises:
    ConfigError: an element of a tuple that is not of its type.
  """
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
      f'{as_flag(name, value)}: expected values of type {kind.__name__}, '
      'separated by commas.'
    ) from error


def as_flag(name: str, value: Any) -> str:
  """A flag as it is typed: `--name=value`, a tuple with commas."""
  several = isinstance(value, list | tuple)
  return f'--{name}={",".join(map(str, value)) if several else value}'


def range_rules(section: Any) -> Iterator[Rule]:
  """One rule per field: its numbers lie in the range of the flag."""
  for field in dataclasses.fields(section):
    value, allowed = getattr(section, field.name), field.metadata['range']
    several = isinstance(value, tuple)
    numbers = [
      x for x in (value if several else [value]) if isinstance(x, int | float)
    ]
    yield (
      any(x not in allowed for x in numbers),
      f'{as_flag(field.name, value)}: '
      f'{"each number " if several else ""}must be {allowed}.',
    )


def refuse(rules: Iterable[Rule]) -> None:
  """Raises `ConfigError` with what the broken rules say, one a line."""
  problems = [text for wrong, text in rules if wrong]
  if problems:
    raise ConfigError('\n'.join(problems))


def differences(
  old: dict[str, Any], new: dict[str, Any], sections: Iterable[type]
) -> list[str]:
  """Stored values that new ones would change without being allowed to.

  Args:
    old: stored values by flag name; what is not there is not compared.
    new: those of now, with lists for tuples as in JSON.
    sections: where it stands which flags may change.
  """
  may_change = {
    field.name
    for section in sections
    for field in dataclasses.fields(section)
    if field.metadata['may_change']
  }
  return [
    f'--{name}: {old[name]!r} then, {value!r} now'
    for name, value in new.items()
    if name in old and name not in may_change and old[name] != value
  ]
