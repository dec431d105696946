"""A model and rollouts small enough to train in a test.

Compiled programs are shared by all tests of a process, and compiled without
optimizations: compiling is nearly all the time these tests take.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import phases
from awpo_jax.distributed import device_map, sharding
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.ops import aggregation as aggregation_lib
from awpo_jax.ops import surrogate
from awpo_jax.rollout.sampling import sampler
from awpo_jax.training.programs import from_flags
from awpo_jax.training.update import objectives, optimizer, prepare, train_step
from tests.helpers import flags as flags_lib
from tests.helpers import quick_compiling

VOCAB, PROMPTS, SAMPLES, PROMPT, RESPONSE = 29, 32, 4, 7, 6
MINIBATCH = 8
MAX_LENGTH = 9
CONFIG = model_config.DecoderConfig(
  vocab_size=VOCAB,
  width=32,
  layers=2,
  heads=4,
  kv_heads=2,
  head_width=8,
  mlp_width=48,
  qk_norm=True,
)
DECODER = decoder_lib.Decoder(CONFIG)
RL_FLAGS = {
  **flags_lib.section('loss'),
  **flags_lib.section('numbers'),
  'temperature': 1.0,
  'chunk': 3,
  'prompts': MINIBATCH,
}
RL_TERMS = functools.partial(objectives.rl_terms, decoder=DECODER, **RL_FLAGS)
SFT_TERMS = functools.partial(objectives.sft_terms, decoder=DECODER, chunk=3)
GRPO = {'gate': 'none', 'difficulty': 'none', 'clip': 'fixed'}


@functools.cache
def quick():
  """Compiler options under which compiling takes a fifth of the time."""
  if os.environ.get('AWPO_OPTIMIZED'):
    return {}
  return quick_compiling.OPTIONS


def jit(fn, **options):
  """`jax.jit` that compiles quickly."""
  return jax.jit(fn, compiler_options=quick(), **options)


@functools.cache
def params():
  """Parameters on the host, large enough that every gradient matters."""
  shapes = jax.eval_shape(
    lambda key: decoder_lib.init_params(CONFIG, key), jax.random.key(0)
  )
  rng = np.random.default_rng(0)

  def draw(leaf):
    values = rng.normal(size=leaf.shape) * (0.2 if leaf.ndim > 1 else 0.1)
    return (values + (leaf.ndim == 1)).astype(leaf.dtype)

  return jax.tree.map(draw, shapes)


# Data.


def rollout(seed: int) -> types.Rollout:
  """Random prompts, completions and rewards of unequal length and validity.

  The first prompt has no valid sample, the second only one, the third two: a
  device that holds them has little to learn from. Some tokens, one in ten, are
  not the policy's own. `logprobs` are those of another policy.
  """
  rng = np.random.default_rng(seed)
  group, shape = (PROMPTS, SAMPLES), (PROMPTS, SAMPLES, RESPONSE)
  outcome_valid = rng.random(group) < 0.9
  outcome_valid[:3] = np.arange(SAMPLES) < np.arange(3)[:, None]
  lengths = rng.integers(2, PROMPT + 1, PROMPTS)
  prompt_mask = np.arange(PROMPT) >= PROMPT - lengths[:, None]
  prompt_tokens = np.where(
    prompt_mask, rng.integers(1, VOCAB, (PROMPTS, PROMPT)), 0
  )
  own = rng.integers(1, RESPONSE + 1, group)
  mask = np.arange(RESPONSE) < own[..., None]
  policy = mask & (rng.random(shape) < 0.9)
  positions = np.where(mask, lengths[:, None, None] + np.arange(RESPONSE), 0)
  tokens = np.where(mask, rng.integers(1, VOCAB, shape), 0)
  logprobs = np.where(policy, -3 - rng.random(shape), 0)
  return types.Rollout(
    prompts=types.Prompts(
      tokens=prompt_tokens.astype(np.int32),
      mask=prompt_mask,
      ids=np.arange(PROMPTS, dtype=np.int32),
    ),
    completions=types.Completions(
      tokens=tokens.astype(np.int32),
      mask=mask,
      policy_mask=policy,
      positions=positions.astype(np.int32),
      turn=np.zeros(shape, np.int32),
      logprobs=logprobs.astype(np.float32),
      entropy=np.where(policy, 1.5, 0).astype(np.float32),
      finished=own < RESPONSE,
    ),
    rewards=types.Rewards(
      outcome=rng.integers(-3, 5, group).astype(np.float32),
      outcome_valid=outcome_valid,
      reasoning=(rng.integers(0, 5, group) / 4).astype(np.float32),
      reasoning_valid=rng.random(group) < 0.9,
      outcome_min=np.full(PROMPTS, -3, np.float32),
      outcome_max=np.full(PROMPTS, 4, np.float32),
      wants_call=np.ones(PROMPTS, bool),
    ),
    sample_ids=np.arange(PROMPTS * SAMPLES, dtype=np.int32).reshape(group),
  )


def with_rewards(rollout: types.Rollout, **fields) -> types.Rollout:
  """The rollout with some fields of its rewards replaced."""
  return rollout.replace(rewards=rollout.rewards.replace(**fields))


# From data to constants.


def make_prepare(*, trainer: bool = True, clip: str = 'linear', **flags):
  """`prepare_rollout` with flags bound, for one device or a mapped axis."""
  return functools.partial(
    prepare.prepare_rollout,
    algorithm=make_algorithm(clip=clip, **flags),
    scores=make_scores(trainer=trainer),
  )


def make_algorithm(**flags) -> prepare.Algorithm:
  """The defaults, and flags by their names; without trust unless it is given.

  Trust couples the groups of a batch; references work a group at a time.
  """
  flags = {'trust': 'none', **flags}
  config = config_lib.Config()
  sections = {
    name: dataclasses.replace(
      getattr(config, name),
      **{
        field.name: flags.pop(field.name)
        for field in dataclasses.fields(section)
        if field.name in flags
      },
    )
    for name, section in config_lib.sections().items()
  }
  assert not flags, flags
  return from_flags.make_algorithm(config_lib.Config(**sections))


def make_scores(
  *, trainer: bool = True, decoder=DECODER, **options
) -> prepare.Scores:
  """Log-probabilities by the decoder; `options` are fields of `Scores`."""
  logprobs = functools.partial(
    objectives.completion_logprobs, decoder=decoder, temperature=1.0, chunk=3
  )
  return prepare.Scores(
    old=surrogate.OLD_LOGPROBS['trainer' if trainer else 'sampler'],
    logprobs=logprobs,
    **{'prompt': None, 'reference': False, 'micro': MINIBATCH, **options},
  )


@functools.cache
def _prepare_fn(**flags):
  return jit(make_prepare(**flags))


def prepared(rollout: types.Rollout, weights=None, **flags):
  """`prepare.Prepared` on one device, as NumPy arrays; flags of `make_prepare`.

  Args:
    rollout: of NumPy arrays.
    weights: parameters of the trainer; `params()` by default.
  """
  weights = params() if weights is None else weights
  return jax.device_get(_prepare_fn(**flags)(weights, rollout))


@functools.cache
def _sampler():
  def run(params, prompts, sample_ids, facts):
    return sampler.sample(
      params,
      prompts,
      sample_ids,
      sampler.fact_key(facts),
      sampler.Decoding(DECODER, RESPONSE, stop_ids=(1,), pad_id=0),
    )

  return jit(run)


def sampled(rollout: types.Rollout, weights, step: int = 0) -> types.Rollout:
  """The rollout with completions drawn by the sampler."""
  facts = sampler.facts(0, 'train', step, 0)
  completions = _sampler()(weights, rollout.prompts, rollout.sample_ids, facts)
  return rollout.replace(completions=jax.device_get(completions))


# Updates.


def make_tx(learning_rate: float = 1e-2):
  """AdamW that keeps the gradient it was given at `opt_state[0]`.

  With this `eps` rounding is not blown up where a gradient is tiny.
  """
  record = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _, params=None: (grads, grads),
  )
  flags = phases.OptimizerConfig(adam_eps=1e-3)
  adamw = optimizer.make_optimizer(lambda _: learning_rate, flags)
  return optax.chain(record, adamw)


def initial_state() -> train_step.TrainState:
  """The state before the first update, on the host."""
  return jax.device_get(train_step.init_state(params(), make_tx()))


AGGREGATIONS = tuple(aggregation_lib.AGGREGATIONS)


def step(state, batch, aggregation, *, terms=RL_TERMS, **how):
  """`train_step`; the aggregation is a number, so that one program has all."""

  def weigh(batch, all_sum):
    every = [
      objectives.weigh(
        batch, all_sum, aggregation=name, max_length=MAX_LENGTH
      ).weights
      for name in AGGREGATIONS
    ]
    return batch.replace(weights=jnp.stack(every)[aggregation])

  return train_step.train_step(
    state,
    batch,
    weigh=weigh,
    terms=terms,
    tx=make_tx(),
    **how,
  )


@functools.cache
def _jitted(terms):
  return jit(functools.partial(step, terms=terms))


def update(
  state,
  batch: types.Batch,
  *,
  aggregation='token-mean',
  micro=1,
  terms=RL_TERMS,
):
  """One update on one device.

  Args:
    state: on the host.
    batch: [P, ...] of NumPy arrays.
    aggregation: how the loss adds up.
    micro: microbatches it is cut into.
    terms: the loss.

  Returns:
    State and metrics, on the host.
  """
  size = len(batch.tokens) // micro
  (batch,) = sharding.cut(sharding.split(batch, 1), minibatches=1, micro=size)
  batch = jax.tree.map(lambda x: x[0], batch)
  number = AGGREGATIONS.index(aggregation)
  return jax.device_get(_jitted(terms)(state, batch, number))


def updates(state, batch: types.Batch):
  """An update on each mini-batch; the last state and all metrics."""
  metrics = []
  for part in minibatches(batch):
    state, new = update(state, part)
    metrics.append(new)
  return state, metrics


def minibatches(batch):
  """A tree of arrays [P, ...] as runs of eight prompts."""
  return [
    jax.tree.map(lambda x, i=i: x[i : i + MINIBATCH], batch)
    for i in range(0, PROMPTS, MINIBATCH)
  ]


class Mapped:
  """The update of eight prompts over devices, compiled once.

  Under `pmap`, or with `model` over a mesh of data x model devices.
  """

  def __init__(self, devices: int, micro: int, terms=RL_TERMS, model: int = 0):
    self._step = functools.partial(step, terms=terms)
    if model:
      data = devices // model
      self.mesh = sharding.model_mesh(data, model, jax.devices()[:devices])
      self._step = functools.partial(
        self._step,
        constrain=functools.partial(sharding.constrain_state, mesh=self.mesh),
      )
    else:
      self.mesh = sharding.data_mesh(jax.devices()[:devices])
    self._parts = sharding.parts(self.mesh)
    self._micro = MINIBATCH // self._parts // micro
    self._compiled = None

  def place(self, state):
    return sharding.place_state(state, self.mesh)

  def __call__(self, state, batch: types.Batch, *, aggregation='token-mean'):
    """As `update`, but the state is on the devices and donated."""
    (batch,) = sharding.cut(
      sharding.split(batch, self._parts), minibatches=1, micro=self._micro
    )
    number = np.int32(AGGREGATIONS.index(aggregation))
    number = sharding.place_replicated(number, self.mesh)
    arguments = state, sharding.place_split(batch, self.mesh), number
    if self._compiled is None:
      mapped = device_map.mapped(
        self._step,
        self.mesh,
        in_axes=(None, 0, None),
        out_axes=None,
        donate=(0,),
        rows_axis=1,
      )
      self._compiled = mapped.lower(*arguments).compile(
        compiler_options=quick()
      )
    return self._compiled(*arguments)


mapped = functools.cache(Mapped)


# Comparison.


def assert_equal(left, right):
  """Every bit of two trees."""
  jax.tree.map(np.testing.assert_array_equal, left, right)


def distance(left, right) -> float:
  """Global norm of the difference of two trees, in float64."""
  squares = jax.tree.map(
    lambda x, y: np.sum((np.float64(x) - np.float64(y)) ** 2), left, right
  )
  return float(np.sqrt(sum(jax.tree.leaves(squares))))


def norm(tree) -> float:
  """Global norm of a tree, in float64."""
  return distance(tree, jax.tree.map(np.zeros_like, tree))


def assert_close(left, right, *, scale, rtol):
  """The distance of two trees is within rtol of the norm of `scale`."""
  gap, size = distance(left, right), norm(scale)
  assert size > 1e-3, f'nothing to compare: the norm is {size}'
  assert gap <= rtol * size, f'{gap / size} of the norm'
