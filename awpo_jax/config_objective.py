"""Flags of the objective: from rewards to advantages, and the loss on them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from awpo_jax.ops import losses, mechanisms


def flag(
  default: Any, help_text: str, choices: Iterable[str] | None = None
) -> Any:
  """A field that becomes a flag: its default, its help, its choices."""
  metadata = {'help': help_text, 'choices': tuple(choices or ())}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
  """From rewards to advantages; arguments of `advantages.awpo_advantages`."""

  reward_scale: str = flag(
    'raw', 'Scale of the outcome.', mechanisms.REWARD_SCALES
  )
  mix: str = flag(
    'sum', 'How the mixed reward adds the reasoning.', mechanisms.MIXES
  )
  mix_weight: float = flag(1.0, 'Weight of the reasoning reward in the mix.')
  mix_advantage: str = flag(
    'mixed',
    'What the gate leans towards: the mixed or the reasoning advantage.',
    mechanisms.MIX_ADVANTAGES,
  )
  ddof: int = flag(1, 'Degrees of freedom taken from the variance: 0 or 1.')
  gate: str = flag('ratio', 'Gate w of each group.', mechanisms.GATES)
  tau: float = flag(
    0.5, 'Outcome variance up to which the gate `binary` opens.'
  )
  saturation: str = flag(
    'solved_calls', 'Groups whose gate stays shut.', mechanisms.SATURATIONS
  )
  difficulty: str = flag(
    'banded', 'Weight d of each group.', mechanisms.DIFFICULTIES
  )
  band: tuple[float, ...] = flag(
    (0.2, 0.8), 'Solve rates the difficulty `banded` favors.'
  )
  base: float = flag(1.0, 'Difficulty weight outside of the band.')
  priority: float = flag(1.5, 'Difficulty weight inside of the band.')
  floor: float = flag(0.0, 'Smallest weight of the difficulty `parabola`.')
  difficulty_scope: str = flag(
    'whole', 'What d multiplies.', mechanisms.DIFFICULTY_SCOPES
  )
  combine: str = flag(
    'convex', 'How the gate joins both advantages.', mechanisms.COMBINATIONS
  )


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The clipped surrogate and its trust region."""

  clip: str = flag(
    'linear', 'Clip radius as a function of the mean gate.', mechanisms.CLIPS
  )
  clip_min: float = flag(0.1, 'Radius of `linear` where the gate is 1.')
  clip_max: float = flag(0.2, 'Radius where the gate is 0.')
  clip_high_factor: float = flag(1.0, 'Upper radius over the lower one.')
  dual_clip: float | None = flag(
    None, 'Bound c > 1 of the loss at negative advantages; none is off.'
  )
  aggregation: str = flag(
    'token-mean', 'Weights of the tokens.', losses.AGGREGATIONS
  )
  entropy_coef: float = flag(0.0, 'Weight of the entropy bonus.')
  kl_coef: float = flag(
    0.0, 'Weight of the KL to the policy at the start of RL; 0 keeps no copy.'
  )
  kl_estimator: str = flag(
    'k3+',
    'Of that KL: k3+ has the value of k3 and the gradient of k2.',
    losses.KL_ESTIMATORS,
  )
