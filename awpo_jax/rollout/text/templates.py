"""Chat templates rendered: on a fixed day, and what they open of an answer.

Some templates write `<think>` into the generation prompt, or a whole empty
thought. The policy goes on behind it, so that the tokens it samples are not the
whole answer. Everybody who reads an answer reads all of it (`complete`);
what is put behind such a prompt leaves out what stands there already
(`continued`).
"""

import datetime
import functools
import json
import os
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import transformers

OPEN, CLOSE = '<think>', '</think>'
# Templates that know the date write today's unless they are given one: a run's
# prompts would change overnight. This is the one that Llama's fall back on.
DATE = '2024-07-26'

_ASK = ({'role': 'user', 'content': 'x'},)
_ANSWER = 'awpo_answer'
_AT_END = re.compile(rf'{OPEN}\s*(?:{CLOSE}\s*)?\Z')
_OPENED_LAST = re.compile(rf'{OPEN}\s*\Z')
# transformers gives templates a function that reads the clock, and turns any
# function that it is given for them into text: only a template can hide the
# clock from itself. A macro is found before a global of its name; `+` leaves
# the template's own first line as it is.
# `%%` stands aside until the other directives are replaced.
_CLOCK = r"""
{%- macro strftime_now(format) -%}
{%- set day = namespace(text=format | replace('%%', '\0')) -%}
{%- for directive, value in DIRECTIVES if directive in format -%}
{%- set day.text = day.text | replace(directive, value) -%}
{%- endfor -%}
{{- day.text | replace('\0', '%') -}}
{%- endmacro +%}"""


def parse_date(text: str) -> datetime.date:
  """The day that `--template_date` names.

  Raises:
    ValueError: it is no day in the form 2024-07-26.
  """
  problem: ValueError | None = None
  if re.fullmatch(r'[0-9]{4}-[0-9]{2}-[0-9]{2}', text):
    try:
      return datetime.date.fromisoformat(text)
    except ValueError as error:  # The 31st of a shorter month, say.
      problem = error
  raise ValueError(
    f'--template_date={text}: expected a day of the calendar as year, month '
    f'and day, {DATE}, for example.'
  ) from problem


@functools.lru_cache
def _clock(date: str) -> str:
  """A `strftime_now` in front of a template: it is midnight of that day."""
  midnight = datetime.datetime.combine(parse_date(date), datetime.time())
  names = [f'%{x}{y}' for x in ('', *'-_0^#EO') for y in string.ascii_letters]
  told = [(name, midnight.strftime(name)) for name in names]
  return _CLOCK.replace('DIRECTIVES', json.dumps(told))


def _source(tokenizer, tools, date: str) -> str:
  """The chat template, its clock stopped where it has one."""
  text = tokenizer.get_chat_template(tools=tools)
  return _clock(date) + text if 'strftime_now' in text else text


def apply(
  tokenizer: 'transformers.PreTrainedTokenizerBase',
  messages: Sequence[Mapping[str, Any]],
  *,
  tools: Sequence[Mapping[str, Any]] | None = None,
  enable_thinking: bool | None = None,
  date: str = DATE,
  add_generation_prompt: bool = True,
  **options: Any,
) -> Any:
  """`apply_chat_template` of the tokenizer, the same on every day.

  Args:
    tokenizer: with a chat template.
    messages: with `role` and `content`, as OpenAI's API has them; an answer's
      content is the whole answer, also where the template opens its thought.
    tools: JSON schemas; None or empty: none.
    enable_thinking: given to the template; None leaves it to the template.
    date: what every clock of the template says, as 2024-07-26.
    add_generation_prompt: whether the head of the assistant's turn follows.
    **options: `tokenize` and what else `apply_chat_template` takes.

  Raises:
    ValueError: the template refuses the conversation, or `date` is none.
  """
  import jinja2  # Programs that render nothing, on a GPU say, run without it.

  tools = list(tools) if tools else None
  options |= {
    'tools': tools,
    'chat_template': _source(tokenizer, tools, date),
    'date_string': parse_date(date).strftime('%d %b %Y'),
  }
  if enable_thinking is not None:
    options['enable_thinking'] = enable_thinking
  render: Callable[..., Any] = functools.partial(
    tokenizer.apply_chat_template, **options
  )
  try:
    return render(
      _told(messages, functools.partial(render, tokenize=False)),
      add_generation_prompt=add_generation_prompt,
    )
  except jinja2.TemplateError as error:
    raise ValueError(
      f'the chat template refuses the conversation: {error}'
    ) from error


