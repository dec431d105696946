"""A page to browse failures in: one file, opened without a server.

What a model wrote is shown as text, whatever it holds: everything is escaped,
and the page forbids itself to load anything or to run any other script.
"""

import base64
import collections
import hashlib
import html
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from awpo_jax.evaluation import results as results_lib
from awpo_jax.reporting import json_text
from awpo_jax.rollout.text import tool_calls

MAX_FAILURES = 2000
_MAX_TEXT = 20_000
_SHOWN_CONTROLS = '\n\t'

_STYLE = """\
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 70em; }
details { border-top: 1px solid #ccc; padding: .4em 0; }
summary { cursor: pointer; }
summary span { color: #a00; margin-left: 1em; }
pre { background: #f4f4f4; padding: .6em; white-space: pre-wrap;
  overflow-wrap: anywhere; }
h3 { font-size: 1em; margin: .8em 0 .2em; }
select { margin-right: 1em; }
[hidden] { display: none; }
"""
_SCRIPT = """\
const choices = [...document.querySelectorAll('select')];
const rows = [...document.querySelectorAll('details')];
function show() {
  for (const row of rows)
    row.hidden = choices.some(
      c => c.value && row.dataset[c.name] !== c.value);
  document.querySelector('output').textContent =
    rows.filter(row => !row.hidden).length;
}
for (const choice of choices) choice.addEventListener('change', show);
show();
"""


def failures_page(title: str, scored: Iterable[results_lib.Scored]) -> str:
  """The page of all wrong answers, by category and by what is wrong.

  Args:
    title: of the page.
    scored: all rows; of more than `MAX_FAILURES` wrong answers the first ones
      are shown, and the page says so.
  """
  wrong = [
    (each, sample, result)
    for each in scored
    for sample, result in enumerate(each.results)
    if not result.correct
  ]
  shown = wrong[:MAX_FAILURES]
  categories = collections.Counter(x.item.category for x, _, _ in shown)
  kinds = collections.Counter(str(result.error) for _, _, result in shown)
  digest = hashlib.sha256(_SCRIPT.encode()).digest()
  policy = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-"
    f"{base64.b64encode(digest).decode()}'"
  )
  body = [
    f'<h1>{_text(title)}</h1>',
    f'<p>{len(wrong)} wrong answers'
    + (
      f', of which the first {len(shown)} are here' * (len(shown) < len(wrong))
    )
    + '. ',
    _choice('category', categories),
    _choice('error', kinds),
    'Shown: <output></output></p>',
    *(_failure(*each) for each in shown),
  ]
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    f'<title>{_text(title)}</title>\n<style>\n{_STYLE}</style></head><body>\n'
    + '\n'.join(body)
    + f'\n<script>{_SCRIPT}</script></body></html>\n'
  )


def _choice(name: str, counts: Mapping[str, int]) -> str:
  options = ''.join(
    f'<option value="{_text(key)}">{_text(key)} ({count})</option>'
    for key, count in sorted(counts.items())
  )
  return (
    f'<label>{name} <select name="{name}"><option value="">all</option>'
    f'{options}</select></label>'
  )


def _failure(each: results_lib.Scored, sample: int, result) -> str:
  item, answers = each.item, each.answers[sample]
  number = f' #{sample + 1}' if len(each.results) > 1 else ''
  parts = [
    _part(message['role'], message['content']) for message in item.talk.messages
  ]
  if item.talk.tools:
    parts.append(_part('tools', _json(item.talk.tools)))
  # Only answers of an episode have replies.
  replies = result.replies or itertools.repeat(())
  for answer, replied in zip(answers, replies, strict=False):
    rest = tool_calls.strip_thought(answer)
    thought = answer.removesuffix(rest).strip()
    if thought:
      thought = thought.removeprefix('<think>').removesuffix('</think>')
      parts.append(_part('thought', thought.strip()))
    parts.append(_part('answer', rest.strip() if thought else rest))
    parts += [_part(role, text) for role, text in replied]
  parts += [
    _part('read in it', _json(result.decoded)),
    _part('expected', _json(item.expected)),
    *([_part('verdict', result.reason)] if result.reason else []),
  ]
  return (
    f'<details data-category="{_text(item.category)}" '
    f'data-error="{_text(str(result.error))}"><summary>{_text(item.row_id)}'
    f'{number}<span>{_text(str(result.error))}</span></summary>'
    f'{"".join(parts)}</details>'
  )


def _part(title: str, text: str) -> str:
  return f'<h3>{_text(title)}</h3><pre>{_text(text)}</pre>'


def _json(value: Any) -> str:
  if isinstance(value, Sequence) and not isinstance(value, str):
    return '\n'.join(map(json_text.dumps, value)) or '[]'
  return json_text.dumps(value)


def _text(text: str) -> str:
  """Escaped for text and attributes; controls are made visible."""
  if len(text) > _MAX_TEXT:
    text = f'{text[:_MAX_TEXT]}\n[{len(text) - _MAX_TEXT} more characters]'
  text = ''.join(
    letter if letter.isprintable() or letter in _SHOWN_CONTROLS else '\ufffd'
    for letter in text
  )
  return html.escape(text)
