"""Mini-batches without padding: several groups fill a row.

A group is a prompt and then its answers, one after another. Each answer sees
the prompt and itself, at the positions it has without packing; keys of the
prompt are those of its one place in the row. Rows are the microbatches of an
update, and as many are computed as are filled: no number of tokens asks for
another program. What a row gives of log-probabilities goes back to [P, G, Sc],
so losses know nothing of it; advantages were made before and no group is split.

A row is cut into blocks, and a group starts with one: what a block may see are
the blocks before it that an answer can reach back to, and those of its prompt.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.training.update import packed_forward

BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Packing:
  """A `minibatches.Layout`.

  Attributes:
    columns: of a row, `--pack_tokens`.
  """

  columns: int

  def rollout(self, rollout: types.Rollout) -> types.Rollout:
    """A rollout batch [parts, P, ...] with its rows."""
    prompts, completions = rollout.prompts, rollout.completions
    shapes = row_shapes(prompts.mask.shape[1], columns=self.columns)
    parts = zip(
      prompts.tokens,
      prompts.mask,
      completions.tokens,
      completions.mask,
      completions.positions,
      strict=True,
    )
    rows = [_rows(_Groups(*part), shapes) for part in parts]
    return dataclasses.replace(
      rollout, layout=jax.tree.map(lambda *x: np.stack(x), *rows)
    )

  def minibatch(self, batch: types.Batch) -> types.Batch:
    """`pack`."""
    return pack(batch, columns=self.columns)

  def like(self, prompts: int) -> packed_forward.Rows:
    """Shapes of the rows of a part with so many prompts."""
    shapes = row_shapes(prompts, columns=self.columns)
    rows: Any = packed_forward.Rows  # Shapes in place of arrays.
    return rows(
      **{k: jax.ShapeDtypeStruct(x, np.int32) for k, x in shapes.items()}
    )


class _Groups(NamedTuple):
  """What is packed of a part, [P, ...]."""

  prompt_tokens: types.Array
  prompt_mask: types.Array
  tokens: types.Array
  mask: types.Array
  positions: types.Array


def row_shapes(
  prompts: int, *, columns: int, block: int = BLOCK
) -> dict[str, tuple[int, ...]]:
  """Shapes of the fields of `packed_forward.Rows` for one part of a mini-batch.

  Args:
    prompts: of the part; there are as many rows, should each need one.
    columns: of a row, rounded up to blocks.
    block: columns of a block.
  """
  blocks = -(-columns // block)
  row = (prompts, 1, blocks, block)
  flat = (prompts, 1, blocks * block)
  return {
    'groups': (prompts, 1, min(prompts, blocks)),
    'tokens': row,
    'positions': row,
    'segments': row,
    'targets': flat,
    'sources': flat,
    'alone': (prompts, 1),
  }


def pack(
  batch: types.Batch, *, columns: int, block: int = BLOCK
) -> types.Batch:
  """A mini-batch with its rows; groups may move to another part.

  Args:
    batch: NumPy arrays [parts, 1, P, ...] of `sharding.cut`.
    columns: as of `row_shapes`.
    block: likewise.

  Returns:
    The same groups, as many in each part as before, and as its layout
    `packed_forward.Rows` of [parts, ...].
  """
  parts, _, prompts, *_ = batch.tokens.shape
  order = deal(_sizes(batch, block).ravel(), parts)
  batch = jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[3:])[order][:, None], batch
  )
  shapes = row_shapes(prompts, columns=columns, block=block)
  rows = [
    _rows(_Groups(*(getattr(batch, x)[i, 0] for x in _Groups._fields)), shapes)
    for i in range(parts)
  ]
  return dataclasses.replace(
    batch, layout=jax.tree.map(lambda *x: np.stack(x), *rows)
  )


def _sizes(batch: types.Batch | _Groups, block: int) -> np.ndarray:
  """Columns [..., P] that groups take."""
  tokens = np.sum(batch.prompt_mask, -1) + np.sum(batch.mask, (-1, -2))
  return -(-tokens // block) * block


def deal(sizes: np.ndarray, parts: int) -> np.ndarray:
  """Which groups go to which part: i32[parts, N / parts], in rising order.

  The largest go to the parts in turn, forth and back: parts have as many groups
  and about as many columns as each other.
  """
  order = np.argsort(-sizes, kind='stable').reshape(-1, parts)
  order[1::2] = order[1::2, ::-1].copy()
  return np.sort(order.T, axis=1)


def assign(
  sizes: Sequence[int] | np.ndarray, *, columns: int
) -> tuple[list[list[int]], list[int]]:
  """Which groups share a row: the largest first, each where it first fits.

  Args:
    sizes: columns of each group.
    columns: of a row.

  Returns:
    The groups of each row, and those that are too large for any.
  """
  rows: list[list[int]] = []
  free: list[int] = []
  alone = []
  for group in np.argsort(-np.asarray(sizes), kind='stable').tolist():
    size = int(sizes[group])
    if size > columns:
      alone.append(group)
      continue
    row = next((i for i, x in enumerate(free) if size <= x), len(rows))
    if row == len(rows):
      rows.append([])
      free.append(columns)
    rows[row].append(group)
    free[row] -= size
  return rows, alone


def _rows(
  batch: _Groups, shapes: dict[str, tuple[int, ...]]
) -> packed_forward.Rows:
  """The rows of the groups of a part, [P, ...]."""
  rows = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
  for name in ('groups', 'targets', 'alone'):
    rows[name] -= 1
  _, _, blocks, block = shapes['tokens']
  chosen, alone = assign(_sizes(batch, block), columns=blocks * block)
  for row, groups in enumerate(chosen):
    rows['groups'][row, 0, : len(groups)] = groups
    _fill(batch, groups, {name: x[row, 0] for name, x in rows.items()})
  rows['alone'][: len(alone), 0] = alone
  return packed_forward.Rows(**rows)


def _fill(
  batch: _Groups, groups: Sequence[int], row: dict[str, np.ndarray]
) -> None:
  """Writes groups into a row, one after another."""
  block, samples = row['tokens'].shape[-1], batch.tokens.shape[1]
  tokens, positions, segments = (
    row[name].reshape(-1) for name in ('tokens', 'positions', 'segments')
  )
  start = written = 0
  for slot, p in enumerate(groups):
    prompt = batch.prompt_tokens[p][batch.prompt_mask[p]]
    column = start + len(prompt)
    last, own = column - 1, 1 + slot * (samples + 1)
    tokens[start:column] = prompt
    positions[start:column] = np.arange(len(prompt))
    segments[start:column] = own
    for g in range(samples):
      mask = batch.mask[p, g]
      count = int(mask.sum())
      at, to = slice(column, column + count), slice(written, written + count)
      tokens[at] = batch.tokens[p, g][mask]
      positions[at] = batch.positions[p, g][mask]
      segments[at] = own + 1 + g
      row['targets'][to] = np.arange(column, column + count)
      row['sources'][to] = np.arange(column, column + count) - 1
      row['sources'][to][:1] = last
      column, written = column + count, written + count
    start = -(-column // block) * block
