"""Runs one program for every cell of flags and every seed; can be resumed."""

import concurrent.futures
import dataclasses
import os
import pathlib
import queue
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from awpo_jax.reporting import summary

WARM_FOLDER = 'warm_starts'
WARM_CELL = 'warm_start'
CELL_FOLDER = 'cells'
LOG_FILE = 'ablate.log'
RUNS_FILE = 'runs.csv'
_CELL = re.compile(r'\s*([\w.+-]+)\s*(?:x(\d+))?\s*:(.*)', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A row of the grid.

  Attributes:
    name: of its folder and in the tables.
    flags: what it adds to the base.
    seeds: how many of the grid's seeds it has, the first ones.
  """

  name: str
  flags: tuple[str, ...]
  seeds: int


@dataclasses.dataclass(frozen=True)
class Grid:
  """What is run.

  Attributes:
    folder: of everything.
    base: flags of all cells.
    cells: at least one.
    seeds: of all cells, the first `cell.seeds` of each.
    warm_start: flags beside the base of one run a seed that all cells start
      from; empty for none.
    seconds: after which a cell is stopped and has failed; 0 for no limit.
  """

  folder: pathlib.Path
  base: tuple[str, ...]
  cells: tuple[Cell, ...]
  seeds: tuple[int, ...]
  warm_start: tuple[str, ...] = ()
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Run:
  """One process: a cell with a seed, or a warm start."""

  name: str
  seed: int
  folder: pathlib.Path
  flags: tuple[str, ...]

  @property
  def finished(self) -> bool:
    """Whether it is finished, now or by an earlier call."""
    return (self.folder / summary.SUMMARY_FILE).is_file()

  @property
  def log(self) -> pathlib.Path:
    """What the process said; beside its folder, which is the program's."""
    return self.folder.with_name(f'{self.folder.name}.{LOG_FILE}')


def parse_cell(text: str, seeds: int) -> Cell:
  """A cell from `name: flags` or, for the first five seeds, `name x5: flags`.

  Raises:
    ValueError: it is neither, or has more seeds than there are.
  """
  match = _CELL.fullmatch(text)
  if not match:
    raise ValueError(
      f'--cell={text!r}: expected `name: flags` or `name x5: flags`.'
    )
  name, count, flags = match.groups()
  number = int(count) if count else seeds
  if not 1 <= number <= seeds:
    raise ValueError(f'--cell={text!r}: x{number}, but --seeds has {seeds}.')
  return Cell(name, tuple(shlex.split(flags)), number)


def runs(grid: Grid) -> tuple[list[Run], list[Run]]:
  """Warm starts and cells of a grid, seed by seed.

  A grid that is stopped early thus has all cells of its first seeds, which is
  what paired differences need.
  """
  warm = []
  if grid.warm_start:
    warm = [
      _run(grid, WARM_FOLDER, WARM_CELL, seed, grid.warm_start)
      for seed in grid.seeds
    ]
  cells = []
  for index, seed in enumerate(grid.seeds):
    start = (f'--init_from={warm[index].folder}',) if warm else ()
    cells += [
      _run(
        grid, f'{CELL_FOLDER}/{cell.name}', cell.name, seed, start + cell.flags
      )
      for cell in grid.cells
      if index < cell.seeds
    ]
  return warm, cells


def _run(grid, folder, name, seed, flags) -> Run:
  path = grid.folder / folder / f'seed_{seed}'
  own = (f'--seed={seed}', f'--output_dir={path}')
  return Run(name, seed, path, (*grid.base, *flags, *own))


def execute(
  grid: Grid,
  program: str | os.PathLike[str],
  *,
  jobs: int = 1,
  devices: Sequence[str] = (),
) -> dict[tuple[str, int], str]:
  """Runs all that is not finished yet.

  A run that was stopped is continued by the program itself; one that failed is
  tried again. Nothing is run whose warm start failed. Several processes on
  CPUs have each an equal share of the cores, where the system can say so: as
  many threads as cores in each of them would get in each other's way.

  Args:
    grid: what to run.
    program: `experiments/train.py`.
    jobs: processes at once.
    devices: ids of accelerators, each given to one process at a time.

  Returns:
    (cell, seed) -> why it failed; empty where all is well.
  """
  warm, cells = runs(grid)
  free: queue.Queue[str] = queue.Queue()
  for device in devices:
    free.put(device)
  lock = threading.Lock()

  def start(run: Run) -> str | None:
    device = free.get() if devices else None
    try:
      return _start(run, program, grid.seconds, device, lock)
    finally:
      if device is not None:
        free.put(device)

  failed: dict[tuple[str, int], str] = {}
  for group in (warm, cells):
    wanted = [x for x in group if not x.finished and not _barred(x, failed)]
    shares = _shares_of_cores(1 if devices else jobs)
    with concurrent.futures.ThreadPoolExecutor(
      max(jobs, 1), initializer=_use_cores, initargs=(shares,)
    ) as pool:
      for run, reason in zip(wanted, pool.map(start, wanted), strict=True):
        if reason:
          failed[run.name, run.seed] = reason
  for run in cells:
    if _barred(run, failed):
      failed[run.name, run.seed] = 'its warm start failed'
  return {key: why for key, why in failed.items() if key[0] != WARM_CELL}


def _shares_of_cores(jobs: int) -> queue.SimpleQueue[set[int]]:
  """An equal share of this process's cores for each job; none for one job."""
  shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
  if jobs > 1 and hasattr(os, 'sched_getaffinity'):
    cores = sorted(os.sched_getaffinity(0))
    for job in range(jobs):
      shares.put(set(cores[job::jobs] or [cores[job % len(cores)]]))
  return shares


def _use_cores(shares: queue.SimpleQueue[set[int]]) -> None:
  """Keeps this thread, and what it starts, to the next share."""
  if not shares.empty():
    os.sched_setaffinity(0, shares.get())


def _barred(run: Run, failed: Mapping[tuple[str, int], str]) -> bool:
  return run.name != WARM_CELL and (WARM_CELL, run.seed) in failed


def _placed(flags: Sequence[str], program) -> list[str]:
  """Flags; a flags file that is not here is one beside the program's folder."""
  result = []
  for flag in flags:
    name, _, file = flag.partition('=')
    beside = pathlib.Path(program).absolute().parents[1] / file
    absent = name == '--flagfile' and not pathlib.Path(file).is_file()
    result.append(f'{name}={beside}' if absent and beside.is_file() else flag)
  return result


def _start(run: Run, program, seconds, device, lock) -> str | None:
  """Runs a process to its end; why it failed, or None."""
  run.folder.parent.mkdir(parents=True, exist_ok=True)
  environment = dict(os.environ)
  if device is not None:
    environment['CUDA_VISIBLE_DEVICES'] = device
  with lock:
    print(f'{run.name}, seed {run.seed}: started', flush=True)
  with run.log.open('a', encoding='utf-8') as log:
    try:
      done = subprocess.run(
        [sys.executable, str(program), *_placed(run.flags, program)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        timeout=seconds or None,
        check=False,
      )
      reason = None if done.returncode == 0 else f'exit {done.returncode}'
    except subprocess.TimeoutExpired:
      reason = f'more than {seconds:g} s'
  if reason is None and not run.finished:
    reason = 'no summary'
  with lock:
    print(f'{run.name}, seed {run.seed}: {reason or "done"}', flush=True)
  return reason and f'{reason}: {_last_line(run.log)}'


def _last_line(path: pathlib.Path) -> str:
  lines = path.read_text(encoding='utf-8', errors='replace').split('\n')
  return next((x.strip() for x in reversed(lines) if x.strip()), '')
