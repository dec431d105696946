"""A bundled task: follow links through facts, then call a tool with the last.

A request gives facts in random order and asks to follow k links of one kind.
The thought has to name one name after another, and the call the last. All is
drawn from seeds: nothing is downloaded and there is no end to the training
prompts.

Demonstrations take the wrong kind of link by a habit: mostly the kind next to
the one that is asked for, blue for red, green for blue and red for green. So
whoever imitates them has to read which kind is asked for. With two kinds, and
wrong links about half of the time, the kind would tell next to nothing, and a
policy that learned from these demonstrations would not read it at all.
"""

import dataclasses
import random
from collections.abc import Sequence

from awpo_jax import types
from awpo_jax.rollout.datasets import drawn
from awpo_jax.rollout.datasets.links import facts
from awpo_jax.rollout.text import tool_calls

COUNTS = (2, 6)
"""Smallest and largest k where `--dataset=links` names none."""
WRONG_RATE = 0.6
"""Chance that a demonstration takes a link of another kind, at each link."""
HABIT_SHARE = 0.9
"""Share of these that take the next kind; the others take the third."""
MAX_COUNT = 8
"""Largest k that can be asked for."""

_DEMONSTRATIONS = 4000
_EVAL_TASKS = 512
_LONGER = 2  # By how much `longer` is longer at most.

_TOOL = types.Tool('go', 'Go to a name.', {'to': {'type': 'string'}})
_SYSTEM = f"""\
**Available Tools**
1. Name: {_TOOL.name}
Description: {_TOOL.description}
Parameters: {{"to": {{"type": "string"}}}}"""
_USER = '**Dialogue Records History**\n<user> {} </user>'


@dataclasses.dataclass(frozen=True)
class Tasks(drawn.DrawnTasks):
  """Tasks of one turn.

  Attributes:
    counts: smallest and largest k; each is as frequent.
    held_out: whether all names are held out.
  """

  counts: tuple[int, int] = COUNTS
  held_out: bool = False

  def draw(self, index: int) -> types.Task:
    return _draw(self, index)[0]


def load(
  *, seed: int, data: str | None = None, spec: str | None = None
) -> types.Dataset:
  """The data set of `--dataset=links`, `links:K` or `links:K:RATE`.

  Args:
    seed: of everything drawn.
    data: refused; the task needs no files.
    spec: what follows `links:`; None for k from 2 to 6.

  Returns:
    4,000 demonstrations, practically endless training prompts, and the held-out
    sets `names` (held-out names, the same k) and `longer` (k greater by one or
    two), of 512 tasks each.

  Raises:
    ValueError: `data` is given, or the spec is none.
  """
  if data is not None:
    raise ValueError(
      f'--data={data}: links generates its tasks and reads no files; drop '
      '--data or choose another --dataset'
    )
  counts, rate = _read_spec(spec)
  longer = counts[1] + 1, counts[1] + _LONGER
  names = Tasks('names', seed, _EVAL_TASKS, counts, held_out=True)
  return types.Dataset(
    demonstrations=demonstrations(seed, counts=counts, wrong_rate=rate),
    train=Tasks('train', seed, counts=counts),
    evals={
      'names': names[:],
      'longer': Tasks('longer', seed, _EVAL_TASKS, longer)[:],
    },
  )


def _read_spec(spec: str | None) -> tuple[tuple[int, int], float]:
  """Smallest and largest k, and the wrong rate."""
  if spec is None:
    return COUNTS, WRONG_RATE
  count, colon, rate = spec.partition(':')
  try:
    k, wrong = int(count), float(rate) if colon else WRONG_RATE
    good = 1 <= k <= MAX_COUNT and 0 <= wrong <= 1
  except ValueError:
    good = False
  if not good:
    raise ValueError(
      f'--dataset=links:{spec}: expected links, links:K or links:K:RATE, K the '
      f'number of links from 1 to {MAX_COUNT}, and RATE the share in [0, 1] of '
      'the links that demonstrations take wrongly'
    )
  return (k, k), wrong


def demonstrations(
  seed: int,
  count: int = _DEMONSTRATIONS,
  *,
  counts: tuple[int, int] = COUNTS,
  wrong_rate: float = WRONG_RATE,
) -> list[types.Demonstration]:
  """A fixed set of walks, of whose links a share is of a wrong kind.

  After a wrong link a walk goes on from where that has led. The call names the
  last name of the walk: a demonstration is right where all its links are.

  Args:
    seed: of the set.
    count: number of demonstrations.
    counts: smallest and largest k.
    wrong_rate: in [0, 1].
  """
  tasks = Tasks('demonstration', seed, count, counts)
  shown = []
  for index in range(count):
    task, riddle = _draw(tasks, index)
    rng = random.Random(f'walk/{seed}/{index}')
    walked = _walk(rng, riddle, wrong_rate)
    shown.append(types.Demonstration(task, _answer(riddle.start, walked)))
  return shown


def _draw(tasks: Tasks, index: int) -> tuple[types.Task, facts.Riddle]:
  rng = random.Random(f'links/{tasks.name}/{tasks.seed}/{index}')
  count = rng.randint(*tasks.counts)
  riddle = facts.draw(
    rng, count=count, largest=tasks.counts[1], held_out=tasks.held_out
  )
  right = _walk(rng, riddle, 0.0)
  task = types.Task(
    task_id=f'links_{tasks.name}_{tasks.seed}_{index}',
    system=_SYSTEM,
    user=_USER.format(facts.request_text(rng, riddle)),
    tools=(_TOOL,),
    ground_truth=_answer(riddle.start, right),
    kind=f'links_{count}',
  )
  return task, riddle


def _walk(
  rng: random.Random, riddle: facts.Riddle, wrong_rate: float
) -> list[tuple[str, str]]:
  """Kind and name of each link of a walk."""
  asked = facts.KINDS.index(riddle.kind)
  habit, rare = facts.KINDS[asked - 2], facts.KINDS[asked - 1]
  name, walked = riddle.start, []
  for _ in range(riddle.length):
    kind = riddle.kind
    if rng.random() < wrong_rate:
      kind = habit if rng.random() < HABIT_SHARE else rare
    name = riddle.links[name, kind]
    walked.append((kind, name))
  return walked


def _answer(start: str, walked: Sequence[tuple[str, str]]) -> str:
  call = tool_calls.ToolCall(_TOOL.name, {'to': walked[-1][1]})
  return tool_calls.render_answer(facts.thought_text(start, walked), [call])
