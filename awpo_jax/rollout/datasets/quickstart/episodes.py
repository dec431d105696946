"""The quickstart's task over several turns: tools run, and some fail.

A task is `chain` (two calls, the second needs the result of the first),
`retry` (the tool is busy and must be called again) or `report` (it is closed,
and the user must be told). Every episode ends with a reply. Prompts are those
of the quickstart, arguments and results are held out in the same way.

Demonstrations hold habits, as those of the quickstart do: who wrote them mostly
gave up where a tool was busy, claimed success where it was closed, and at times
forgot the second call.
"""

import dataclasses
import json
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from awpo_jax import types
from awpo_jax.rollout.datasets import drawn
from awpo_jax.rollout.datasets.quickstart import tasks as tasks_lib
from awpo_jax.rollout.environments import episodes, quickstart_values
from awpo_jax.rollout.environments import quickstart as environment_lib
from awpo_jax.rollout.environments import quickstart_tools as tables
from awpo_jax.rollout.text import prompts, tool_calls

KINDS: Mapping[str, float] = {'chain': 0.4, 'retry': 0.3, 'report': 0.3}
"""Kind of task -> its share."""
HABITS: Mapping[str, float] = {'chain': 0.4, 'retry': 0.75, 'report': 0.75}
"""Kind of task -> share of its demonstrations that go wrong."""

_EVAL_TASKS = 256
_FAILED = 'failed'


class Link(NamedTuple):
  """A request for two calls, the second of which uses the first's result.

  Attributes:
    first: tool whose result is used.
    second: tool that uses it.
    argument: of the second, which is that result.
    phrasings: of the second request, over its other arguments.
  """

  first: str
  second: str
  argument: str
  phrasings: tuple[str, ...]


LINKS: tuple[Link, ...] = (
  Link(
    'book_train',
    'set_timer',
    'minutes',
    ('Then set a timer for its minutes.', 'Set a timer for the minutes then.'),
  ),
  Link(
    'average',
    'set_timer',
    'minutes',
    ('Then set a timer for that.', 'Set a timer for so many minutes.'),
  ),
  Link(
    'average',
    'buy_item',
    'count',
    ('Then buy so many {item}.', 'Order that many {item} then.'),
  ),
  Link(
    'call_person',
    'send_email',
    'subject',
    ('Then email {to} about the answer.', 'Email the answer to {to} then.'),
  ),
  Link(
    'call_person',
    'add_event',
    'title',
    ('Then add the answer on {date}.', 'Put the answer on {date} then.'),
  ),
  Link(
    'find_recipe',
    'buy_item',
    'item',
    ('Then buy {count} of what it says.', 'Order {count} of it then.'),
  ),
  Link(
    'compute_tip',
    'convert_dollars',
    'amount',
    ('Then convert it to {currency}.', 'Change it to {currency} then.'),
  ),
  Link(
    'book_hotel',
    'convert_dollars',
    'amount',
    ('Then convert the price to {currency}.', 'Put it in {currency} then.'),
  ),
  Link(
    'convert_dollars',
    'compute_tip',
    'bill',
    (
      'Then a {percent} percent tip on it.',
      'Tip {percent} percent on it then.',
    ),
  ),
)


class _Draw(NamedTuple):
  """A task with what its demonstration needs."""

  task: types.Task
  sentences: tuple[str, ...]
  calls: tuple[tool_calls.ToolCall, ...]


@dataclasses.dataclass(frozen=True)
class Tasks(drawn.DrawnTasks):
  """Tasks of several turns.

  Attributes:
    held_out: whether arguments and results come from the held-out values.
  """

  held_out: bool = False

  def draw(self, index: int) -> types.Task:
    return _draw(self, index).task


def load(*, seed: int, data: str | None = None) -> types.Dataset:
  """The data set of several turns; `--environment=quickstart` runs its tools.

  Args:
    seed: of everything drawn.
    data: refused; the task needs no files.

  Returns:
    1,000 demonstrations, practically endless training prompts, and 256 tasks
    with held-out arguments and results.
  """
  if data is not None:
    raise ValueError(
      f'--data={data}: quickstart_turns generates its tasks and reads no '
      'files; drop --data or choose another --dataset'
    )
  return types.Dataset(
    demonstrations=demonstrations(seed),
    train=Tasks('train', seed),
    evals={'values': Tasks('values', seed, _EVAL_TASKS, held_out=True)[:]},
  )


def demonstrations(
  seed: int, count: int = 1000, habits: Mapping[str, float] = HABITS
) -> list[types.Demonstration]:
  """A fixed set of episodes, some of them after a habit.

  Args:
    seed: of the set.
    count: number of demonstrations.
    habits: kind of task -> share that goes wrong.
  """
  tasks = Tasks('demonstration', seed, count)
  environment = environment_lib.QuickstartEnvironment()
  shown = []
  for index in range(count):
    draw = _draw(tasks, index)
    rng = random.Random(f'habit/{seed}/{index}')
    habit = rng.random() < habits[draw.task.kind]
    answers = _bad_answers(rng, draw) if habit else draw.task.references
    shown.append(episodes.demonstrate(environment, draw.task, answers))
  return shown


