"""Array aliases, the records that travel between floors, and their letters.

Shapes are written with the same letters everywhere, in docstrings and in einsum
strings:

  M  microbatches             S   positions          D  width
  P  prompts                  Sp  prompt positions   H  query heads
  G  samples of a prompt      Sc  completion positions
  N  rows (P * G)             T   predicted positions
  V  vocabulary               L   layers             K  key/value heads
                                                     C  head width

Groups are an axis: a reward is `[P, G]`, never a flat row with a group id. The
prompt is stored once per group (`[P, Sp]`, padded on the left), completions
apart (`[P, G, Sc]`, padded on the right).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, dataclass_transform

import chex
import jax
import numpy as np

# NumPy's on the host, JAX's inside programs: records hold either.
Array: TypeAlias = jax.Array | np.ndarray
ArrayTree: TypeAlias = Any
AllSum: TypeAlias = Callable[[ArrayTree], ArrayTree]
_T = TypeVar('_T')


@dataclass_transform(frozen_default=True)
def record(cls: type[_T]) -> type[_T]:
  """Makes a class a frozen dataclass that JAX takes for a pytree."""
  return chex.dataclass(cls, frozen=True, mappable_dataclass=False)


# Records of the host: text and JSON, never traced.


@dataclasses.dataclass(frozen=True)
class Tool:
  """A tool as the prompt offers it.

  Attributes:
    name: what a call must repeat exactly.
    description: one sentence.
    parameters: parameter name -> its JSON description (`type`, `description`,
      `enum`, `default`, ... as the data set has them).
    required: parameters that may not be left out, where the data set lists
      them apart; None: each parameter says it, see `rollout.text.json_schemas`.
  """

  name: str
  description: str
  parameters: Mapping[str, Mapping[str, Any]]
  required: tuple[str, ...] | None = None

  def to_json(self) -> dict[str, Any]:
    """What texts show of it: `name`, `description`, `parameters`."""
    return {
      'name': self.name,
      'description': self.description,
      'parameters': dict(self.parameters),
    }


@dataclasses.dataclass(frozen=True)
class Task:
  """One prompt with what is needed to score an answer to it.

  Attributes:
    task_id: unique within the data set, e.g. `rlla_sft_17`.
    system: the system text, tools already listed in it.
    user: the user text (RLLA: the dialogue history).
    tools: the offered tools, as the judge sees them.
    ground_truth: the reference answer in RLLA's layout.
    kind: the row of `accuracy_by_kind` it counts in, e.g. `single`.
    scenario: of a task with tools that run: JSON that its environment reads.
    references: of such a task, a right answer for each turn, in order; perhaps
      none.
    wants_call: whether a right answer calls a tool; None: whether a reference
      does, the ground truth or one of `references`. Say it where there is no
      reference in RLLA's layout.
  """

  task_id: str
  system: str
  user: str
  tools: tuple[Tool, ...]
  ground_truth: str
  kind: str
  scenario: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  references: tuple[str, ...] = ()
  wants_call: bool | None = None


@dataclasses.dataclass(frozen=True)
class Exchange:
  """A further turn of a demonstration.

  Attributes:
    observations: role (`obs` or `user`) and text of what came back.
    response: the answer to it.
  """

  observations: tuple[tuple[str, str], ...]
  response: str


@dataclasses.dataclass(frozen=True)
class Demonstration:
  """A prompt and the answer that supervised fine-tuning imitates.

  Attributes:
    task: the prompt.
    response: the first answer.
    further: turns after it, where tools ran.
  """

  task: Task
  response: str
  further: tuple[Exchange, ...] = dataclasses.field(default=(), kw_only=True)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The data of an experiment: to train on, and to evaluate on.

  Attributes:
    demonstrations: for the objective `sft`.
    train: prompts for the objective `rl`; any object with `len` and `[i]`,
      a generator's may be far longer than a run can use.
    evals: held-out prompts by name; the first is the main figure.
  """

  demonstrations: Sequence[Demonstration]
  train: Sequence[Task]
  evals: Mapping[str, Sequence[Task]]


class Score(NamedTuple):
  """An outcome reward with its lowest and highest value for the prompt.

  Numbers may be of Python, NumPy or JAX.

  Attributes:
    value: finite, in `[minimum, maximum]`.
    minimum: the worst possible value for this prompt.
    maximum: the best possible value for this prompt.
    parts: further numbers to log, by name; `solved` is taken. None is a number
      that is missing, and one that is not finite counts in no mean.
    solved: whether the task is solved; None: where the value is the maximum.
  """

  value: float
  minimum: float
  maximum: float
  parts: Mapping[str, float]
  solved: bool | None = None


class JudgeRequest(NamedTuple):
  """What a judge of the reasoning may see: never the gold answer."""

  user: str
  tools: tuple[Tool, ...]
  response: str


# A reward scores one response; None, or raising `RewardUnavailable`, makes the
# sample invalid.
Reward: TypeAlias = Callable[[str, Task], Score | None]
# A judge scores many answers at once; None where there is no score.
Judge: TypeAlias = Callable[[Sequence[JudgeRequest]], Sequence[float | None]]


class RewardUnavailable(Exception):
  """The reward could not be computed; the sample is invalid."""


class JudgeUnavailable(Exception):
  """No scores at present; the message says from whom, why, and the remedy."""


class JudgeRefused(JudgeUnavailable):
  """No scores until something is changed: waiting does not help."""


class BadReturn(ValueError):
  """A reward or judge returned what it must not; says which and the remedy."""


# Records of arrays: pytrees that cross into jitted functions.


@record
class Prompts:
  """Prompts of a batch, padded on the left.

  Attributes:
    tokens: i32[P, Sp].
    mask: bool[P, Sp], True where there is a token.
    ids: i32[P], position of the prompt in the run's data order.
  """

  tokens: Array
  mask: Array
  ids: Array


