"""Replies of an endpoint, read without trusting their form."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from awpo_jax.rollout.rewards.judges import refusals

_CUT = ('length', 'max_tokens', 'model_length')


class Answer(NamedTuple):
  """An answer to one call.

  Attributes:
    text: of the reply; empty for none.
    problem: what is wrong if that text is no verdict, with no key removed yet.
    final: whether no further call for the same request can bring another one.
    status: HTTP status where it tells of an error, else 0.
    broken: whether no answer came, or none that is one.
    retry_after: seconds that the endpoint asks to be left alone, if it does.
    tokens: of prompt and reply, as the endpoint counts them.
  """

  text: str = ''
  problem: str = ''
  final: bool = False
  status: int = 0
  broken: bool = False
  retry_after: float | None = None
  tokens: int = 0


def read(completion: Any, *, limit: str, misread: str) -> Answer:
  """Reads a chat completion.

  Args:
    completion: of the client, which lets through what is none.
    limit: what says how long a reply may be, with its remedy.
    misread: what a reply is that is no verdict, likewise.
  """
  error = getattr(completion, 'error', None)
  if error:  # Some tell of an error with the status of success.
    code = str(error.get('code')) if isinstance(error, Mapping) else ''
    status = int(code) if re.fullmatch('[1-5][0-9]{2}', code) else 500
    return Answer(problem=refusals.words(error), status=status)
  try:
    choice = completion.choices[0]
    text, why = reply_text(choice.message.content), choice.finish_reason
  except (AttributeError, IndexError, TypeError, KeyError):
    return Answer(problem='an answer that is no chat completion')
  if why in _CUT:
    return Answer(text, f'a reply cut before its verdict by {limit}')
  if why == 'content_filter':
    return Answer(text, 'a reply that its content filter withheld', True)
  return Answer(text, f'{misread}: {text[:80]!r}')


def reply_text(content: Any) -> str:
  """The text of a message: a string, or parts of which those of text count.

  Args:
    content: anything.
  """
  if isinstance(content, str):
    return content
  if isinstance(content, Mapping):
    content = [content]
  if not isinstance(content, list | tuple):
    return ''
  return ''.join(map(_part_text, content))


def _part_text(part: Any) -> str:
  if isinstance(part, str):
    return part
  if not isinstance(part, Mapping):
    return ''
  text = part.get('text')
  if isinstance(text, Mapping):  # As the assistants of one vendor write it.
    text = text.get('value')
  # Thoughts, refusals, pictures have other types.
  of_text = part.get('type', 'text') in ('text', 'output_text')
  return text if of_text and isinstance(text, str) else ''
