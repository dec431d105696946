"""Trains a policy: supervised fine-tuning, AWPO, or one after the other.

python experiments/train.py --flagfile=experiments/quickstart.flags

--flagfile reads flags from a file; those after it on the command line win.
--helpfull adds the flags of the libraries.
"""

import logging
import os
import sys
import time

_STARTED = time.perf_counter()  # The imports below take seconds.
# It announces at every import that torch is missing, which is as it should be.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax import types  # noqa: E402
from awpo_jax.checkpointing import checkpoints  # noqa: E402
from awpo_jax.config import experiment as config_lib  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.distributed import processes  # noqa: E402
from awpo_jax.reporting import summary  # noqa: E402
from awpo_jax.rollout.rewards.judges import rubric  # noqa: E402
from awpo_jax.training import loop, signals  # noqa: E402
from awpo_jax.training.dry_run import memory  # noqa: E402
from awpo_jax.training.update import divergence  # noqa: E402

config_lib.define_flags()
# Rewards, judges and data sets of one's own may lie where the command is given.
sys.path.append(os.getcwd())


def main(arguments: list[str]) -> None:
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  try:
    config = config_lib.from_flags(flags.FLAGS)
    if config.run.dry_run:
      for line in memory.dry_run(config):
        print(line, flush=True)
      return
    counted = loop.train(config, started=_STARTED)
  except signals.Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
  except (
    flags_lib.ConfigError,
    checkpoints.CheckpointError,
    divergence.NonFiniteError,
    divergence.ReplicaError,
    types.BadReturn,
  ) as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.exit(1)
  if processes.is_first():
    note = rubric.NOTE if config.data.judge == 'rubric' else ''
    folder = config.run.output_dir
    print(summary.finish(folder, counted=counted, reasoning_note=note))


def parse(arguments: list[str]) -> list[str]:
  """As every program, but for `--help`."""
  if {'--help', '-help', '--helpshort', '-h', '-?'} & set(arguments[1:]):
    print(f'{__doc__}\n{config_lib.help_text()}')
    sys.exit()
  return flags_lib.parse_command(arguments)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
