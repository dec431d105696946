"""Measures one size of Qwen3 on one accelerator, in one process.

python experiments/benchmarks/gpu.py --size=0.6b

Peak rates first, then sampling, the trainer's log-probabilities and an update,
each compiled and measured before the next one is compiled; at last sampling
once more, by a library's kernel for decode attention (sample_kernel). Every
figure is printed and written to --json as soon as it is known, seconds of
compiling apart from seconds of running. The exit code is 1 if a part fails or
--time_limit comes first; what is known until then is kept.

Weights and tokens are random and no token ends an answer. Shapes are those of
experiments/benchmarks/gpu.flags; flags of the command line win. Neither an
installed package nor PYTHONPATH is needed.
"""

import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

_STARTED = time.monotonic()  # The imports below take seconds.
_HERE = pathlib.Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
sys.path.insert(0, str(_ROOT))
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.95')

import gpu_programs  # noqa: E402
import gpu_sizes  # noqa: E402
from absl import app, flags  # noqa: E402

from awpo_jax.config import experiment as config_lib  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.reporting import files  # noqa: E402

PARTS = ('sample', 'prepare', 'update', 'sample_kernel')
FLAGS = flags.FLAGS
config_lib.define_flags()
flags.DEFINE_enum(
  'size',
  None,
  list(gpu_sizes.SIZES),
  'Size of Qwen3 to measure, 4b with adapters (LoRA); tiny is a rehearsal on a '
  'CPU.',
  required=True,
)
flags.DEFINE_list(
  'parts',
  list(PARTS),
  'Programs to measure, in this order, of sample, prepare, update and '
  "sample_kernel, which samples by cuDNN's kernel for decode attention (by "
  "XLA's where there is no GPU).",
)
flags.DEFINE_string(
  'json',
  None,
  'File to which the figures are written, which replaces an older one; '
  'gpu_SIZE.json if not set.',
)
flags.DEFINE_float(
  'time_limit',
  570.0,
  'Seconds after which the process ends, with exit code 1, and keeps what is '
  'known.',
  lower_bound=0.0,
)
flags.register_validator(
  'parts',
  lambda names: set(names) <= set(PARTS),
  f'Some of {", ".join(PARTS)}.',
)


class Record:
  """The figures, in a file that is whole whenever the process ends."""

  def __init__(self, file: pathlib.Path, seconds: float) -> None:
    """Ends the process in that many seconds."""
    self.failed = False
    self._file, self._result, self._now = file, {}, 'start'
    self._lock = threading.Lock()
    # XLA compiles for minutes without letting Python handle a signal; another
    # thread can end the process then.
    timer = threading.Timer(max(seconds, 0), self._time_is_over)
    timer.daemon = True
    timer.start()

  def part(self, name: str, figures: Iterable[dict[str, Any]]) -> bool:
    """Adds the figures of a part as they come; whether it ended well."""
    self._now = name
    try:
      for some in figures:
        self.add(name, some)
    except Exception as error:  # Memory, a kernel: whatever, the rest goes on.
      self.failed = True
      self.add(name, {'error': f'{type(error).__name__}: {error}'[:2000]})
      return False
    return True

  def add(self, name: str, figures: dict[str, Any]) -> None:
    """Prints figures and writes them beside the others."""
    with self._lock:
      self._result.setdefault(name, {}).update(figures)
      print(json.dumps({name: figures}), flush=True)
      files.write_whole(self._file, json.dumps(self._result, indent=2) + '\n')

  def _time_is_over(self) -> None:
    try:
      self.add(self._now, {'error': '--time_limit came before the end of it.'})
    finally:
      os._exit(1)


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  record = Record(
    pathlib.Path(FLAGS.json or f'gpu_{FLAGS.size}.json').absolute(),
    FLAGS.time_limit - (time.monotonic() - _STARTED),
  )
  try:
    bench = gpu_programs.Bench(config_lib.from_flags(FLAGS))
  except flags_lib.ConfigError as error:
    sys.exit(f'ConfigError: {error}')
  if FLAGS.size != 'tiny' and bench.platform == 'cpu':
    sys.exit(
      f'--size={FLAGS.size}: JAX finds no accelerator here, and a CPU would '
      'not end in time; --size=tiny rehearses on one.'
    )
  record.add('command', {'size': FLAGS.size, 'arguments': sys.argv[1:]})
  record.part('setting', bench.setting())
  record.part('peaks', bench.measure_peaks())
  if record.part('state', bench.make_state()):
    measure = {
      'sample': bench.sampled,
      'prepare': bench.prepared,
      'update': bench.updated,
      'sample_kernel': bench.sampled_by_kernel,
    }
    for name in FLAGS.parts:
      record.part(name, measure[name]())
  record.add('ended', {'seconds': time.monotonic() - _STARTED})
  sys.exit(int(record.failed))


def parse(arguments: list[str]) -> list[str]:
  """As absl does, the flags of the shapes and of --size in front."""
  program, *given = flags_lib.with_flagfiles(arguments)
  app.parse_flags_with_usage([program, *given])
  shapes = flags_lib.with_flagfiles([f'--flagfile={_HERE}/gpu.flags'])
  return app.parse_flags_with_usage(
    [program, *shapes, *gpu_sizes.SIZES[FLAGS.size], *given]
  )


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
