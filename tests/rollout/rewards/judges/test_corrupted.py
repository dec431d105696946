"""Tests of the judges that are wrong on purpose."""

import numpy as np
import pytest
from scipy import stats

from awpo_jax import types
from awpo_jax.rollout.datasets.quickstart import tasks
from awpo_jax.rollout.rewards.judges import corrupted, rubric


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
