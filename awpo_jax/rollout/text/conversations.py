"""Conversations from outside: a prompt, or JSON of messages and tools."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from awpo_jax import types
from awpo_jax.reporting import json_text
from awpo_jax.rollout.text import (
  chat_template,
  json_schemas,
  prompts,
  tool_calls,
)

# Prompt style -> what writes its system text.
_SYSTEM = {'rlla': prompts.rlla_system, 'short': prompts.short_system}

ROLES = ('system', 'user', 'assistant', 'tool')


@dataclasses.dataclass(frozen=True)
class Conversation:
  """What an assistant is to answer.

  Attributes:
    messages: at least one, the last by the user or a tool.
    tools: JSON schemas, as OpenAI's API has them; perhaps none.
  """

  messages: tuple[chat_template.Message, ...]
  tools: tuple[chat_template.Schema, ...] = ()


def read(
  prompt: str | None = None,
  file: str | None = None,
  system: str | None = None,
) -> Conversation:
  """Reads a conversation from the flags.

  Args:
    prompt: the user's only message, or
    file: path of JSON: a list of messages, or an object with `messages` and
      perhaps `tools`. Arguments of earlier tool calls may be JSON in a string;
      null, an empty string and no such field say that there are none.
    system: a system message that comes before them.

  Raises:
    FileNotFoundError: no such file.
    ValueError: both or neither are given, or it is not as described; the
      message names what is wrong and what is expected.
  """
  if (prompt is None) == (file is None):
    raise ValueError('Set either --prompt or --messages.')
  if file is not None:
    talk = _read_file(pathlib.Path(file))
  elif prompt and prompt.strip():
    talk = Conversation(({'role': 'user', 'content': prompt},))
  else:
    raise ValueError('--prompt is empty: say something.')
  if system is None:
    return talk
  if talk.messages[0]['role'] == 'system':
    raise ValueError(
      f'--system is set, but --messages={file} begins with a system message: '
      'leave one of them out.'
    )
  first = {'role': 'system', 'content': system}
  return dataclasses.replace(talk, messages=(first, *talk.messages))


def _read_file(path: pathlib.Path) -> Conversation:
  where = f'--messages={path}'
  if not path.is_file():
    raise FileNotFoundError(f'{where}: no such file.')
  try:
    value = json_text.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{where}: not JSON: {error}') from error
  if isinstance(value, list):
    value = {'messages': value}
  if not isinstance(value, dict) or set(value) - {'messages', 'tools'}:
    raise ValueError(
      f'{where}: expected a list of messages, or an object with "messages" and '
      '"tools" alone.'
    )
  messages, tools = value.get('messages'), value.get('tools') or []
  if not isinstance(messages, list) or not messages:
    raise ValueError(f'{where}: "messages" is no list, or an empty one.')
  if not isinstance(tools, list):
    raise ValueError(f'{where}: "tools" is no list.')
  talk = Conversation(
    tuple(_message(m, f'{where}: message {i}') for i, m in enumerate(messages)),
    tuple(_schema(t, f'{where}: tool {i}') for i, t in enumerate(tools)),
  )
  if talk.messages[-1]['role'] not in ('user', 'tool'):
    raise ValueError(
      f'{where}: the last message is by the {talk.messages[-1]["role"]}: '
      'nothing to answer; end with one of user or tool.'
    )
  return talk


def _message(message: Any, where: str) -> chat_template.Message:
  if not isinstance(message, dict):
    raise ValueError(f'{where} is no object.')
  if message.get('role') not in ROLES:
    raise ValueError(
      f'{where}: role {message.get("role")!r} is none of {", ".join(ROLES)}.'
    )
  calls = message.get('tool_calls') or []
  content = message.get('content')
  if content is None and calls and message['role'] == 'assistant':
    content = ''
  if not isinstance(content, str):
    raise ValueError(f'{where}: "content" is no text.')
  if message['role'] == 'user' and not content.strip():
    raise ValueError(f'{where}: "content" is empty.')
  if not calls:
    return {**message, 'content': content}
  if not isinstance(calls, list):
    raise ValueError(f'{where}: "tool_calls" is no list.')
  calls = [_tool_call(call, where) for call in calls]
  return {**message, 'content': content, 'tool_calls': calls}


def _tool_call(call: Any, where: str) -> dict[str, Any]:
  """A call with its arguments as an object, which templates expect."""
  function = call.get('function') if isinstance(call, dict) else None
  if not isinstance(function, dict) or not isinstance(
    function.get('name'), str
  ):
    raise ValueError(f'{where}: a tool call without "function" and its "name".')
  arguments = tool_calls.given_arguments(function.get('arguments'))
  if isinstance(arguments, str):
    try:
      arguments = tool_calls.given_arguments(json_text.loads(arguments))
    except ValueError as error:
      raise ValueError(
        f'{where}: "arguments" of {function["name"]} are not JSON: {error}'
      ) from error
  if not isinstance(arguments, dict):
    raise ValueError(f'{where}: "arguments" of {function["name"]}: no object.')
  return {**call, 'function': {**function, 'arguments': arguments}}


def _schema(tool: Any, where: str) -> chat_template.Schema:
  """A tool as `{"type": "function", "function": {...}}`, wrapped if bare."""
  function = tool.get('function', tool) if isinstance(tool, dict) else None
  if not isinstance(function, dict) or not isinstance(
    function.get('name'), str
  ):
    raise ValueError(
      f'{where}: expected {{"type": "function", "function": {{"name": ..., '
      '"description": ..., "parameters": ...}}}}.'
    )
  parameters = function.get('parameters')
  if parameters is None:
    return {'type': 'function', 'function': function}
  if not isinstance(parameters, dict):
    raise ValueError(f'{where}: "parameters" of {function["name"]}: no object.')
  function = {**function, 'parameters': json_schemas.of(parameters)}
  return {'type': 'function', 'function': function}


def in_style(talk: Conversation, style: chat_template.Style) -> Conversation:
  """The conversation as a policy was trained to see it.

  In RLLA's style, and in the short one, the tools stand in the system text,
  with the layout of the answer; without tools a conversation stays as it is.

  Raises:
    ValueError: it has tools, and more than one message of the user.
  """
  written = _SYSTEM.get(style.prompt_style)
  if written is None or not talk.tools:
    return talk
  if [message['role'] for message in talk.messages] != ['user']:
    raise ValueError(
      'This model reads tools in its system text (--prompt_style='
      f'{style.prompt_style}): beside "tools" it takes one user message and '
      'no system text. Write earlier turns into that message, as RLLA does.'
    )
  tools = [_tool(schema['function']) for schema in talk.tools]
  return Conversation(
    (
      {'role': 'system', 'content': written(tools)},
      {
        'role': 'user',
        'content': prompts.rlla_user(talk.messages[0]['content']),
      },
    )
  )


def _tool(function: Mapping[str, Any]) -> types.Tool:
  schema = function.get('parameters') or {}
  parameters = schema.get('properties', {})
  if 'required' in schema:  # The text of RLLA has no list of its own.
    parameters = json_schemas.marked(parameters, schema['required'])
  return types.Tool(
    function['name'], function.get('description', ''), parameters
  )
