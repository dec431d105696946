"""From tasks to padded token batches and back to text.

Prompts in the layout of RLLA (github.com/qiancheng0/ToolRL): the system text
lists the tools, the user text holds the dialogue so far. All arrays are NumPy
arrays of the host. Lengths come in a few buckets: few shapes are compiled.
"""

import json
import re
from collections.abc import Sequence

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.ops import choices
from awpo_jax.rollout import chat, tokenizers

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
_FIRST_TOOL = re.compile(r'^1\. Name: ', re.MULTILINE)
# Stands for the list in a system text whose tools the chat template writes.
_LISTED_ELSEWHERE = 'Those whose JSON schemas are given in this conversation.'


def rlla_system(tools: Sequence[types.Tool]) -> str:
  """A system text in RLLA's layout that offers `tools`."""
  return _SYSTEM.format(tools=render_tools(tools))


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
    may span lines.

  Raises:
    ValueError: a listed tool lacks its description or its parameters, or these
      are not an object of objects, or more than they stands on their line.
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
    parameters, end = json.JSONDecoder().raw_decode(system, json_start)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'tool {number}, {name}: parameters: {error}') from error
  if not isinstance(parameters, dict) or not all(
    isinstance(value, dict) for value in parameters.values()
  ):
    raise ValueError(f'tool {number}, {name}: parameters: no object of objects')
  if system[end : end + 1] not in ('', '\n'):
    raise ValueError(f'tool {number}, {name}: text after its parameters')
  return types.Tool(name, system[text_start:text_end], parameters), end


def encode_prompt(
  tokenizer: tokenizers.Tokenizer,
  task: types.Task,
  style: chat.Style = chat.DEFAULT_STYLE,
) -> np.ndarray:
  """i32[S] tokens of the task up to where the assistant's turn begins.

  Args:
    tokenizer: with a chat template.
    task: the prompt.
    style: with the prompt style `template` the tools go to the chat template;
      the rest of the system text, and so the layout of the answer that the
      rewards read, stays as it is.
  """
  system, tools = task.system, None
  if style.prompt_style == 'template':
    system, tools = without_tools(system), chat.tool_schemas(task.tools)
  messages = [
    {'role': 'system', 'content': system},
    {'role': 'user', 'content': task.user},
  ]
  return chat.encode(
    tokenizer, messages, tools=tools, enable_thinking=style.enable_thinking
  )


def encode_response(
  tokenizer: tokenizers.Tokenizer, response: str
) -> np.ndarray:
  """i32[S] tokens of an answer, without the stop token."""
  return np.asarray(
    tokenizer.encode(response, add_special_tokens=False), np.int32
  )


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
  width = _bucket(max(map(len, encoded)), buckets)
  tokens = np.full((len(encoded), width), pad_id, np.int32)
  mask = np.zeros((len(encoded), width), bool)
  for row, prompt in enumerate(encoded):
    tokens[row, width - len(prompt) :] = prompt
    mask[row, width - len(prompt) :] = True
  return types.Prompts(tokens=tokens, mask=mask, ids=np.asarray(ids, np.int32))


def fits(
  tokenizer: tokenizers.Tokenizer,
  tasks: Sequence[types.Task],
  responses: Sequence[str] | None = None,
  *,
  prompt_buckets: Sequence[int],
  response_buckets: Sequence[int],
  overlong: str = 'error',
  style: chat.Style = chat.DEFAULT_STYLE,
) -> np.ndarray:
  """Which prompts, or demonstrations, fit into the largest buckets.

  To drop or refuse the others, and to say how many: `(~fits(...)).sum()`. A
  response cut off in the middle would teach the policy never to stop, so none
  is cut, whatever becomes of the prompts.

  Args:
    tokenizer: encodes both.
    tasks: N prompts.
    responses: N answers to imitate; None: only the prompts must fit.
    prompt_buckets: the widths of prompts.
    response_buckets: the widths of completions, stop token included.
    overlong: with `truncate_left` every prompt fits.
    style: of the prompts.

  Returns:
    bool[N].
  """
  fit = np.ones(len(tasks), bool)
  if overlong != 'truncate_left':
    lengths = [len(encode_prompt(tokenizer, task, style)) for task in tasks]
    fit &= np.array(lengths, int) <= max(prompt_buckets)
  if responses is not None:
    lengths = [len(encode_response(tokenizer, text)) for text in responses]
    fit &= np.array(lengths, int) < max(response_buckets)
  return fit


