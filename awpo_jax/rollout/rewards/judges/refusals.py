"""Refusals of an endpoint: what they say, and whether they end a run.

The words are the endpoint's own and not to be trusted: they are cut, and the
API key is taken out of them, also where only a part of it is told.
"""

import email.utils
import http
import json
import re
import time
from collections.abc import Mapping
from typing import Any

KEY_VARIABLE = 'AWPO_JUDGE_API_KEY'
# What may be otherwise when it is asked again; so may every status from 500.
RETRIED = frozenset(
  {
    http.HTTPStatus.REQUEST_TIMEOUT,
    http.HTTPStatus.CONFLICT,
    http.HTTPStatus.TOO_EARLY,
    http.HTTPStatus.TOO_MANY_REQUESTS,
  }
)
_SENT = (
  'it does not take what it is sent: --judge_format, --judge_token_limit_name '
  'and --judge_omit change that, --judge_reply_tokens and --judge_prompt its '
  'size'
)
_REMEDIES: Mapping[int, str] = {
  400: _SENT,
  401: f'set {KEY_VARIABLE} to a key that it accepts',
  403: f'set {KEY_VARIABLE} to a key that may use --judge_model',
  404: 'correct --judge_url (it ends in /v1, mostly) or --judge_model',
  422: _SENT,
}
# Codes and wordings of refusals that are about the text of one request.
_OF_ONE = re.compile(
  r'context[ _-]?(length|window|size)|too[ _]long|exceed_context'
  r'|string_above_max_length|content[ _](filter|policy|management)'
  r'|responsible_?ai|data_inspection|invalid_prompt',
  re.IGNORECASE,
)
# Words about the form of a reply. Servers that do not know what is asked for
# say so with status 400, 422 or 500.
_OF_FORM = re.compile(r'response_?format|json_?schema', re.IGNORECASE)
_MAX_READ = 4000
_MAX_SHOWN = 400
_HIDDEN = '[key]'
# A key behind its scheme, and one of the usual form.
_KEYS = re.compile(
  r'\b(bearer|basic)[ :=]+[^\s"\',;]+|\bsk-[\w*.\u2026-]+', re.IGNORECASE
)
# A word that is told in part. Where one begins is said, or it would be looked
# for from each of its letters on.
_ELIDED = re.compile(r'(?<![\w-])[\w-]*(?:\*{2,}|\.{3}|\u2026)[\w*.\u2026-]*')
# Parts of a key that tell something of it: anywhere, and beside what is left
# out.
_PART, _END = 6, 3


def remedy(status: int) -> str:
  """What to change where an endpoint refuses every call with a status."""
  return _REMEDIES.get(status, 'it refuses the request: mend what it says')


def of_one_request(status: int, words: str) -> bool:
  """Whether the text of this request is what is refused, not all requests.

  Args:
    status: HTTP status.
    words: of `words`.
  """
  return status == 413 or (status in (400, 422) and bool(_OF_ONE.search(words)))


def of_form(words: str) -> bool:
  """Whether the form that was asked for is what an error tells of.

  Args:
    words: of `words`.
  """
  return bool(_OF_FORM.search(words))


def remedy_of_form(name: str) -> str:
  """What to change where an endpoint refuses a value of --judge_format."""
  return (
    f'it does not take --judge_format={name}: name another one (schema is that '
    'of most servers, json_with_schema that of llama-cpp-python), or none'
  )


def words(body: Any, text: str = '') -> str:
  """What a refusal says, on one line, as yet with any keys in it.

  Args:
    body: JSON of the answer, or the `error` in it; None where it has none.
    text: the answer as it came.
  """
  if isinstance(body, Mapping) and isinstance(body.get('message'), str):
    said = body['message']
    for name in ('param', 'code', 'type'):
      value = body.get(name)
      if isinstance(value, str) and value not in said:
        said += f' ({name}: {value})'
  elif body is None or body == '' or isinstance(body, str):
    said = body or text
  else:
    said = json.dumps(body, default=str, ensure_ascii=False)
  said = ''.join(x if x.isprintable() else ' ' for x in said[:_MAX_READ])
  return ' '.join(said.split())


def shown(said: str, key: str) -> str:
  """Words of an endpoint as they may be shown: cut, and without the key.

  Args:
    said: anything.
    key: what was sent; empty for none.
  """
  said = _KEYS.sub(_HIDDEN, _without(said[:_MAX_READ], key))
  said = _ELIDED.sub(lambda found: _unless_of(key, found[0]), said)
  return said if len(said) <= _MAX_SHOWN else said[:_MAX_SHOWN] + '...'


def _without(text: str, key: str) -> str:
  """A text without the parts of it that are parts of the key, too."""
  size = min(len(key), _PART)
  if not size:
    return text
  secret, lower = key.lower(), text.lower()
  if len(lower) != len(text):  # A letter whose small form is two.
    text = lower
  parts = {secret[i : i + size] for i in range(len(secret) - size + 1)}
  pieces, at = [], 0
  while at < len(text):
    end = at
    while lower[end : end + size] in parts:
      end += 1
    if end > at:
      pieces.append(_HIDDEN)
      at = end - 1 + size
    else:
      pieces.append(text[at])
      at += 1
  return ''.join(pieces)


def _unless_of(key: str, word: str) -> str:
  """A word that is told in part, unless it may be the key."""
  ends = key[:_END].lower(), key[-_END:].lower()
  of_key = len(key) >= _END and any(end in word.lower() for end in ends)
  return _HIDDEN if of_key or '**' in word else word


def retry_after(header: str | None) -> float | None:
  """Seconds that a `Retry-After` asks for, in seconds or as a date.

  Args:
    header: the value, anything.

  Returns:
    At least 0; None where there is none or it cannot be read.
  """
  try:
    seconds = float(header or '')
  except ValueError:
    date = email.utils.parsedate_tz(header or '')
    if date is None:
      return None
    try:
      seconds = email.utils.mktime_tz(date) - time.time()
    except (ValueError, OverflowError):
      return None
  return max(seconds, 0.0) if seconds == seconds else None
