"""The sparse outcome reward: all or nothing."""

from awpo_jax import types
from awpo_jax.rollout.rewards import toolrl


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
  score = toolrl.toolrl(response, task)
  return types.Score(
    value=float(bool(score.solved)),
    minimum=0.0,
    maximum=1.0,
    parts=score.parts,
    solved=score.solved,
  )
