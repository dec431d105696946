"""RLLA, the tool-use dialogues of ToolRL (github.com/qiancheng0/ToolRL).

Reads rows `{id, instruction, input, output}`, as its JSON Lines have them, and
`{prompt: [system, user], reward_model: {ground_truth}}`, as ToolRL's own files
of parquet do. All files given are one pool, of which a part is held out.
"""

import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterator

from awpo_jax import types
from awpo_jax.rollout.datasets import files
from awpo_jax.rollout.text import prompts, tool_calls

HELD_OUT_SHARE = 0.15
EXPECTED = (
  "a folder with, or files of, RLLA's rows: *.jsonl with instruction, input "
  "and output, or ToolRL's *.parquet with prompt and reward_model"
)
PLACEHOLDERS = (
  'I should use the appropriate tool with proper parameters to respond to the '
  "user's need.",
  "I should directly respond to the user's need.",
)
"""The two thoughts of rows that were made for RL and hold no rationale."""


def load(
  *, seed: int, data: str | None = None, skipped: list[str] | None = None
) -> types.Dataset:
  """RLLA's rows, split by a hash of the dialogue.

  A prompt that occurs several times counts once, with a real rationale where
  one of its rows has it. Which prompts are held out depends on their text
  alone: it is the same in every run and stays so when rows are added.

  Args:
    seed: unused, nothing is drawn.
    data: folders, files and glob patterns, separated by commas.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Returns:
    Training prompts; of those with a real rationale (of all, if none has one)
    the demonstrations; the eval set `held_out`, about 15% of all prompts.
    Kinds: `single` call, `parallel` calls, `reply`.

  Raises:
    ValueError: no file, a bad row (its file and line are named), two prompts of
      the same id, or so few rows that one side of the split is empty.
  """
  del seed
  tasks = _distinct(read_tasks(data, skipped))
  held_out = [task for task in tasks if _is_held_out(task)]
  train = [task for task in tasks if not _is_held_out(task)]
  if not (train and held_out):
    raise ValueError(
      f'--data={data}: {len(train)} training and {len(held_out)} held-out '
      f'prompts, too few for a split; expected {EXPECTED}'
    )
  reasoned = [task for task in train if has_rationale(task.ground_truth)]
  return types.Dataset(
    demonstrations=[
      types.Demonstration(task, task.ground_truth) for task in reasoned or train
    ],
    train=train,
    evals={'held_out': held_out},
  )


def read_tasks(
  data: str | None, skipped: list[str] | None = None
) -> Iterator[types.Task]:
  """All rows of all files as tasks, repeated prompts among them.

  Raises:
    ValueError: as in `load`.
  """
  seen: dict[str, tuple[str, str]] = {}
  for path in files.find(
    data, suffixes=('.jsonl', '.parquet'), expected=EXPECTED
  ):
    parse = functools.partial(
      _task, path=path, count=itertools.count(), seen=seen
    )
    yield from files.read_rows(path, parse, skipped)


def has_rationale(output: str) -> bool:
  """Whether the answer's thought is more than one of RLLA's placeholders."""
  thought = tool_calls.section(output, 'think')
  return thought is not None and thought.strip() not in PLACEHOLDERS


def _task(
  row: files.Row,
  where: str,
  path: pathlib.Path,
  count: Iterator[int],
  seen: dict[str, tuple[str, str]],
) -> types.Task:
  index = next(count)
  if 'instruction' not in row and 'prompt' in row:
    row = _flatten(row, where)
  system = files.field(row, 'instruction', str, where)
  output = files.field(row, 'output', str, where)
  try:
    tools = prompts.parse_tools(system)
  except ValueError as error:
    raise ValueError(f'{where}: "instruction": {error}') from error
  user, kind = files.field(row, 'input', str, where), _kind(output, where)
  task_id = files.identifier(row, where, default=f'{path.stem}_{index}')
  if seen.setdefault(task_id, (system, user)) != (system, user):
    raise ValueError(
      f'{where}: two prompts have the id {task_id!r}; rows without an id are '
      'named after their file: rename one of two files of one name'
    )
  return types.Task(
    task_id=task_id,
    system=system,
    user=user,
    tools=tools,
    ground_truth=output,
    kind=kind,
  )


def _kind(output: str, where: str) -> str:
  """`single`, `parallel` or `reply`, by what follows the thought."""
  answer = tool_calls.strip_thought(output)
  calls = tool_calls.parse_calls(tool_calls.section(answer, 'tool_call'))
  if isinstance(calls, tool_calls.ParseFailure):
    raise ValueError(f'{where}: "output": {calls.reason}')
  if not calls and tool_calls.section(answer, 'response') is None:
    raise ValueError(f'{where}: "output": neither <tool_call> nor <response>')
  return {0: 'reply', 1: 'single'}.get(len(calls), 'parallel')


def _flatten(row: files.Row, where: str) -> files.Row:
  """A row of ToolRL's parquet with the fields of the JSON Lines."""
  messages = row.parts('prompt')
  roles = [message.get('role') for message in messages]
  if roles != ['system', 'user']:
    raise ValueError(f'{where}: "prompt": roles {roles}, not system and user')
  reward = row.part('reward_model')
  fields = {
    'instruction': messages[0].get('content'),
    'input': messages[1].get('content'),
    'output': files.field(reward, 'ground_truth', str, where),
  }
  return files.Row(fields | ({'id': row['id']} if 'id' in row else {}), where)


def _distinct(tasks: Iterator[types.Task]) -> list[types.Task]:
  """Each prompt once, in the order of first appearance."""
  chosen: dict[tuple[str, str], types.Task] = {}
  for task in tasks:
    prompt = (task.system, task.user)
    kept = chosen.setdefault(prompt, task)
    if has_rationale(task.ground_truth) > has_rationale(kept.ground_truth):
      chosen[prompt] = task
  return list(chosen.values())


def _is_held_out(task: types.Task) -> bool:
  # By the user text: one request must not stand on both sides with two lists
  # of tools.
  digest = hashlib.sha256(task.user.encode()).digest()
  return int.from_bytes(digest[:8], 'big') < HELD_OUT_SHARE * 2**64