@record
class Completions:
  """What the sampler returns; masks are born here, with the tokens.

  Attributes:
    tokens: i32[P, G, Sc], padded on the right.
    mask: bool[P, G, Sc], True where there is a token.
    policy_mask: bool[P, G, Sc], True where the policy chose that token.
    positions: i32[P, G, Sc], number of real tokens before this one.
    turn: i32[P, G, Sc], 0 for the first assistant turn.
    logprobs: f32[P, G, Sc], log-probability under the sampler; 0 where not
      chosen by the policy.
    entropy: f32[P, G, Sc], of the distribution it was drawn from, in nats.
    finished: bool[P, G], False where the length limit cut the answer.
  """

  tokens: Array
  mask: Array
  policy_mask: Array
  positions: Array
  turn: Array
  logprobs: Array
  entropy: Array
  finished: Array


@record
class Rewards:
  """Both rewards of every sample with their validity.

  Attributes:
    outcome: f32[P, G]; anything, even NaN, where not valid.
    outcome_valid: bool[P, G].
    reasoning: f32[P, G] in [0, 1].
    reasoning_valid: bool[P, G].
    outcome_min: f32[P], the worst outcome this prompt allows.
    outcome_max: f32[P], the best outcome this prompt allows.
    wants_call: bool[P], whether a right answer to this prompt calls a tool.
    parts: name -> f32[P, G], parts of the outcome that the algorithm takes
      apart, NaN where missing; None unless it asks for them.
  """

  outcome: Array
  outcome_valid: Array
  reasoning: Array
  reasoning_valid: Array
  outcome_min: Array
  outcome_max: Array
  wants_call: Array
  parts: Mapping[str, Array] | None = None


@record
class Rollout:
  """A rollout batch: prompts once per group, completions, rewards, ids.

  Attributes:
    prompts: `Prompts`.
    completions: `Completions`.
    rewards: `Rewards`.
    sample_ids: i32[P, G], unique in the run.
    thinking: bool[P, G, Sc], tokens of the chain of thought; None unless the
      algorithm asks for them.
    trainer_logprobs: f32[P, G, Sc], log-probability under the trainer before
      the first update, beside the sampler's in `completions`; 0 where not
      chosen by the policy; None until `prepare_rollout`, and where it does not
      compute them (`--old_logprobs=sampler`).
    layout: how its tokens lie where they are to be read, see `Batch`.
  """

  prompts: Prompts
  completions: Completions
  rewards: Rewards
  sample_ids: Array
  thinking: Array | None = None
  trainer_logprobs: Array | None = None
  layout: Any = None


@record
class Batch:
  """A mini-batch of the train step, `[M, P, ...]` per device.

  Attributes:
    prompt_tokens: i32[M, P, Sp].
    prompt_mask: bool[M, P, Sp].
    tokens: i32[M, P, G, Sc].
    mask: bool[M, P, G, Sc].
    positions: i32[M, P, G, Sc].
    policy_mask: bool[M, P, G, Sc], tokens that are trained on: the mask of
      every term of the loss.
    old_logprobs: f32[M, P, G, Sc], what the ratio starts from: of the sampler,
      or of the trainer before the first update (`prepare_rollout`); 0 where
      not chosen by the policy.
    advantages: f32[M, P, G]; f32[M, P, G, Sc] where tokens differ.
    clip_radius: f32[M, P], the same number everywhere unless groups have their
      own (`--clip_scope=group`).
    ref_logprobs: f32[M, P, G, Sc], of the reference policy; 0 where not chosen
      by the policy; None without a KL term.
    clip_high: f32[M, P, G], upper radius of each sample; None where it is
      `clip_radius` times a number.
    correction: f32[M, P, G, Sc], weights of the surrogate for where sampler
      and trainer disagree; None for none.
    weights: f32[M, P, G, Sc]; None until the step has weighed it.
    pull: f32[M], factor of the mean of log ratios that a trust region over the
      whole mini-batch adds; None until the step has found it, or without one.
    layout: how its tokens lie, a record that knows how to read them and has
      microbatches of its own, so that M is 1; None where each prompt and each
      answer is padded. Those there are: `training.programs.options`.
  """

  prompt_tokens: Array
  prompt_mask: Array
  tokens: Array
  mask: Array
  positions: Array
  policy_mask: Array
  old_logprobs: Array
  advantages: Array
  clip_radius: Array
  ref_logprobs: Array | None = None
  clip_high: Array | None = None
  correction: Array | None = None
  weights: Array | None = None
  pull: Array | None = None
  layout: Any = None

  @classmethod
  def of(cls, prompts: Prompts, completions: Completions) -> 'Batch':
    """Completions [P, ...] as they were sampled: advantages and radius are 0.

    What the ratio starts from is the sampler's, and all that the policy chose
    is trained on.
    """
    groups = completions.tokens.shape[:2]
    return cls(
      prompt_tokens=prompts.tokens,
      prompt_mask=prompts.mask,
      tokens=completions.tokens,
      mask=completions.mask,
      positions=completions.positions,
      policy_mask=completions.policy_mask,
      old_logprobs=completions.logprobs,
      advantages=np.zeros(groups, np.float32),
      clip_radius=np.zeros(groups[:1], np.float32),
    )


class Scored(NamedTuple):
  """A rollout batch with its rewards, on the host.

  Attributes:
    tasks: P of them.
    rollout: of NumPy arrays.
    parts: name -> f32[P, G], what the outcome is made of; NaN where missing.
    lost: why the last missing outcome is missing; '' where none is.
  """

  tasks: Sequence[Task]
  rollout: Rollout
  parts: Mapping[str, np.ndarray]
  lost: str = ''
