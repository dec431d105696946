"""Results on disk, in the leaderboard's own layout and in ours."""

import collections
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from awpo_jax.evaluation import answer_store, benchmarks
from awpo_jax.evaluation import items as items_lib
from awpo_jax.evaluation.bfcl import multi_turn
from awpo_jax.reporting import json_text


class Scored(NamedTuple):
  """A row with its answers and what they are worth, sample by sample."""

  item: items_lib.Item
  answers: tuple[tuple[str, ...], ...]
  results: tuple[items_lib.Result, ...]


def score(
  items: Sequence[items_lib.Item], answers: answer_store.Answers, samples: int
) -> list[Scored]:
  """Scores the answers of all rows.

  Raises:
    ValueError: a row has not been answered.
  """
  scored = []
  for item in items:
    keys = [answer_store.Key(item.row_id, sample) for sample in range(samples)]
    missing = [key for key in keys if key not in answers.texts]
    if missing:
      raise ValueError(f'no answer to {missing[0]}')
    # A row that could not be asked is answered by no text.
    texts = tuple(answers.texts[key] or ('',) for key in keys)
    results = tuple(item.score(x, g) for g, x in enumerate(texts))
    scored.append(Scored(item, texts, results))
  return scored


def too_long(
  scored: Sequence[Scored], answers: answer_store.Answers
) -> list[str]:
  """Rows whose prompts were too long, at once or in a later turn."""
  return [
    each.item.row_id
    for each in scored
    if not answers.texts[answer_store.Key(each.item.row_id, 0)]
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
  unfinished = path.with_name(path.name + '.tmp')
  # Half a surrogate pair, which no UTF-8 has, ends no evaluation.
  unfinished.write_text(text, encoding='utf-8', errors='backslashreplace')
  unfinished.rename(path)
