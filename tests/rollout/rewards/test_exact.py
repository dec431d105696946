"""Tests of the sparse outcome reward."""

import dataclasses

import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards import exact

CALL = '{"name": "go", "parameters": {"to": "x", "n": 1}}'
CALLED = f'<think> a </think>\n<tool_call>\n{CALL}\n</tool_call>'
REPLY = '<think> a </think>\n<response> No. </response>'


def _task(truth):
  return types.Task('t', 's', 'u', (), truth, 'k')


@pytest.mark.parametrize(
  ('response', 'truth', 'value'),
  [
    (CALLED, CALLED, 1.0),
    (CALLED.replace(' a ', ' other words '), CALLED, 1.0),
    (CALLED.replace('"x"', '"y"'), CALLED, 0.0),
    (CALLED.replace(', "n": 1', ''), CALLED, 0.0),
    (CALLED.replace(CALL, f'{CALL}\n{CALL}'), CALLED, 0.0),
    # ToolRL's full correctness under a wrong format is not solved.
    (CALLED.replace('<think> a </think>\n', ''), CALLED, 0.0),
    (REPLY, CALLED, 0.0),
    (REPLY.replace('No', 'Sorry'), REPLY, 1.0),
    (f'{CALLED}\n<response> No. </response>', REPLY, 0.0),
    ('', CALLED, 0.0),
    (CALLED.replace('"to"', 'to'), CALLED, 0.0),
    ('{' * 10**5, CALLED, 0.0),
  ],
)
def test_by_hand(response, truth, value):
  score = exact.exact(response, _task(truth))
  assert (score.value, score.minimum, score.maximum) == (value, 0.0, 1.0)
  assert score.solved is bool(value)
  assert set(score.parts) == {'format', 'correctness'}


@dataclasses.dataclass(frozen=True)
class _Graded:
  """A reward of episodes, which says what it is given."""

  solved: bool | None
  value: float = 2.0

  def __call__(self, episode, task):
    del episode, task
    return types.Score(self.value, -3.0, 4.0, {'progress': 0.5}, self.solved)


@pytest.mark.parametrize(
  ('graded', 'value'),
  [
    (_Graded(True), 1.0),
    (_Graded(False, 4.0), 0.0),
    (_Graded(None), 0.0),
    (_Graded(None, 4.0), 1.0),
  ],
)
def test_of_what_another_reward_says(graded, value):
  score = exact.made_exact(graded)('an episode', _task(CALLED))
  assert score == types.Score(value, 0.0, 1.0, {'progress': 0.5}, bool(value))
