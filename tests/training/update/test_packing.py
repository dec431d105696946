"""Which groups share a row, and what stands in it."""

import dataclasses

import jax
import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.training.programs import options
from awpo_jax.training.update import minibatches, packed_forward, packing
from experiments.benchmarks import counts
from tests.helpers import row_by_row, tiny_training


def test_the_largest_group_goes_where_it_first_fits():
  # 6 opens a row, 5 another, 4 a third; 3 fits beside 5, and 2 beside 6.
  rows, alone = packing.assign([5, 3, 4, 2, 6, 9], columns=8)
  assert rows == [[4, 3], [0, 1], [2]] and alone == [5]
  # Of equal ones the first comes first.
  assert packing.assign([2, 2, 2], columns=4) == ([[0, 1], [2]], [])
  assert packing.assign([], columns=4) == ([], [])


@pytest.mark.parametrize('seed', range(5))
def test_no_group_is_split_and_at_most_one_row_is_half_empty(seed):
  rng = np.random.default_rng(seed)
  sizes = 64 * rng.geometric(0.2, 50)
  rows, alone = packing.assign(sizes.tolist(), columns=1024)
  assert sorted([g for row in rows for g in row] + alone) == list(range(50))
  assert sorted(alone) == np.flatnonzero(sizes > 1024).tolist()
  used = [sizes[row].sum() for row in rows]
  assert max(used) <= 1024
  # Two of them would have gone into one row.
  assert sum(x <= 512 for x in used) <= 1
  assert len(rows) < 2 * sum(used) / 1024 + 1
  assert packing.assign(sizes.tolist(), columns=1024) == (rows, alone)


def test_parts_have_as_many_groups_and_about_as_many_columns():
  # The largest forth and back: 9, 5, 4, 0 and 8, 7, 3, 1.
  order = packing.deal(np.array([0, 9, 3, 5, 7, 8, 4, 1]), 2)
  assert order.tolist() == [[0, 1, 3, 6], [2, 4, 5, 7]]
  sizes = 64 * np.random.default_rng(0).geometric(0.1, 64)
  order = packing.deal(sizes, 4)
  assert sorted(order.ravel()) == list(range(64))
  assert (np.diff(order, axis=1) > 0).all()
  loads = sizes[order].sum(axis=1)
  assert np.ptp(loads) <= sizes.max()
  assert np.ptp(loads) < np.ptp(sizes.reshape(4, -1).sum(axis=1))


def _cut(parts):
  batch = row_by_row.random_batch(0)
  # An answer without a token, as where one process had none to add.
  mask = batch.mask.copy()
  mask[4, 1] = False
  batch = batch.replace(mask=mask)
  (batch,) = sharding.cut(
    sharding.split(batch, parts), minibatches=1, micro=8 // parts
  )
  return batch


def _sequences(batch):
  """Prompt and answer of every sample of a batch [P, ...], as tuples."""
  tokens, lengths, starts = row_by_row.rows_of(batch)
  samples = batch.tokens.shape[1]
  return {
    divmod(i, samples): (
      tuple(tokens[i, : starts[i]]),
      tuple(tokens[i, starts[i] : lengths[i]]),
    )
    for i in range(len(tokens))
  }


