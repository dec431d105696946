"""BFCL v4, the Berkeley Function Calling Leaderboard: rows to be scored on.

Reads the files of github.com/ShishirPatil/gorilla, or of the package
`bfcl-eval`: `BFCL_v4_<category>.json` and `possible_answer/` beside them, JSON
Lines both. For evaluation only; no choice of `--dataset`.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from awpo_jax.rollout.datasets import files

NON_LIVE = (
  'simple_python',
  'simple_java',
  'simple_javascript',
  'multiple',
  'parallel',
  'parallel_multiple',
  'irrelevance',
)
LIVE = (
  'live_simple',
  'live_multiple',
  'live_parallel',
  'live_parallel_multiple',
  'live_irrelevance',
  'live_relevance',
)
MULTI_TURN = (
  'multi_turn_base',
  'multi_turn_miss_func',
  'multi_turn_miss_param',
  'multi_turn_long_context',
)
CATEGORIES = (*NON_LIVE, *LIVE, *MULTI_TURN)
EXPECTED = (
  "BFCL's folder with BFCL_v4_<category>.json and possible_answer/ "
  '(of a clone, or of the package bfcl-eval: bfcl_eval/data)'
)

_LISTS = ('array', 'tuple', 'Array', 'ArrayList')


@dataclasses.dataclass(frozen=True)
class Row:
  """A row with its ground truth.

  Attributes:
    row_id: e.g. `live_simple_1-1-0`.
    category: of `CATEGORIES`.
    turns: messages, `{role, content}`, of each turn; one turn unless
      multi-turn.
    functions: documentation, as upstream has it; empty where multi-turn.
    ground_truth: single turn: calls with lists of accepted values. Multi-turn:
      of each turn, calls as text. Empty for (ir)relevance.
    initial_config: multi-turn: class -> state that it starts from.
    involved_classes: multi-turn: classes whose methods are the functions.
    missed_function: multi-turn: turn -> functions that are absent until then.
  """

  row_id: str
  category: str
  turns: tuple[tuple[Mapping[str, str], ...], ...]
  functions: tuple[Mapping[str, Any], ...]
  ground_truth: tuple[Any, ...]
  initial_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  involved_classes: tuple[str, ...] = ()
  missed_function: Mapping[int, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )


def read(
  data: str | None,
  categories: Sequence[str] = (),
  skipped: list[str] | None = None,
) -> list[Row]:
  """The rows of some categories.

  Args:
    data: the folder, or a data set of the hub with its files.
    categories: of `CATEGORIES`; none: those that are there.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Raises:
    ValueError: an unknown category, no file of one, a bad row (its file and
      line are named), or an answer without a row.
  """
  unknown = [name for name in categories if name not in CATEGORIES]
  if unknown:
    raise ValueError(
      f'--categories={",".join(unknown)}: choose among {", ".join(CATEGORIES)}'
    )
  folder = files.place(data, expected=EXPECTED)
  chosen = categories or [
    name for name in CATEGORIES if _file(folder, name).is_file()
  ]
  absent = [name for name in chosen if not _file(folder, name).is_file()]
  if absent or not chosen:
    missing = ', '.join(_file(folder, x).name for x in absent) or 'rows'
    raise ValueError(f'--data={data}: no {missing} there; expected {EXPECTED}')
  return [row for name in chosen for row in _read(folder, name, skipped)]


def _file(folder: pathlib.Path, category: str) -> pathlib.Path:
  return folder / f'BFCL_v4_{category}.json'


def _read(folder: pathlib.Path, category: str, skipped) -> list[Row]:
  answers: dict[str, tuple[Any, ...]] = {}
  if 'relevance' not in category:
    path = folder / 'possible_answer' / _file(folder, category).name
    if not path.is_file():
      raise ValueError(f'{path} is not there; expected {EXPECTED}')
    files.read_rows(path, functools.partial(_answer, answers), skipped)

  parse = functools.partial(_row, category=category, answers=answers)
  path = _file(folder, category)
  return files.read_rows(path, files.unique(parse), skipped)


def _answer(answers: dict[str, Any], row: files.Row, where: str) -> None:
  truth = files.field(row, 'ground_truth', list, where)
  for item in truth:
    multi_turn = isinstance(item, list) and all(type(x) is str for x in item)
    if not multi_turn and not _is_call(item):
      raise ValueError(
        f'{where}: "ground_truth": {json.dumps(item)[:80]} is neither '
        '{name: {parameter: [values]}} nor a list of calls as text'
      )
  row_id = files.identifier(row, where)
  if row_id in answers:
    raise ValueError(f'{where}: a second answer to {row_id!r}')
  answers[row_id] = tuple(truth)


def _is_call(item: Any) -> bool:
  return (
    isinstance(item, dict)
    and len(item) == 1
    and all(
      isinstance(values, dict)
      and all(isinstance(x, list) for x in values.values())
      for values in item.values()
    )
  )


def _row(row, where: str, category: str, answers) -> Row:
  row_id = files.identifier(row, where)
  truth: tuple[Any, ...] = ()
  if 'relevance' not in category:
    if row_id not in answers:
      raise ValueError(f'{where}: {row_id!r} has no (good) possible answer')
    truth = answers[row_id]
  turns = tuple(
    _messages(turn, where) for turn in files.field(row, 'question', list, where)
  )
  if category in MULTI_TURN:
    return _multi_turn(row, where, row_id, category, turns, truth)
  if (
    len(turns) != 1
    or not turns[0]
    or not any(message['role'] == 'user' for message in turns[0])
  ):
    raise ValueError(f'{where}: "question": not one turn with a user message')
  functions = tuple(
    _function(function, where)
    for function in files.field(row, 'function', list, where)
  )
  names = {function['name'] for function in functions}
  if not functions and category != 'live_irrelevance':
    raise ValueError(f'{where}: "function" is empty')
  for call in truth:
    if isinstance(call, list) or not set(call) <= names:
      raise ValueError(
        f'{where}: the answer calls {list(call)}, not documented'
      )
  if 'relevance' not in category and not truth:
    raise ValueError(f'{where}: the answer of {row_id!r} is empty')
  return Row(row_id, category, turns, functions, truth)


def _messages(turn: Any, where: str) -> tuple[Mapping[str, str], ...]:
  if not isinstance(turn, list):
    raise ValueError(f'{where}: "question": a turn is no list of messages')
  for message in turn:
    if not isinstance(message, dict):
      raise ValueError(f'{where}: "question": a message is no object')
    files.field(message, 'role', str, where)
    if not isinstance(message.get('content'), str):
      raise ValueError(f'{where}: "question": "content" of a message: no text')
  return tuple(turn)


def _function(function: Any, where: str) -> Mapping[str, Any]:
  if not isinstance(function, dict):
    raise ValueError(f'{where}: "function": not a list of objects')
  name = files.field(function, 'name', str, where)
  where = f'{where}: function {name!r}'
  files.field(function, 'description', str, where)
  parameters = files.field(function, 'parameters', dict, where)
  required = files.field(parameters, 'required', list, where)
  properties = files.field(parameters, 'properties', dict, where)
  for key, described in properties.items():
    if not isinstance(described, dict):
      raise ValueError(f'{where}: {key!r} is no object')
    kind = files.field(described, 'type', str, f'{where}: {key!r}')
    if kind in _LISTS:
      items = files.field(described, 'items', dict, f'{where}: {key!r}')
      files.field(items, 'type', str, f'{where}: {key!r}: "items"')
  if not all(isinstance(key, str) for key in required):
    raise ValueError(f'{where}: "required" is no list of names')
  return function


def _multi_turn(row, where, row_id, category, turns, truth) -> Row:
  if len(turns) != len(truth):
    raise ValueError(
      f'{where}: {len(turns)} turns, but an answer to {len(truth)}'
    )
  classes = files.field(row, 'involved_classes', list, where)
  missed = row.get('missed_function') or {}
  if not isinstance(missed, dict) or not all(
    turn.isdecimal() and isinstance(names, list)
    for turn, names in missed.items()
  ):
    raise ValueError(f'{where}: "missed_function": not {{turn: [names]}}')
  return Row(
    row_id,
    category,
    turns,
    (),
    truth,
    initial_config=files.field(row, 'initial_config', dict, where),
    involved_classes=tuple(classes),
    missed_function={int(t): tuple(names) for t, names in missed.items()},
  )
