"""Rollout batches on their way to the devices, and cut there."""

import jax
import numpy as np

from awpo_jax.distributed import sharding
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import shapes as shapes_lib
from awpo_jax.training.update import minibatches
from tests.helpers import tiny_run, tiny_training


def _dealer():
  return minibatches.Dealer(tiny_run.config(), tiny_run.mesh())


def test_prompts_lie_where_their_mini_batches_need_them():
  # Four prompts in two mini-batches, {0, 1} and {2, 3}, on two devices.
  rollout = {'x': np.arange(12, dtype=np.float32).reshape(4, 3)}
  placed = _dealer().place(rollout)
  np.testing.assert_array_equal(
    placed['x'][:, :, 0], [[0, 2 * 3], [1 * 3, 3 * 3]]
  )
  tiny_training.assert_equal(_dealer().fetch(placed), rollout)


def test_a_batch_is_cut_where_it_lies_as_the_host_cuts_it():
  config, mesh = tiny_run.config(), tiny_run.mesh()
  shape = tiny_run.PROMPT_BUCKETS[0], tiny_run.RESPONSE_BUCKETS[0]
  like = shapes_lib.Shapes(config, mesh).prepared(*shape)
  batch = jax.tree.map(
    lambda x: np.arange(np.prod(x.shape)).reshape(x.shape).astype(x.dtype), like
  )
  programs = compile_lib._lower_cut(
    config, mesh, lambda program, *x: program.lower(*x).compile()
  )
  placed = sharding.place_split(batch, mesh)
  with jax.transfer_guard('disallow'):
    got = list(_dealer().cut(placed, programs[shape]))
  want = sharding.cut(
    batch, minibatches=config.rl.minibatches, micro=config.rl.micro
  )
  assert len(got) == len(want) == 2
  for ours, theirs in zip(got, want, strict=True):
    tiny_training.assert_equal(ours, theirs)
    # No part has moved to another device.
    assert ours.tokens.sharding.is_equivalent_to(placed.tokens.sharding, 5)