@pytest.mark.parametrize(
  ('parts', 'columns', 'block'), [(1, 40, 4), (2, 48, 8), (2, 20, 4), (1, 1, 2)]
)
def test_a_row_holds_its_groups_one_after_another(parts, columns, block):
  packed = packing.pack(_cut(parts), columns=columns, block=block)
  assert packed.layout.tokens.shape[-2] * block >= columns
  for part in range(parts):
    batch, rows = (
      jax.tree.map(lambda x, i=part: x[i], x)
      for x in (packed.replace(layout=None), packed.layout)
    )
    wanted = _sequences(jax.tree.map(lambda x: x[0], batch))
    seen = [g for g in rows.alone.ravel().tolist() if g >= 0]
    for row in range(len(rows.groups)):
      groups = [g for g in rows.groups[row, 0].tolist() if g >= 0]
      seen += groups
      tokens, positions, segments = (
        x[row, 0].ravel() for x in (rows.tokens, rows.positions, rows.segments)
      )
      targets = rows.targets[row, 0][rows.targets[row, 0] >= 0]
      sources = rows.sources[row, 0][: len(targets)]
      at = 0
      for slot, group in enumerate(groups):
        own = 1 + slot * (tiny_training.SAMPLES + 1)
        prompt = np.flatnonzero(segments == own)
        assert prompt[0] % block == 0
        for g in range(tiny_training.SAMPLES):
          columns_of = np.flatnonzero(segments == own + 1 + g)
          read = tuple(tokens[prompt]), tuple(tokens[columns_of])
          assert read == wanted[group, g]
          both = np.concatenate([prompt, columns_of])
          assert positions[both].tolist() == list(range(len(both)))
          # Each token is predicted from the one before it in its sequence.
          count = len(columns_of)
          assert targets[at : at + count].tolist() == columns_of.tolist()
          before = both[len(prompt) - 1 : -1] if count else []
          assert sources[at : at + count].tolist() == list(before)
          at += count
      assert at == len(targets)
      assert (segments[tokens == 0] == 0).all()
    assert sorted(seen) == list(range(8 // parts))
  # Groups take from 16 columns to 24, so that two share a row, or some or all
  # of them fit into none.
  assert (packed.layout.groups[..., 1:] >= 0).any() == (columns >= 40)
  assert (packed.layout.alone >= 0).sum() == {20: 2, 1: 8}.get(columns, 0)


def test_what_is_computed_is_counted():
  plain = _cut(2)
  tokens = int(plain.mask.sum() + plain.prompt_mask.sum())
  # 8 prompts of 7 columns with 4 answers of 6.
  assert counts.tokens_and_columns(plain) == (tokens, 8 * (7 + 4 * 6))
  packed = packing.pack(plain, columns=20, block=4)
  filled = sum(x.any() for x in packed.layout.segments.reshape(8, -1))
  alone = (packed.layout.alone >= 0).sum()
  assert 0 < alone < 8
  columns = 20 * filled + 31 * alone
  assert counts.tokens_and_columns(packed) == (tokens, columns)
  assert tokens <= columns


def test_packing_is_the_same_every_time():
  one, two = (packing.pack(_cut(2), columns=24, block=4) for _ in range(2))
  tiny_training.assert_equal(one, two)


def test_a_group_keeps_all_that_belongs_to_it():
  before = _cut(2)
  after = packing.pack(before, columns=24, block=4).replace(layout=None)
  marks = [x.reshape(8, -1).tolist() for x in jax.tree.leaves(before)]
  moved = [x.reshape(8, -1).tolist() for x in jax.tree.leaves(after)]
  order = [marks[0].index(prompt) for prompt in moved[0]]
  assert sorted(order) == list(range(8)) and order != list(range(8))
  for old, new in zip(marks, moved, strict=True):
    assert new == [old[i] for i in order]


def test_mini_batches_are_packed_if_the_flags_say_so():
  flags = ['--output_dir=x', '--model=y', '--rl_steps=1', '--minibatches=2']
  whole = row_by_row.random_batch(0)
  batch = sharding.split(whole, 2)
  for columns in (0, 128):
    config = config_lib.parse(
      [*flags, '--sft_micro=2', f'--pack_tokens={columns}']
    )
    layout = options.make_layout(config)
    updates = list(minibatches.cut(batch, config, 'rl', layout))
    (demonstrations,) = minibatches.cut(batch, config, 'sft', layout)
    micro = (2, 1, 2) if columns else (2, 2, 1)
    assert [x.tokens.shape[:3] for x in updates] == [micro] * 2
    shape = (2, 1, 4) if columns else (2, 2, 2)
    assert demonstrations.tokens.shape[:3] == shape
    for made in (*updates, demonstrations):
      assert (made.layout is not None) == bool(columns)
      if columns:
        shapes = packing.row_shapes(made.tokens.shape[2], columns=columns)
        assert {
          field.name: getattr(made.layout, field.name).shape
          for field in dataclasses.fields(packed_forward.Rows)
        } == {name: (2, *shape) for name, shape in shapes.items()}
