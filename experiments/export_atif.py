"""Writes the transcripts of a run as trajectories of ATIF v1.7.

python experiments/export_atif.py --run=runs/quickstart --output=trajectories

ATIF is the Agent Trajectory Interchange Format of the Harbor project. Each
answer or episode becomes a JSON file of its own.
"""

import logging
import os
import sys

# It announces at every import that torch is missing, which is as it should be.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax.analysis import trajectories  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402

_RUN = flags.DEFINE_string('run', '', 'Folder of the run.')
_OUTPUT = flags.DEFINE_string('output', '', 'Folder to write, new or empty.')
_STEPS = flags.DEFINE_multi_integer(
  'step', [], 'Step whose answers are written; may be given several times. '
  'Without any all are.'
)  # fmt: skip
_CHARS = flags.DEFINE_integer(
  'max_chars',
  trajectories.MAX_CHARS,
  'Characters of a text at most; what is longer is cut and says so.',
  lower_bound=1,
)


def main(arguments: list[str]) -> None:
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  try:
    if len(arguments) > 1:
      raise ValueError(f'not a flag: {" ".join(arguments[1:])}')
    for name, value in (('run', _RUN.value), ('output', _OUTPUT.value)):
      if not value:
        raise ValueError(f'--{name} is not set: name a folder.')
    steps = set(_STEPS.value)
    count = trajectories.export(
      _RUN.value,
      _OUTPUT.value,
      chosen=lambda step: not steps or step in steps,
      max_chars=_CHARS.value,
    )
  except (OSError, ValueError) as error:
    sys.exit(f'{error}')
  print(f'{count} trajectories in {_OUTPUT.value}')


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
