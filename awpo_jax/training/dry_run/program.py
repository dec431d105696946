"""Compiles one program of a dry run; `xla_buffers` runs this.

python -m awpo_jax.training.dry_run.program FLAGSFILE FOLDER KEY...
"""

import os
import sys
import threading

from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.training.dry_run import memory, targets


def main(flags: str, folder: str, *key: str) -> None:
  """XLA's report of the program of that key goes to the folder."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  config = config_lib.parse([f'--flagfile={flags}'])
  target = targets.find(config.run.dry_run)
  plan = memory.make_plan(config, platform=target.platform)
  mesh = sharding.make_mesh(config.devices, target.devices)
  made = {
    tuple(map(str, name)): lower
    for name, lower in memory.lowerings(plan, mesh).items()
  }
  made[key]().compile(
    compiler_options={**target.options, 'xla_dump_to': folder}
  )


def _end_with_parent() -> None:
  sys.stdin.read()
  os._exit(1)


if __name__ == '__main__':
  main(*sys.argv[1:])
