"""Asked ahead, in order; a batch with too few scores is waited for."""

import contextlib
import threading
import time

import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import patient

REQUESTS = [types.JudgeRequest(f'u{i}', (), f'r{i}') for i in range(10)]


class Flaky:
  """Has no score for some requests, for a number of calls."""

  def __init__(self, lacking, calls=10**9):
    self.lacking, self.calls = lacking, calls
    self.asked, self.given_up, self.closed = [], [], False

  def __call__(self, requests):
    self.asked.append([int(request.user[1:]) for request in requests])
    down = len(self.asked) <= self.calls
    return [
      None if down and i in self.lacking else i / 10 for i in self.asked[-1]
    ]

  def give_up(self, requests):
    self.given_up += [int(request.user[1:]) for request in requests]

  def problem(self):
    return 'at http://here/v1'

  def close(self):
    self.closed = True


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(patient, '_FIRST_PAUSE', 0.01)
  monkeypatch.setattr(patient, '_LONGEST_PAUSE', 0.05)


SCORES = [i / 10 for i in range(10)]


def without(*lacking):
  return [None if i in lacking else i / 10 for i in range(10)]


def test_enough_is_enough():
  judge = Flaky({3})
  assert patient.Judging(judge, min_judged=0.9)(REQUESTS) == without(3)
  assert judge.asked == [list(range(10))]
  # It goes on without this one for good.
  assert judge.given_up == [3]


@pytest.mark.parametrize('lacking', range(1, 10))
def test_a_share_is_met_exactly(lacking):
  # 1 - k / 10 is not always k tenths less in floating point.
  judge = Flaky(set(range(lacking)))
  ask = patient.Judging(judge, min_judged=1 - lacking / 10)
  assert ask(REQUESTS) == without(*range(lacking))
  ask = patient.Judging(judge, min_judged=1 - (lacking - 1) / 10)
  with pytest.raises(types.JudgeUnavailable):
    ask(REQUESTS)


def test_too_few_are_waited_for_and_only_what_is_missing_asked_again():
  told, judge = [], Flaky({3, 5}, calls=3)
  ask = patient.Judging(judge, min_judged=0.9, patience=60, tell=told.append)
  assert ask(REQUESTS) == SCORES
  assert judge.asked == [list(range(10)), [3, 5], [3, 5], [3, 5]]
  assert len(told) == 3 and '8 of 10 answers' in told[0]
  assert not judge.given_up


def test_the_end_of_patience():
  judge = Flaky({3, 5})
  started = time.monotonic()
  with pytest.raises(types.JudgeUnavailable) as raised:
    patient.Judging(judge, min_judged=0.9, patience=0.2)(REQUESTS)
  assert 0.2 < time.monotonic() - started < 2
  for word in (
    '8 of 10',
    'http://here/v1',
    '--min_judged=0.9',
    '_patience=0.2',
  ):
    assert word in str(raised.value)
  # To be asked for when the run goes on.
  assert not judge.given_up


def test_every_further_score_is_a_reason_to_wait_on():
  class Slow(Flaky):
    def __call__(self, requests):
      scores = super().__call__(requests)
      left = 10 - len(self.asked)
      return [x if x is None or x * 10 > left else None for x in scores]

  # One score more each time; all of it takes longer than the patience.
  ask = patient.Judging(Slow(set()), min_judged=1.0, patience=0.05)
  assert ask(REQUESTS[1:]) == SCORES[1:]


def test_a_share_of_none_waits_for_nothing():
  judge = Flaky(set(range(10)))
  assert patient.Judging(judge)(REQUESTS) == [None] * 10
  assert len(judge.asked) == 1


def test_whoever_is_in_a_hurry_does_not_wait():
  ask = patient.Judging(Flaky({1, 2}), min_judged=1.0, patience=600)
  threading.Timer(0.2, ask.hurry).start()
  started = time.monotonic()
  with pytest.raises(types.JudgeUnavailable):
    ask(REQUESTS)
  assert time.monotonic() - started < 60


