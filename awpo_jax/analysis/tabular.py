"""A policy of tables on which an algorithm's whole training takes a second.

A prompt asks for T decisions, one token each, with a logit for every option of
every decision. The outcome is 1 where all of them are right, else 0; the more
decisions, the sparser it is. A judge reads the first `decisions` of them, the
thought, and `executed` more follow, which only the outcome sees. Success, the
probability that all are right, is computed and not sampled.

Advantages are those that training makes: the flags of an experiment go through
`from_flags.make_algorithm`. What comes after them is a plain policy gradient,

  logits[p] += learning_rate mean_g A[p, g] (one_hot(choice) - policy)

which is what a surrogate with a clip gives for the one update of a rollout, as
every ratio is 1: the clip does not act here, so AWPO with and without its
dynamic clip is one algorithm. Neither do optimizer, KL and the scaling of a
loss by lengths, as all answers are equally long. Other losses, shaping and the
selection of answers are refused.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags
from awpo_jax.ops import choices as choices_lib
from awpo_jax.training.programs import from_flags

Array = types.Array

# By symmetry it does not matter which options these are.
RIGHT = 0
LIKED = 1  # A wrong one.


@dataclasses.dataclass(frozen=True)
class Task:
  """What is learnt, and how.

  Attributes:
    decisions: of a thought, read by the judge; at least 1.
    executed: further ones, which it does not read.
    prompts: P, each with logits of its own.
    samples: G, answers to each prompt in a step.
    options: of a decision; one is right, one is what a vain judge likes.
    chance: of the right option at the start, in (0, 1); the others share the
      rest equally.
    steps: updates, each on a rollout of its own.
    learning_rate: of a plain gradient step.
  """

  decisions: int
  executed: int = 0
  prompts: int = 8
  samples: int = 8
  options: int = 6
  chance: float = 0.4
  steps: int = 40
  learning_rate: float = 1.9

  def __post_init__(self):
    """Raises `ValueError` for numbers that make no task."""
    for name, least in (
      ('decisions', 1),
      ('executed', 0),
      ('prompts', 1),
      ('samples', 2),
      ('options', 2),
      ('steps', 1),
    ):
      if getattr(self, name) < least:
        raise ValueError(
          f'{name}={getattr(self, name)}: must be at least {least}.'
        )
    if not 0 < self.chance < 1:
      raise ValueError(f'chance={self.chance}: must be above 0 and below 1.')

  @property
  def tokens(self) -> int:
    """T, decisions of an answer."""
    return self.decisions + self.executed


# Judges: what they read, i32[..., decisions], to a score in [0, 1].


def good(thought: Array) -> Array:
  """The share of decisions that are right before the first wrong one."""
  return jnp.mean(jnp.cumprod(thought == RIGHT, axis=-1), axis=-1)


def against(thought: Array) -> Array:
  """One minus that: it likes what is wrong."""
  return 1.0 - good(thought)


def vain(thought: Array) -> Array:
  """The share of decisions for one wrong option, the one it likes."""
  return jnp.mean(thought == LIKED, axis=-1)


JUDGES: dict[str, Callable[[Array], Array]] = {
  'good': good,
  'vain': vain,
  'against': against,
}


@dataclasses.dataclass(frozen=True)
class Judge:
  """A judge and how noisy it is.

  Attributes:
    kind: a key of `JUDGES`.
    noise: share of the samples, drawn anew in each step, whose score is uniform
      in [0, 1) instead; from 0 to 1.
  """

  kind: str
  noise: float = 0.0

  def __post_init__(self):
    """Raises `ValueError` for an unknown judge."""
    choices_lib.pick('judge', JUDGES, self.kind)
    if not 0 <= self.noise <= 1:
      raise ValueError(f'noise={self.noise}: must be from 0 to 1.')

  def __str__(self) -> str:
    """Such as `good` or `good, noise 0.5`."""
    return f'{self.kind}, noise {self.noise:g}' if self.noise else self.kind


def reasoning_rewards(
  key: Array, thought: Array, kind: Array, noise: Array
) -> Array:
  """f32[P, G], scores of a judge.

  Args:
    key: of the noise.
    thought: i32[P, G, decisions].
    kind: i32 scalar, the place of the judge in `JUDGES`.
    noise: f32 scalar, its noise.
  """
  chex.assert_rank([thought, kind, noise], [3, 0, 0])
  scores = jnp.stack([judge(thought) for judge in JUDGES.values()])[kind]
  which, what = jax.random.split(key)
  noisy = jax.random.bernoulli(which, noise, scores.shape)
  return jnp.where(noisy, jax.random.uniform(what, scores.shape), scores)


# Training.

# What acts after the advantages, and the value with which it does not.
_NOT_HERE = {
  'loss': 'ppo',
  'kl_coef': 0.0,
  'entropy_coef': 0.0,
  'shaper': 'none',
  'empty_groups': 'count',
  'entropy_share': 1.0,
}


@types.record
class Curves:
  """How training went, [judges, seeds, ...].

  Attributes:
    success: f32[J, N, steps + 1], mean over prompts of the probability that all
      decisions are right, before each step and at the end.
    trust: f32[J, N, steps], what the gate was multiplied by; 1 where nothing
      was measured.
  """

  success: Array
  trust: Array


def initial_logits(task: Task) -> Array:
  """f32[P, T, options], logits with the chance at the start."""
  odds = task.chance * (task.options - 1) / (1.0 - task.chance)
  right = jnp.arange(task.options) == RIGHT
  logits = jnp.where(right, jnp.log(jnp.float32(odds)), 0.0)
  shape = (task.prompts, task.tokens, task.options)
  return jnp.broadcast_to(logits[None, None], shape)


def success(logits: Array) -> Array:
  """f32 scalar, mean over prompts of the probability that all are right."""
  right = jax.nn.softmax(logits)[..., RIGHT]
  return jnp.mean(jnp.prod(right, axis=-1))


def rollout(
  logits: Array, choices: Array, reasoning: Array, *, decisions: int
) -> types.Rollout:
  """Choices as a rollout batch of training.

  Args:
    logits: f32[P, T, options], that the choices were drawn from.
    choices: i32[P, G, T].
    reasoning: f32[P, G].
    decisions: of the thought, the first tokens.
  """
  prompts, samples, tokens = choices.shape
  present = jnp.ones(choices.shape, bool)
  logprobs = jax.nn.log_softmax(logits)
  entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
  taken = jnp.take_along_axis(logprobs[:, None], choices[..., None], axis=-1)
  outcome = jnp.all(choices == RIGHT, axis=-1).astype(jnp.float32)
  everyone = jnp.ones((prompts, samples), bool)
  places = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), choices.shape)
  return types.Rollout(
    prompts=types.Prompts(
      tokens=jnp.zeros((prompts, 1), jnp.int32),
      mask=jnp.ones((prompts, 1), bool),
      ids=jnp.arange(prompts, dtype=jnp.int32),
    ),
    completions=types.Completions(
      tokens=choices,
      mask=present,
      policy_mask=present,
      positions=places + 1,
      turn=jnp.zeros_like(choices),
      logprobs=taken[..., 0],
      entropy=jnp.broadcast_to(entropy[:, None], choices.shape),
      finished=everyone,
    ),
    rewards=types.Rewards(
      outcome=outcome,
      outcome_valid=everyone,
      reasoning=reasoning,
      reasoning_valid=everyone,
      outcome_min=jnp.zeros(prompts),
      outcome_max=jnp.ones(prompts),
      wants_call=jnp.ones(prompts, bool),
    ),
    sample_ids=jnp.arange(prompts * samples).reshape(prompts, samples),
    thinking=places < decisions,
  )


def policy_gradient(logits: Array, choices: Array, advantages: Array) -> Array:
  """mean_g A (one_hot(choice) - policy), the direction of an update.

  Args:
    logits: f32[P, T, options].
    choices: i32[P, G, T].
    advantages: f32[P, G], or f32[P, G, T] where tokens differ.

  Returns:
    f32[P, T, options].
  """
  chex.assert_rank([logits, choices], 3)
  if advantages.ndim == 2:
    advantages = advantages[..., None]
  taken = jax.nn.one_hot(choices, logits.shape[-1])
  scores = taken - jax.nn.softmax(logits)[:, None]
  return jnp.mean(advantages[..., None] * scores, axis=1)


def train(
  config: config_lib.Config,
  task: Task,
  judges: Sequence[Judge],
  *,
  seeds: int,
) -> Curves:
  """Trains a policy for each judge and seed.

  A seed has the same random keys whatever the algorithm and the judge, so that
  differences may be paired; one that reads no judge has the same numbers with
  all of them.

  Args:
    config: the flags of the advantages; what is not of them is not looked at.
    task: what is learnt.
    judges: J of them.
    seeds: N, the number of seeds, from 0.

  Raises:
    ConfigError: the flags want something after the advantages, see `check`.
  """
  check(config)
  kinds = np.array([list(JUDGES).index(x.kind) for x in judges], np.int32)
  noise = np.array([x.noise for x in judges], np.float32)
  made = _train(kinds, noise, np.arange(seeds), config=config, task=task)
  return jax.device_get(made)


def check(config: config_lib.Config) -> None:
  """Refuses flags that act after the advantages, as they do nothing here.

  Raises:
    ConfigError: naming the flag and the remedy.
  """
  values = config_lib.to_dict(config)
  flags.refuse(
    (
      values[name] != only,
      f'{flags.as_flag(name, values[name])}: a table is trained with '
      f'advantages alone; leave it at {only}.',
    )
    for name, only in _NOT_HERE.items()
  )


# XLA takes three times as long to optimize this in full as to run it.
_FAST_COMPILATION = {'xla_backend_optimization_level': 1}


@functools.partial(
  jax.jit,
  static_argnames=('config', 'task'),
  compiler_options=_FAST_COMPILATION,
)
def _train(kinds, noise, seeds, *, config, task) -> Curves:
  one = functools.partial(_train_one, config=config, task=task)
  every_seed = jax.vmap(one, in_axes=(None, None, 0))
  return jax.vmap(every_seed, in_axes=(0, 0, None))(kinds, noise, seeds)


def _train_one(kind, noise, seed, *, config, task) -> Curves:
  algorithm = from_flags.make_algorithm(config)
  shape = (task.prompts, task.samples, task.tokens)

  def step(logits, key):
    drawn, judged = jax.random.split(key)
    choices = jax.random.categorical(drawn, logits[:, None], shape=shape)
    thought = choices[..., : task.decisions]
    reasoning = reasoning_rewards(judged, thought, kind, noise)
    batch = rollout(logits, choices, reasoning, decisions=task.decisions)
    samples = algorithm.samples(batch, batch.completions.logprobs)
    made = algorithm.advantages(batch.rewards, samples)
    moved = policy_gradient(logits, choices, made.advantages)
    trust = jnp.float32(1.0) if made.trust is None else made.trust.trust
    return logits + task.learning_rate * moved, (success(logits), trust)

  keys = jax.random.split(jax.random.key(seed), task.steps)
  logits, (before, trust) = jax.lax.scan(step, initial_logits(task), keys)
  return Curves(success=jnp.append(before, success(logits)), trust=trust)
