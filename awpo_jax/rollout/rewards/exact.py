"""The sparse outcome reward: all or nothing."""

import functools
from collections.abc import Callable
from typing import Any

from awpo_jax import types
from awpo_jax.rollout.rewards import toolrl

_ROUNDING = 1e-6


def exact(response: str, task: types.Task) -> types.Score:
  """1 where the task is solved as `toolrl.toolrl` means it, else 0.

  That is where the calls are exactly the reference's in its layout, or where
  nothing is called and only a reply is wanted. What cannot be parsed earns 0.

  Args:
    response: model output, anything.
    task: with a reference answer in RLLA's layout.

  Returns:
    The score within [0, 1], with ToolRL's parts, which are logged.

  Raises:
    ValueError: the calls of the reference cannot be read.
  """
  return _all_or_nothing(toolrl.toolrl(response, task))


REWARDS: dict[str, types.Reward] = {**toolrl.REWARDS, 'exact': exact}
"""Choices of `--reward`."""


def made_exact(
  reward: Callable[[Any, types.Task], types.Score],
) -> Callable[[Any, types.Task], types.Score]:
  """A reward, of whole episodes say, that is 1 where it says solved, else 0."""

  @functools.wraps(reward)
  def sparse(response: Any, task: types.Task) -> types.Score:
    return _all_or_nothing(reward(response, task))

  return sparse


def _all_or_nothing(score: types.Score) -> types.Score:
  solved = score.solved
  if solved is None:
    solved = score.value >= score.maximum - _ROUNDING
  return types.Score(float(bool(solved)), 0.0, 1.0, score.parts, bool(solved))
