"""Agreement of a judge with labels, by hand; transcripts read or refused."""

import json

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.evaluation import judge_agreement


def figures(scores, labels, threshold=0.5, label_threshold=3):
  return judge_agreement.agreement(
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
  return judge_agreement.read_transcripts(file)


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


def separation(scores, labels, prompts):
  return judge_agreement.separation(scores, labels, prompts, label_threshold=1)


def test_separation_by_hand():
  # Good .9 and .4, bad .5, .4 and .1: won 3 + 1 and the half of a tie, of 6.
  # Prompt a: good .9 against .5 and .1; prompt b: good .4 against .4.
  scores, labels = [0.9, 0.5, 0.1, 0.4, 0.4], [1, 0, 0, True, False]
  got = separation(scores, labels, list('aaabb'))
  assert got['auc'] == pytest.approx(4.5 / 6)
  assert got['auc_within'] == pytest.approx(2.5 / 3)
  assert (got['prompts'], got['pairs_within']) == (2, 3)
  # Draws are aa, ab, ba and bb: within they are 1, 2.5 / 3 or 1 / 2.
  assert got['auc_within_low'] == 0.5 and got['auc_within_high'] == 1.0
  # aa: 1, bb: 1 / 2.
  assert got['auc_low'] == 0.5 and got['auc_high'] == 1.0


def test_separation_counts_every_pair():
  # Brute force over the pairs, in place of the ranks.
  rng = np.random.default_rng(3)
  scores = rng.integers(0, 20, 300) / 20
  labels, prompts = rng.integers(0, 2, 300), rng.integers(0, 40, 300)
  won = np.where(
    scores[:, None] == scores, 0.5, np.less(scores, scores[:, None])
  )
  pairs = (labels[:, None] == 1) & (labels == 0)
  same = pairs & (prompts[:, None] == prompts)
  got = separation(scores, labels, prompts)
  assert got['auc'] == pytest.approx(won[pairs].mean())
  assert got['auc_within'] == pytest.approx(won[same].mean())
  assert got['pairs_within'] == same.sum()
  assert got['auc_low'] < got['auc'] < got['auc_high']


@pytest.mark.parametrize(
  ('scores', 'labels', 'prompts'),
  [
    ([], [], []),
    ([0.5, None], [None, 1], ['a', 'a']),
    ([0.5, 0.2], [1, 1], ['a', 'a']),
  ],
)
def test_separation_of_nothing(scores, labels, prompts):
  got = separation(scores, labels, prompts)
  assert got['auc'] is got['auc_low'] is got['auc_within'] is None
  assert got['pairs_within'] == 0


def test_separation_without_pairs_of_one_prompt():
  got = separation([0.5, 0.2, None], [1, 0, 1], ['a', 'b', 'b'])
  assert (
    got['auc'] == 1.0 and got['auc_within'] is got['auc_within_low'] is None
  )


def test_separation_that_no_draw_contradicts_has_no_interval():
  # Eight prompts, each with a good answer before a bad one, all between .4 and
  # .6: whichever are drawn, the share is 1, and so it would be of two prompts.
  scores, labels = [0.6, 0.4] * 8, [1, 0] * 8
  prompts = [i // 2 for i in range(16)]
  got = separation(scores, labels, prompts)
  assert got['auc'] == got['auc_within'] == 1.0
  for end in ('auc_low', 'auc_high', 'auc_within_low', 'auc_within_high'):
    assert got[end] is None
  # One prompt is always drawn: won are .9 and .3 before .1, and .9 before .5.
  got = separation([0.9, 0.5, 0.3, 0.1], [1, 0, 1, 0], ['a'] * 4)
  assert got['auc'] == got['auc_within'] == 0.75
  assert got['auc_low'] is got['auc_within_high'] is None
  # With a prompt that contradicts there is something to draw.
  got = separation([*scores, 0.4, 0.6], [*labels, 1, 0], [*prompts, 8, 8])
  assert got['auc_within'] == pytest.approx(8 / 9)
  assert got['auc_within_low'] < 8 / 9 < got['auc_within_high'] == 1


def test_transcripts_of_a_run_say_whether_they_are_solved(tmp_path):
  file = tmp_path / 'rows.jsonl'
  file.write_text(
    '\n'.join(json.dumps({**ROW, 'solved': x}) for x in (True, False, None))
  )
  rows = judge_agreement.read_transcripts(file, 'solved')
  assert [row.label for row in rows] == [1.0, 0.0, None]
