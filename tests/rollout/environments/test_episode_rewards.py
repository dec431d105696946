"""Rewards of whole episodes, and the judge's word on them, by hand."""

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.environments import episode_rewards, episodes, protocol
from awpo_jax.rollout.text import tool_calls

CALL = tool_calls.render_answer('x', [('look', {'n': 1})])
REPLY = tool_calls.render_answer('x', (), 'Done.')


class Counted:
  """Its outcome is what the state has counted."""

  def outcome(self, task, state, turns):
    del task, turns
    return types.Score(state['count'], 0, 10, {}, solved=state['count'] == 2)


def task(kind='plain', references=()):
  return types.Task('t', '', 'u', (), '', kind, {}, tuple(references))


class TestTurnwise:
  """ToolRL by turns: a right call or reply has 4 or 1, no answer -3 or 0."""

  REFERENCES = (CALL, CALL, REPLY)

  def score(self, *texts):
    asked = task(references=self.REFERENCES)
    reward = episode_rewards.make_reward(Counted(), 'turns')
    turns = tuple(protocol.Turn(text, (), ()) for text in texts)
    return reward(episodes.Episode(turns, {'count': 2}), asked)

  @pytest.mark.parametrize(
    ('texts', 'value'),
    [
      ((CALL, CALL, REPLY), 3.0),  # (4 + 4 + 1) / 3
      ((CALL,), 1 / 3),  # (4 - 3 + 0) / 3
      ((), -2.0),  # (-3 - 3 + 0) / 3
      ((CALL, CALL, REPLY, CALL), 1.75),  # (4 + 4 + 1 - 2) / 4
      ((CALL, CALL, CALL), 8 / 3),  # A call where a reply is due: 4 + 4 + 0.
    ],
  )
  def test_by_hand(self, texts, value):
    score = self.score(*texts)
    assert score.value == pytest.approx(value)
    assert (score.minimum, score.maximum) == (-2, 3)
    assert score.solved  # As the environment says.

  def test_without_references(self):
    reward = episode_rewards.make_reward(Counted(), 'turns')
    with pytest.raises(ValueError, match='--episode_reward=outcome'):
      reward(episodes.Episode((), {'count': 0}), task())

  def test_ones_own_is_not_asked_about_what_could_not_be_had(self):
    reward = episode_rewards.available(lambda episode, task: task.kind)
    assert reward(episodes.Episode((), {}), task('any')) == 'any'
    with pytest.raises(types.RewardUnavailable, match='gone'):
      reward(episodes.Episode((), {}, 'gone'), task())


@pytest.mark.parametrize('kind', ['outcome', 'turns'])
class TestWhatAnEnvironmentReturns:
  """Not what it should: said of the environment's own method."""

  def reward(self, kind, says):
    class Odd:
      def outcome(self, task, state, turns):
        del task, state, turns
        return says

    reward = episode_rewards.make_reward(Odd(), kind)
    return reward(episodes.Episode((), {}), task(references=(REPLY,)))

  def test_a_number_without_bounds(self, kind):
    with pytest.raises(types.BadReturn, match=r't by .*Odd\.outcome is 0.5'):
      self.reward(kind, 0.5)

  def test_none(self, kind):
    with pytest.raises(types.RewardUnavailable, match=r'Odd\.outcome returned'):
      self.reward(kind, None)

  def test_numbers_of_numpy(self, kind):
    said = types.Score(
      np.float32(0.5), np.float32(0), np.float32(1), {}, np.True_
    )
    score = self.reward(kind, said)
    assert score.solved is True and type(score.value) is float


class TestJudge:
  def request(self, *texts):
    turns = tuple(
      protocol.Turn(text, (), (protocol.Observation('obs', f'seen {i}'),))
      for i, text in enumerate(texts)
    )
    return types.JudgeRequest('ask', (), episodes.Episode(turns, {}))

  def test_mean_over_turns_by_hand(self):
    seen = []

    def judge(requests):
      seen.extend(requests)
      return [{'a': 0.5, 'b': 1.0, 'c': None}[r.response] for r in requests]

    judged = episode_rewards.EpisodeJudge(judge)
    got = judged(
      [self.request('a', 'b'), self.request('b', 'c'), self.request()]
    )
    assert got == [0.75, None, None]
    assert [r.response for r in seen] == ['a', 'b', 'b', 'c']
    # A turn is judged with what came before it.
    assert [r.user for r in seen[:2]] == ['ask', 'ask\na\n<obs> seen 0 </obs>']

  @pytest.mark.parametrize('bad', ['0.5', 1.5, float('nan'), [1]])
  def test_what_is_no_score_is_left_to_who_knows_the_task(self, bad):
    # Else a mean of it with others might lie in [0, 1].
    judged = episode_rewards.EpisodeJudge(lambda requests: [0.0, bad])
    (got,) = judged([self.request('a', 'b')])
    assert got is bad

  def test_numbers_of_numpy_and_none(self):
    judged = episode_rewards.EpisodeJudge(lambda requests: np.float32([0, 1]))
    assert judged([self.request('a', 'b')]) == [0.5]
    judged = episode_rewards.EpisodeJudge(lambda requests: None)
    assert judged([self.request('a', 'b')]) == [None]
    with pytest.raises(types.BadReturn, match='1 scores for 2 answers'):
      episode_rewards.EpisodeJudge(lambda requests: [1])(
        [self.request('a', 'b')]
      )

  def test_what_else_a_judge_may_do(self):
    class Judge:
      given_up = ()

      def __call__(self, requests):
        return [1.0] * len(requests)

      def problem(self):
        return 'is slow'

      def give_up(self, requests):
        self.given_up = [r.response for r in requests]

      def refused(self, requests):
        return [r.response == 'b' for r in requests]

      def reasons(self, requests):
        return [
          None if r.response == 'b' else f'{r.response}!' for r in requests
        ]

    inner = Judge()
    judged = episode_rewards.EpisodeJudge(inner)
    assert judged.problem() == 'is slow' and not hasattr(judged, 'close')
    judged.give_up([self.request('a', 'b')])
    assert inner.given_up == ['a', 'b']
    episodes_ = [self.request('a', 'b'), self.request('a')]
    assert judged.refused(episodes_) == [True, False]
    episodes_ = [self.request('a', 'b', 'c'), self.request('b')]
    assert judged.reasons(episodes_) == ['a!\nc!', None]