def demonstration_batch(
  tokenizer: tokenizers.Tokenizer,
  prompts_encoded: Sequence[np.ndarray],
  responses: Sequence[str],
  ids: Sequence[int],
  *,
  prompt_buckets: Sequence[int],
  response_buckets: Sequence[int],
  pad_id: int,
  stop_ids: Sequence[int],
  overlong: str = 'error',
  task_ids: Sequence[str] | None = None,
) -> tuple[types.Prompts, types.Completions]:
  """Prompts with answers to imitate, in the layout of a rollout with G = 1.

  Args:
    tokenizer: encodes the responses.
    prompts_encoded: P times i32[S], of `encode_prompt`.
    responses: P answers.
    ids: P positions in the run's data order.
    prompt_buckets: the widths of prompts.
    response_buckets: the widths of completions, stop token included.
    pad_id: fills both paddings.
    stop_ids: what ends an answer; the first ends each of these and is trained
      on like the rest of it.
    overlong: as in `prompt_batch`, of the prompts; a response is never cut.
    task_ids: P names for the error messages; `ids` where there are none.

  Returns:
    `Prompts` [P, Sp] and `Completions` [P, 1, Sc] of NumPy arrays; every token
    of an answer counts as the policy's own, with log-probability 0.

  Raises:
    ValueError: a prompt or a response is too long (see `fits`), or a response
      holds a stop token itself.
  """
  prompts = prompt_batch(
    prompts_encoded,
    ids,
    buckets=prompt_buckets,
    pad_id=pad_id,
    overlong=overlong,
    task_ids=task_ids,
  )
  encoded = []
  for name, response in zip(task_ids or ids, responses, strict=True):
    tokens = encode_response(tokenizer, response)
    if np.isin(tokens, stop_ids).any():
      raise ValueError(f'response of task {name}: holds a stop token')
    if len(tokens) >= max(response_buckets):
      raise ValueError(
        f'response of task {name}: {len(tokens)} tokens and the stop token, '
        f'but the largest of --response_buckets is {max(response_buckets)}; '
        'add a larger one or leave the demonstration out'
      )
    encoded.append(np.append(tokens, np.int32(stop_ids[0])))
  lengths = prompts.mask.sum(axis=-1, dtype=np.int32)
  return prompts, _completions(encoded, lengths, response_buckets, pad_id)


def _completions(encoded, prompt_lengths, buckets, pad_id) -> types.Completions:
  """Answers [P, 1, Sc], padded on the right as the sampler pads them."""
  lengths = np.array([len(tokens) for tokens in encoded])
  width = _bucket(lengths.max(), buckets)
  columns = np.arange(width, dtype=np.int32)
  mask = columns < lengths[:, None]
  tokens = np.full(mask.shape, pad_id, np.int32)
  tokens[mask] = np.concatenate(encoded)
  positions = np.where(mask, prompt_lengths[:, None] + columns, 0)
  mask = mask[:, None]
  return types.Completions(
    tokens=tokens[:, None],
    mask=mask,
    policy_mask=mask.copy(),
    positions=positions[:, None].astype(np.int32),
    turn=np.zeros(mask.shape, np.int32),
    logprobs=np.zeros(mask.shape, np.float32),
    entropy=np.zeros(mask.shape, np.float32),
    finished=np.ones(mask.shape[:2], bool),
  )


def decode_completions(
  tokenizer: tokenizers.Tokenizer,
  completions: types.Completions,
  stop_ids: Sequence[int],
) -> list[list[str]]:
  """Texts [P][G] of the tokens the policy chose.

  See `tokenizers.decode_answer`.
  """
  tokens, chosen = jax.device_get((completions.tokens, completions.policy_mask))

  return [
    [
      tokenizers.decode_answer(tokenizer, row[mask], stop_ids)
      for row, mask in zip(*group, strict=True)
    ]
    for group in zip(tokens, chosen, strict=True)
  ]


def _bucket(length: int, buckets: Sequence[int]) -> int:
  return min(bucket for bucket in buckets if bucket >= length)
