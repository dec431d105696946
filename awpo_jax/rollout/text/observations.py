"""What comes back from tools, as tokens that an episode goes on with.

The text between two turns of the policy is what the chat template writes there:
in RLLA's style a turn of the user with `<obs> .. </obs>` or `<user> .. </user>`
in it, in the template's own style a message of the role `tool` or `user` for
each. Its tokens follow the stop token that the policy chose.
"""

import re
from collections.abc import Sequence

import numpy as np

from awpo_jax.rollout.text import chat_template, templates, tokenizers

_ANSWER = 'awpo_answer'
_TAGS = ('think', 'tool_call', 'response', 'user', 'obs')
_CUT = ' ...'
# Of the longest token there may be: more would not fit, whatever they say.
_CHARS_PER_TOKEN = 16


class Reader:
  """Encodes observations for one tokenizer and style."""

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    stop_ids: Sequence[int],
    style: chat_template.Style,
    limit: int,
  ):
    """Checks that the template can go on after an answer.

    Args:
      tokenizer: with a chat template.
      stop_ids: tokens that end a turn.
      style: of the prompts.
      limit: So, the most tokens between two turns.

    Raises:
      ValueError: the template does not render such messages, does not end an
        answer with a stop token, or needs more than `limit` tokens for nothing.
    """
    self._tokenizer, self._stop_ids = tokenizer, frozenset(stop_ids)
    self._style, self.limit = style, limit
    self._markup = _markup(tokenizer)
    for role in ('obs', 'user'):
      length = len(self._ids([(role, _CUT)]))
      if length > limit:
        raise ValueError(
          f'--observation_tokens={limit}: the markup around an observation '
          f'alone takes {length} tokens; raise it.'
        )

  def encode(self, observations: Sequence[tuple[str, str]]) -> np.ndarray:
    """Tokens of observations and of the head of the next turn.

    Args:
      observations: role and text each, at least one. Markup in a text is made
        to be none; what has no room is cut, of the longest text first.

    Returns:
      i32[n], n at most `limit`; empty where there are more observations than
      have room for a single word each.
    """
    # What has no room anyway is not even looked at.
    most = _CHARS_PER_TOKEN * self.limit
    whole = [(role, self._inert(text[:most])) for role, text in observations]
    kept = [len(text) for _, text in whole]
    while True:
      shown = [
        (role, text if n == len(text) else text[:n] + _CUT)
        for (role, text), n in zip(whole, kept, strict=True)
      ]
      ids = self._ids(shown)
      if len(ids) <= self.limit:
        return np.asarray(ids, np.int32)
      longest = max(range(len(kept)), key=kept.__getitem__)
      if not kept[longest]:
        return np.zeros(0, np.int32)
      # Rather too little, several times, than too much once.
      per_token = max(1.0, kept[longest] / len(ids))
      over = 1 + int(0.7 * per_token * (len(ids) - self.limit))
      kept[longest] = max(0, kept[longest] - over)

  def opened(self, observations: Sequence[tuple[str, str]]) -> str:
    """What `encode` holds of the next answer; see `templates.opened`."""
    return templates.opened(
      self._tokenizer,
      self._talk([(role, 'x') for role, _ in observations]),
      **self._style.options(),
    )

  def _ids(self, observations) -> list[int]:
    text = chat_template.render(
      self._tokenizer,
      self._talk(observations),
      **self._style.options(),
    )
    rest = text.partition(_ANSWER)[2]
    ids = self._tokenizer.encode(rest, add_special_tokens=False)
    stops = [i for i, token in enumerate(ids) if token in self._stop_ids]
    if not stops:
      raise ValueError(
        'the chat template writes no stop token after an answer: it cannot go '
        'on after one. Leave --environment out, or use another tokenizer.'
      )
    return ids[stops[0] + 1 :]

  def _talk(self, observations) -> list[dict[str, str]]:
    return [
      {'role': 'user', 'content': 'x'},
      {'role': 'assistant', 'content': _ANSWER},
      *self._messages(observations),
    ]

  def _messages(self, observations) -> list[dict[str, str]]:
    if self._style.prompt_style == 'template':
      roles = {'obs': 'tool', 'user': 'user'}
      return [
        {'role': roles[role], 'content': text} for role, text in observations
      ]
    content = '\n'.join(
      f'<{role}> {text} </{role}>' for role, text in observations
    )
    return [{'role': 'user', 'content': content}]

  def _inert(self, text: str) -> str:
    """The text with its markup broken by a space, so that it is only text."""
    while broken := self._markup.sub(lambda m: f'{m[0][0]} {m[0][1:]}', text):
      if broken == text:
        break
      text = broken
    return text


def _markup(tokenizer: tokenizers.Tokenizer) -> re.Pattern[str]:
  """Special tokens of the tokenizer and tags of the layout."""
  added = tokenizer.added_tokens_decoder.values()
  special = {token.content for token in added if token.special}
  special |= set(tokenizer.all_special_tokens)
  special |= {f'<{end}{tag}>' for tag in _TAGS for end in ('', '/')}
  longest_first = sorted(special, key=len, reverse=True)
  return re.compile('|'.join(re.escape(x) for x in longest_first if len(x) > 1))
