"""What an environment is: pure functions of plain data.

A state is JSON: it can be logged, compared, stored, and an episode replayed
from its task and its calls. Whatever an environment keeps beside it (worker
processes, live objects) is a cache that changes no result.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from awpo_jax import types
from awpo_jax.rollout.text import tool_calls

State: TypeAlias = Mapping[str, Any]


class Observation(NamedTuple):
  """What an episode goes on with.

  Attributes:
    role: `obs`, the result of a call, or `user`, a further request.
    text: anything, perhaps made of what the model wrote: it is data.
  """

  role: str
  text: str


class Step(NamedTuple):
  """The results of the calls of one turn.

  Attributes:
    state: after them.
    observations: one for each call, in order; or what the user says next.
    done: nothing comes after this.
  """

  state: State
  observations: tuple[Observation, ...]
  done: bool


class Turn(NamedTuple):
  """One answer of the policy and what came back.

  Attributes:
    text: the answer, without its stop token.
    calls: read from it; none where it cannot be read.
    observations: empty after the last turn.
  """

  text: str
  calls: tuple[tool_calls.ToolCall, ...]
  observations: tuple[Observation, ...]


class Environment(Protocol):
  """Where calls run.

  No method changes its arguments, and none raises because of what a model
  wrote. What the machine fails to do (a worker that cannot be started) raises
  `types.RewardUnavailable`: the sample is invalid, not wrong.
  """

  def reset(self, task: types.Task) -> State:
    """The state before the first turn."""
    ...

  def step(self, state: State, calls: Sequence[tool_calls.ToolCall]) -> Step:
    """Runs the calls of a turn; one without calls ends the user's turn."""
    ...

  def outcome(
    self, task: types.Task, state: State, turns: Sequence[Turn]
  ) -> types.Score:
    """How well an episode ended; bounds depend on the task alone."""
    ...
