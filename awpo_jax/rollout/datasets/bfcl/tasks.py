"""Tasks of our own on the documented methods of BFCL's simulated APIs.

Each comes from a few lines: a state to start from, requests, and the calls
that serve them. In most a result is needed for the next call. Values are drawn
from the spaces of the quickstart, and held out by the same hash.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax import types
from awpo_jax.rollout.datasets import drawn
from awpo_jax.rollout.environments import bfcl
from awpo_jax.rollout.environments import quickstart_values as values
from awpo_jax.rollout.text import prompts, tool_calls

_DEMONSTRATIONS = 200


class _Draft(NamedTuple):
  """A task before it is written down.

  Attributes:
    kind: name of its pattern.
    classes: that serve it.
    config: class -> state to start from.
    requests: what the user says, turn by turn.
    steps: for each turn of the user, the calls of each turn of the policy.
  """

  kind: str
  classes: Sequence[str]
  config: Mapping[str, Any]
  requests: Sequence[str]
  steps: Sequence[Sequence[Sequence[tool_calls.ToolCall]]]


def make_task(
  *,
  task_id: str,
  kind: str,
  classes: Sequence[str],
  config: Mapping[str, Any],
  requests: Sequence[str],
  truth: Sequence[Sequence[tool_calls.ToolCall]],
  added: Mapping[str, Sequence[str]] | None = None,
  long_context: bool = False,
  references: Sequence[str] = (),
) -> types.Task:
  """A task for `environments.bfcl.BfclEnvironment`.

  Args:
    task_id: unique.
    kind: for the report.
    classes: names of the simulated APIs.
    config: class -> initial state.
    requests: what the user says, turn by turn.
    truth: right calls of each turn of the user.
    added: turn -> tools that are on offer only from there on.
    long_context: whether the simulators are padded with bulk data.
    references: right answers, turn by turn of the policy.
  """
  added = dict(added or {})
  late = {name for names in added.values() for name in names}
  tools = tuple(
    tool for name, tool in bfcl.tools_of(classes).items() if name not in late
  )
  return types.Task(
    task_id=task_id,
    system=prompts.rlla_system(tools),
    user=prompts.rlla_user(requests[0]),
    tools=tools,
    ground_truth=references[0] if references else '',
    kind=kind,
    scenario={
      'classes': list(classes),
      'config': dict(config),
      'long_context': long_context,
      'requests': list(requests),
      'added': added,
      'truth': [[list(call) for call in calls] for calls in truth],
    },
    references=tuple(references),
    wants_call=any(map(len, truth)),
  )


@dataclasses.dataclass(frozen=True)
class Tasks(drawn.DrawnTasks):
  """Tasks of our own; the name `held_out` draws held-out values."""

  def draw(self, index: int) -> types.Task:
    return _draw(self, index)


def demonstrations(seed: int) -> list[types.Demonstration]:
  """Right calls of the first turn, to warm up on.

  What the simulators return is not known before they run: later turns are
  left to RL.
  """
  tasks = Tasks('demonstration', seed, _DEMONSTRATIONS)[:]
  return [types.Demonstration(task, task.references[0]) for task in tasks]


def _draw(tasks: Tasks, index: int) -> types.Task:
  rng = random.Random(f'bfcl/{tasks.name}/{tasks.seed}/{index}')
  draft = rng.choice(PATTERNS)(_Values(rng, tasks.name == 'held_out'))
  references = [
    answer for steps in draft.steps for answer in _answers(draft, steps)
  ]
  return make_task(
    task_id=f'bfcl_own_{tasks.name}_{tasks.seed}_{index}',
    kind=draft.kind,
    classes=draft.classes,
    config=draft.config,
    requests=draft.requests,
    truth=[[call for step in turn for call in step] for turn in draft.steps],
    references=references,
  )


def _answers(draft: _Draft, steps) -> list[str]:
  made = [
    tool_calls.render_answer(
      f'This needs {" and ".join(call.name for call in calls)}.', calls
    )
    for calls in steps
  ]
  return [*made, tool_calls.render_answer('All is done.', (), 'Done.')]


class _Values:
  """Draws of typed values, all for training or all held out."""

  def __init__(self, rng: random.Random, held_out: bool):
    self.rng, self._held_out = rng, held_out

  def text(self, source: str) -> str:
    argument = values.Argument('x', 'string', source=source)
    return str(values.draw(self.rng, argument, held_out=self._held_out))

  def integer(self, low: int, high: int) -> int:
    argument = values.Argument('x', 'integer', bounds=(low, high))
    drawn = values.draw(self.rng, argument, held_out=self._held_out)
    assert isinstance(drawn, int)
    return drawn

  def word(self, source: str) -> str:
    """Text that can name a file or a user."""
    return self.text(source).lower().replace(' ', '_')


def _call(_name: str, **parameters: Any) -> tool_calls.ToolCall:
  return tool_calls.ToolCall(_name, parameters)


def _files(folder: str, files: Mapping[str, str]) -> dict[str, Any]:
  """A file system: one folder in the root, with files in it."""
  contents = {
    name: {'type': 'file', 'content': text} for name, text in files.items()
  }
  inside = {folder: {'type': 'directory', 'contents': contents}}
  root = {'workspace': {'type': 'directory', 'contents': inside}}
  return {'GorillaFileSystem': {'root': root}}


def _note(v: _Values) -> _Draft:
  folder, file, text = v.word('topic'), v.word('topic'), v.text('food')
  return _Draft(
    'note',
    ['GorillaFileSystem'],
    _files(folder, {}),
    [
      f'In the folder {folder}, make a file {file}.txt that says: {text}',
      f'How many words does {file}.txt have?',
    ],
    [
      [
        [_call('cd', folder=folder)],
        [_call('touch', file_name=f'{file}.txt')],
        [_call('echo', content=text, file_name=f'{file}.txt')],
      ],
      [[_call('wc', file_name=f'{file}.txt', mode='w')]],
    ],
  )


def _copy(v: _Values) -> _Draft:
  """The file's name is known only after looking."""
  folder, file, copy = v.word('topic'), v.word('food'), v.word('product')
  return _Draft(
    'copy',
    ['GorillaFileSystem'],
    _files(folder, {f'{file}.txt': v.text('topic')}),
    [f'Copy the only file in {folder} to {copy}.txt, in the same folder.'],
    [
      [
        [_call('cd', folder=folder)],
        [_call('ls')],
        [_call('cp', source=f'{file}.txt', destination=f'{copy}.txt')],
      ]
    ],
  )