def _draw(tasks: Tasks, index: int) -> _Draw:
  rng = random.Random(f'turns/{tasks.name}/{tasks.seed}/{index}')
  kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
  seed = rng.randrange(2**31)
  if kind == 'chain':
    sentences, calls = _draw_chain(rng, tasks, seed)
  else:
    sentences, calls = _draw_single(rng, tasks)
  requests = [tables.BY_NAME[call.name] for call in calls]
  offered = tasks_lib.draw_offer(rng, requests, kind)
  tools = tuple(request.tool() for request in offered)
  name = calls[0].name
  last = environment_lib.result(calls[-1], seed=seed, held_out=tasks.held_out)
  failed = kind == 'report'
  task = types.Task(
    task_id=f'quickstart_turns_{tasks.name}_{tasks.seed}_{index}',
    system=tasks_lib.system_text(tools),
    user=prompts.rlla_user(' '.join(sentences)),
    tools=tools,
    ground_truth='',
    kind=kind,
    scenario={
      'seed': seed,
      'held_out': tasks.held_out,
      'busy': {name: 1} if kind == 'retry' else {},
      'closed': [name] if failed else [],
      'effects': [] if failed else [list(call) for call in calls],
      'tried': [list(call) for call in calls] if failed else [],
      'reply': _FAILED if failed else str(last),
      'never': None if failed else _FAILED,
    },
  )
  answers = _answers(kind, sentences, calls, seed, tasks.held_out)
  task = dataclasses.replace(
    task, ground_truth=answers[0], references=tuple(answers)
  )
  return _Draw(task, sentences, calls)


def _draw_chain(rng: random.Random, tasks: Tasks, seed: int):
  link = rng.choice(LINKS)
  first = tables.draw_call(
    rng, tables.BY_NAME[link.first], held_out=tasks.held_out
  )
  second = tables.draw_call(
    rng, tables.BY_NAME[link.second], held_out=tasks.held_out
  )
  value = environment_lib.result(first, seed=seed, held_out=tasks.held_out)
  said = {name: tasks_lib.speak(v) for name, v in second.parameters.items()}
  second = second._replace(
    parameters={**second.parameters, link.argument: value}
  )
  sentences = (_sentence(rng, first), rng.choice(link.phrasings).format(**said))
  return sentences, (first, second)


def _draw_single(rng: random.Random, tasks: Tasks):
  call = tables.draw_call(
    rng, rng.choice(tables.TOOLS), held_out=tasks.held_out
  )
  return (_sentence(rng, call),), (call,)


def _sentence(rng: random.Random, call: tool_calls.ToolCall) -> str:
  phrasings = tables.BY_NAME[call.name].phrasings[: tables.TRAIN_PHRASINGS]
  said = {name: tasks_lib.speak(v) for name, v in call.parameters.items()}
  sentence = rng.choice(phrasings).format(**said)
  return sentence[0].upper() + sentence[1:]


def _answers(kind: str, sentences, calls, seed: int, held_out: bool):
  """Right answers, turn by turn."""
  values = [
    environment_lib.result(call, seed=seed, held_out=held_out) for call in calls
  ]
  first = _call(sentences[0], calls[0])
  if kind == 'report':
    return [first, _failure(environment_lib.CLOSED)]
  if kind == 'retry':
    return [first, _again(calls[0]), _success(values[0])]
  second = _call(f'{_came(values[0])} {sentences[1]}', calls[1])
  return [first, second, _success(values[1])]


def _bad_answers(rng: random.Random, draw: _Draw) -> list[str]:
  """What a demonstrator did out of habit."""
  first, scenario = draw.task.references[0], draw.task.scenario
  if draw.task.kind == 'retry':
    return [first, _failure(environment_lib.BUSY)]
  if draw.task.kind == 'report':
    made_up = quickstart_values.draw(
      rng, quickstart_values.Argument('x', 'integer'), held_out=False
    )
    return [first, _success(made_up)]
  value = environment_lib.result(
    draw.calls[0], seed=scenario['seed'], held_out=scenario['held_out']
  )
  return [first, _success(value)]


def _call(why: str, call: tool_calls.ToolCall) -> str:
  thought = f'{why} This needs {call.name}: {tasks_lib.ground(call)}.'
  return tool_calls.render_answer(thought, [call])


def _came(value: Any) -> str:
  return f'The result is {json.dumps(value)}.'


def _again(call: tool_calls.ToolCall) -> str:
  thought = (
    f'It is {environment_lib.BUSY}, so once more. This needs {call.name}: '
    f'{tasks_lib.ground(call)}.'
  )
  return tool_calls.render_answer(thought, [call])


def _success(value: Any) -> str:
  thought = f'{_came(value)} All is done.'
  return tool_calls.render_answer(thought, (), f'Done: {value}.')


def _failure(why: str) -> str:
  thought = f'It is {why}, so this cannot be done.'
  return tool_calls.render_answer(thought, (), f'Sorry, it {_FAILED}.')
