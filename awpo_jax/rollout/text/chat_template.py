"""Conversations by a tokenizer's own chat template: tools, thinking, dates.

What a template knows is found by rendering, not by reading it: an argument is
known where it changes the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from awpo_jax import types
from awpo_jax.rollout.text import json_schemas, templates, tokenizers

Message: TypeAlias = Mapping[str, Any]
Schema: TypeAlias = Mapping[str, Any]

THINKING: Mapping[str, bool | None] = {
  'default': None,
  'true': True,
  'false': False,
}
"""Values of `--enable_thinking`; `default` leaves it to the template."""


class Style(NamedTuple):
  """How a task becomes a conversation.

  Attributes:
    prompt_style: `rlla`: tools stand in the system text; `short`: in one of
      few words that takes its place; `template`: they go to the chat template
      as JSON schemas.
    enable_thinking: given to the template; None leaves it to the template.
    date: what a template that asks for today's date is told, as 2024-07-26.
  """

  prompt_style: str = 'rlla'
  enable_thinking: bool | None = None
  date: str = templates.DATE

  def options(self) -> dict[str, Any]:
    """What `templates.apply` takes of it."""
    return {'enable_thinking': self.enable_thinking, 'date': self.date}


DEFAULT_STYLE = Style()


def encode(
  tokenizer: tokenizers.Tokenizer, messages: Sequence[Message], **options: Any
) -> np.ndarray:
  """i32[S] tokens of a conversation up to where the assistant's turn begins.

  Args:
    tokenizer: with a chat template.
    messages: with `role` and `content`, as OpenAI's API has them.
    **options: `tools`, `enable_thinking` and `date`, as of `templates.apply`.

  Raises:
    ValueError: the template refuses the conversation.
  """
  ids = templates.apply(
    tokenizer, messages, tokenize=True, return_dict=False, **options
  )
  return np.asarray(ids, np.int32)


def render(
  tokenizer: tokenizers.Tokenizer, messages: Sequence[Message], **options: Any
) -> str:
  """The text that `encode` turns into tokens; same arguments and errors."""
  return templates.apply(tokenizer, messages, tokenize=False, **options)


def check_style(tokenizer: tokenizers.Tokenizer, style: Style) -> None:
  """Refuses what the chat template would ignore.

  Raises:
    ValueError: the style names thinking or tools, and the template does not
      know them.
  """
  if style.enable_thinking is not None and not knows_thinking(tokenizer):
    raise ValueError(
      f'--enable_thinking={str(style.enable_thinking).lower()}: the chat '
      'template of this tokenizer does not know enable_thinking; leave the '
      'flag at its default.'
    )
  if style.prompt_style == 'template' and not knows_tools(tokenizer):
    raise ValueError(
      '--prompt_style=template: the chat template of this tokenizer does not '
      'know tools; list them in the system text with --prompt_style=rlla.'
    )


def knows_thinking(tokenizer: tokenizers.Tokenizer) -> bool:
  """Whether `enable_thinking` changes what the chat template writes."""
  ask = [{'role': 'user', 'content': 'x'}]
  on, off = (
    render(tokenizer, ask, enable_thinking=value) for value in (True, False)
  )
  return on != off


def knows_tools(tokenizer: tokenizers.Tokenizer) -> bool:
  """Whether the chat template writes the tools that it is given."""
  tool = types.Tool('awpo_probe', 'A probe.', {})
  ask = [{'role': 'user', 'content': 'x'}]
  return tool.name in render(tokenizer, ask, tools=tool_schemas([tool]))


def tool_schemas(tools: Sequence[types.Tool]) -> list[dict[str, Any]]:
  """Tools as chat templates take them, their parameters as a JSON schema.

  Types and what may be left out are put in the words of JSON schemas, see
  `json_schemas`.
  """
  return [
    {
      'type': 'function',
      'function': {
        'name': tool.name,
        'description': tool.description,
        'parameters': json_schemas.of_parameters(
          tool.parameters, tool.required
        ),
      },
    }
    for tool in tools
  ]
