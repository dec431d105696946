"""Calls in worker processes, with limits of time, memory and output.

A worker is a process of its own: what a tool does to its memory, its time or
its interpreter ends there. It is no jail for hostile *tools*, which are the
user's own code; hostile is what a model may ask of them.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax import types
from awpo_jax.rollout.text import tool_calls

_WORKER = pathlib.Path(__file__).with_name('worker.py')
# Importing a user's module may take a while; it is not the model's doing.
_START_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a call may take.

  Attributes:
    seconds: of a call; a call that takes longer is as if it had never run.
    megabytes: of a worker, on top of what its imports took.
    chars: of a result; the rest of it is cut.
    workers: processes.
  """

  seconds: float = 5.0
  megabytes: int = 512
  chars: int = 4096
  workers: int = 2


class Program(NamedTuple):
  """Where tools come from: plain data, which is all a worker is told.

  Attributes:
    factory: import path of `scenario -> (functions by name, inspector)`.
    scenario: JSON.
  """

  factory: str
  scenario: Mapping[str, Any]


class Ran(NamedTuple):
  """The results of calls.

  Attributes:
    texts: a result for each call.
    history: the calls that took effect, those before them included.
    state: of the inspector, None if not asked for or if the worker was lost.
  """

  texts: tuple[str, ...]
  history: tuple[tool_calls.ToolCall, ...]
  state: Any


class _Lost(Exception):
  """The worker is gone; the message says why."""


class _Worker:
  """One process and the lines it writes."""

  def __init__(self, limits: Limits):
    paths = [path or os.getcwd() for path in sys.path]
    self._process = subprocess.Popen(
      [sys.executable, '-P', str(_WORKER), str(limits.megabytes << 20)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      encoding='utf-8',
      # Simulators that tell the time tell the same on every machine. The key
      # of the judge is none of the tools' business.
      env={
        **{k: v for k, v in os.environ.items() if not k.startswith('AWPO_')},
        'PYTHONPATH': os.pathsep.join(paths),
        'TZ': 'UTC',
      },
      start_new_session=True,
    )
    self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self) -> None:
    assert self._process.stdout is not None
    # A line half written, or nothing more: the worker has ended.
    with contextlib.suppress(ValueError, OSError):
      for line in self._process.stdout:
        self._lines.put(line)
    self._lines.put('')

  def ask(self, request: Mapping[str, Any]) -> None:
    assert self._process.stdin is not None
    try:
      self._process.stdin.write(json.dumps(request) + '\n')
      self._process.stdin.flush()
    except (OSError, ValueError) as error:
      raise _Lost('the tool ended its process') from error

  def reply(self, seconds: float) -> dict[str, Any]:
    try:
      return json.loads(self._lines.get(timeout=seconds))
    except queue.Empty:
      raise _Lost(f'took longer than {seconds:g} s') from None
    except ValueError:
      raise _Lost('the tool ended its process') from None

  def close(self) -> None:
    """Ends the process with all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    for stream in (self._process.stdin, self._process.stdout):
      # One may hold what the process did not read.
      with contextlib.suppress(OSError, ValueError):
        if stream is not None:
          stream.close()


class Pool:
  """A few workers, started when needed and replaced when lost.

  Several threads may use it at once. Which worker runs a call, and whether it
  still has the objects of the calls before, changes no result.
  """

  def __init__(self, limits: Limits):
    self.limits = limits
    self._locks = [threading.Lock() for _ in range(limits.workers)]
    self._workers: list[_Worker | None] = [None] * limits.workers
    self._turns = itertools.count()
    weakref.finalize(self, _close, self._workers)

  def run(
    self,
    program: Program,
    history: Sequence[tool_calls.ToolCall],
    calls: Sequence[tool_calls.ToolCall],
    *,
    inspect: bool = False,
    stateless: bool = False,
  ) -> Ran:
    """Runs calls one after the other, after those of `history`.

    Args:
      program: where the tools come from.
      history: calls that took effect; run again, without looking at their
        results, where no worker has kept what they led to.
      calls: to be run. One that breaks a limit has no effect.
      inspect: whether the state after them is wanted.
      stateless: whether the tools keep nothing: all workers then take turns.
        Else a program has one worker, which keeps what its calls led to.

    Raises:
      types.RewardUnavailable: no worker could be started, or the factory fails.
    """
    count = len(self._workers)
    slot = next(self._turns) % count if stateless else _slot(program, count)
    with self._locks[slot]:
      done: list[tool_calls.ToolCall] = list(history)
      texts: list[str] = []
      while True:
        rest = calls[len(texts) :]
        try:
          state = self._attempt(slot, program, done, rest, texts, inspect)
          return Ran(tuple(texts), tuple(done), state)
        except _Lost as error:
          self._drop(slot)
          if len(texts) == len(calls):
            return Ran(tuple(texts), tuple(done), None)
          texts.append(f'Error during execution: {error}')
          if len(texts) == len(calls) and not inspect:
            return Ran(tuple(texts), tuple(done), None)

  def _attempt(self, slot, program, done, calls, texts, inspect):
    """Runs calls in the slot's worker; adds to `done` and to `texts`."""
    request = {
      'factory': program.factory,
      'scenario': program.scenario,
      'history': [list(call) for call in done],
      'calls': [list(call) for call in calls],
      'chars': self.limits.chars,
      'inspect': inspect,
    }
    try:
      worker, first = self._ask(slot, request)
    except _Lost:  # It may have ended since the last call: a new one, once.
      self._drop(slot)
      try:
        worker, first = self._ask(slot, request)
      except (_Lost, OSError) as error:
        self._drop(slot)
        raise types.RewardUnavailable(f'no worker: {error}') from error
    if 'fatal' in first:
      raise types.RewardUnavailable(
        f'{program.factory} made no tools: {first["fatal"]}'
      )
    for call in calls:
      texts.append(worker.reply(self.limits.seconds)['text'])
      done.append(call)
    return worker.reply(_START_SECONDS)['state']

  def _ask(self, slot, request) -> tuple[_Worker, dict[str, Any]]:
    """Hands a request to the slot's worker, which makes its tools ready."""
    worker = self._workers[slot] or _Worker(self.limits)
    self._workers[slot] = worker
    worker.ask(request)
    return worker, worker.reply(_START_SECONDS)

  def _drop(self, slot: int) -> None:
    worker, self._workers[slot] = self._workers[slot], None
    if worker is not None:
      worker.close()

  def close(self) -> None:
    """Ends the workers; the next call starts new ones."""
    _close(self._workers)


def _close(workers: list[_Worker | None]) -> None:
  for slot, worker in enumerate(workers):
    if worker is not None:
      worker.close()
    workers[slot] = None


def _slot(program: Program, slots: int) -> int:
  """The worker of a program: always the same, as it keeps the tools alive."""
  text = json.dumps([program.factory, program.scenario], sort_keys=True)
  digest = hashlib.sha256(text.encode()).digest()
  return int.from_bytes(digest[:4], 'big') % slots
