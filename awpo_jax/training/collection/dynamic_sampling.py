"""Filling a rollout batch with useful groups (dynamic sampling, DAPO).

A group to which the algorithm gives no advantage teaches nothing. Shapes stay
static: further rounds are sampled whole, here their groups are put together,
and what is still missing is made up of groups without an advantage.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.distributed import processes
from awpo_jax.training.collection import sample, score


class Rounds:
  """Rounds of sampling for one batch, until enough groups are useful."""

  def __init__(
    self, most: int, useful: Callable[[types.Rollout], np.ndarray] | None
  ) -> None:
    """There are none yet.

    Args:
      most: how many there may be.
      useful: bool[P] of a rollout, groups with an advantage, see
        `from_flags.make_useful`; None: the rounds are used as they are.
    """
    self._most, self._useful = most, useful
    self._rounds: list[types.Scored] = []
    self._found: list[np.ndarray] = []
    self._transcripts: list[dict[str, Any]] = []
    self._tokens = 0

  @property
  def number(self) -> int:
    """Of the next one, from 0."""
    return len(self._rounds)

  def enough(self) -> bool:
    """Whether no further round is needed."""
    if not self._rounds or self.number >= self._most:
      return bool(self._rounds)
    return sum(map(np.sum, self._found)) >= len(self._rounds[-1].tasks)

  def add(
    self,
    sampled: sample.Sampled,
    scored: types.Scored,
    transcripts: list[dict[str, Any]],
  ) -> None:
    """Takes a round, of whose transcripts those of the first are kept."""
    self._tokens += int(sampled.completions.policy_mask.sum())
    self._transcripts = self._transcripts or transcripts
    self._rounds.append(scored)
    if self._useful is not None:
      self._found.append(self._useful(scored.rollout))

  def collected(self, pad_id: int, seconds: float) -> sample.Collected:
    """One batch of the rounds, and what is logged of it.

    Args:
      pad_id: fills what is padded.
      seconds: that sampling took.
    """
    filled = fill(self._rounds, self._found, pad_id=pad_id)
    metrics = score.part_means(filled.parts)
    metrics |= score.reasoning_std(filled.rollout.rewards)
    metrics['selection/rounds'] = len(self._rounds)
    if self._found:
      metrics['selection/useful'] = float(np.mean(self._found))
    tokens = sum(processes.gather(self._tokens))
    metrics['tokens/sampled_per_second'] = tokens / seconds
    return sample.Collected(filled, metrics, self._transcripts)


def fill(
  rounds: Sequence[types.Scored], useful: Sequence[np.ndarray], *, pad_id: int
) -> types.Scored:
  """One batch of the rounds': useful groups first, in order.

  Args:
    rounds: at least one, of P groups each.
    useful: bool[P] of each round, see `from_flags.make_useful`; not looked at
      where there is one round.
    pad_id: fills what is padded.
  """
  if len(rounds) == 1:
    return rounds[0]
  size = len(rounds[0].tasks)
  good = np.concatenate(useful)
  # Stable: the order of sampling within both kinds, then of the chosen.
  chosen = np.sort(np.argsort(~good, kind='stable')[:size])
  joined = jax.tree.map(
    lambda *x: np.concatenate(x)[chosen],
    *_alike([item.rollout for item in rounds], pad_id),
  )
  names = list(dict.fromkeys(n for item in rounds for n in item.parts))
  missing = np.full(joined.sample_ids.shape, np.nan, np.float32)
  tasks = [task for item in rounds for task in item.tasks]
  return types.Scored(
    [tasks[i] for i in chosen],
    joined,
    {
      name: np.concatenate([item.parts.get(name, missing) for item in rounds])[
        chosen
      ]
      for name in names
    },
    lost=rounds[-1].lost,
  )


def _alike(
  rollouts: Sequence[types.Rollout], pad_id: int
) -> list[types.Rollout]:
  """Rollouts padded to the widest prompt and the widest completion."""
  prompt = max(x.prompts.tokens.shape[-1] for x in rollouts)
  answer = max(x.completions.tokens.shape[-1] for x in rollouts)

  def left(x: types.Array, value: int) -> np.ndarray:
    pad = [(0, 0), (prompt - x.shape[-1], 0)]
    return np.pad(x, pad, constant_values=value)

  def right(x: types.Array, value: int = 0) -> types.Array:
    pad = [(0, 0), (0, 0), (0, answer - x.shape[-1])]
    return np.pad(x, pad, constant_values=value) if x.ndim == 3 else x

  def pad(rollout: types.Rollout) -> types.Rollout:
    prompts, completions = rollout.prompts, rollout.completions
    return dataclasses.replace(
      rollout,
      prompts=dataclasses.replace(
        prompts,
        tokens=left(prompts.tokens, pad_id),
        mask=left(prompts.mask, 0),
      ),
      completions=dataclasses.replace(
        jax.tree.map(right, completions),
        tokens=right(completions.tokens, pad_id),
      ),
      thinking=None if rollout.thinking is None else right(rollout.thinking),
    )

  return [pad(rollout) for rollout in rollouts]
