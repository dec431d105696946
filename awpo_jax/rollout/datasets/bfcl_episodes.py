"""BFCL's multi-turn rows as episodes to evaluate, own tasks to train on.

The rows are for evaluation alone (Berkeley Function Calling Leaderboard v4,
Apache-2.0); nothing of them is trained on. The tasks for training are of our
own making, on the methods that the simulated APIs document.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from awpo_jax import types
from awpo_jax.rollout import prompts
from awpo_jax.rollout.datasets import bfcl_tasks
from awpo_jax.rollout.environments import bfcl

CATEGORIES = ('base', 'miss_func', 'miss_param', 'long_context')
_NEW_TOOLS = (
  'I have updated some more functions you can choose from. What about now?'
)


def load(*, seed: int, data: str | None = None) -> types.Dataset:
  """Own tasks, and BFCL's rows where there are any.

  Args:
    seed: of the own tasks.
    data: folder with `BFCL_v4_multi_turn_*.json` and `possible_answer/`; None:
      only own tasks, held out by their values.

  Raises:
    bfcl.MissingPackage: `bfcl-eval` is not installed.
    FileNotFoundError: the folder holds no such file.
    ValueError: a row is not as described.
  """
  evals = {} if data is None else rows(pathlib.Path(data))
  return types.Dataset(
    demonstrations=bfcl_tasks.demonstrations(seed),
    train=bfcl_tasks.Tasks('train', seed),
    evals={**evals, 'own': bfcl_tasks.Tasks('held_out', seed, 64)[:]},
  )


def rows(folder: pathlib.Path) -> dict[str, list[types.Task]]:
  """The rows of each category that has a file in the folder."""
  found = {}
  for category in CATEGORIES:
    file = folder / f'BFCL_v4_multi_turn_{category}.json'
    if file.is_file():
      answers = folder / 'possible_answer' / file.name
      truth = {row['id']: row['ground_truth'] for row in _lines(answers)}
      found[f'multi_turn_{category}'] = [
        _task(row, truth, category) for row in _lines(file)
      ]
  if not found:
    raise FileNotFoundError(
      f'--data={folder}: no BFCL_v4_multi_turn_<category>.json; name the '
      'folder that holds them and possible_answer/'
    )
  return found


def _lines(file: pathlib.Path) -> list[dict[str, Any]]:
  if not file.is_file():
    raise FileNotFoundError(f'no {file}, which holds the reference answers')
  try:
    return [json.loads(line) for line in file.read_text().splitlines()]
  except ValueError as error:
    raise ValueError(f'{file} is not JSON Lines: {error}') from error


def _task(
  row: Mapping[str, Any], truth: Mapping[str, Any], category: str
) -> types.Task:
  try:
    tools = bfcl.tools_of(row['involved_classes'])
    added = row.get('missed_function', {})
    return bfcl_tasks.make_task(
      task_id=row['id'],
      kind=category,
      classes=row['involved_classes'],
      config=row['initial_config'],
      requests=_requests(row['question'], added, tools),
      truth=[
        [bfcl.parse_call(call, tools) for call in turn]
        for turn in truth[row['id']]
      ],
      added=added,
      long_context=category == 'long_context',
    )
  except (KeyError, TypeError) as error:
    raise ValueError(
      f'row {row.get("id")}: not as BFCL has it: {error!r}'
    ) from error


def _requests(question, added, tools) -> list[str]:
  """What the user says in each turn, new tools in front of their turn."""
  requests = []
  for number, messages in enumerate(question):
    text = '\n'.join(message['content'] for message in messages)
    new = [tools[name] for name in added.get(str(number), [])]
    if new:
      text = f'{prompts.render_tools(new)}\n{text or _NEW_TOOLS}'
    requests.append(text)
  return requests
