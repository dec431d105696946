"""Seal-Tools (github.com/fairyshine/Seal-Tools): requests for calls.

A folder with the rows, `{id, query, calling}`, all tools, and the five tools
that each prompt offers. Written in RLLA's layout. The data has no rationales
and no requests that want words instead of calls.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import random
import re
from collections.abc import Mapping, Sequence

from absl import logging

from awpo_jax import types
from awpo_jax.rollout.datasets import files
from awpo_jax.rollout.text import json_schemas, prompts, tool_calls

SPLITS = {
  'train': 'dev.jsonl',
  'in_domain': 'test_in_domain.jsonl',
  'out_domain': 'test_out_domain.jsonl',
}
EXPECTED = (
  "Seal-Tools' folder with tool.jsonl, "
  f'{", ".join(SPLITS.values())}, and dataset_for_finetune/ or candidates.jsonl'
)
# Only upstream's prompts for fine-tuning say which tools a row is offered.
_PROMPTS = 'dataset_for_finetune'
_LISTED = re.compile(r"'api_name': '([^']+)'")

# Of a row of `load_compact`: calls at most, and tools.
_CALLS, _OFFERED = 2, 3
_EARLIER_RESULT = re.compile(r'API_call_\d')


def load(
  *, seed: int, data: str | None = None, skipped: list[str] | None = None
) -> types.Dataset:
  """Seal-Tools' requests: trained on `dev`, measured on both tests.

  Left out, with a warning that says how many: rows whose right calls are not
  all among the offered tools, and rows where a parameter is the result of an
  earlier call, which one answer cannot know.

  Args:
    seed: unused, nothing is drawn.
    data: the folder, `Seal-Tools_Dataset` upstream.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Returns:
    Training prompts and a demonstration of each, whose thought is made from the
    calls by a template: it is true, but no rationale a person or a model wrote.
    Eval sets `in_domain` and `out_domain` (tools from fields not trained on).
    Kinds: `single` call, `parallel` calls.

  Raises:
    ValueError: a file is missing or a row is bad; its file and line are named.
  """
  del seed
  if not data:
    raise ValueError(f'--data is missing: expected {EXPECTED}')
  folder = pathlib.Path(data).expanduser()
  candidates = ['candidates.jsonl']
  if not (folder / candidates[0]).is_file():
    candidates = [f'{_PROMPTS}/{name[:-1]}' for name in SPLITS.values()]
  for name in ('tool.jsonl', *SPLITS.values(), *candidates):
    if not (folder / name).is_file():
      raise ValueError(f'--data={data}: no {name} there: expected {EXPECTED}')
  tools = read_tools(folder / 'tool.jsonl', skipped)
  offered: dict[str, tuple[types.Tool, ...]] = {}
  for name in candidates:
    offered |= read_candidates(folder / name, tools, skipped)
  splits = {}
  for split, name in SPLITS.items():
    splits[split], left_out = read_tasks(folder / name, offered, skipped)
    if not splits[split]:
      raise ValueError(f'{folder / name}: no rows, or none that can be used')
    for reason, count in left_out.items():
      logging.warning('%s: %d rows left out: %s', name, count, reason)
  train = splits.pop('train')
  return types.Dataset(
    demonstrations=[types.Demonstration(t, t.ground_truth) for t in train],
    train=train,
    evals=splits,
  )


def load_compact(
  *, seed: int, data: str | None = None, skipped: list[str] | None = None
) -> types.Dataset:
  """`load` for small models: short prompts and short answers.

  Rows with one or two calls. Each offers three tools in any order: the right
  ones, and others of those that the rows of its split are offered. Which, hangs
  on the row's id alone. The system text is `prompts.short_system`.

  Args:
    seed: unused, the same is drawn in every run.
    data: as there.
    skipped: as there.

  Raises:
    ValueError: as there.
  """
  full = load(seed=seed, data=data, skipped=skipped)
  train = _compact(full.train)
  return types.Dataset(
    demonstrations=[types.Demonstration(t, t.ground_truth) for t in train],
    train=train,
    evals={name: _compact(tasks) for name, tasks in full.evals.items()},
  )


def _compact(tasks: Sequence[types.Task]) -> list[types.Task]:
  """Those of a split with few calls, with few tools."""
  pool = {tool.name: tool for task in tasks for tool in task.tools}
  names, kept = sorted(pool), []
  for task in tasks:
    answer = tool_calls.parse(task.ground_truth)
    if not isinstance(answer, tool_calls.Answer) or len(answer.calls) > _CALLS:
      continue
    right = sorted({call.name for call in answer.calls})
    # Of a text it draws the same on every machine.
    draw = random.Random(task.task_id)
    others = [name for name in names if name not in right]
    count = min(_OFFERED - len(right), len(others))
    offered = [pool[x] for x in (*right, *draw.sample(others, count))]
    draw.shuffle(offered)
    kept.append(
      dataclasses.replace(
        task, system=prompts.short_system(offered), tools=tuple(offered)
      )
    )
  return kept


def read_tools(
  path: pathlib.Path, skipped: list[str] | None = None
) -> dict[str, types.Tool]:
  """All tools by name; optional parameters are marked `"required": false`.

  Raises:
    ValueError: a bad row, or a second tool of one name.
  """
  tools: dict[str, types.Tool] = {}

  def add(row: files.Row, where: str) -> None:
    tool = _read_tool(row, where)
    if tool.name in tools:
      raise ValueError(f'{where}: a second tool named {tool.name!r}')
    tools[tool.name] = tool

  files.read_rows(path, add, skipped)
  return tools


def _read_tool(row: files.Row, where: str) -> types.Tool:
  required = files.field(row, 'required', list, where)
  parameters = {}
  described = files.field(row, 'parameters', dict, where)
  for key in described:
    parameters[key] = dict(files.field(described, key, dict, where))
    if key not in required:
      parameters[key]['required'] = False
  return types.Tool(
    files.field(row, 'api_name', str, where),
    files.field(row, 'api_description', str, where),
    json_schemas.marked(parameters, required),
  )


def read_candidates(
  path: pathlib.Path,
  tools: Mapping[str, types.Tool],
  skipped: list[str] | None = None,
) -> dict[str, tuple[types.Tool, ...]]:
  """The tools offered to each row, by the row's id, in the order given.

  Args:
    path: rows with `candidates`, or upstream's prompts for fine-tuning (.json).
    tools: of `read_tools`.
    skipped: as in `load`.

  Raises:
    ValueError: a bad row, an unknown tool, or a second row of one id.
  """
  offered: dict[str, tuple[types.Tool, ...]] = {}

  def add(row: files.Row, where: str) -> None:
    if path.suffix == '.json':
      names = _listed(row, where)
    else:
      names = files.field(row, 'candidates', list, where)
    unknown = [x for x in names if not isinstance(x, str) or x not in tools]
    if unknown:
      raise ValueError(f'{where}: candidates {unknown} are not in tool.jsonl')
    row_id = files.identifier(row, where)
    if row_id in offered:
      raise ValueError(f'{where}: a second row {row_id!r}')
    offered[row_id] = tuple(tools[name] for name in names)

  files.read_rows(path, add, skipped)
  return offered


def _listed(row: files.Row, where: str) -> list[str]:
  """Names of the tools that a prompt for fine-tuning lists, as Python writes
  them, between `api_list = ` and the request."""
  talk = row.parts('conversations')
  text = files.field(talk[0], 'value', str, where) if talk else ''
  listed = text.partition('api_list = ')[2]
  names = _LISTED.findall(listed.partition('\ntask_instruction = ')[0])
  if not names:
    raise ValueError(f'{where}: its prompt lists no tools')
  return names


def read_tasks(
  path: pathlib.Path,
  offered: Mapping[str, tuple[types.Tool, ...]],
  skipped: list[str] | None = None,
) -> tuple[list[types.Task], Mapping[str, int]]:
  """The rows of a file that can be used.

  Args:
    path: one of the files with queries.
    offered: of `read_candidates`.
    skipped: as in `load`.

  Returns:
    The tasks, and how many rows were left out by reason.

  Raises:
    ValueError: a bad row, or one without candidates.
  """
  parse = functools.partial(_read_row, offered=offered, seen=set())
  rows = files.read_rows(path, parse, skipped)
  left_out = collections.Counter(row for row in rows if isinstance(row, str))
  return [row for row in rows if isinstance(row, types.Task)], left_out


def _read_row(
  row: files.Row, where: str, offered, seen: set[str]
) -> types.Task | str:
  """The task, or why the row is left out."""
  row_id = files.identifier(row, where)
  if row_id not in offered:
    raise ValueError(f'{where}: {row_id!r} has no candidates')
  tools = offered[row_id]
  query = files.field(row, 'query', str, where)
  calls = _calls(row, where)
  if row_id in seen:
    raise ValueError(f'{where}: a second row {row_id!r}')
  seen.add(row_id)
  if not {call.name for call in calls} <= {tool.name for tool in tools}:
    return 'a right call is not among the offered tools'
  if any(_needs_result(call) for call in calls):
    return 'a parameter is the result of an earlier call'
  return _task(row_id, query, tools, calls)


def _calls(row: files.Row, where: str) -> list[tool_calls.ToolCall]:
  calls = [
    tool_calls.ToolCall(
      files.field(call, 'api', str, where),
      files.field(tool_calls.filled(call), 'parameters', dict, where),
    )
    for call in row.parts('calling')
  ]
  if not calls:
    raise ValueError(f'{where}: "calling" is empty')
  return calls


def _needs_result(call: tool_calls.ToolCall) -> bool:
  return bool(_EARLIER_RESULT.search(json.dumps(call.parameters)))


def _task(
  row_id: str,
  query: str,
  tools: Sequence[types.Tool],
  calls: Sequence[tool_calls.ToolCall],
) -> types.Task:
  return types.Task(
    task_id=f'seal_tools_{row_id}',
    system=prompts.rlla_system(tools),
    user=prompts.rlla_user(query),
    tools=tuple(tools),
    ground_truth=tool_calls.render_answer(_thought(calls), calls),
    kind='single' if len(calls) == 1 else 'parallel',
  )


def _thought(calls: Sequence[tool_calls.ToolCall]) -> str:
  """What is true of the calls: which tools, with which values."""
  steps = []
  for call in calls:
    values = ', '.join(f'{k} = {v}' for k, v in call.parameters.items())
    steps.append(f'{call.name} with {values or "no parameters"}')
  count = 'one call' if len(calls) == 1 else f'{len(calls)} calls'
  return f'The request needs {count}: {"; ".join(steps)}.'
