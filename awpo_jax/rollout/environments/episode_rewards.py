"""Rewards of an episode: its outcome, and the judge's score of its turns."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from awpo_jax import types
from awpo_jax.rollout.environments import episodes, protocol
from awpo_jax.rollout.rewards import returned, toolrl


def outcome(
  environment: protocol.Environment, episode: episodes.Episode, task: types.Task
) -> types.Score:
  """The environment's score of the end of an episode.

  Raises:
    types.BadReturn: that is no score.
    types.RewardUnavailable: it says None.
  """
  said = environment.outcome(task, episode.state, episode.turns)
  score = returned.outcome(said, environment.outcome, task)
  if score is None:
    raise types.RewardUnavailable(
      f'{returned.name_of(environment.outcome)} returned None'
    )
  return score


def turnwise(
  environment: protocol.Environment, episode: episodes.Episode, task: types.Task
) -> types.Score:
  """ToolRL's reward of each turn against the reference's, as a mean.

  A turn that is missing, and one too many, has the worst reward. The parts, and
  whether the task is solved, are those of `outcome`.

  Raises:
    ValueError: the task has no references.
  """
  if not task.references:
    raise ValueError(
      f'task {task.task_id} has no reference for its turns: '
      '--episode_reward=outcome'
    )
  bounds = [toolrl.outcome_bounds(text) for text in task.references]
  worst, best = (float(np.mean(side)) for side in zip(*bounds, strict=True))
  texts = [turn.text for turn in episode.turns]
  values = [
    toolrl.outcome_reward(text, reference).total
    for text, reference in zip(texts, task.references, strict=False)
  ]
  values += [low for low, _ in bounds[len(texts) :]]
  values += [worst] * (len(texts) - len(bounds))
  ended = outcome(environment, episode, task)
  # A mean may leave its bounds by a rounding.
  value = min(max(float(np.mean(values)), worst), best)
  return ended._replace(
    value=value, minimum=worst, maximum=best, solved=ended.solved
  )


EPISODE_REWARDS = {'outcome': outcome, 'turns': turnwise}
"""Choices of `--episode_reward`: (environment, episode, task) -> score."""


def make_reward(
  environment: protocol.Environment, kind: str
) -> Callable[..., types.Score]:
  """A reward of whole episodes, in the form of `types.Reward`.

  Args:
    environment: where they were played.
    kind: a key of `EPISODE_REWARDS`.
  """
  return available(functools.partial(EPISODE_REWARDS[kind], environment))


def available(score: Callable[..., types.Score]) -> Callable[..., types.Score]:
  """A reward that makes episodes without an end invalid."""

  @functools.wraps(score)
  def reward(episode: episodes.Episode, task: types.Task) -> types.Score:
    if episode.unavailable:
      raise types.RewardUnavailable(episode.unavailable)
    return score(episode, task)

  return reward


class EpisodeJudge:
  """A judge of whole episodes: the mean over their turns.

  Each turn is judged by itself, with the dialogue up to it in RLLA's layout as
  the user's text. An episode of which a turn could not be judged has no score.
  """

  def __init__(self, judge: types.Judge):
    self._judge = self.__wrapped__ = judge
    # What `patient.Judging` may ask of a judge, where this one has it.
    for name in ('problem', 'close'):
      if hasattr(judge, name):
        setattr(self, name, getattr(judge, name))
    if hasattr(judge, 'give_up'):
      self.give_up = lambda requests: judge.give_up(
        [one for request in requests for one in _requests(request)]
      )
    if hasattr(judge, 'reasons'):
      self.reasons = lambda requests: [
        _joined(judge.reasons(_requests(request))) for request in requests
      ]
    if hasattr(judge, 'refused'):
      self.refused = lambda requests: [
        any(judge.refused(_requests(request))) for request in requests
      ]

  def __call__(
    self, requests: Sequence[types.JudgeRequest]
  ) -> list[float | None]:
    parts = [_requests(request) for request in requests]
    asked = [one for part in parts for one in part]
    scores = iter(returned.scores(self._judge(asked), self._judge, len(asked)))
    return [_mean([next(scores) for _ in part]) for part in parts]


def _joined(reasons: Sequence[str | None]) -> str | None:
  """What was said of the turns, a line each; None where nothing was."""
  return '\n'.join(x for x in reasons if x) or None


def _mean(scores: Sequence[Any]) -> Any:
  """The mean of scores; a wrong one is returned for the caller to refuse."""
  had = []
  for score in scores:
    try:
      had.append(returned.share(score))
    except ValueError:
      return score
  if not had or None in had:
    return None
  return float(np.mean(np.array(had, np.float64)))


def _requests(request: types.JudgeRequest) -> list[types.JudgeRequest]:
  """A request for each turn of the episode in a response."""
  episode: Any = request.response
  said, parts = request.user, []
  for turn in episode.turns:
    parts.append(request._replace(user=said, response=turn.text))
    said = '\n'.join((said, turn.text, *map(episodes.shown, turn.observations)))
  return parts
