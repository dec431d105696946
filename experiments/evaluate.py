"""Measures a policy on BFCL, API-Bank and MMLU-Pro.

python experiments/evaluate.py --flagfile=experiments/eval_bfcl.flags \\
  --model=runs/x --data=PATH --output_dir=evaluations/x

--model is a run, one of its checkpoints (runs/x/checkpoints/900), or a Hugging
Face folder or name; --data a folder of rows, or one that holds the folders
bfcl, apibank and mmlu_pro. The same command goes on after a kill. The folder
then holds scores.json, table.md, and of each benchmark answers.jsonl,
failures.html and, of BFCL, the leaderboard's result/ and score/.
"""

import logging
import os
import sys

os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

from absl import app, flags  # noqa: E402

from awpo_jax import types  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.evaluation import (
  config,  # noqa: E402
  run,  # noqa: E402
)

flags_lib.define_section(config.EvaluationConfig)


def main(arguments: list[str]) -> None:
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  try:
    settings = config.from_flags(flags.FLAGS)
    scores = run.evaluate(settings)
  except (ValueError, OSError, types.RewardUnavailable) as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print('Stopped: the same command goes on from here.', file=sys.stderr)
    sys.exit(130)
  print(run.table(scores))
  print(f'Written to {settings.output_dir}.')


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
