"""The sampler: one jitted loop from prompts to completions."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import decoding_params
from awpo_jax.ops import logprobs as logprobs_lib
from awpo_jax.rollout.sampling import decode_loop as decode_loop_lib

# Purposes keep the keys of one seed apart.
PURPOSES = {'init': 0, 'train': 1, 'eval': 2, 'data': 3, 'generate': 4}


def facts(seed: int, purpose: str, *numbers: int) -> np.ndarray:
  """What a key is made of: i32 of seed, purpose and e.g. step, on the host."""
  return np.asarray([seed, PURPOSES[purpose], *numbers], np.int32)


def fact_key(facts: types.Array) -> types.Array:
  """A threefry key from facts alone, the first of them the seed.

  Args:
    facts: i32[F], of `facts`; folded in one after another.

  Returns:
    A key array of shape ().
  """
  key = jax.random.key(facts[0], impl='threefry2x32')
  for index in range(1, facts.shape[0]):
    key = jax.random.fold_in(key, facts[index])
  return key


def uniforms(
  key: types.Array, sample_ids: types.Array, index: types.Array
) -> types.Array:
  """One number in [0, 1) for each row, from the ids of sample and token.

  Args:
    key: of `fact_key`.
    sample_ids: i32[N], global.
    index: i32[N], index of the sampled token in its completion.

  Returns:
    f32[N]; a row's draw depends on nothing else in the batch.
  """

  def draw(sample_id, token):
    row = jax.random.fold_in(jax.random.fold_in(key, sample_id), token)
    return jax.random.uniform(row)

  return jax.vmap(draw)(sample_ids, index)


def inverse_cdf(
  probs: types.Array, uniform: types.Array, *, block: int = 128
) -> types.Array:
  """Draws token v with probability probs[v], by two cumulative sums.

  The first finds the block in which the cumulative sum passes `uniform`, the
  second the token in it: no pass over the vocabulary but one sum.

  Args:
    probs: f32[N, V], rows sum to about 1.
    uniform: f32[N] in [0, 1).
    block: tokens in a block.

  Returns:
    i32[N]; never a token of probability 0.
  """
  rows, vocab = probs.shape
  probs = jnp.pad(probs, ((0, 0), (0, -vocab % block)))
  blocks = probs.reshape(rows, -1, block)
  mass, target = jnp.sum(blocks, axis=-1), uniform[:, None]
  chosen, target = _passes(mass, target * jnp.sum(mass, -1, keepdims=True))
  inside = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1)[:, 0]
  token, _ = _passes(inside, target)
  return (chosen * block + token)[:, 0].astype(jnp.int32)


def _passes(
  mass: types.Array, target: types.Array
) -> tuple[types.Array, types.Array]:
  """First column whose cumulative mass exceeds target, and the rest left."""
  total = jnp.cumsum(mass, axis=-1)
  columns = jnp.arange(mass.shape[-1])[None, :]
  # Rounding may push the target past the end: take the last one with mass. A
  # parallel sum may also grow where there is no mass: such a column is no hit.
  last = jnp.max(jnp.where(mass > 0, columns, 0), axis=-1, keepdims=True)
  passed = (total > target) & (mass > 0)
  column = jnp.min(jnp.where(passed, columns, last), axis=-1, keepdims=True)
  before = jnp.take_along_axis(total - mass, column, axis=-1)
  return column, jnp.maximum(target - before, 0.0)


@types.record
class SamplerState:
  """Rows in the middle of sampling; N = P * G.

  Attributes:
    hidden: [N, D], of the last token of each row.
    cache: own keys and values of the rows.
    length: i32[N], tokens of the completion so far.
    turn: i32[N], the assistant's turn that the row is in.
    done: bool[N].
    completions: `types.Completions` with leading axis N.
  """

  hidden: types.Array
  cache: tuple[cache_lib.Columns, ...]
  length: types.Array
  turn: types.Array
  done: types.Array
  completions: types.Completions


@types.record
class SamplerInputs:
  """What stays the same while rows are sampled.

  Attributes:
    prefix: keys and values of the prompts, shared by their rows.
    positions: i32[N], tokens before the completion of each row.
    sample_ids: i32[N], global.
    key: of `fact_key`.
    limits: i32[N], tokens that each row may have; None: as many as fit.
  """

  prefix: cache_lib.Prefix
  positions: types.Array
  sample_ids: types.Array
  key: types.Array
  limits: types.Array | None = None


@dataclasses.dataclass(frozen=True)
class Decoding:
  """What a sampler is compiled for.

  Attributes:
    decoder: the model.
    max_tokens: Sc, the longest completion.
    stop_ids: tokens that end a completion; the one chosen is part of it.
    pad_id: fills the columns after the end. A sampled one is a token like any
      other: what is real is said by the masks.
    temperature: divides the logits; 0 takes the most likely token, and the
      log-probabilities are then those of temperature 1.
    in_place: attention reads the columns in use where they lie in the cache;
      see `decode_loop.reads_in_place`.
  """

  decoder: decoder_lib.Decoder
  max_tokens: int
  stop_ids: tuple[int, ...]
  pad_id: int
  temperature: float = 1.0
  in_place: bool = False


def sample(
  params: types.ArrayTree,
  prompts: types.Prompts,
  sample_ids: types.Array,
  key: types.Array,
  decoding: Decoding,
  *,
  limits: types.Array | None = None,
  stages: int = decode_loop_lib.COUNT,
) -> types.Completions:
  """Samples G completions of each prompt; the prompt is read once.

  Args:
    params: of the model.
    prompts: of P prompts.
    sample_ids: i32[P, G], global; with `key` they fix every draw.
    key: of `fact_key`.
    decoding: the model, and how it is sampled.
    limits: i32[P, G], tokens that a completion may have; None: `max_tokens`.
    stages: lengths of the cache that attention is compiled for, at most.

  Returns:
    `Completions` [P, G, Sc]. Log-probabilities are of the full vocabulary at
    the same temperature.
  """
  params = decoding_params.make(decoding.decoder.config, params)
  state, inputs = prefill(params, prompts, sample_ids, key, decoding)
  if limits is not None:
    inputs = dataclasses.replace(inputs, limits=limits.reshape(-1))
  state = finish(params, state, inputs, decoding, together=True, stages=stages)
  return jax.tree.map(
    lambda x: x.reshape(*sample_ids.shape, *x.shape[1:]), state.completions
  )


def finish(
  params: types.ArrayTree,
  state: SamplerState,
  inputs: SamplerInputs,
  decoding: Decoding,
  *,
  together: bool = False,
  stages: int = decode_loop_lib.COUNT,
) -> SamplerState:
  """Draws tokens until every row is done; see `sample` and `advance`."""

  def step(state: SamplerState, rest: tuple[()], used: int):
    state = advance(params, state, inputs, decoding, used, together=together)
    return state, rest

  if decoding.decoder.config.decode_attention != 'parts':
    stages = 1  # The kernel is told how many columns are in use.
  return decode_loop_lib.run(
    step, state, (), count=stages, in_place=decoding.in_place
  )[0]


def advance(
  params: types.ArrayTree,
  state: SamplerState,
  inputs: SamplerInputs,
  decoding: Decoding,
  used: int,
  *,
  together: bool = False,
) -> SamplerState:
  """Draws the next token of every row that is not done.

  The first `used` columns of the cache are read, more than any row has written.
  Rows are `together` where those not done have one length, which none exceeds.
  """
  bound: Any = functools.partial(decoding.decoder.apply, {'params': params})
  logits = bound(state.hidden, method='unembed')
  uniform = uniforms(inputs.key, inputs.sample_ids, state.length)
  token, logprob, entropy = draw(
    logits, uniform, temperature=decoding.temperature
  )
  # A row that is done reads on into a free column, which no query sees: nothing
  # of it is lost.
  index = jnp.max(state.length) if together else state.length
  state = _append(state, index, token, logprob, entropy, inputs.positions)
  hidden, cache = bound(
    token[:, None],
    (inputs.positions + index)[:, None],
    state.cache,
    index,
    prefix=inputs.prefix,
    used=used,
    method='decode',
  )
  state = dataclasses.replace(state, hidden=hidden[:, 0], cache=cache)
  return _stop(state, token, decoding.stop_ids, inputs.limits)


def draw(
  logits: types.Array, uniform: types.Array, *, temperature: float
) -> tuple[types.Array, types.Array, types.Array]:
  """One token of each row with its log-probability.

  Args:
    logits: f32[N, V].
    uniform: f32[N] in [0, 1).
    temperature: of `Decoding`.

  Returns:
    i32[N] tokens, f32[N] log-probabilities, f32[N] entropies in nats.
  """
  log_p = logprobs_lib.log_distribution(logits, temperature=temperature or 1.0)
  if temperature:
    token = inverse_cdf(jnp.exp(log_p), uniform)
  else:
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  scores = logprobs_lib.score_targets(log_p, token)
  return token, scores.logprobs, scores.entropy


def prefill(
  params: types.ArrayTree,
  prompts: types.Prompts,
  sample_ids: types.Array,
  key: types.Array,
  decoding: Decoding,
  *,
  spare: int = 0,
) -> tuple[SamplerState, SamplerInputs]:
  """Reads the prompts once: the state before the first token; see `sample`.

  `spare` columns of the cache lie beyond `max_tokens`, for tokens that are read
  several at once.
  """
  hidden, prefix = read_prompts(params, prompts, decoding.decoder)
  samples = sample_ids.shape[1]
  state = begin(jnp.repeat(hidden, samples, axis=0), decoding, spare=spare)
  lengths = jnp.sum(prompts.mask, axis=-1, dtype=jnp.int32)
  return state, SamplerInputs(
    prefix=prefix,
    positions=jnp.repeat(lengths, samples),
    sample_ids=sample_ids.reshape(-1),
    key=key,
  )


def read_prompts(
  params: types.ArrayTree, prompts: types.Prompts, decoder: decoder_lib.Decoder
) -> tuple[types.Array, cache_lib.Prefix]:
  """[P, D] hidden states of the last tokens, and the keys and values of all."""
  # Nothing is differentiated here, and a loop would copy all parameters.
  config = dataclasses.replace(decoder.config, remat='none')
  apply: Any = decoder.clone(config=config).apply
  hidden, layers = apply(
    {'params': params},
    prompts.tokens,
    decoder_lib.token_positions(prompts.mask),
    prompts.mask,
    tail=1,
    method='hidden',
  )
  prefix = cache_lib.Prefix(layers=layers, mask=prompts.mask)
  if config.decode_attention != 'parts':
    prefix = cache_lib.tokens_first(prefix)
  return hidden[:, 0], prefix


def begin(
  hidden: types.Array, decoding: Decoding, *, spare: int = 0
) -> SamplerState:
  """Rows before their first token, `hidden` [N, D] being what it hangs on."""
  rows, columns = hidden.shape[0], decoding.max_tokens + spare
  return SamplerState(
    hidden=hidden,
    cache=cache_lib.init_cache(decoding.decoder.config, rows, columns),
    length=jnp.zeros((rows,), jnp.int32),
    turn=jnp.zeros((rows,), jnp.int32),
    done=jnp.zeros((rows,), bool),
    completions=no_tokens((rows,), decoding),
  )


def no_tokens(shape: tuple[int, ...], decoding: Decoding) -> types.Completions:
  """Completions [*shape, Sc] that hold nothing yet."""
  columns = (*shape, decoding.max_tokens)
  return types.Completions(
    tokens=jnp.full(columns, decoding.pad_id, jnp.int32),
    mask=jnp.zeros(columns, bool),
    policy_mask=jnp.zeros(columns, bool),
    positions=jnp.zeros(columns, jnp.int32),
    turn=jnp.zeros(columns, jnp.int32),
    logprobs=jnp.zeros(columns, jnp.float32),
    entropy=jnp.zeros(columns, jnp.float32),
    finished=jnp.zeros(shape, bool),
  )


def _append(state, index, token, logprob, entropy, positions) -> SamplerState:
  """Puts a token at the end, `index`, of every row that is not done."""
  alive = ~state.done

  def put_each(array, value):
    rows = jnp.arange(token.shape[0])
    # A row that is done writes past the end, where `drop` discards it.
    column = jnp.where(alive, index, array.shape[-1])
    return array.at[rows, column].set(value, mode='drop')

  def put_all(array, value):
    column = jax.lax.dynamic_index_in_dim(array, index, axis=1)
    value = jnp.broadcast_to(value, alive.shape)
    column = jnp.where(alive[:, None], value[:, None], column)
    return jax.lax.dynamic_update_slice_in_dim(array, column, index, axis=1)

  put = put_all if index.ndim == 0 else put_each
  old = state.completions
  completions = dataclasses.replace(
    old,
    tokens=put(old.tokens, token),
    mask=put(old.mask, True),
    policy_mask=put(old.policy_mask, True),
    positions=put(old.positions, positions + state.length),
    turn=put(old.turn, state.turn),
    logprobs=put(old.logprobs, logprob),
    entropy=put(old.entropy, entropy),
  )
  length = state.length + alive.astype(jnp.int32)
  return dataclasses.replace(state, length=length, completions=completions)


def _stop(state, token, stop_ids: tuple[int, ...], limits) -> SamplerState:
  """Ends the rows whose token ends the turn, and those that are full."""
  # One by one: at an array of no stop tokens jaxlib 0.11.2 crashes, as at any
  # empty constant beside a loop that several CPU devices compile.
  stopped = jnp.zeros_like(state.done)
  for stop in stop_ids:
    stopped |= token == stop
  completions = state.completions
  finished = completions.finished | (~state.done & stopped)
  full = state.length >= completions.tokens.shape[-1]
  if limits is not None:
    full |= state.length >= limits
  return dataclasses.replace(
    state,
    done=state.done | stopped | full,
    completions=dataclasses.replace(completions, finished=finished),
  )
