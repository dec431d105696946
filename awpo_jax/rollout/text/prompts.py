"""From tasks to padded token batches and back to text.

Prompts in the layout of RLLA (github.com/qiancheng0/ToolRL): the system text
lists the tools, the user text holds the dialogue so far. All arrays are NumPy
arrays of the host. Lengths come in a few buckets: few shapes are compiled.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.ops import choices
from awpo_jax.reporting import json_text
from awpo_jax.rollout.text import (
  chat_template,
  json_schemas,
  templates,
  tokenizers,
)

_SYSTEM = """\
You help a user over one or more turns, with tools where they serve.

**Available Tools**
{tools}

**Steps for Each Turn**
1. **Think:** Go through the history and settle what the user wants now.
2. **Call:** If tools serve that, choose them and fill in their parameters.
3. **Reply:** If words are wanted, write them to fit the conversation.

**Output Format**
```plaintext
<think> reasoning </think>
<tool_call>
{{"name": "tool name", "parameters": {{"parameter name": "value"}}}}
...
</tool_call>
<response> reply </response>
```

**Important Notes**
1. `<think>` always comes first, then `<tool_call>`, `<response>` or both.
2. `<tool_call>` holds one JSON object per line, each a call with its "name" \
and its "parameters"; without parameters these are {{}}.
3. The history shows earlier turns in the same tags and what tools returned as \
`<obs>`."""
_SHORT = """\
Answer with a thought, then with calls of these tools, or with a reply.

{tools}

<think> reasoning </think>
<tool_call>
{{"name": "tool name", "parameters": {{"parameter name": "value"}}}}
</tool_call>
<response> reply </response>

Each call is one line of JSON."""
_FIRST_TOOL = re.compile(r'^1\. Name: ', re.MULTILINE)
# Stands for the list in a system text whose tools the chat template writes. It
# may ask for other keys (Qwen's, after this text, for "arguments"), but a call
# without "parameters" has the worst reward.
_LISTED_ELSEWHERE = (
  'Those whose JSON schemas are given in this conversation. Whatever keys are '
  'asked for beside the schemas, a call is an object of "name" and '
  '"parameters".'
)


def rlla_system(tools: Sequence[types.Tool]) -> str:
  """A system text in RLLA's layout that offers `tools`."""
  return _SYSTEM.format(tools=render_tools(tools))


def short_system(tools: Sequence[types.Tool]) -> str:
  """A system text of few words that offers `tools` and has RLLA's answers."""
  return _SHORT.format(tools=render_tools(tools))


def rlla_user(request: str) -> str:
  """The user text of a dialogue that opens with `request`, as in RLLA."""
  return f'**Dialogue Records History**\n<user> {request} </user>'


def render_tools(tools: Sequence[types.Tool]) -> str:
  """Tools as RLLA lists them: number and name, description, JSON parameters."""
  return '\n'.join(
    f'{number}. Name: {tool.name}\nDescription: {tool.description}\n'
    f'Parameters: {json.dumps(tool.parameters)}'
    for number, tool in enumerate(tools, start=1)
  )


def parse_tools(system: str) -> tuple[types.Tool, ...]:
  """Reads the tools that `render_tools` wrote into a system text.

  Args:
    system: any text; the list starts at the first line with `1. Name: `.

  Returns:
    The tools in order, none where the text lists none. Names and descriptions
    may span lines. Parameters may be a JSON schema of the whole, an object with
    `properties` and perhaps a list `required`.

  Raises:
    ValueError: a listed tool lacks its description or its parameters, or these
      are not an object of objects, hold a number that is not finite, or more
      than they stands on their line.
  """
  return _parse_tools(system)[0]


