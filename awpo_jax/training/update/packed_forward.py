"""Packed rows and what programs do with them: see `packing`."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.ops import logprobs as logprobs_lib

# Rows that targets are spread over: on a CPU the softmax of a single row of
# many positions runs on one core.
_WIDTH = 8
_T = TypeVar('_T')


@types.record
class Rows:
  """How groups of a mini-batch lie in packed rows; see `packing`.

  A row is made of blocks of B columns; a group, that is a prompt and then its
  answers, stands in consecutive blocks. A part of the batch that is handled
  apart, as that of a device, has rows of its own: D is 1, or the number of
  parts that one program sees at once.

  Attributes:
    groups: i32[R, D, U], the groups of a row among the P of its part, in the
      order they stand in; -1 for none. Rows with none come last.
    tokens: i32[R, D, X, B], X blocks.
    positions: i32[R, D, X, B].
    segments: i32[R, D, X, B], 0 for no token, else 1 + u (G + 1) for the prompt
      of the u-th group, and 1 + g more for its g-th answer.
    targets: i32[R, D, X * B], columns of the tokens of answers, in order; -1
      after the last.
    sources: i32[R, D, X * B], the column before each of them, of the same
      answer or the last of the prompt.
    alone: i32[Q, D], groups that fit into no row; -1 for none. None in a
      microbatch, where R is missing, too.
  """

  groups: types.Array
  tokens: types.Array
  positions: types.Array
  segments: types.Array
  targets: types.Array
  sources: types.Array
  alone: types.Array | None = None

  def first(self, batch: types.Batch) -> types.Batch:
    """As `microbatches.first`."""
    return row(batch, 0)

  def fold(
    self,
    add: Callable[[_T, types.Batch], _T],
    start: _T,
    batch: types.Batch,
  ) -> _T:
    """As `microbatches.fold`.

    Microbatches are the rows that are filled, and then the groups that fit into
    none, by themselves.
    """
    return _every(lambda total, micro, _: add(total, micro), start, batch)

  def gather(
    self,
    fn: Callable[[types.Batch], types.Array],
    batch: types.Batch,
    *,
    parts: int,
  ) -> types.Array:
    """`fn`, of every microbatch of a batch that these rows are of.

    Args:
      fn: microbatch [P, ...] -> f32[P, G, Sc].
      batch: [P, ...].
      parts: D, into which P is cut.

    Returns:
      f32[P, G, Sc].
    """
    rows = jax.tree.map(
      lambda x: x.reshape(parts, -1, *x.shape[2:]).swapaxes(0, 1), self
    )
    shape = batch.mask.shape
    out = jnp.zeros((parts, shape[0] // parts, *shape[1:]), jnp.float32)

    def put(out, micro, groups):
      values = fn(micro).reshape(*groups.shape, *shape[1:])
      # What is no group is written nowhere.
      at = jnp.where(groups >= 0, groups, out.shape[1])
      return jax.vmap(lambda o, i, x: o.at[i].set(x, mode='drop'))(
        out, at, values
      )

    batch = jax.tree.map(lambda x: x[None], batch)
    batch = dataclasses.replace(batch, layout=rows)
    return _every(put, out, batch).reshape(shape)

  def completion_logprobs(
    self, params: types.ArrayTree, batch: types.Batch, **numbers: Any
  ) -> tuple[types.Array, types.Array]:
    """`completion_logprobs` below."""
    return completion_logprobs(params, batch, **numbers)


def _every(
  add: Callable[[_T, types.Batch, types.Array], _T],
  start: _T,
  batch: types.Batch,
) -> _T:
  """As `fold`, of a packed batch; `add` is given the groups, too: i32[D, U]."""
  rows = batch.layout
  assert rows is not None and rows.alone is not None
  for groups, pick in ((rows.groups, row), (rows.alone[..., None], alone)):

    def turn(i, total, groups=groups, pick=pick):
      return add(total, pick(batch, i), groups[i])

    filled = jnp.any(groups >= 0, axis=(1, 2))
    count = jnp.sum(filled, dtype=jnp.int32)
    start = jax.lax.fori_loop(0, count, turn, start)
  return start


def row(batch: types.Batch, index: types.Array | int) -> types.Batch:
  """A row of a packed mini-batch as a microbatch [D * U, ...]."""
  assert batch.layout is not None
  rows = dataclasses.replace(batch.layout, alone=None)
  rows = jax.tree.map(lambda x: x[index], rows)
  return dataclasses.replace(_groups(batch, rows.groups), layout=rows)


def alone(batch: types.Batch, index: types.Array | int) -> types.Batch:
  """A group of each part that fits into no row: a microbatch [D, ...]."""
  assert batch.layout is not None and batch.layout.alone is not None
  return _groups(batch, batch.layout.alone[index][:, None])


def _groups(batch: types.Batch, chosen: types.Array) -> types.Batch:
  """Groups [D * U, ...] by their numbers i32[D, U]; -1 is one of no tokens."""
  parts = chosen.shape[0]

  def pick(x):
    x = x[0].reshape(parts, -1, *x.shape[2:])
    x = jax.vmap(lambda y, i: y[i])(x, jnp.maximum(chosen, 0))
    return x.reshape(-1, *x.shape[2:])

  pull = batch.pull
  picked = jax.tree.map(
    pick, dataclasses.replace(batch, pull=None, layout=None)
  )
  used = chosen.reshape(-1, 1, 1) >= 0
  fields: dict[str, Any] = {
    'mask': picked.mask & used,
    'policy_mask': picked.policy_mask & used,
  }
  if pull is not None:
    fields['pull'] = pull[0]
  if picked.weights is not None:
    fields['weights'] = jnp.where(used, picked.weights, 0.0)
  return dataclasses.replace(picked, **fields)


def completion_logprobs(
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  decoder: decoder_lib.Decoder,
  temperature: float,
  chunk: int,
) -> tuple[types.Array, types.Array]:
  """As `objectives.completion_logprobs`, of a packed row."""
  rows = batch.layout
  assert rows is not None
  parts, blocks, block = rows.tokens.shape
  samples, length = batch.tokens.shape[1:]
  seen, visible = _visible(
    rows.segments,
    samples=samples,
    prompt=min(-(-batch.prompt_tokens.shape[-1] // block), blocks),
    own=min(1 + -(-(length - 1) // block), blocks),
  )
  bound: Callable[..., Any] = functools.partial(
    decoder.apply, {'params': params}
  )
  hidden = bound(
    rows.tokens.reshape(-1, block),
    rows.positions.reshape(-1, block),
    seen,
    visible,
    method='packed',
  )
  take = jax.vmap(lambda x, i: x[i])
  width = math.gcd(blocks * block, _WIDTH)

  def spread(x):
    """[D, X * B, ...] to [D * W, X * B / W, ...], one after another down."""
    x = x.reshape(parts, -1, width, *x.shape[2:]).swapaxes(1, 2)
    return x.reshape(parts * width, -1, *x.shape[3:])

  def joined(x):
    return x.reshape(parts, width, -1).swapaxes(1, 2).reshape(parts, -1)

  targets = take(rows.tokens.reshape(parts, -1), jnp.maximum(rows.targets, 0))
  scores = logprobs_lib.token_logprobs(
    spread(take(hidden.reshape(parts, blocks * block, -1), rows.sources)),
    bound(method='head'),
    spread(targets),
    temperature=temperature,
    # As many logits as of all answers to a prompt.
    chunk=max(1, chunk * samples // width),
    used=spread(rows.targets >= 0),
  )
  # Targets stand in the order of the tokens of their groups.
  order = jnp.cumsum(batch.mask.reshape(parts, -1), axis=-1) - 1
  logprobs, entropy = (
    take(joined(x), jnp.maximum(order, 0)).reshape(batch.mask.shape)
    for x in (scores.logprobs, scores.entropy)
  )
  return logprobs, entropy


def _visible(
  segments: types.Array, *, samples: int, prompt: int, own: int
) -> tuple[types.Array, types.Array]:
  """Which blocks a block looks at, and what each of its tokens sees there.

  Args:
    segments: i32[D, X, B], of `Rows`.
    samples: G.
    prompt: blocks that a prompt may take.
    own: blocks that an answer may touch.

  Returns:
    i32[D, X, J], those of the prompt first and then the last, itself included;
    bool[D * X, B, J * B].
  """
  parts, blocks, block = segments.shape
  # A group starts with a block, so a block is of one group.
  group = (segments[..., 0] - 1) // (samples + 1)
  first = jnp.argmax(group[:, :, None] == group[:, None, :], axis=-1)
  here = jnp.arange(blocks)[:, None]
  before = here - jnp.arange(own)[::-1][None]
  seen = jnp.concatenate(
    [
      first[..., None] + jnp.arange(prompt)[None, None],
      jnp.broadcast_to(before, (parts, *before.shape)),
    ],
    axis=-1,
  )
  inside = (seen >= 0) & (seen < blocks)
  seen = jnp.clip(seen, 0, blocks - 1)
  keys = jax.vmap(lambda x, i: x[i])(segments, seen)  # [D, X, J, B]
  # Of the prompt's blocks its tokens, of the others those of the same answer.
  is_answer = (segments - 1) % (samples + 1) > 0
  wanted = jnp.concatenate(
    [
      jnp.broadcast_to(
        1 + group[..., None, None] * (samples + 1),
        (parts, blocks, block, prompt),
      ),
      jnp.broadcast_to(
        jnp.where(is_answer, segments, -1)[..., None],
        (parts, blocks, block, own),
      ),
    ],
    axis=-1,
  )
  within = jnp.arange(block)
  key = seen[..., None] * block + within[None, None, None]
  query = here * block + within[None]
  visible = (
    (keys[:, :, None] == wanted[..., None])
    & (key[:, :, None] <= query[None, ..., None, None])
    & inside[:, :, None, :, None]
    & (segments > 0)[..., None, None]
  )
  return seen, visible.reshape(parts * blocks, block, -1)
