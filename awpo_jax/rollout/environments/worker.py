"""The process in which tools run; started by `sandbox`, imports no JAX.

It reads requests and writes replies, one JSON object a line. Tools are the
functions that a factory returns, found by name in its dict: nothing that a
model wrote is looked up in an object, or evaluated.

A request is `factory`, `scenario`, `history` (calls that took effect, in
order), `calls` and `chars`. Each call is answered by its own line, and all of
them by the `state` that the factory's inspector sees. Live objects are kept by
what led to them, and made again from that where they are not there.
"""

import asyncio
import collections
import functools
import inspect
import json
import os
import pkgutil
import re
import resource
import sys
from typing import Any

from awpo_jax.reporting import json_text

_KEPT = 256
_ERROR = 'Error during execution: '
_ADDRESS = re.compile(r' at 0x[0-9a-fA-F]+')


def result_text(value: Any) -> str:
  """A result as the model sees it: text as it is, a dict as JSON, else str.

  Without addresses, which are others each time the same call is made.
  """
  if isinstance(value, str):
    return value
  if isinstance(value, dict):
    try:
      return json.dumps(value)
    except (TypeError, ValueError):
      pass
  return _ADDRESS.sub('', str(value))


def run_call(functions, name: str, parameters: dict[str, Any]) -> str:
  """Result of a call, or why there is none; raises nothing."""
  if name not in functions:
    return f'{_ERROR}there is no tool {name}'
  try:
    return result_text(_finished(functions[name](**parameters)))
  except MemoryError:
    return f'{_ERROR}out of memory'
  except BaseException as error:  # A tool may also call `sys.exit`.
    return _ERROR + _message(error)


def _finished(result: Any) -> Any:
  """The result of a call; a coroutine is awaited."""
  if inspect.isawaitable(result):
    result = _loop().run(_awaited(result))
  if inspect.isgenerator(result) or inspect.isasyncgen(result):
    raise TypeError('the tool returned a generator, which is no result')
  return result


async def _awaited(result: Any) -> Any:
  return await result


@functools.cache
def _loop() -> asyncio.Runner:
  """One event loop for all calls: what a tool keeps may belong to it."""
  return asyncio.Runner()


def _message(error: BaseException) -> str:
  try:
    return str(error)
  except BaseException:
    return type(error).__name__


def functions_by_name(scenario: dict[str, Any]):
  """A factory: functions by their import paths, without state."""
  return {
    name: pkgutil.resolve_name(path)
    for name, path in scenario['functions'].items()
  }, dict


class Sessions:
  """Live tools by what led to them, a bounded number of them."""

  def __init__(self) -> None:
    self._kept: collections.OrderedDict[str, Any] = collections.OrderedDict()

  def take(self, factory: str, scenario, history):
    """The tools after `history`; they are the caller's own."""
    live = self._kept.pop(_key(factory, scenario, history), None)
    if live is not None:
      return live
    functions, state = pkgutil.resolve_name(factory)(scenario)
    for name, parameters in history:
      run_call(functions, name, parameters)
    return functions, state

  def keep(self, factory: str, scenario, history, live) -> None:
    self._kept[_key(factory, scenario, history)] = live
    if len(self._kept) > _KEPT:
      self._kept.popitem(last=False)


def _key(*parts: Any) -> str:
  return json.dumps(parts, sort_keys=True)


def serve(requests, replies, memory: int) -> None:
  """Answers requests until there are no more.

  Args:
    requests: lines of JSON.
    replies: where to.
    memory: bytes of address space on top of what the imports took.
  """
  sessions, limited = Sessions(), False

  def reply(**parts):
    replies.write(json.dumps(parts) + '\n')
    replies.flush()

  for line in requests:
    request = json.loads(line)
    where = request['factory'], request['scenario']
    history = request['history']
    try:
      live = sessions.take(*where, history)
    except Exception as error:
      reply(fatal=f'{type(error).__name__}: {error}')
      continue
    if not limited:
      _limit_memory(memory)
      limited = True
    reply(ready=True)
    for name, parameters in request['calls']:
      text = run_call(live[0], name, parameters)
      reply(text=_cut(text, request['chars']))
    reply(state=_state(live[1]) if request['inspect'] else None)
    sessions.keep(*where, history + request['calls'], live)


def _state(inspector) -> Any:
  """What the inspector sees; None where it cannot be written as JSON."""
  try:
    # As a log has it: NaN, which is not equal to itself, becomes a text.
    return json_text.plain(inspector())
  except Exception:  # The inspector's own.
    return None


def _cut(text: str, chars: int) -> str:
  """At most so many characters, that can be written as UTF-8."""
  if len(text) > chars:
    text = f'{text[:chars]} ... ({len(text) - chars} more characters)'
  return text.encode('utf-8', 'replace').decode()


def _limit_memory(memory: int) -> None:
  with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + memory,) * 2)
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
  # What tools print goes nowhere: the pipes are for replies alone.
  requests = os.fdopen(os.dup(0), encoding='utf-8')
  replies = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  null = os.open(os.devnull, os.O_RDWR)
  for stream in (0, 1, 2):
    os.dup2(null, stream)
  serve(requests, replies, memory=int(sys.argv[1]))


if __name__ == '__main__':
  main()