def test_what_nothing_hangs_on_is_not_waited_for():
  told, judge = [], Flaky({1, 2, 3})
  ask = patient.Judging(
    judge, min_judged=1.0, patience=600, needed=False, tell=told.append
  )
  assert ask(REQUESTS) == without(1, 2, 3)

  def gone(requests):
    raise types.JudgeUnavailable('gone')

  ask = patient.Judging(gone, needed=False, tell=told.append)
  assert ask(REQUESTS) == [None] * 10
  with pytest.raises(types.JudgeUnavailable):
    patient.Judging(gone)(REQUESTS)
  assert patient.Judging(gone).leniently(REQUESTS) == [None] * 10
  assert told == ['Without scores of the reasoning: gone']


def test_parts_that_were_begun_are_put_together_in_order():
  begun = threading.Barrier(3)

  def judge(requests):
    begun.wait(10)  # All of them are under way at once.
    if requests[0] is REQUESTS[0]:
      time.sleep(0.1)
    return [int(request.user[1:]) / 10 for request in requests]

  ask = patient.Judging(judge)
  for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
    ask.begin(REQUESTS[part])
  assert ask(REQUESTS) == SCORES
  ask.close()


def test_what_was_begun_is_waited_for_as_a_whole():
  # Two of ten are missing, one in each half: a fifth, of either a fifth.
  judge = Flaky({1, 7}, calls=2)
  ask = patient.Judging(judge, min_judged=0.9, patience=60)
  ask.begin(REQUESTS[:5])
  ask.begin(REQUESTS[5:])
  assert ask(REQUESTS) == SCORES
  assert sorted(judge.asked) == [[0, 1, 2, 3, 4], [1, 7], [5, 6, 7, 8, 9]]
  # And the next batch is another one.
  assert ask(REQUESTS) == SCORES
  assert judge.asked[-1] == list(range(10))
  ask.close()
  assert judge.closed


def test_an_error_in_a_part_is_raised_for_the_batch():
  def judge(requests):
    raise KeyError('a bug')

  ask = patient.Judging(judge)
  ask.begin(REQUESTS)
  with pytest.raises(KeyError, match='a bug'):
    ask(REQUESTS)
  ask.close()


def test_what_is_refused_is_not_waited_for():
  class Refusing(Flaky):
    def refused(self, requests):
      return [request.user in ('u3', 'u5') for request in requests]

  # The third comes back when it is asked for again; the others never do.
  judge = Refusing({3, 5})
  judge.lacking = {3, 5, 7}

  def recovering(requests):
    scores = judge(requests)
    judge.lacking = {3, 5}
    return scores

  recovering.refused, recovering.problem = judge.refused, judge.problem
  ask = patient.Judging(recovering, min_judged=0.9, patience=600)
  with pytest.raises(types.JudgeRefused, match='8 of 10 .*here.*--min_judged'):
    ask(REQUESTS)
  assert judge.asked == [list(range(10)), [3, 5, 7]]
  # One is few enough.
  judge.asked.clear()
  ask = patient.Judging(judge, min_judged=0.8, patience=600)
  assert ask(REQUESTS) == without(3, 5) and len(judge.asked) == 1


def test_its_name():
  assert patient.Judging(Flaky(())).name() == 'the judge at http://here/v1'

  def mine(requests):
    del requests

  assert patient.Judging(mine).name().endswith(':test_its_name.<locals>.mine')


def test_a_judge_that_says_nothing_has_no_reasons():
  assert patient.Judging(Flaky(())).reasons(REQUESTS[:2]) == [None, None]


def test_what_is_said_of_a_judge_that_does_not_count():
  said = []

  @contextlib.contextmanager
  def working(say):
    said.append(say())
    yield

  patient.Judging(Flaky(set()), working=working)(REQUESTS)
  assert said == ['Judging 10 answers']