def _told(messages, render) -> list[Mapping[str, Any]]:
  """Messages without the tag that the template writes before every answer."""
  if not any(map(_has_thought, messages)):
    return list(messages)
  answer = {'role': 'assistant', 'content': _ANSWER}
  before = render([*_ASK, answer, *_ASK]).partition(_ANSWER)[0]
  if not (found := _OPENED_LAST.search(before)):
    return list(messages)
  return [
    {**m, 'content': continued(found[0], m['content'])}
    if _has_thought(m)
    else m
    for m in messages
  ]


def _has_thought(message: Mapping[str, Any]) -> bool:
  content = message.get('content')
  return (
    message.get('role') == 'assistant'
    and isinstance(content, str)
    and content.lstrip().startswith(OPEN)
  )


def opened(
  tokenizer: 'transformers.PreTrainedTokenizerBase',
  messages: Sequence[Mapping[str, Any]] = _ASK,
  **options: Any,
) -> str:
  r"""The part of an answer that the generation prompt already holds.

  Args:
    tokenizer: with a chat template; without one nothing is opened.
    messages: what is to be answered; a template may open some answers only.
    **options: `tools`, `enable_thinking` and `date`, as of `apply`.

  Returns:
    The generation prompt from its first `<think>` on: `<think>\n`, say, or
    `<think>\n\n</think>\n\n` where thinking is turned off; '' without one.

  Raises:
    ValueError: the template refuses the conversation.
  """
  if not tokenizer.chat_template:
    return ''
  options['tokenize'] = False
  text = apply(tokenizer, messages, **options)
  try:
    without = apply(tokenizer, messages, add_generation_prompt=False, **options)
  except ValueError:
    without = text
  if text == without:  # The template always writes the head of a turn.
    found = _AT_END.search(text)
    return found[0] if found else ''
  shared = len(os.path.commonprefix([text, without]))
  start = text.find(OPEN, max(0, shared - len(OPEN) + 1))
  return '' if start < 0 else text[start:]


def is_thinking(opened: str) -> bool:
  """Whether an answer goes on inside the thought that was opened."""
  return opened.rfind(OPEN) > opened.rfind(CLOSE)


def writes_own(text: str) -> bool:
  """Whether sampled text has a thought of its own, opened by the policy."""
  return text.lstrip().startswith(OPEN)


def may_open(text: str) -> bool:
  """Whether sampled text may still begin with a tag when it is longer."""
  text = text.lstrip()
  return len(text) < len(OPEN) and OPEN.startswith(text)


def complete(opened: str, text: str) -> str:
  r"""The whole answer, its tag once.

  Args:
    opened: of the function of that name.
    text: of the sampled tokens. What begins with `<think>` is an answer by
      itself: the policy wrote the tag again.

  Returns:
    Both together; `</think>` of an empty thought is followed by one line end,
    as in the layout, whatever number of them the template writes.
  """
  if not opened or writes_own(text):
    return text
  if not is_thinking(opened):
    opened = re.sub(r'\s+\Z', '\n', opened)
  return opened + text


def continued(opened: str, answer: str) -> str:
  r"""The part of a whole answer that is not yet in its prompt.

  `complete(opened, continued(opened, answer))` has the thought, the calls and
  the reply of `answer`.

  Args:
    opened: of the function of that name.
    answer: an answer to imitate. One without a thought closes the one that is
      open at once; behind an empty thought one with a thought stays whole.
  """
  if not opened:
    return answer
  if answer.startswith(opened):
    return answer[len(opened) :]
  if not is_thinking(opened):
    return re.sub(rf'\A\s*{OPEN}\s*{CLOSE}\s*', '', answer)
  if not writes_own(answer):
    return f'{CLOSE}\n{answer}'
  rest = answer.partition(OPEN)[2]
  return rest.lstrip() if opened[-1].isspace() else rest
