"""Results on disk: in the leaderboard's layout, in ours, and as a page.

The page shows failures: one file, opened without a server. What a model wrote
is shown as text, whatever it holds: everything is escaped, and the page forbids
itself to load anything or to run any other script.
"""

import base64
import collections
import hashlib
import html
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from awpo_jax.evaluation import answers as answers_lib
from awpo_jax.evaluation import benchmarks
from awpo_jax.evaluation import items as items_lib
from awpo_jax.evaluation.bfcl import multi_turn
from awpo_jax.reporting import files, json_text
from awpo_jax.rollout.text import tool_calls

SETTINGS_FILE = 'evaluation.json'
ANSWERS_FILE = 'answers.jsonl'
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


class Scored(NamedTuple):
  """A row with its answers and what they are worth, sample by sample."""

  item: items_lib.Item
  answers: tuple[tuple[str, ...], ...]
  results: tuple[items_lib.Result, ...]


def score(
  items: Sequence[items_lib.Item],
  texts: Mapping[answers_lib.Key, tuple[str, ...]],
  samples: int,
) -> list[Scored]:
  """Scores the answers of all rows, `texts` being those of `Answers`.

  Raises:
    ValueError: a row has not been answered.
  """
  scored = []
  for item in items:
    keys = [answers_lib.Key(item.row_id, sample) for sample in range(samples)]
    missing = [key for key in keys if key not in texts]
    if missing:
      raise ValueError(f'no answer to {missing[0]}')
    # A row that could not be asked is answered by no text.
    each = tuple(texts[key] or ('',) for key in keys)
    results = tuple(item.score(x, g) for g, x in enumerate(each))
    scored.append(Scored(item, each, results))
  return scored


def too_long(
  scored: Sequence[Scored], texts: Mapping[answers_lib.Key, tuple[str, ...]]
) -> list[str]:
  """Rows whose prompts were too long, at once or in a later turn."""
  return [
    each.item.row_id
    for each in scored
    if not texts[answers_lib.Key(each.item.row_id, 0)]
    or each.results[0].error == multi_turn.UNFINISHED
  ]


def by_category(scored: Iterable[Scored]) -> dict[str, np.ndarray]:
  """Category -> bool[rows, samples], whether right."""
  rows = collections.defaultdict(list)
  for each in scored:
    rows[each.item.category].append([x.correct for x in each.results])
  return {name: np.array(values, bool) for name, values in rows.items()}


def errors(scored: Iterable[Scored]) -> dict[str, dict[str, int]]:
  """Category -> what is wrong -> in how many answers, most often first."""
  counts: dict[str, collections.Counter[str]] = collections.defaultdict(
    collections.Counter
  )
  for each in scored:
    for result in each.results:
      if not result.correct:
        counts[each.item.category][str(result.error)] += 1
  return {name: dict(each.most_common()) for name, each in counts.items()}


def group(category: str) -> str:
  """Folder of a category in the leaderboard's layout."""
  if category.startswith('multi_turn'):
    return 'multi_turn'
  return 'live' if category.startswith('live_') else 'non_live'


def write_leaderboard(
  folder: pathlib.Path, model: str, scored: Sequence[Scored]
) -> None:
  """`result/` and `score/` files of BFCL, of the first sample of each row.

  An answer stands as Qwen's tool template would have it, since that keeps
  names and JSON values as they are: `bfcl evaluate` reads it under the name of
  a model with that handler, e.g. Qwen/Qwen3-8B-FC.

  Args:
    folder: where both go.
    model: name of the model; a slash becomes an underscore, as upstream has it.
    scored: all rows.
  """
  categories = collections.defaultdict(list)
  for each in scored:
    categories[each.item.category].append(each)
  for category, rows in categories.items():
    place = pathlib.Path(model.replace('/', '_'), group(category))
    name = f'BFCL_v4_{category}'
    write_lines(
      folder / 'result' / place / f'{name}_result.json',
      [{'id': x.item.row_id, 'result': _written(x)} for x in rows],
    )
    right = sum(x.results[0].correct for x in rows)
    head = {
      'accuracy': right / len(rows),
      'correct_count': right,
      'total_count': len(rows),
    }
    write_lines(
      folder / 'score' / place / f'{name}_score.json',
      [head, *(_failure(x, model) for x in rows if not x.results[0].correct)],
    )


def _written(each: Scored) -> str | list[list[str]]:
  """The answer; of several turns the steps of each turn of the user."""
  result, texts = each.results[0], each.answers[0]
  if not each.item.multi_turn:
    return benchmarks.written_calls(result.decoded, texts[0])
  if result.error == multi_turn.UNFINISHED:
    return f'Error during inference: {result.reason}'
  rest = iter(texts)
  return [
    [benchmarks.written_calls(calls, next(rest)) for calls in turn]
    for turn in result.decoded
  ]


def _failure(each: Scored, model: str) -> dict[str, Any]:
  item, result = each.item, each.results[0]
  error: dict[str, Any] = {'error_type': result.error}
  if item.multi_turn:
    error = {'error': {'error_message': [result.reason], **error}}
  return {
    'id': item.row_id,
    'model_name': model,
    'test_category': item.category,
    'valid': False,
    **error,
    'prompt': [dict(message) for message in item.talk.messages],
    'model_result_raw': list(each.answers[0]),
    'model_result_decoded': result.decoded,
    'possible_answer': item.expected,
  }


def write_lines(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """JSON Lines; the file is there whole or not at all."""
  write_text(path, ''.join(json_text.dumps(row) + '\n' for row in rows))


def write_text(path: pathlib.Path, text: str) -> None:
  """A text file, there whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # Half a surrogate pair, which no UTF-8 has, ends no evaluation.
  files.write_whole(path, text, errors='backslashreplace')


def failures_page(title: str, scored: Iterable[Scored]) -> str:
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
    *(_section(*each) for each in shown),
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


def _section(each: Scored, sample: int, result) -> str:
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
