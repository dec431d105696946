"""The look-up behind every flag whose choices are the keys of a dict."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar('T')


def pick(flag: str, choices: Mapping[str, T], value: str) -> T:
  """The entry of `choices` that the flag's value names.

  Args:
    flag: the flag's name, for the message.
    choices: flag value -> function.
    value: what the flag was set to.

  Returns:
    `choices[value]`.

  Raises:
    ValueError: if there is no such choice; the message names them all.
  """
  if value not in choices:
    raise ValueError(
      f'unknown {flag}={value!r}; choose one of: {", ".join(choices)}'
    )
  return choices[value]
