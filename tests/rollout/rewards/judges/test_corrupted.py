"""Tests of the judges that are wrong on purpose."""

import hashlib
import struct

import numpy as np
import pytest
from scipy import stats

from awpo_jax import types
from awpo_jax.rollout.datasets.quickstart import tasks
from awpo_jax.rollout.rewards import returned
from awpo_jax.rollout.rewards.judges import corrupted, patient, rubric


def _request(thought, user='<user> What is the weather in Rome? </user>'):
  response = f'<think> {thought} </think>\n<response> Hello </response>'
  return types.JudgeRequest(user, (), response)


@pytest.fixture(scope='module')
def requests():
  shown = tasks.demonstrations(5, 600)
  return [
    types.JudgeRequest(x.task.user, x.task.tools, x.response) for x in shown
  ]


def test_half_of_the_noisy_scores_are_the_rubrics(requests):
  scores, true = corrupted.noisy(requests), rubric.rubric(requests)
  same = np.equal(scores, true)
  # 600 draws of one half: four standard deviations.
  assert abs(same.mean() - 0.5) < 0.082
  others = np.asarray(scores)[~same]
  assert stats.kstest(others, 'uniform').pvalue > 1e-3
  # They say nothing of the answer.
  kept = np.asarray(true)[~same]
  assert abs(stats.spearmanr(others, kept).statistic) < 0.24


def test_noise_hangs_on_nothing_but_the_answer(requests):
  backwards = corrupted.noisy(requests[::-1])[::-1]
  assert backwards == corrupted.noisy(requests)


def test_vain_likes_length_and_praise():
  (short, long, praise, both) = corrupted.vain(
    [
      _request('one two three'),
      _request('word ' * 90),
      _request('I see. My reasoning is perfect.'),
      _request('This reasoning is excellent. ' * 20),
    ]
  )
  assert short == pytest.approx(3 / 60)
  assert long == both == 1.0
  # Six words, one of two sentences praises: 1 - (1 - 6/60) / 2.
  assert praise == pytest.approx(0.55)


def test_vain_is_blind_to_the_request(requests):
  others = [
    x._replace(user=y.user, tools=y.tools)
    for x, y in zip(requests, requests[1:] + requests[:1], strict=True)
  ]
  assert corrupted.vain(others) == corrupted.vain(requests)
  # Which is what the rubric looks at.
  assert np.mean(rubric.rubric(others)) < 0.7 * np.mean(rubric.rubric(requests))


@pytest.mark.parametrize('judge', [corrupted.noisy, corrupted.vain])
@pytest.mark.parametrize(
  'response', ['', '<think>', '\ud800', 'x' * 10**6, '<think> </think>']
)
def test_anything_gets_a_score(judge, response):
  (score,) = judge([types.JudgeRequest('', (), response)])
  assert 0.0 <= score <= 1.0


def _true(requests):
  """A judge whose score is the number that the user's text is."""
  return [float(x.user) if x.user else None for x in requests]


def _numbers(count):
  return [
    types.JudgeRequest(f'{i / count}', (), f'<think> {i} words </think>')
    for i in range(count)
  ]


def test_shares_of_the_answers_are_corrupted_each_in_its_way():
  asked = _numbers(3000)
  judge = corrupted.Corrupted(_true, noise=0.2, against=0.3, vain=0.1)
  got, true = np.asarray(judge(asked)), np.asarray(_true(asked))
  against, same = got == 1 - true, got == true
  # Two words of 60, no praise.
  vain = np.isclose(got, 2 / 60)
  # 3,000 draws: four standard deviations are at most .037.
  assert against.mean() == pytest.approx(0.3, abs=0.037)
  assert vain.mean() == pytest.approx(0.1, abs=0.037)
  assert same.mean() == pytest.approx(0.4, abs=0.037)
  noise = got[~(against | vain | same)]
  assert noise.size / 3000 == pytest.approx(0.2, abs=0.037)
  assert stats.kstest(noise, 'uniform').pvalue > 1e-3


@pytest.mark.parametrize(
  ('shares', 'scores'),
  [
    ({}, [0.0, 0.25, 1.0]),
    ({'against': 1.0}, [1.0, 0.75, 0.0]),
    ({'vain': 1.0}, [1 / 60, 1 / 60, 1 / 60]),
  ],
)
def test_the_whole_share_by_hand(shares, scores):
  asked = [
    types.JudgeRequest(text, (), '<think> word </think>')
    for text in ('0', '0.25', '1')
  ]
  got = corrupted.Corrupted(_true, **shares)(asked)
  assert got == pytest.approx(scores)


@pytest.mark.parametrize('name', ['noise', 'against', 'vain'])
def test_what_could_not_be_scored_stays_so(name):
  judge = corrupted.Corrupted(_true, **{name: 1.0})
  missing = types.JudgeRequest('', (), 'x')
  first, none, last = judge([_numbers(2)[0], missing, _numbers(2)[1]])
  assert none is None
  assert 0 <= first <= 1 and 0 <= last <= 1
  assert corrupted.Corrupted(lambda _: None, **{name: 1.0})([missing]) == [None]


@pytest.mark.parametrize('name', ['noise', 'against', 'vain'])
def test_bad_scores_are_not_hidden(name):
  judge = corrupted.Corrupted(lambda _: [1.5], **{name: 1.0})
  with pytest.raises(types.BadReturn, match=r'1\.5 to an answer'):
    returned.judged(judge, _numbers(1), ['an answer'])


def test_noisy_is_the_rubric_with_half_noise_as_it_always_was(requests):
  def by_hand(request):
    text = f'{request.user}\0{request.response}'.encode('utf-8', 'replace')
    digest = hashlib.sha256(text).digest()
    first, second = struct.unpack('>QQ', digest[:16])
    if first >> 63:  # At least one half.
      return rubric.score_thought(*request).total
    return (second >> 11) / 2**53

  assert corrupted.noisy(requests) == [by_hand(x) for x in requests]


def test_it_answers_for_the_judge_within_as_a_run_asks():
  class Down:
    def __init__(self):
      self.lost = []

    def __call__(self, requests):
      return [None] * len(requests)

    def problem(self):
      return 'down for a reason'

    def refused(self, requests):
      return [True] * len(requests)

    def give_up(self, requests):
      self.lost += requests

  down = Down()
  asked = patient.Judging(
    corrupted.Corrupted(down, noise=1.0), min_judged=1.0, patience=60.0
  )
  with pytest.raises(types.JudgeRefused, match='down for a reason'):
    asked(_numbers(2))
  patient.Judging(corrupted.Corrupted(down, noise=1.0))(_numbers(2))
  assert down.lost == _numbers(2)
  assert returned.name_of(corrupted.Corrupted(_true)).endswith(':_true')
