"""Rows of `transcripts.jsonl`: their tools, turns, and messages of a chat.

What a model wrote is data: it is parsed within the bounds of `tool_calls`, and
what cannot be read stays the text that it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax import types
from awpo_jax.rollout.text import tool_calls

Json = dict[str, Any]


class Turn(NamedTuple):
  """An answer of the policy, and what came back.

  Attributes:
    thought: '' where it has none.
    reply: what it says beside its calls; of a text that cannot be read, all.
    calls: an id, unique in the transcript, with each call.
    observations: role (`obs` or `user`) and text of each.
  """

  thought: str
  reply: str
  calls: Sequence[tuple[str, tool_calls.ToolCall]]
  observations: Sequence[tuple[str, str]]

  def results(self) -> list[tuple[str | None, str]]:
    """Results with the ids of their calls; None where the numbers differ."""
    given = [text for role, text in self.observations if role != 'user']
    ids = [name for name, _ in self.calls]
    fit = len(given) == len(ids)
    return list(zip(ids if fit else [None] * len(given), given, strict=True))

  def said(self) -> list[str]:
    """What the user says next."""
    return [text for role, text in self.observations if role == 'user']


def turns(row: Mapping[str, Any], *, limit: int) -> list[Turn]:
  """The turns of a transcript; an answer without an episode is one.

  Args:
    row: of `transcripts.jsonl`.
    limit: characters of a text; what is longer is cut, and says so.

  Raises:
    ValueError: it is no row of a transcript.
  """
  try:
    played = (
      row['episode']['turns']
      if 'episode' in row
      else [{'text': row['response'], 'observations': ()}]
    )
    return [_turn(number, x, limit) for number, x in enumerate(played, 1)]
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise ValueError(
      f'not a transcript ({error!r:.80}): {row!r:.80}'
    ) from error


def _turn(number: int, written: Mapping[str, Any], limit: int) -> Turn:
  text = written['text']
  answer = tool_calls.parse(text)
  if isinstance(answer, tool_calls.ParseFailure):
    answer = tool_calls.Answer('', (), text)
  thought, reply = answer.thought, answer.response
  if thought is None:  # The chat template has opened it.
    thought = text.rpartition('</think>')[0].strip()
  if reply is None:
    before, _, rest = tool_calls.strip_thought(text).partition('<tool_call>')
    reply = (before + rest.partition('</tool_call>')[2]).strip()
  return Turn(
    cut(thought, limit),
    cut(reply, limit),
    [(f'call_{number}_{i}', call) for i, call in enumerate(answer.calls, 1)],
    [(str(role), cut(said, limit)) for role, said in written['observations']],
  )


def tools_of(row: Mapping[str, Any]) -> tuple[types.Tool, ...]:
  """The tools that a transcript offers; none where it names none.

  Raises:
    ValueError: they are no tools.
  """
  try:
    return tuple(
      types.Tool(x['name'], x['description'], dict(x['parameters']))
      for x in row.get('tools', ())
    )
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise ValueError(f'tools of a transcript: {error!r:.80}') from error


def cut(text: str, limit: int) -> str:
  """A text of at most so many characters, and how many are left out.

  Half a surrogate pair, which no UTF-8 holds, becomes `?`.
  """
  left = len(text) - limit
  text = text[:limit].encode('utf-8', 'replace').decode('utf-8')
  return text if left <= 0 else f'{text}... ({left} more characters)'


def chat(row: Mapping[str, Any], *, limit: int) -> list[Json]:
  """A transcript as messages with `tool_calls`, as OpenAI's API has them.

  Args, raises: as `turns`.
  """
  made: list[Json] = [
    {'role': 'user', 'content': cut(str(row.get('user', '')), limit)}
  ]
  for turn in turns(row, limit=limit):
    answer: Json = {'role': 'assistant', 'content': turn.reply}
    if turn.thought:
      answer['reasoning_content'] = turn.thought
    if turn.calls:
      answer['tool_calls'] = [
        {
          'id': name,
          'type': 'function',
          'function': {
            'name': call.name,
            'arguments': cut(json.dumps(call.parameters), limit),
          },
        }
        for name, call in turn.calls
      ]
    made.append(answer)
    for name, text in turn.results():
      made.append({'role': 'tool', 'tool_call_id': name, 'content': text})
    made += [{'role': 'user', 'content': text} for text in turn.said()]
  return made
