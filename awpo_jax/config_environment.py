"""Flags of tools that run: where, for how long, and what an episode earns."""

import dataclasses

from awpo_jax.config_objective import flag
from awpo_jax.rollout import episode_rewards


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
  """Episodes of several turns, whose tool calls run (`--environment`)."""

  environment: str = flag(
    'none',
    'Where calls run: quickstart, bfcl, package.module:function (of '
    'sandbox.Limits), or none: an answer is one turn.',
  )
  max_turns: int = flag(8, 'Answers of an episode at most.')
  observation_tokens: int = flag(
    128, 'Tokens that an episode reads between two answers at most.'
  )
  episode_reward: str = flag(
    'outcome',
    'Of an episode where --reward=toolrl: its end as the environment sees it, '
    "or ToolRL's reward of each turn against the reference.",
    episode_rewards.EPISODE_REWARDS,
  )
  tool_seconds: float = flag(5.0, 'Seconds of a call.')
  tool_megabytes: int = flag(512, 'Memory of a process that runs calls.')
  tool_chars: int = flag(4096, 'Characters of a result; the rest is cut.')
  tool_workers: int = flag(2, 'Processes that run calls.')


# None of a run's numbers hangs on it.
MAY_CHANGE = frozenset({'tool_workers'})
