"""Draws the map of where reasoning helps, with policies that are tables.

python experiments/tabular.py --flagfile=experiments/ablations/tabular.flags

Every algorithm is trained with every judge on tasks of every number of
decisions. Writes report.md, cells.csv, success.npz (every seed) and a picture
for each baseline to --output_dir.
"""

import os
import pathlib
import shlex
import sys
import time

# Tables are small: an accelerator has nothing to do.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import app, flags  # noqa: E402

from awpo_jax.analysis import tabular, tabular_map  # noqa: E402
from awpo_jax.analysis.ablations import grid  # noqa: E402
from awpo_jax.checkpointing import initial_params  # noqa: E402
from awpo_jax.config import experiment as config_lib  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.config import sections  # noqa: E402

_OUTPUT = flags.DEFINE_string(
  'output_dir', '', 'Folder of the report. It has to be set.'
)
_BASE = flags.DEFINE_string(
  'base', '', 'Flags of train.py that all algorithms have.'
)
_ALGORITHMS = flags.DEFINE_multi_string(
  'algorithm',
  [],
  'An algorithm as `name: flags`, flags being those of train.py. It is given '
  'once for each algorithm.',
)
_BASELINES = flags.DEFINE_list(
  'baselines', [], 'Algorithms with which the others are compared.'
)
_JUDGES = flags.DEFINE_list(
  'judges',
  ['good'],
  'Judges, separated by commas: good, vain or against, with the share of '
  'scores that are noise after a colon, such as good:0.5.',
)
_DECISIONS = flags.DEFINE_list(
  'decisions', ['6'], 'Numbers of decisions of a thought, at least 1 each.'
)
_SEEDS = flags.DEFINE_integer(
  'seeds', 64, 'Number of seeds of a cell.', lower_bound=1
)
_CACHE = flags.DEFINE_string(
  'compilation_cache',
  sections.RunConfig.compilation_cache,
  'Folder in which compiled programs are kept, so that the next map is drawn '
  'sooner. Empty keeps none.',
)
_DEFAULT = tabular.Task(1)
_NUMBERS = {
  name: flags.DEFINE_integer(name, getattr(_DEFAULT, name), text)
  for name, text in {
    'executed': 'Decisions after those that the judge reads, at least 0.',
    'prompts': 'Prompts of a step, at least 1.',
    'samples': 'Answers to each prompt, at least 2.',
    'options': 'Options of a decision, at least 2.',
    'steps': 'Updates, at least 1.',
  }.items()
}
_NUMBERS |= {
  name: flags.DEFINE_float(name, getattr(_DEFAULT, name), text)
  for name, text in {
    'chance': 'Probability of a right decision at the start, from 0 to 1.',
    'learning_rate': 'Size of a plain gradient step.',
  }.items()
}


def _algorithms() -> dict[str, config_lib.Config]:
  """Algorithm -> its flags.

  Raises:
    ValueError: naming the flag and the remedy.
  """
  cells = [grid.parse_cell(text, 1) for text in _ALGORITHMS.value]
  names = [cell.name for cell in cells]
  for wrong, problem in (
    (not _OUTPUT.value, '--output_dir is not set: name the folder.'),
    (not cells, '--algorithm is not set: name at least one.'),
    (len(set(names)) < len(names), f'--algorithm: a name twice in {names}.'),
    (
      len(names) < 2 and _BASELINES.value,
      f'--baselines={_BASELINES.value}: no other --algorithm to compare.',
    ),
    (
      not set(_BASELINES.value) <= set(names),
      f'--baselines={_BASELINES.value}: choose among {names}.',
    ),
  ):
    if wrong:
      raise ValueError(problem)
  base = shlex.split(_BASE.value)
  return {x.name: config_lib.parse([*base, *x.flags]) for x in cells}


def _tasks() -> list[tabular.Task]:
  """A task for each number of decisions.

  Raises:
    ValueError: naming what is no task, and the remedy.
  """
  numbers = {name: flag.value for name, flag in _NUMBERS.items()}
  wrong = [x for x in _DECISIONS.value if not x.strip().isdecimal()]
  if wrong or not _DECISIONS.value:
    raise ValueError(
      f'--decisions={",".join(_DECISIONS.value)}: expected whole numbers, '
      'separated by commas.'
    )
  return [tabular.Task(int(k), **numbers) for k in _DECISIONS.value]


def main(arguments: list[str]) -> None:
  started = time.perf_counter()
  try:
    if len(arguments) > 1:
      raise ValueError(f'not a flag: {" ".join(arguments[1:])}')
    algorithms = _algorithms()
    judges = [tabular_map.parse_judge(x) for x in _JUDGES.value]
    initial_params.use_compilation_cache(_CACHE.value)
    found = tabular_map.measure(
      algorithms, _tasks(), judges, seeds=_SEEDS.value
    )
  except (ValueError, flags.Error) as error:
    sys.exit(f'{error}')
  text = tabular_map.write_report(
    found, _OUTPUT.value, baselines=_BASELINES.value
  )
  report = pathlib.Path(_OUTPUT.value) / tabular_map.REPORT_FILE
  print(f'{text}\n\n{report}, {time.perf_counter() - started:.0f} s')


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