def _parse_tools(system: str) -> tuple[tuple[types.Tool, ...], int, int]:
  """The tools, and where their list begins and ends."""
  found = _FIRST_TOOL.search(system)
  if not found:
    return (), 0, 0
  tools: list[types.Tool] = []
  end = start = found.start()
  while system.startswith(header := f'{len(tools) + 1}. Name: ', end):
    tool, end = _parse_tool(system, end + len(header), len(tools) + 1)
    tools.append(tool)
    end += 1
  return tuple(tools), start, end - 1


def without_tools(system: str) -> str:
  """A system text whose list of tools, if any, stands elsewhere.

  Raises:
    ValueError: as `parse_tools`.
  """
  tools, start, end = _parse_tools(system)
  if not tools:
    return system
  return system[:start] + _LISTED_ELSEWHERE + system[end:]


def _parse_tool(system, start, number) -> tuple[types.Tool, int]:
  """The tool whose name begins at `start`, and where its JSON ends."""
  name_end = system.find('\nDescription: ', start)
  text_start = name_end + len('\nDescription: ')
  text_end = system.find('\nParameters: ', text_start)
  if name_end < 0 or text_end < 0:
    raise ValueError(f'tool {number}: no "Description: " or no "Parameters: "')
  name = system[start:name_end]
  json_start = text_end + len('\nParameters: ')
  try:
    parameters, end = json_text.DECODER.raw_decode(system, json_start)
    json_text.check(parameters)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'tool {number}, {name}: parameters: {error}') from error
  parameters, required = _of_schema(parameters)
  if not isinstance(parameters, dict) or not all(
    isinstance(value, dict) for value in parameters.values()
  ):
    raise ValueError(f'tool {number}, {name}: parameters: no object of objects')
  if system[end : end + 1] not in ('', '\n'):
    raise ValueError(f'tool {number}, {name}: text after its parameters')
  description = system[text_start:text_end]
  return types.Tool(name, description, parameters, required), end


def _of_schema(value: Any) -> tuple[Any, tuple[str, ...] | None]:
  """Parameters, and the required ones where they stand in a JSON schema."""
  if (
    not isinstance(value, dict)
    or not isinstance(value.get('properties'), dict)
    # Each is a description where it is the name of a parameter.
    or all(isinstance(each, dict) for each in value.values())
  ):
    return value, None
  required = json_schemas.of(value).get('required', ())
  return value['properties'], tuple(required)


def encode_prompt(
  tokenizer: tokenizers.Tokenizer,
  task: types.Task,
  style: chat_template.Style = chat_template.DEFAULT_STYLE,
) -> np.ndarray:
  """i32[S] tokens of the task up to where the assistant's turn begins.

  Args:
    tokenizer: with a chat template.
    task: the prompt.
    style: with the prompt style `template` the tools go to the chat template;
      the rest of the system text, and so the layout of the answer that the
      rewards read, stays as it is and is said to hold before the template's.
  """
  messages, options = _conversation(task, style)
  return chat_template.encode(tokenizer, messages, **options)


def opened(
  tokenizer: tokenizers.Tokenizer,
  task: types.Task,
  style: chat_template.Style = chat_template.DEFAULT_STYLE,
) -> str:
  """The part of the answer in `encode_prompt`; see `templates.opened`."""
  messages, options = _conversation(task, style)
  return templates.opened(tokenizer, messages, **options)


def conversation(
  task: types.Task, prompt_style: str
) -> tuple[list[chat_template.Message], list[dict[str, Any]]]:
  """A task's messages, and the tools that the chat template is given."""
  system, tools = task.system, list[dict[str, Any]]()
  if prompt_style == 'short' and task.tools:
    system = short_system(task.tools)
  # A text may list tools that the task does not know: it stays as it is.
  if prompt_style == 'template' and task.tools:
    system = without_tools(system)
    tools = chat_template.tool_schemas(task.tools)
  messages: list[chat_template.Message] = [
    {'role': 'user', 'content': task.user}
  ]
  if system:
    messages.insert(0, {'role': 'system', 'content': system})
  return messages, tools


