"""Ends a run after several steps in a row that could train nothing."""

from collections.abc import Callable

import numpy as np

from awpo_jax.config import experiment as config_lib
from awpo_jax.ops import advantages
from awpo_jax.rollout.rewards.judges import patient
from awpo_jax.training import steps

STEPS = 3


class Watch:
  """Counts the steps in a row of which no answer could be trained on."""

  def __init__(
    self,
    config: config_lib.Config,
    judge: Callable[[], patient.Judging | None],
  ) -> None:
    """Nothing is counted yet.

    Args:
      config: of the run.
      judge: what it asks at present.
    """
    self._judged = advantages.reads_reasoning(
      advantage=config.advantage.advantage, gate=config.advantage.gate
    )
    self._judge = judge
    self._count = 0

  def after(self, report: steps.Report) -> str:
    """Why the run cannot go on after a step; '' where it can.

    The same on all processes, but for the reasons, which are their own.
    """
    # Of all processes; missing in other phases.
    empty = report.metrics.get('reward/valid') == 0
    self._count = self._count + 1 if empty else 0
    if self._count < STEPS:
      return ''
    return (
      f'No answer of the last {STEPS} steps could be trained on, so nothing '
      f'was learnt in them: of the last one{self._causes(report)}.'
    )

  def _causes(self, report: steps.Report) -> str:
    if report.scored is None:
      return ' none was valid'
    rewards = report.scored.rollout.rewards
    causes = [_lack(rewards.outcome_valid, 'outcome', report.scored.lost)]
    if self._judged:
      judge = self._judge()
      asked = judge.name() if judge is not None else 'there is no judge'
      causes.append(_lack(rewards.reasoning_valid, 'score', asked))
    return ' and'.join(x for x in causes if x)


def _lack(valid, what: str, why: str) -> str:
  """How many answers lack a reward, and why; '' where none does."""
  count = int(np.size(valid) - np.count_nonzero(valid))
  if not count:
    return ''
  return f' {count} of {np.size(valid)} answers had no {what} ({why})'