def _message(v: _Values) -> _Draft:
  """The receiver's id is known only after asking for it."""
  me, other = 'USR001', f'USR{v.integer(100, 999)}'
  name, text = v.text('person'), v.text('topic')
  config = {
    'user_count': 2,
    'user_map': {'Me': me, name: other},
    'inbox': [],
    'message_count': 0,
    'current_user': me,
  }
  return _Draft(
    'message',
    ['MessageAPI'],
    {'MessageAPI': config},
    [f'Send {name} the message: {text}'],
    [
      [
        [_call('get_user_id', user=name)],
        [_call('send_message', receiver_id=other, message=text)],
      ]
    ],
  )


def _ticket(v: _Values) -> _Draft:
  user, title, text = v.text('person'), v.text('topic'), v.text('product')
  priority = v.rng.choice((1, 2, 3, 4, 5))
  config = {'ticket_queue': [], 'ticket_counter': 1, 'current_user': user}
  return _Draft(
    'ticket',
    ['TicketAPI'],
    {'TicketAPI': config},
    [
      f'File a ticket of priority {priority} with the title {title}. It says: '
      f'{text}',
      f'Resolve it: {title} is settled.',
    ],
    [
      [
        [
          _call(
            'create_ticket', title=title, description=text, priority=priority
          )
        ]
      ],
      [
        [
          _call(
            'resolve_ticket', ticket_id=1, resolution=f'{title} is settled.'
          )
        ]
      ],
    ],
  )


def _sums(v: _Values) -> _Draft:
  first, second, third = (v.integer(10, 999) for _ in range(3))
  return _Draft(
    'sums',
    ['MathAPI'],
    {},
    [f'Add {first} and {second}, then multiply the result by {third}.'],
    [
      [
        [_call('add', a=first, b=second)],
        [_call('multiply', a=first + second, b=third)],
      ]
    ],
  )


PATTERNS: tuple[Callable[[_Values], _Draft], ...] = (
  _note,
  _copy,
  _message,
  _ticket,
  _sums,
)
