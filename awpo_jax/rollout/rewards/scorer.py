"""The outcome rewards and the judge of a run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from awpo_jax import types
from awpo_jax.rollout.rewards import scoring
from awpo_jax.rollout.rewards.judges import patient


@dataclasses.dataclass(frozen=True)
class Scorer:
  """The rewards of a run; where it has episodes they are taken whole.

  Attributes:
    reward: outcome of an answer.
    judge: of the reasoning; None for none.
    eval_rewards: evaluation set -> its own reward, where it has one.
  """

  reward: types.Reward
  judge: types.Judge | None = None
  eval_rewards: Mapping[str, types.Reward] = dataclasses.field(
    default_factory=dict
  )

  def score(
    self,
    texts: Sequence[Sequence[Any]],
    tasks: Sequence[types.Task],
    tell: Callable[[str], None] = lambda _: None,
  ) -> tuple[types.Rewards, dict[str, np.ndarray]]:
    """`scoring.score` of answers or episodes [P][G] to P tasks."""
    return scoring.score(
      texts, tasks, reward=self.reward, judge=self.judge, tell=tell
    )

  def ask_ahead(
    self, texts: Sequence[Sequence[Any]], tasks: Sequence[types.Task]
  ) -> None:
    """Has the judge begin with some answers while others are sampled."""
    if isinstance(self.judge, patient.Judging):
      self.judge.begin(scoring.judge_requests(texts, tasks))

  def reasons(
    self, requests: Sequence[types.JudgeRequest]
  ) -> Sequence[str | None]:
    """What the judge said about scored answers, if it explains itself."""
    said = getattr(self.judge, 'reasons', None)
    return [None] * len(requests) if said is None else said(requests)

  def of_set(self, name: str) -> tuple[types.Reward, types.Judge | None]:
    """Reward and judge of an evaluation set; a benchmark has no judge.

    Nothing hangs on these scores, so a judge that may fail is not waited for.
    """
    if name in self.eval_rewards:
      return self.eval_rewards[name], None
    if isinstance(self.judge, patient.Judging):
      return self.reward, self.judge.leniently
    return self.reward, self.judge
