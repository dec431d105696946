"""The shapes programs are compiled for, written out."""

import dataclasses

import jax

from awpo_jax.distributed import sharding
from awpo_jax.training.programs import shapes
from tests.helpers import tiny_run


def _leaves(record):
  """Field -> (shape, dtype name), records within records by dots."""
  found = {}
  for field in dataclasses.fields(record):
    value = getattr(record, field.name)
    if dataclasses.is_dataclass(value):
      for name, leaf in _leaves(value).items():
        found[f'{field.name}.{name}'] = leaf
    elif value is not None:
      found[field.name] = value.shape, value.dtype.name
  return found


def _shapes():
  return shapes.Shapes(tiny_run.config(), tiny_run.mesh())


def test_mini_batches():
  # 4 prompts in 2 mini-batches on 2 devices: one microbatch of one prompt.
  rl = _leaves(_shapes().batch('rl', 20, 8))
  assert rl == {
    'prompt_tokens': ((2, 1, 1, 20), 'int32'),
    'prompt_mask': ((2, 1, 1, 20), 'bool'),
    'tokens': ((2, 1, 1, 2, 8), 'int32'),
    'mask': ((2, 1, 1, 2, 8), 'bool'),
    'positions': ((2, 1, 1, 2, 8), 'int32'),
    'policy_mask': ((2, 1, 1, 2, 8), 'bool'),
    'old_logprobs': ((2, 1, 1, 2, 8), 'float32'),
    'advantages': ((2, 1, 1, 2), 'float32'),
    'clip_radius': ((2, 1, 1), 'float32'),
  }
  # 4 demonstrations on 2 devices: two microbatches of one.
  sft = _leaves(_shapes().batch('sft', 40, 4))
  assert sft['tokens'] == ((2, 2, 1, 1, 4), 'int32')
  assert sft['prompt_mask'] == ((2, 2, 1, 40), 'bool')
  assert sft['clip_radius'] == ((2, 2, 1), 'float32')
  assert sft.keys() == rl.keys()


def test_packed():
  config = tiny_run.config()
  model = dataclasses.replace(config.model, pack_tokens=100)
  made = shapes.Shapes(
    dataclasses.replace(config, model=model), tiny_run.mesh()
  )
  # A row for each of the prompts of a device, should they all need one: of two
  # blocks of 64. Rows are the microbatches.
  wanted = {
    'groups': ((2, 2, 1, 2), 'int32'),
    'tokens': ((2, 2, 1, 2, 64), 'int32'),
    'positions': ((2, 2, 1, 2, 64), 'int32'),
    'segments': ((2, 2, 1, 2, 64), 'int32'),
    'targets': ((2, 2, 1, 128), 'int32'),
    'sources': ((2, 2, 1, 128), 'int32'),
    'alone': ((2, 2, 1), 'int32'),
  }
  sft = made.batch('sft', 20, 8)
  assert _leaves(sft.layout) == wanted
  assert sft.tokens.shape == (2, 1, 2, 1, 8)
  assert made.batch('rl', 20, 8).tokens.shape == (2, 1, 1, 2, 8)
  assert _leaves(made.rollout(2, 20, 2, 8).layout) == wanted


def test_rollouts():
  rollout = _leaves(_shapes().rollout(3, 20, 2, 8))
  assert rollout['prompts.tokens'] == ((2, 3, 20), 'int32')
  assert rollout['prompts.ids'] == ((2, 3), 'int32')
  assert rollout['completions.logprobs'] == ((2, 3, 2, 8), 'float32')
  assert rollout['completions.finished'] == ((2, 3, 2), 'bool')
  assert rollout['rewards.outcome'] == ((2, 3, 2), 'float32')
  assert rollout['rewards.outcome_max'] == ((2, 3), 'float32')
  assert rollout['sample_ids'] == ((2, 3, 2), 'int32')


def test_placement():
  made = _shapes()
  mesh = tiny_run.mesh()
  split = sharding.place_split(jax.numpy.zeros((2, 3)), mesh).sharding
  prompts, ids, facts = made.sampler(3, 20, 2)
  assert prompts.mask.sharding == ids.sharding == split
  assert facts.sharding == sharding.replicated(mesh)
  state = tiny_run.new_state('sft')
  like = made.like(state)
  same = jax.tree.map(
    lambda x, y: (
      (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)
    ),
    like,
    state,
  )
  assert all(jax.tree.leaves(same)) and len(jax.tree.leaves(same)) > 10
