"""BFCL's multi-turn rows as episodes to evaluate, own tasks to train on.

The rows are for evaluation alone (Berkeley Function Calling Leaderboard v4,
Apache-2.0); nothing of them is trained on. The tasks for training are of our
own making, on the methods that the simulated APIs document.
"""

import pathlib

from awpo_jax import types
from awpo_jax.rollout.datasets.bfcl import rows as rows_lib
from awpo_jax.rollout.datasets.bfcl import tasks
from awpo_jax.rollout.environments import bfcl
from awpo_jax.rollout.text import prompts

_NEW_TOOLS = (
  'I have updated some more functions you can choose from. What about now?'
)


def load(
  *, seed: int, data: str | None = None, skipped: list[str] | None = None
) -> types.Dataset:
  """Own tasks, and BFCL's rows where there are any.

  Args:
    seed: of the own tasks.
    data: folder with `BFCL_v4_multi_turn_*.json` and `possible_answer/`; None:
      only own tasks, held out by their values.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Raises:
    bfcl.MissingPackage: `bfcl-eval` is not installed.
    FileNotFoundError: the folder holds no such file.
    ValueError: a row is not as described.
  """
  evals = {} if data is None else rows(pathlib.Path(data), skipped)
  return types.Dataset(
    demonstrations=tasks.demonstrations(seed),
    train=tasks.Tasks('train', seed),
    evals={**evals, 'own': tasks.Tasks('held_out', seed, 64)[:]},
  )


def rows(
  folder: pathlib.Path, skipped: list[str] | None = None
) -> dict[str, list[types.Task]]:
  """The rows of each category that has a file in the folder."""
  found = [
    name
    for name in rows_lib.MULTI_TURN
    if (folder / f'BFCL_v4_{name}.json').is_file()
  ]
  if not found:
    raise FileNotFoundError(
      f'--data={folder}: no BFCL_v4_multi_turn_<category>.json; name the '
      'folder that holds them and possible_answer/'
    )
  evals: dict[str, list[types.Task]] = {name: [] for name in found}
  for row in rows_lib.read(str(folder), found, skipped):
    try:
      evals[row.category].append(task(row))
    except bfcl.MissingPackage:
      raise
    except ValueError as error:
      if skipped is None:
        raise
      skipped.append(str(error))
  return evals


def task(row: rows_lib.Row, *, docs_in_text: bool = True) -> types.Task:
  """A multi-turn row as an episode.

  Args:
    row: of `rows.MULTI_TURN`.
    docs_in_text: whether tools that come on offer later are documented in what
      the user says there; else somebody else shows them.

  Raises:
    bfcl.MissingPackage: `bfcl-eval` is not installed.
    ValueError: the row names what there is not.
  """
  try:
    tools = bfcl.tools_of(row.involved_classes)
    shown = row.missed_function if docs_in_text else {}
    return tasks.make_task(
      task_id=row.row_id,
      kind=row.category.removeprefix('multi_turn_'),
      classes=row.involved_classes,
      config=row.initial_config,
      requests=_requests(row.turns, shown, tools),
      truth=[
        [bfcl.parse_call(call, tools) for call in turn]
        for turn in row.ground_truth
      ],
      added={str(turn): list(n) for turn, n in row.missed_function.items()},
      long_context=row.category.endswith('long_context'),
    )
  except bfcl.MissingPackage:
    raise
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'row {row.row_id}: not as BFCL has it: {error!r}'
    ) from error


def _requests(turns, added, tools) -> list[str]:
  """What the user says in each turn, new tools in front of their turn."""
  requests = []
  for number, messages in enumerate(turns):
    text = '\n'.join(message['content'] for message in messages) or _NEW_TOOLS
    new = [tools[name] for name in added.get(number, ())]
    requests.append(f'{prompts.render_tools(new)}\n{text}' if new else text)
  return requests
