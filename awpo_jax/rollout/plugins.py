"""Parts of an experiment by name, or by import path for the user's own."""

import pkgutil
from collections.abc import Mapping
from typing import Any

from awpo_jax.rollout.rewards import returned


def load(spec: str, builtin: Mapping[str, Any], *, flag: str) -> Any:
  """The part a flag names: one of ours, or `package.module:function`.

  Args:
    spec: value of the flag. `package.module:function` is imported, which runs
      that module's code.
    builtin: the parts that have a short name.
    flag: name of the flag, for the error message.

  Returns:
    The callable.

  Raises:
    ValueError: no such name, not importable, not callable, or a coroutine
      function: what it returns would have to be awaited.
  """
  if spec in builtin:
    return builtin[spec]
  module_name, colon, attribute = spec.partition(':')
  if not (colon and module_name and attribute):
    names = ', '.join(sorted(builtin)) or 'none'
    raise ValueError(
      f'--{flag}={spec}: neither a known name ({names}) nor an import path of '
      'the form package.module:function'
    )
  try:
    part = pkgutil.resolve_name(spec)
  except Exception as error:
    raise ValueError(
      f'--{flag}={spec}: cannot be imported ({type(error).__name__}: {error}); '
      'is its folder installed or on PYTHONPATH?'
    ) from error
  if not callable(part):
    raise ValueError(
      f'--{flag}={spec}: a {type(part).__name__}, not callable; name a function'
    )
  if returned.is_asynchronous(part):
    raise ValueError(
      f'--{flag}={spec}: {returned.name_of(part)} is a coroutine function '
      '(async def), which nobody awaits. Name a plain function that runs it, '
      'by asyncio.run, say; a judge may so ask about all its answers at once.'
    )
  return part
