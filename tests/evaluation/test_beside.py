"""Answers of an earlier evaluation, written by hand, beside new ones."""

import dataclasses
import json

import numpy as np
import pytest

from awpo_jax.evaluation import beside, results, tables
from awpo_jax.evaluation import items as items_lib
from awpo_jax.rollout.text import chat_template
from tests.evaluation import test_answers

SETTINGS = {
  'style': ['short', None, '2024-07-26'],
  'policy': 'model',
  'model': 'after',
  'model_state': 'x',
  'prompt_style': 'auto',
  'max_tokens': 256,
  'limit': 3,
  'samples': 1,
}


def load(style):
  """Rows a, b and c; an answer is right if it is its row's in the style."""

  def score(name):
    return lambda texts, sample: items_lib.Result(
      texts[0] == f'{style.prompt_style} {name}', None
    )

  return [
    dataclasses.replace(
      test_answers.make_item(name, 'asked', category=category),
      score=score(name),
    )
    for name, category in (('a', 'x'), ('b', 'x'), ('c', 'y'))
  ]


@pytest.fixture
def earlier(tmp_path):
  """Writes an evaluation whose settings and answers are given."""

  def write(answers, **settings):
    place = tmp_path / 'before' / 'bench'
    place.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'before' / 'evaluation.json').write_text(
      json.dumps(SETTINGS | settings)
    )
    lines = [
      {'id': name, 'sample': g, 'answers': list(x), 'seconds': 1, 'tokens': 1}
      for name, g, x in answers
    ]
    (place / 'answers.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines)
    )
    return str(tmp_path / 'before')

  return write


def read(folder, items=None):
  items = items or load(chat_template.Style('short'))
  return beside.read(folder, 'bench', load, items, SETTINGS)


def now(*right):
  items = load(chat_template.Style('short'))
  return [
    results.Scored(item, (('',),), (items_lib.Result(bool(x), None),))
    for item, x in zip(items, right, strict=True)
  ]


def test_rows_are_paired_whatever_their_order(earlier):
  # As written then, in the style of then: c right, a right, b wrong.
  folder = earlier(
    [('c', 0, ['rlla c']), ('b', 0, ['short b']), ('a', 0, ['rlla a'])],
    style=['rlla', None, '2024-07-26'],
  )
  found = read(folder)
  right = {x.item.row_id: x.results[0].correct for x in found.scored}
  assert right == {'a': True, 'b': False, 'c': True}
  # a and b change places: 0 in the mean, and rows from -1 to 1. Not paired, or
  # paired in the order of the file, they would differ otherwise.
  got = beside.summary(
    now(False, True, True), found, tables.by_rows, resamples=500
  )
  assert got['folder'] == folder
  assert got['categories'] == {
    'x': {'value': 0, 'low': -1, 'high': 1},
    'y': {
      'value': 0,
      'low': pytest.approx(-0.79346, abs=1e-5),
      'high': pytest.approx(0.79346, abs=1e-5),
    },
  }
  got = beside.summary(
    now(True, False, True), found, tables.by_rows, resamples=500
  )
  assert got['categories']['x']['high'] < 1


def test_as_many_samples_as_every_row_has(earlier):
  # Of b there are two, whatever the last start of another benchmark was told.
  rows = [('a', 0), ('a', 1), ('a', 2), ('b', 0), ('b', 1), ('c', 0), ('c', 1)]
  answers = [(name, g, [f'short {name}' if g else '']) for name, g in rows]
  found = read(earlier(answers, samples=8))
  assert results.by_category(found.scored)['x'].tolist() == [[False, True]] * 2
  got = beside.summary(
    now(True, True, False), found, tables.by_rows, resamples=0
  )
  assert got['columns']['Overall']['value'] == pytest.approx(
    np.mean([0.5, 0.5, -0.5])
  )


def test_other_settings_are_told(earlier):
  answers = [(name, 0, []) for name in 'abc']
  folder = earlier(
    answers,
    style=['rlla', True, '2024-07-26'],
    prompt_style='auto',
    max_tokens=512,
    model='before',
    limit=9,
    flag_of_old=1,
  )
  # Which model answered is the point, and --limit may change.
  assert read(folder).other_settings == [
    "--prompt_style: 'rlla' then, 'short' now",
    '--max_tokens: 512 then, 256 now',
    '--enable_thinking: True then, None now',
  ]
  # The same prompts, one named and one by default.
  assert read(earlier(answers, prompt_style='short')).other_settings == []
  # A prompt that was too long is answered by nothing.
  assert not any(x.results[0].correct for x in read(folder).scored)


def test_what_is_missing_is_named(earlier, tmp_path):
  with pytest.raises(ValueError, match='has no evaluation.json: name the'):
    read(str(tmp_path / 'nowhere'))
  folder = earlier([('b', 0, ['']), ('c', 1, [''])])
  with pytest.raises(ValueError, match='no answer to 2 of 3 rows of bench, a'):
    read(folder)
  with pytest.raises(ValueError, match='has no answers to other: leave other'):
    beside.read(folder, 'other', load, load(chat_template.Style()), SETTINGS)


def test_other_rows_are_refused(earlier):
  folder = earlier([(name, 0, ['']) for name in 'abc'])
  items = load(chat_template.Style('short'))
  for other in (items[:2], items[::-1]):
    with pytest.raises(ValueError, match='3 rows of bench can be read, with'):
      read(folder, items=other)
