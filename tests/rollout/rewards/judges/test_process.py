"""Tests of the judge of intermediate states."""

import time

import pytest

from awpo_jax import types
from awpo_jax.rollout.datasets.links import tasks
from awpo_jax.rollout.datasets.quickstart import tasks as quickstart
from awpo_jax.rollout.rewards.judges import process

# From ba_gi by blue to da_hu, fo_ji, la_wu, na_vi; red leads to ka_pi, which
# leads to itself.
USER = (
  '<user> ba_gi blue da_hu / da_hu blue fo_ji / fo_ji blue la_wu / '
  'la_wu blue na_vi / na_vi blue ka_pi / ka_pi blue ka_pi / ba_gi red ka_pi / '
  'da_hu red ka_pi / From ba_gi follow blue 4 times. </user>'
)


def _score(thought, user=USER, layout='<think> {} </think>\n<tool_call>'):
  request = types.JudgeRequest(user, (), layout.format(thought))
  (score,) = process.process([request])
  return score


@pytest.mark.parametrize(
  ('thought', 'score'),
  [
    ('ba_gi blue da_hu blue fo_ji blue la_wu blue na_vi done', 1.0),
    ('da_hu fo_ji la_wu na_vi', 1.0),
    ('From ba_gi to da_hu. da_hu leads to fo_ji, fo_ji to la_wu: na_vi!', 1.0),
    # What kind it says that it takes does not matter, nor a stranger's name.
    ('ba_gi red da_hu / zz_zz / fo_ji', 0.5),
    ('ba_gi blue da_hu blue fo_ji red ka_pi blue na_vi done', 0.5),
    ('ba_gi red ka_pi blue fo_ji blue la_wu blue na_vi done', 0.0),
    ('ba_gi blue da_hu red ka_pi', 0.25),
    ('ba_gi blue da_hu ba_gi', 0.25),
    # A state left out is a mistake, and so is one too many.
    ('ba_gi fo_ji la_wu na_vi', 0.0),
    ('ba_gi da_hu fo_ji la_wu na_vi ka_pi', 0.75),
    ('BA_GI DA_HU', 0.0),
    ('na_vi', 0.0),
    ('', 0.0),
  ],
)
def test_by_hand(thought, score):
  assert _score(thought) == score


@pytest.mark.parametrize(
  'layout', ['{}', '<think> {}', '{} </think>', '<tool_call> {} </tool_call>']
)
def test_only_a_closed_thought_counts(layout):
  assert _score('ba_gi da_hu fo_ji la_wu na_vi', layout=layout) == 0.0


def test_it_never_sees_the_call():
  right = '<think> ba_gi </think>\n{} na_vi'
  assert _score('da_hu fo_ji la_wu na_vi', layout=right) == 0.0


def test_references_are_right_and_half_wrong_demonstrations_are_not():
  drawn = tasks.Tasks('train', 2)[:50]
  asked = [types.JudgeRequest(x.user, x.tools, x.ground_truth) for x in drawn]
  assert process.process(asked) == [1.0] * 50
  shown = tasks.demonstrations(2, 2000, counts=(4, 4), wrong_rate=0.5)
  scores = process.process(
    [types.JudgeRequest(x.task.user, (), x.response) for x in shown]
  )
  # (1/2 + 1/4 + 1/8 + 1/16) / 4, four standard errors of at most .33.
  assert sum(scores) / 2000 == pytest.approx(0.234375, abs=0.03)


@pytest.mark.parametrize(
  'thought',
  [
    'ba_gi ' * 10**6,
    'da_hu fo_ji ' * 10**6,
    '_' * 10**7,
    '\ud800\0' * 10**6,
    '<think>' * 10**5,
  ],
)
def test_work_on_hostile_thoughts_is_bounded(thought):
  begun = time.perf_counter()
  assert 0.0 <= _score(thought) <= 0.5
  assert time.perf_counter() - begun < 2


def test_a_thought_is_cut_behind_the_limit():
  # The layout has a blank in front.
  fill = '-' * (process.MAX_THOUGHT - len('  da_hu fo_ji'))
  assert _score(f'{fill} da_hu fo_ji la_wu na_vi') == 0.5


SUM = (
  '<user> State the final answer to the following arithmetic problem: '
  '4 + 3 - 9 + 1 - 1 =\nIn the thought, write = .. </user>'
)


@pytest.mark.parametrize(
  ('thought', 'score'),
  [
    # 7, -2, -1, -2, one after another.
    ('4 + 3 = 7 - 9 = -2 + 1 = -1 - 1 = -2', 1.0),
    ('4 + 3 = 7.0. Then 7 - 9 = -2, -2 + 1 = -1, and -1 - 1 = -2.', 1.0),
    ('= 7 = -2 = -1', 0.75),
    ('= 7 = -2 = 1 = -2', 0.5),
    ('= 7 = 2 = -1 = -2', 0.25),
    ('= 8 = -2 = -1 = -2', 0.0),
    # A state left out is a mistake, and so is one too many.
    ('= -2 = -1 = -2', 0.0),
    ('= 7 = -2 = -1 = -2 = -2', 0.75),
    ('The answer is -2', 0.0),
    ('', 0.0),
  ],
)
def test_steps_of_a_generator_by_hand(thought, score):
  assert _score(thought, user=SUM) == score


TWO = (
  '<user> Start a timer of 40 minutes. Also convert 19.5 dollars to yen. '
  '</user>'
)
FIRST, SECOND = (
  'This needs set_timer: minutes is 40.',
  'This needs convert_dollars: ',
)


@pytest.mark.parametrize(
  ('thought', 'score'),
  [
    # set_timer, minutes, convert_dollars, amount, currency.
    (f'{FIRST} Also {SECOND}amount is 19.5, currency is "yen".', 1.0),
    (f'{FIRST} {SECOND}amount is 19.5, currency is "euro".', 0.8),
    (f'{FIRST} {SECOND}amount is "19.5", currency is "yen".', 0.6),
    (f'{FIRST} This needs compute_tip: amount is 19.5.', 0.4),
    (FIRST, 0.4),
    ('This needs set_timer: minutes is 4.', 0.2),
    # A mistake in the first call hides the second; order counts.
    (f'This needs set_timer: minutes is "40". {SECOND}amount is 19.5', 0.2),
    (f'{SECOND}amount is 19.5, currency is "yen". {FIRST}', 0.0),
    # One tool too many is a mistake.
    (f'{FIRST} {SECOND}amount is 19.5, currency is "yen". {FIRST}', 0.8),
    ('I will use a tool.', 0.0),
    ('', 0.0),
  ],
)
def test_two_calls_by_hand(thought, score):
  assert _score(thought, user=TWO) == score


def test_a_request_that_is_no_such_task_is_refused():
  (task,) = quickstart.Tasks('train', 0)[:1]
  with pytest.raises(types.BadReturn, match='--judge=process knows .*links'):
    process.process([types.JudgeRequest(task.user, task.tools, 'x')])
  with pytest.raises(types.BadReturn, match='--judge=process'):
    _score('ba_gi', user='ba_gi blue da_hu / ' * 10**5)
  with pytest.raises(ValueError, match='--judge=process knows'):
    process.check([tasks.Tasks('train', 0)[0], task])
  process.check(tasks.Tasks('train', 0)[:2])
