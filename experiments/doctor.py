"""Names what is wrong with a run, from its metrics and flags.

python experiments/doctor.py --run=runs/quickstart

It ends with 0 whatever it finds, and with 1 where the run cannot be read.
"""

import os
import sys

# It announces at every import that torch is missing, which is as it should be.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax.analysis import doctor, records  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402

_RUN = flags.DEFINE_string('run', '', 'Folder of a run: its --output_dir.')


def main(arguments: list[str]) -> None:
  try:
    if len(arguments) > 1:
      raise ValueError(f'not a flag: {" ".join(arguments[1:])}')
    if not _RUN.value:
      raise ValueError('--run is not set: name the folder of a run.')
    record = records.read(_RUN.value)
  except (OSError, ValueError) as error:
    sys.exit(f'{error}')
  print(doctor.diagnose(record).text())


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
