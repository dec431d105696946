"""Filling a rollout batch with useful groups (dynamic sampling, DAPO).

A group to which the algorithm gives no advantage teaches nothing. Shapes stay
static: further rounds are sampled whole, here their groups are put together,
and what is still missing is made up of groups without an advantage.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from awpo_jax import types


def fill(
  rounds: Sequence[types.Scored], useful: Sequence[np.ndarray], *, pad_id: int
) -> types.Scored:
  """One batch of the rounds': useful groups first, in order.

  Args:
    rounds: at least one, of P groups each.
    useful: bool[P] of each round, see `from_flags.make_useful`; not looked at
      where
      there is one round.
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
