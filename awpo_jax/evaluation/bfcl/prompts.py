"""BFCL's rows as prompts: in RLLA's layout, or for a chat template's tools."""

import json
from collections.abc import Mapping
from typing import Any

from awpo_jax import types
from awpo_jax.evaluation.bfcl import checker
from awpo_jax.rollout.datasets.bfcl import rows
from awpo_jax.rollout.text import (
  chat_template,
  conversations,
  json_schemas,
  prompts,
)

REQUEST = (
  'If no tool fits, or a parameter that is needed is missing, say so in the '
  "response without a tool call, or call a tool named 'None'. Otherwise make "
  'the one or more tool calls that are needed.'
)
"""Appended to what the user says, as ToolRL does for this benchmark."""

_SYNTAX = {
  'python': 'Python 3',
  'java': 'Java 8 SDK',
  'javascript': 'JavaScript',
}
_NAMES = {'java': 'Java', 'javascript': 'JavaScript'}


def documented(function: Mapping[str, Any], category: str) -> Mapping[str, Any]:
  """A function's documentation as models get it.

  The description names the language; values of Java and JavaScript are asked
  for as strings. Scoring goes by the documentation as it was.
  """
  language = checker.language(category)
  parameters = function['parameters']
  properties = parameters['properties']
  if language != 'python':
    properties = {
      name: _as_text(described, _NAMES[language])
      for name, described in properties.items()
    }
  return {
    **function,
    'description': f'{function["description"]} Note that the provided function '
    f'is in {_SYNTAX[language]} syntax.',
    'parameters': {**parameters, 'properties': properties},
  }


def _as_text(described: Mapping[str, Any], language: str) -> dict[str, Any]:
  """A parameter whose value is to be written as a literal of its language."""
  spec = dict(described)
  kind = spec['type']
  what = 'any type' if kind == 'any' else f'type {kind}'
  text = f'A {language} value of {what}, written as a string.'
  if kind in ('Array', 'ArrayList', 'array'):
    text += f' Its elements are of type {spec.pop("items")["type"]}.'
  if kind == 'dict' and 'properties' in spec:
    text += f' Its entries: {json.dumps(spec.pop("properties"))}'
  spec['type'] = 'string'
  spec['description'] = f'{spec.get("description", "")} {text}'.strip()
  return spec


def task(row: rows.Row, ground_truth: str) -> types.Task:
  """A single-turn row in RLLA's layout, as ToolRL writes it.

  The row's own system messages are passed over; the answers of earlier turns
  stand as they are.
  """
  tools = []
  for function in row.functions:
    known = documented(function, row.category)
    tools.append(
      types.Tool(
        known['name'],
        known['description'],
        known['parameters']['properties'],
        tuple(known['parameters']['required']),
      )
    )
  history = ['**Dialogue Records History**']
  for message in row.turns[0]:
    if message['role'] == 'user':
      history.append(f'<user> {message["content"]}\n{REQUEST} </user>')
    elif message['role'] != 'system':
      history.append(message['content'])
  return types.Task(
    task_id=row.row_id,
    system=prompts.rlla_system(tools),
    user='\n'.join(history),
    tools=tuple(tools),
    ground_truth=ground_truth,
    kind=row.category,
  )


def talk(row: rows.Row) -> conversations.Conversation:
  """A single-turn row's messages, and its functions as JSON schemas."""
  return conversations.Conversation(
    tuple(row.turns[0]),
    tuple(schema(function, row.category) for function in row.functions),
  )


def schema(function: Mapping[str, Any], category: str) -> chat_template.Schema:
  """A function as chat templates take it; names keep their dots."""
  known = documented(function, category)
  return {
    'type': 'function',
    'function': {
      'name': known['name'],
      'description': known['description'],
      'parameters': json_schemas.of_parameters(
        _any_as_text(known['parameters']['properties']),
        known['parameters']['required'],
      ),
    },
  }


def _any_as_text(value: Any) -> Any:
  """A part of the documentation with `any` as upstream shows it."""
  if isinstance(value, list):
    return [_any_as_text(each) for each in value]
  if not isinstance(value, dict):
    return value
  made = {key: _any_as_text(each) for key, each in value.items()}
  return made | {'type': 'string'} if made.get('type') == 'any' else made
