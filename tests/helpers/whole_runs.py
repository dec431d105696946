"""Runs of the programs in `experiments/`, each in a process that can be killed.

Imports take longer than a tiny run, so these processes are forked from one
that has done them. `Signal` makes a process signal itself at a chosen point,
which no timing from outside could hit.
"""

import dataclasses
import importlib
import json
import multiprocessing
import os
import pathlib
import re
import runpy
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from tensorboardX.proto import event_pb2

from awpo_jax.checkpointing import checkpoints
from awpo_jax.reporting import curves, metrics
from tests.helpers import quick_compiling

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN = 'experiments/train.py'
_PRELOAD = (
  'awpo_jax.training.loop',
  'awpo_jax.checkpointing.policies',
  'awpo_jax.reporting.summary',
  'tests.helpers.whole_runs',
)
# Compile quickly, everything is cached, and the suite's four devices are not
# asked for: `--cpu_devices` is.
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': quick_compiling.FLAGS,
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
}
_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Signal:
  """A signal that a process sends itself.

  Attributes:
    function: `package.module:name` of the function at which.
    call: at the how manyth call of it.
    when: `before` or `after` the call, or `second` before the second item of
      what that call returns is handed out; calls that give one item only are
      not counted.
    number: of the signal.
    target: other calls are not counted than those whose last argument ends in
      what this pattern matches.
  """

  function: str
  call: int
  when: str = 'before'
  number: int = signal.SIGKILL
  target: str = ''


@dataclasses.dataclass(frozen=True)
class Result:
  """How a process ended: `returncode` is -n where signal n killed it."""

  returncode: int
  stdout: str
  stderr: str


def environment() -> dict[str, str]:
  """Of a process that runs a program of the repository."""
  return os.environ | _ENVIRONMENT | {'PYTHONPATH': str(ROOT)}


def command(flags: Sequence[str], folder: pathlib.Path = ROOT) -> Result:
  """Runs `python experiments/train.py` in a folder as a user does."""
  done = subprocess.run(
    [sys.executable, ROOT / TRAIN, *flags],
    cwd=folder,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=_SECONDS,
    check=False,
  )
  return Result(done.returncode, done.stdout, done.stderr)


def forked(
  flags: Sequence[str],
  output: pathlib.Path,
  *,
  at: Signal | None = None,
  environment: Mapping[str, str] | None = None,
  program: str = TRAIN,
  drawn: bool = False,
  seconds: float = _SECONDS,
  folder: pathlib.Path = ROOT,
) -> Result:
  """The same as `command`, without its imports and its pictures.

  Args:
    flags: of the command line.
    output: folder for what it prints.
    at: signal that it sends itself.
    environment: further variables.
    program: another one than `train.py`.
    drawn: with the picture of the curves, which takes longer than the steps.
    seconds: that it may take.
    folder: in which the command is given.
  """
  started = _start(flags, output, at, environment or {}, program, drawn, folder)
  return _end(started, seconds)


