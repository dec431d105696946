"""Generators' questions as requests, whose answer is the argument of a call.

Rows for training, demonstrations and held-out rows are drawn from numbers that
no other part draws from. Yet many generators have few questions, so that the
same would come up: a hash of its text also says on which side a question is.
"""

import dataclasses
import zlib

from awpo_jax import types
from awpo_jax.rollout.datasets import drawn
from awpo_jax.rollout.datasets.gym import steps
from awpo_jax.rollout.rewards import generators
from awpo_jax.rollout.text import prompts

ROWS = 10_000
"""Training prompts of each generator."""

_DEMONSTRATIONS = 2000  # Of each generator that has steps.
_EVAL_TASKS = 512
_HELD_OUT = 4  # One question in so many is held out.
_TRIES = 64  # Drawn until a question is on its side: .75^64 = 1e-8.
_PARTS = {'train': 0, 'demonstration': 1 << 30, 'held_out': 1 << 31}

_HINT = '\nIn the thought, write = and the result of each step, in order.'


@dataclasses.dataclass(frozen=True)
class Tasks(drawn.DrawnTasks):
  """Tasks of one turn, of each generator in turn.

  Attributes:
    generators: their names in the package.
  """

  generators: tuple[str, ...] = ()

  def draw(self, index: int) -> types.Task:
    turn, which = divmod(index, len(self.generators))
    name = self.generators[which]
    # The package draws row i of seed s from s + i, so seeds must lie apart.
    seed = (self.seed << 32) + _PARTS[self.name]
    for tried in range(_TRIES):
      found = turn + tried * ROWS
      question = generators.row(name, seed, found)['question']
      if _is_held_out(question) == (self.name == 'held_out'):
        return _task(self.name, name, seed, found)
    raise ValueError(
      f'--dataset=reasoning_gym:{name}: {_TRIES} questions drawn, and none for '
      f'{self.name}; it has too few'
    )


def load(
  *, seed: int, data: str | None = None, spec: str | None = None
) -> types.Dataset:
  """The data set of `--dataset=reasoning_gym:NAME,...`.

  Args:
    seed: of everything drawn.
    data: refused; the task needs no files.
    spec: names of generators, separated by commas.

  Returns:
    10,000 training prompts and 2,000 demonstrations of each generator, these
    only where `steps` can write a thought, and the held-out set `held_out` of
    512 tasks, the generators in turn.

  Raises:
    ValueError: `data` is given, a name is missing or no generator that can be
      scored, or the package is not installed.
  """
  if data is not None:
    raise ValueError(
      f'--data={data}: reasoning_gym generates its tasks and reads no files; '
      'drop --data or choose another --dataset'
    )
  names = tuple((spec or '').split(','))
  generators.check(names)
  shown = tuple(x for x in names if x in steps.READERS)
  count = _DEMONSTRATIONS * len(shown)
  return types.Dataset(
    demonstrations=[
      types.Demonstration(task, task.ground_truth)
      for task in Tasks('demonstration', seed, count, shown)[:]
    ],
    train=Tasks('train', seed, ROWS * len(names), names),
    evals={'held_out': Tasks('held_out', seed, _EVAL_TASKS, names)[:]},
  )


def _task(part: str, name: str, seed: int, index: int) -> types.Task:
  row = generators.row(name, seed, index)
  reader = steps.READERS.get(name)
  found = reader(row['question']) if reader else None
  request = row['question'].strip() + (_HINT if found else '')
  return types.Task(
    task_id=f'reasoning_gym_{name}_{part}_{seed}_{index}',
    system=prompts.rlla_system([generators.TOOL]),
    user=prompts.rlla_user(request),
    tools=(generators.TOOL,),
    ground_truth=generators.answer(
      found.thought if found else '', row['answer']
    ),
    kind=name,
    scenario={generators.KEY: [name, seed, index]},
  )


def _is_held_out(question: str) -> bool:
  return zlib.crc32(question.encode()) % _HELD_OUT == 0