def _conversation(
  task: types.Task, style: chat_template.Style
) -> tuple[list[chat_template.Message], dict[str, Any]]:
  """Messages, and what else the template is given."""
  messages, tools = conversation(task, style.prompt_style)
  return messages, {'tools': tools, **style.options()}


def encode_response(
  tokenizer: tokenizers.Tokenizer, response: str, opened: str
) -> np.ndarray:
  """i32[S] tokens of an answer behind its prompt, without the stop token.

  Args:
    tokenizer: encodes it.
    response: the whole answer.
    opened: what its prompt holds of it already, of `templates.opened`.
  """
  text = templates.continued(opened, response)
  return np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)


def _refuse(tokens: np.ndarray, largest: int, name: str) -> np.ndarray:
  if len(tokens) > largest:
    raise ValueError(
      f'prompt of task {name}: {len(tokens)} tokens, but the largest of '
      f'--prompt_buckets is {largest}; add a larger one, or truncate with '
      '--overlong=truncate_left'
    )
  return tokens


def _cut_left(tokens: np.ndarray, largest: int, name: str) -> np.ndarray:
  del name
  return tokens[-largest:]


# What becomes of a prompt longer than the largest bucket. With `drop` it is
# left out when the data is loaded; one that still comes up is an error.
OVERLONG = {'error': _refuse, 'drop': _refuse, 'truncate_left': _cut_left}


def prompt_batch(
  encoded: Sequence[np.ndarray],
  ids: Sequence[int],
  *,
  buckets: Sequence[int],
  pad_id: int,
  overlong: str = 'error',
  task_ids: Sequence[str] | None = None,
) -> types.Prompts:
  """Prompts padded on the left to the smallest bucket that holds them all.

  Args:
    encoded: P times i32[S], of `encode_prompt`.
    ids: P positions in the run's data order.
    buckets: the widths a batch may have.
    pad_id: fills the columns before the prompt.
    overlong: what becomes of a prompt longer than the largest bucket, a key of
      `OVERLONG`; `truncate_left` keeps its end and so loses the first tools.
    task_ids: P names for the error message; `ids` where there are none.

  Returns:
    `Prompts` [P, Sp] of NumPy arrays.

  Raises:
    ValueError: a prompt is too long, or `overlong` is unknown.
  """
  fit = choices.pick('overlong', OVERLONG, overlong)
  largest = max(buckets)
  names = [str(name) for name in task_ids or ids]
  encoded = [fit(x, largest, n) for x, n in zip(encoded, names, strict=True)]
  width = smallest_bucket(max(map(len, encoded)), buckets)
  tokens = np.full((len(encoded), width), pad_id, np.int32)
  mask = np.zeros((len(encoded), width), bool)
  for row, prompt in enumerate(encoded):
    tokens[row, width - len(prompt) :] = prompt
    mask[row, width - len(prompt) :] = True
  return types.Prompts(tokens=tokens, mask=mask, ids=np.asarray(ids, np.int32))


def decode_completions(
  tokenizer: tokenizers.Tokenizer,
  completions: types.Completions,
  stop_ids: Sequence[int],
  opened: Sequence[str],
) -> list[list[str]]:
  """Answers [P][G] of the tokens the policy chose.

  Args:
    tokenizer: decodes them.
    completions: [P, G, Sc].
    stop_ids: tokens that end an answer.
    opened: P texts, what each prompt holds of its answers; see
      `tokenizers.decode_answer`.
  """
  tokens, chosen = jax.device_get((completions.tokens, completions.policy_mask))
  return [
    [
      tokenizers.decode_answer(tokenizer, row[mask], stop_ids, start)
      for row, mask in zip(*group, strict=True)
    ]
    for *group, start in zip(tokens, chosen, opened, strict=True)
  ]


def smallest_bucket(length: int, buckets: Sequence[int]) -> int:
  """The smallest of the widths that holds so many tokens."""
  return min(bucket for bucket in buckets if bucket >= length)
