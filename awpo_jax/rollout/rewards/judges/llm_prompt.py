"""What a judge model is asked, and how its reply is read.

A prompt is a `string.Template` with the placeholders below; a line `---` parts
the system message from the user's, without one there is no system message. What
is graded is data: it stands between lines with a mark that follows from the
text itself, so that no text can hold its own mark, and it is filled in at once,
so that no placeholder in it is.
"""

import hashlib
import itertools
import json
import pathlib
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import rubric
from awpo_jax.rollout.text import tool_calls

DEFAULT = pathlib.Path(__file__).with_name('prompt.txt')
NEEDED = frozenset({'fence', 'scale', 'thought'})
PLACEHOLDERS = NEEDED | {'request', 'tools', 'answer'}
MAX_CHARS = rubric.MAX_CHARS
_BETWEEN = '\n---\n'
# White space, and the byte order mark that some servers write.
_SPACE = ' \t\r\n\f\v\ufeff'
_FENCES = '`~'
# A fence and what may stand behind it in its line.
_OPENED = re.compile(r'(?:`{3,}|~{3,})[^\n{`]*')
# What ends a thought: where the template of the judge opens it, nothing else
# tells of one.
_THOUGHT_ENDS = re.compile(
  r'</(?:\w+:)?(?:think|thinking|thought|reasoning)>|\[/THINK\]',
  re.IGNORECASE,
)
_MAX_THOUGHT_ENDS = 64
_CONTROL = re.compile(r'[\x00-\x1f]')


class Verdict(NamedTuple):
  """A reply of the judge: a score in [0, 1] and why."""

  score: float
  reason: str


def read_template(path: str) -> str:
  """The text of a prompt template; of the default one where no path is given.

  Raises:
    ValueError: it cannot be read, lacks a placeholder or has an unknown one.
  """
  file = pathlib.Path(path).expanduser() if path else DEFAULT
  try:
    text = file.read_text('utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f'--judge_prompt={path} cannot be read: {error}'
    ) from error
  template = string.Template(text)
  names = set(template.get_identifiers())
  if not template.is_valid() or names - PLACEHOLDERS or NEEDED - names:
    raise ValueError(
      f'--judge_prompt={path}: has the placeholders {_dollars(names)}; it '
      f'needs {_dollars(NEEDED)}, and may have '
      f'{_dollars(PLACEHOLDERS - NEEDED)}. A dollar sign itself is $$.'
    )
  return text


def _dollars(names) -> str:
  return ', '.join(f'${name}' for name in sorted(names)) or 'none'


def thought_of(request: types.JudgeRequest) -> str | None:
  """The thought; None where there is nothing that a judge could grade."""
  thought = (tool_calls.section(request.response, 'think') or '').strip()
  return thought if 0 < len(thought) <= MAX_CHARS else None


def messages(
  template: str, request: types.JudgeRequest, *, scale: float
) -> list[dict[str, str]]:
  """The chat that asks for a verdict on a request whose thought is there.

  Args:
    template: of `read_template`.
    request: of which `thought_of` gives a text.
    scale: the score of a faultless thought.

  Returns:
    Messages as an OpenAI-compatible endpoint takes them; the same for the same
    arguments.
  """
  texts = {
    'request': request.user[-MAX_CHARS:],
    'tools': '\n'.join(_schema(tool) for tool in request.tools) or 'none',
    'thought': thought_of(request) or '',
    'answer': tool_calls.strip_thought(request.response).strip()[:MAX_CHARS],
  }
  # A lone half of a surrogate pair has no UTF-8.
  texts = {
    name: text.encode('utf-8', 'replace').decode()
    for name, text in texts.items()
  }
  texts |= {'fence': _fence(list(texts.values())), 'scale': f'{scale:g}'}
  # Cut before it is filled in: a text may hold that line, too.
  head, line, tail = template.partition(_BETWEEN)
  parts = {'system': head, 'user': tail} if line else {'user': head}
  return [
    {'role': role, 'content': string.Template(part).substitute(texts).strip()}
    for role, part in parts.items()
  ]


def _schema(tool: types.Tool) -> str:
  return json.dumps(tool.to_json(), ensure_ascii=False, default=str)


def _fence(texts: Sequence[str]) -> str:
  """A mark that none of the texts holds: a hash of all of them."""
  number = 0
  while True:
    data = json.dumps([number, *texts]).encode()
    mark = hashlib.sha256(data).hexdigest()[:16]
    if not any(mark in text for text in texts):
      return mark
    number += 1


def parse_reply(text: object, *, scale: float) -> Verdict | None:
  """Reads `{"reason": "..", "score": ..}` and nothing beside it.

  Let through is what models and servers are used to writing around it: a fence
  in any language, or an end of one; a thought before it, if need be without the
  tag that opens it; control characters and line breaks within strings; a byte
  order mark.

  Args:
    text: the reply, anything.
    scale: the best score.

  Returns:
    The verdict, or None for anything else: other text around the object, a
    score that is no number or outside of [0, scale], no reason.
  """
  if not isinstance(text, str) or len(text) > tool_calls.MAX_CHARS:
    return None
  # The whole first: a reason may mention such a tag. Then, as a thought may,
  # what follows each.
  ends = itertools.islice(_THOUGHT_ENDS.finditer(text), _MAX_THOUGHT_ENDS)
  for start in (0, *(found.end() for found in ends)):
    verdict = _read_verdict(_unfenced(text[start:]), scale)
    if verdict is not None:
      return verdict
  return None


def _unfenced(text: str) -> str:
  text = text.strip(_SPACE)
  opened = _OPENED.match(text)
  text = text[opened.end() :] if opened else text
  return text.rstrip(_SPACE + _FENCES).lstrip(_SPACE)


def _read_verdict(text: str, scale: float) -> Verdict | None:
  if not text.startswith('{'):
    return None
  # White space in JSON, or a slip within a string.
  values = tool_calls.parse_json_lines(_CONTROL.sub(' ', text))
  if isinstance(values, tool_calls.ParseFailure):
    return None
  (value,) = values
  if not isinstance(value, dict) or not isinstance(value.get('reason'), str):
    return None
  score = value.get('score')
  # A bool is an int to Python.
  if isinstance(score, bool) or not isinstance(score, int | float):
    return None
  if not 0 <= score <= scale:
    return None
  return Verdict(score / scale, value['reason'])