def together(
  flags: Sequence[str],
  output: pathlib.Path,
  count: int,
  *,
  at: Signal | None = None,
) -> list[Result]:
  """A run of several processes.

  Args:
    flags: of the command line, those of processes apart.
    output: folder for what they print.
    count: how many.
    at: signal that the last one sends itself.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  started = []
  for number in range(count):
    folder = output / f'process_{number}'
    folder.mkdir(exist_ok=True)
    own = [
      '--distributed=flags',
      f'--coordinator=localhost:{port}',
      f'--processes={count}',
      f'--process_id={number}',
    ]
    last = number == count - 1
    started.append(
      _start([*flags, *own], folder, at if last else None, {}, TRAIN)
    )
  return [_end(x) for x in started]


def _start(flags, output, at, environment, program, drawn=False, folder=ROOT):
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(list(_PRELOAD))
  files = output / 'stdout.txt', output / 'stderr.txt'
  process = context.Process(
    target=_main,
    args=(program, list(flags), files, at, dict(environment), drawn, folder),
  )
  process.start()
  return process, files


def _end(started, seconds: float = _SECONDS) -> Result:
  process, files = started
  process.join(seconds)
  if process.is_alive():
    process.kill()
    process.join()
    raise TimeoutError(f'{seconds:g} s: {files[1].read_text()}')
  return Result(process.exitcode, *(file.read_text() for file in files))


def _main(program, flags, files, at, environment, drawn, folder) -> None:
  os.chdir(folder)
  os.environ.update(_ENVIRONMENT | environment)
  for number, file in enumerate(files, start=1):
    os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  # A suite started in the background ignores it, and its children with it.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  if not drawn:
    curves.plot_curves = lambda rows, path: path.touch()
  if at is not None:
    _inject(at)
  if 'PYTHONPATH' in environment:  # Too late for the interpreter itself.
    sys.path.insert(0, environment['PYTHONPATH'])
  sys.argv = [program, *flags]
  sys.path.insert(
    0, os.path.dirname(os.path.abspath(program))
  )  # As Python does.
  try:
    runpy.run_path(program, run_name='__main__')
  finally:
    # JAX does it when the interpreter ends, and a child of multiprocessing ends
    # without that: processes wait for each other here. The first one, which
    # holds the service of them all, must not be gone while another one waits.
    jax.distributed.shutdown()


def _inject(at: Signal) -> None:
  """Puts the signal into the function that `at` names."""
  module_name, _, name = at.function.partition(':')
  owner: Any = importlib.import_module(module_name)
  *path, name = name.split('.')
  for part in path:
    owner = getattr(owner, part)
  original, calls = getattr(owner, name), 0

  def strike() -> None:
    nonlocal calls
    calls += 1
    if calls == at.call:
      os.kill(os.getpid(), at.number)

  def second(items) -> Iterator[Any]:
    for index, item in enumerate(items):
      if index == 1:
        strike()
      yield item

  def wrapper(*args, **kwargs):
    if at.target and not re.search(f'{at.target}$', str(args[-1])):
      return original(*args, **kwargs)
    if at.when == 'before':
      strike()
    result = original(*args, **kwargs)
    if at.when == 'after':
      strike()
    return second(result) if at.when == 'second' else result

  setattr(owner, name, wrapper)


def rows(folder: pathlib.Path, name: str = 'metrics.jsonl') -> list[Any]:
  """All rows of a JSON Lines file."""
  return [json.loads(x) for x in (folder / name).read_bytes().splitlines()]


def untimed(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of `metrics.jsonl` without what hangs on the machine."""
  return [
    {key: value for key, value in row.items() if not _timed(key)}
    for row in rows(folder)
  ]


def _timed(name: str) -> bool:
  return name.startswith('time/') or name.endswith(
    ('per_second', 'compile/count')
  )


def events(folder: pathlib.Path) -> dict[tuple[str, int], list[float]]:
  """(tag, step) -> its values, of all the TensorBoard events of a run."""
  found: dict[tuple[str, int], list[float]] = {}
  for path in sorted((folder / metrics.TENSORBOARD_FOLDER).iterdir()):
    data = path.read_bytes()
    while data:  # Of each event its length, a checksum, itself, another.
      (length,) = struct.unpack('<Q', data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]
      for value in event.summary.value:
        key = value.tag, event.step
        found.setdefault(key, []).append(value.simple_value)
  return found


def stored(folder: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint by its path."""
  path = folder / checkpoints.RUN_SUBFOLDER / str(step)
  tree = ocp.metadata(path, checkpoints.STATE).metadata
  example = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), tree)
  tree = ocp.load(path, example, checkpointable_name=checkpoints.STATE)
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(key): np.asarray(leaf) for key, leaf in leaves}


def saved_steps(folder: pathlib.Path) -> list[int]:
  """Steps whose checkpoints are whole."""
  names = (x.name for x in (folder / checkpoints.RUN_SUBFOLDER).iterdir())
  return sorted(int(name) for name in names if name.isdigit())


def assert_same(got: pathlib.Path, wanted: pathlib.Path, step: int) -> None:
  """Two runs have the same numbers, answers and final parameters, bit for bit.

  Args:
    got: folder of a run.
    wanted: folder of another.
    step: their last.
  """
  for ours, theirs in zip(untimed(got), untimed(wanted), strict=True):
    assert ours == theirs
  name = 'transcripts.jsonl'
  assert rows(got, name) == rows(wanted, name)
  ours, theirs = (
    {key: x for key, x in events(folder).items() if not _timed(key[0])}
    for folder in (got, wanted)
  )
  assert ours == theirs
  # A list of one value: no step was written twice.
  assert ours and all(len(values) == 1 for values in ours.values())
  ours, theirs = stored(got, step), stored(wanted, step)
  assert ours.keys() == theirs.keys()
  for key, array in ours.items():
    np.testing.assert_array_equal(array, theirs[key], err_msg=key)
