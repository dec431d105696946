"""Continuous batching: a few slots answer many samples within one jitted loop.

Answers differ in length. Where all are sampled at once, rows that are done wait
for the longest; here a slot hands in what is done and takes the next sample. A
sample's draws come from its id, so that its text is the same in any slot.

A *lane* of W slots answers W samples of one prompt, whose keys they share; when
all W are done, the keys of the next prompt are copied in their place. With W=1
no slot waits for another, with more the keys of prompts are held and read less
often. The slots' own cache is not cleaned: a new sample begins at column 0, and
no query sees a column behind its own.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoding_params
from awpo_jax.rollout.sampling import decode_loop as decode_loop_lib
from awpo_jax.rollout.sampling import sampler


@types.record
class Jobs:
  """The samples to draw on each part of the devices; a job is W samples.

  Attributes:
    hidden: [parts, P, D], of the last token of each prompt.
    prefix: keys and values of the prompts, leading axes [parts, P].
    sample_ids: i32[parts, J, W], global.
    limits: i32[parts, J, W], tokens that a sample may have.
  """

  hidden: types.Array
  prefix: cache_lib.Prefix
  sample_ids: types.Array
  limits: types.Array


@types.record
class Lanes:
  """The lanes of a part, and what they have handed in.

  Attributes:
    job: i32[parts, L], -1 before a lane's first and J after its last.
    upcoming: i32[parts], the next job.
    prefix: keys and values of the lanes' prompts, leading axes [parts, L].
    positions: i32[parts, L, W], tokens of the prompts.
    sample_ids: i32[parts, L, W].
    limits: i32[parts, L, W].
    completions: handed in, leading axes [parts, J, W].
  """

  job: types.Array
  upcoming: types.Array
  prefix: cache_lib.Prefix
  positions: types.Array
  sample_ids: types.Array
  limits: types.Array
  completions: types.Completions


def sample(
  params: types.ArrayTree,
  prompts: types.Prompts,
  sample_ids: types.Array,
  key: types.Array,
  decoding: sampler.Decoding,
  *,
  slots: int,
  shared: int = 1,
  parts: int = 1,
  limits: types.Array | None = None,
  stages: int = decode_loop_lib.COUNT,
) -> types.Completions:
  """Samples as `sampler.sample`, `slots` rows of each part at a time.

  Args:
    params, sample_ids, key, decoding, limits, stages: as there.
    prompts: of P prompts, those of a part one after another.
    slots: S, a multiple of `shared`.
    shared: W, slots that share the keys of a prompt; it divides G.
    parts: that the rows are cut into, each on devices of its own.

  Returns:
    `Completions` [P, G, Sc].
  """
  chex.assert_is_divisible(slots, shared)
  chex.assert_is_divisible(sample_ids.shape[1], shared)
  chex.assert_is_divisible(sample_ids.shape[0], parts)
  params = decoding_params.make(decoding.decoder.config, params)
  hidden, prefix = sampler.read_prompts(params, prompts, decoding.decoder)
  if limits is None:
    limits = jnp.full(sample_ids.shape, decoding.max_tokens, jnp.int32)
  jobs = Jobs(
    hidden=_cut(hidden, parts),
    prefix=jax.tree.map(lambda x: _cut(x, parts), prefix),
    sample_ids=sample_ids.reshape(parts, -1, shared),
    limits=limits.reshape(parts, -1, shared),
  )
  lanes = min(slots // shared, jobs.sample_ids.shape[1])
  blank = sampler.no_tokens((shared,), decoding)
  turn_over = jax.vmap(_turn_over, in_axes=(0, 0, 0, None))

  def refill(state: sampler.SamplerState, work: Lanes):
    """Hands in what is done, and refills lanes until none is left to refill."""
    cache = state.cache  # Not of the inner loop: it stays as it is.
    shape = parts, lanes, shared
    rows = jax.tree.map(
      lambda x: x.reshape(*shape, *x.shape[1:]),
      dataclasses.replace(state, cache=()),
    )
    rows, work = jax.lax.while_loop(
      lambda carry: jnp.any(_free(*carry, jobs)),
      lambda carry: turn_over(*carry, jobs, blank),
      (rows, work),
    )
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rows)
    return dataclasses.replace(rows, cache=cache), work

  def step(state: sampler.SamplerState, work: Lanes, used: int):
    inputs = sampler.SamplerInputs(
      prefix=jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), work.prefix),
      positions=work.positions.reshape(-1),
      sample_ids=work.sample_ids.reshape(-1),
      key=key,
      limits=work.limits.reshape(-1),
    )
    state = sampler.advance(params, state, inputs, decoding, used)
    return refill(state, work)

  rows = parts * lanes * shared
  state = sampler.begin(
    jnp.zeros((rows, hidden.shape[1]), hidden.dtype), decoding
  )
  # Lanes start as if they had just been done with a job before the first.
  state = dataclasses.replace(state, done=jnp.ones_like(state.done))
  state, work = refill(state, _idle(jobs, lanes, decoding))
  _, work = decode_loop_lib.run(
    step, state, work, count=stages, in_place=decoding.in_place
  )
  return jax.tree.map(
    lambda x: x.reshape(*sample_ids.shape, *x.shape[3:]), work.completions
  )


def _cut(x: types.Array, parts: int) -> types.Array:
  return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])


def _idle(jobs: Jobs, lanes: int, decoding: sampler.Decoding) -> Lanes:
  parts, count, shared = jobs.sample_ids.shape
  slots = jnp.zeros((parts, lanes, shared), jnp.int32)
  return Lanes(
    job=jnp.full((parts, lanes), -1, jnp.int32),
    upcoming=jnp.zeros(parts, jnp.int32),
    prefix=jax.tree.map(
      lambda x: jnp.zeros((parts, lanes, *x.shape[2:]), x.dtype), jobs.prefix
    ),
    positions=slots,
    sample_ids=slots,
    limits=slots,
    completions=sampler.no_tokens((parts, count, shared), decoding),
  )


def _free(rows: sampler.SamplerState, lanes: Lanes, jobs: Jobs) -> types.Array:
  """bool[..., L]: its slots are done, and it has not seen the end of the jobs.

  The axis of the parts may be missing, as it is under `vmap`.
  """
  done = jnp.all(rows.done, axis=-1)
  return done & (lanes.job < jobs.sample_ids.shape[-2])


def _turn_over(
  rows: sampler.SamplerState,
  lanes: Lanes,
  jobs: Jobs,
  blank: types.Completions,
) -> tuple[sampler.SamplerState, Lanes]:
  """Hands in the job of the first free lane and gives it the next; one part.

  Args:
    rows: leading axes [L, W], without their cache.
    lanes: of this part.
    jobs: of this part.
    blank: completions [W, Sc] before the first token.
  """
  count, shared = jobs.sample_ids.shape
  free = _free(rows, lanes, jobs)
  found, lane = jnp.any(free), jnp.argmax(free)
  old = lanes.job[lane]
  left = found & (lanes.upcoming < count)
  job = jnp.minimum(lanes.upcoming, count - 1)
  prompt = job * jobs.hidden.shape[0] // count
  prefix = jax.tree.map(lambda x: x[prompt], jobs.prefix)

  def put(when, arrays, values):
    def one(array, value):
      value = jnp.broadcast_to(value, array.shape[1:])
      return array.at[lane].set(jnp.where(when, value, array[lane]))

    return jax.tree.map(one, arrays, values)

  # An index past the end is dropped: before its first job a lane has none.
  ended = jnp.where(found & (old >= 0), old, count)
  completions = jax.tree.map(
    lambda done, row: done.at[ended].set(row[lane], mode='drop'),
    lanes.completions,
    rows.completions,
  )
  rows = dataclasses.replace(
    rows,
    hidden=put(left, rows.hidden, jobs.hidden[prompt][None]),
    # Also where no job is left: at column 0 a lane holds up no other.
    length=put(found, rows.length, 0),
    done=put(left, rows.done, False),
    completions=put(found, rows.completions, blank),
  )
  lanes = dataclasses.replace(
    lanes,
    job=put(found, lanes.job, jnp.where(left, job, count)),
    upcoming=lanes.upcoming + left,
    prefix=put(left, lanes.prefix, prefix),
    positions=put(left, lanes.positions, jnp.sum(prefix.mask, dtype=jnp.int32)),
    sample_ids=put(left, lanes.sample_ids, jobs.sample_ids[job]),
    limits=put(left, lanes.limits, jobs.limits[job]),
    completions=completions,
  )
  return rows, lanes
