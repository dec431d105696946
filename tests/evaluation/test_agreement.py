"""Agreement of a judge with labels, by hand; transcripts read or refused."""

import json

import pytest

from awpo_jax import types
from awpo_jax.evaluation import agreement


def figures(scores, labels, threshold=0.5, label_threshold=3):
  return agreement.agreement(
    scores, labels, threshold=threshold, label_threshold=label_threshold
  )


def test_by_hand():
  # Ranks of the scores   4  2  3  1  and of the labels   3.5  2  3.5  1:
  # squared differences   1/4  0  1/4  0.  With means 2.5: covariance
  # 1.5 * 1 + (-.5)(-.5) + .5 * 1 + (-1.5)(-1.5) = 4.5; squares 5 and 4.5.
  got = figures([0.9, 0.3, 0.6, 0.2], [5, 4, 5, 1])
  assert got['spearman'] == pytest.approx(4.5 / (5 * 4.5) ** 0.5)
  # Good are 5, 4, 5; guessed good are the first and the third.
  assert got['accuracy'] == 0.75 and got['majority'] == 0.75
  assert got['mean'] == pytest.approx(0.5)
  # At another threshold all three are found, and at this label two are good.
  assert figures([0.9, 0.3, 0.6, 0.2], [5, 4, 5, 1], 0.25)['accuracy'] == 1
  got = figures([0.9, 0.3, 0.6, 0.2], [5, 4, 5, 1], 0.25, 5)
  assert got['accuracy'] == 0.75 and got['majority'] == 0.5


def test_only_what_has_both_is_compared():
  got = figures([None, 0.2, 0.8, 0.4], [5, None, 4, 2])
  assert (got['answers'], got['judged'], got['compared']) == (4, 3, 2)
  assert got['mean'] == pytest.approx(1.4 / 3)
  assert got['spearman'] == pytest.approx(1) and got['accuracy'] == 1


@pytest.mark.parametrize(
  ('scores', 'labels'),
  [
    ([None, None], [1, 2]),
    ([0.5, 0.6], [None, None]),
    ([0.5, 0.5], [1, 5]),
    ([0.5, 0.6], [2, 2]),
    ([0.5], [2]),
  ],
)
def test_what_is_not_defined(scores, labels):
  got = figures(scores, labels)
  assert got['spearman'] is None
  assert (got['accuracy'] is None) == (got['compared'] == 0)


TOOL = {'name': 'clock', 'description': 'Time.', 'parameters': {'city': {}}}
ROW = {'user': 'u', 'tools': [TOOL], 'response': 'r', 'label': 2, 'step': 5}


def read(tmp_path, *lines):
  file = tmp_path / 'rows.jsonl'
  file.write_text('\n'.join(lines))
  return agreement.read_transcripts(file)


def test_transcripts(tmp_path):
  plain = {'user': 'v', 'response': 's', 'outcome': None}
  first, second = read(tmp_path, json.dumps(ROW), '', json.dumps(plain), '')
  tool = types.Tool('clock', 'Time.', {'city': {}})
  assert first == (types.JudgeRequest('u', (tool,), 'r'), 2.0)
  assert second == (types.JudgeRequest('v', (), 's'), None)


@pytest.mark.parametrize(
  'line',
  [
    'no json',
    '[]',
    '{}',
    json.dumps({**ROW, 'user': 5}),
    json.dumps({**ROW, 'response': None}),
    json.dumps({**ROW, 'label': 'good'}),
    json.dumps({**ROW, 'label': float('nan')}),
    json.dumps({**ROW, 'tools': ['clock']}),
    json.dumps({**ROW, 'tools': [{'name': 'clock'}]}),
  ],
)
def test_what_is_no_transcript_is_named(tmp_path, line):
  with pytest.raises(ValueError, match='rows.jsonl, line 2 is no transcript'):
    read(tmp_path, json.dumps(ROW), line)


def test_a_file_of_nothing(tmp_path):
  with pytest.raises(ValueError, match='holds no transcripts'):
    read(tmp_path, '')
