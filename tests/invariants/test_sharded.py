"""Cut over a mesh, a state takes the update that one device makes of it."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.distributed import device_map, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import sampler
from awpo_jax.training.update import objectives, train_step
from tests.helpers import row_by_row, tiny_training

# Every axis divides over four.
CONFIG = dataclasses.replace(
  tiny_training.CONFIG, vocab_size=32, kv_heads=4, qkv_bias=True, tied=False
)
TERMS = functools.partial(
  objectives.rl_terms,
  decoder=decoder_lib.Decoder(CONFIG),
  **tiny_training.RL_FLAGS,
)
MESHES = [(1, 4), (2, 2), (4, 1)]  # data x model


@functools.cache
def start(config=CONFIG):
  shapes = jax.eval_shape(
    lambda: decoder_lib.init_params(config, jax.random.key(0))
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), shapes
  )
  return jax.device_get(train_step.init_state(params, tiny_training.make_tx()))


@functools.cache
def _want():
  batch = row_by_row.random_batch(0)
  return tiny_training.update(start(), batch, micro=2, terms=TERMS)


@functools.cache
def _got(data, model):
  """The placed state before, and after one and after two updates."""
  mapped = tiny_training.Mapped(4, 2, TERMS, model=model)
  batch = row_by_row.random_batch(0)
  assert sharding.parts(mapped.mesh) == data
  first = mapped(mapped.place(start()), batch)
  shapes = jax.tree.map(lambda x: x.sharding, first[0])
  host = jax.device_get(first)
  return host, shapes, jax.device_get(mapped(first[0], batch)), mapped.mesh


@pytest.mark.parametrize(('data', 'model'), MESHES)
def test_the_update_of_one_device(data, model):
  (state, metrics), _, _, _ = _got(data, model)
  want, expected = _want()
  grads = want.opt_state[0]
  tiny_training.assert_close(state.opt_state[0], grads, scale=grads, rtol=1e-5)
  change = jax.tree.map(np.subtract, want.params, start().params)
  tiny_training.assert_close(state.params, want.params, scale=change, rtol=1e-4)
  assert metrics.sums.keys() == expected.sums.keys()
  for name in ('sums', 'maxima', 'grad_norm'):
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5),
      getattr(metrics, name),
      getattr(expected, name),
    )
  assert metrics.finite and metrics.updates == state.step == 1


def test_blocks_in_a_loop_have_the_update_of_unrolled_ones():
  deep, batch = (
    dataclasses.replace(CONFIG, layers=4),
    row_by_row.random_batch(0),
  )
  unrolled, loop = (
    functools.partial(
      objectives.rl_terms,
      decoder=decoder_lib.Decoder(dataclasses.replace(deep, remat=remat)),
      **tiny_training.RL_FLAGS,
    )
    for remat in ('none', 'loop')
  )
  want, _ = tiny_training.update(start(deep), batch, micro=2, terms=unrolled)
  mapped = tiny_training.Mapped(4, 2, loop, model=2)
  state, metrics = jax.device_get(mapped(mapped.place(start(deep)), batch))
  grads = want.opt_state[0]
  tiny_training.assert_close(state.opt_state[0], grads, scale=grads, rtol=1e-5)
  assert metrics.finite and metrics.updates == 1


@pytest.mark.parametrize(('data', 'model'), MESHES)
def test_the_state_stays_cut_as_the_rules_have_it(data, model):
  # Without that the second update would compile anew, or not run at all.
  _, shardings, (state, metrics), mesh = _got(data, model)
  want = sharding.state_shardings(state, mesh)
  cut = []
  for x, got, wanted in zip(
    *map(jax.tree.leaves, (state, shardings, want)), strict=True
  ):
    assert got.is_equivalent_to(wanted, x.ndim)
    cut.append(got.shard_shape(x.shape) != x.shape)
  # Every matrix of the parameters, of both moments and of the gradient kept.
  matrices = sum(x.ndim == 2 for x in jax.tree.leaves(state.params))
  biases = 5 * CONFIG.layers if model > 1 else 0
  assert sum(cut) >= 4 * matrices + biases
  assert metrics.updates == 2


def test_what_matches_no_rule_is_whole():
  mesh = sharding.model_mesh(2, 2)
  tree = {'norm': {'weight': np.ones(8)}, 'o_proj': {'kernel': np.ones((4, 6))}}
  got = sharding.state_shardings(tree, mesh)
  assert got['norm']['weight'].is_fully_replicated
  assert got['o_proj']['kernel'].shard_shape((4, 6)) == (2, 3)
  assert list(sharding.misfits(tree, mesh)) == []
  tree['o_proj']['kernel'] = np.ones((3, 5))
  assert list(sharding.misfits(tree, mesh)) == [
    'o_proj/kernel [3, 5]: 3 over model:2',
    'o_proj/kernel [3, 5]: 5 over data:2',
  ]


def test_a_mesh_is_of_all_devices():
  with pytest.raises(ValueError, match='data:2,model:4 is 8 devices, here are'):
    sharding.model_mesh(2, 4)


def test_the_sampler_cuts_its_cache_by_rows_and_heads():
  mesh = sharding.model_mesh(2, 2)
  prompts, samples, columns = 8, 2, 33  # A length that nothing else has.
  inputs = (
    types.Prompts(
      tokens=np.arange(prompts * 7, dtype=np.int32).reshape(-1, 7) % 29,
      mask=np.arange(7) >= np.arange(prompts)[:, None] % 5,
      ids=np.arange(prompts, dtype=np.int32),
    ),
    np.arange(prompts * samples, dtype=np.int32).reshape(prompts, samples),
  )

  def run(params, prompts, sample_ids, facts, *, axis_name=None):
    assert axis_name is None
    return sampler.sample(
      params,
      prompts,
      sample_ids,
      sampler.fact_key(facts),
      sampler.Decoding(decoder_lib.Decoder(CONFIG), columns, (1,), pad_id=0),
    )

  facts = sampler.facts(0, 'train', 0, 0)
  want = jax.device_get(tiny_training.jit(run)(start().params, *inputs, facts))
  arguments = (
    sharding.place_state(start().params, mesh),
    *sharding.place_split(sharding.split(inputs, 2), mesh),
    sharding.place_replicated(facts, mesh),
  )
  mapped = device_map.mapped(run, mesh, in_axes=(None, 0, 0, None), out_axes=0)
  compiled = mapped.lower(*arguments).compile(
    compiler_options=tiny_training.quick()
  )
  rows = prompts * samples
  cache = rf'f32\[(\d+),(\d+),(?:{columns},8|8,{columns})\]'
  shapes = set(re.findall(cache, compiled.as_text()))
  assert shapes == {(str(rows // 2), str(CONFIG.kv_heads // 2))}
  got = sharding.merge(jax.device_get(compiled(*arguments)))
  np.testing.assert_array_equal(got.tokens, want.tokens)
  assert len(set(want.policy_mask.sum(-1).ravel())) > 3
  np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-5)
