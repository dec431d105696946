"""Slots under `pmap` and over a mesh answer as one device does at once."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.distributed import device_map, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import continuous_batching, sampler
from tests.helpers import tiny_training

# Every axis divides over two.
CONFIG = dataclasses.replace(tiny_training.CONFIG, vocab_size=32, tied=False)
PROMPTS, SAMPLES, WIDTH, RESPONSE = 4, 4, 6, 7


def _run(params, prompts, ids, facts, limits, *, sample=sampler.sample, **_):
  return sample(
    params,
    prompts,
    ids,
    sampler.fact_key(facts),
    sampler.Decoding(decoder_lib.Decoder(CONFIG), RESPONSE, (1,), pad_id=0),
    limits=limits,
  )


@functools.cache
def _params():
  shapes = jax.eval_shape(
    lambda: decoder_lib.init_params(CONFIG, jax.random.key(0))
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), shapes
  )


@functools.cache
def _case():
  """Inputs, and what one device makes of them without slots."""
  rng = np.random.default_rng(0)
  shape = PROMPTS, SAMPLES
  prompts = types.Prompts(
    tokens=rng.integers(2, 29, (PROMPTS, WIDTH), np.int32),
    mask=np.arange(WIDTH) >= np.arange(PROMPTS)[:, None],
    ids=np.arange(PROMPTS, dtype=np.int32),
  )
  ids = np.arange(PROMPTS * SAMPLES, dtype=np.int32).reshape(shape)
  limits = rng.integers(1, RESPONSE + 1, shape, np.int32)
  facts = sampler.facts(0, 'train', 0, 0)
  want = tiny_training.jit(_run)(_params(), prompts, ids, facts, limits)
  return prompts, ids, facts, limits, jax.device_get(want)


@pytest.mark.parametrize('model', [None, 2])
def test_the_answers_of_one_device(model):
  prompts, ids, facts, limits, want = _case()
  parts = 2
  if model is None:
    mesh = sharding.data_mesh(jax.devices()[:parts])
  else:
    mesh = sharding.model_mesh(parts, model, jax.devices())
  sample = functools.partial(
    continuous_batching.sample,
    slots=4,
    shared=2,
    parts=1 if model is None else parts,
  )
  mapped = device_map.mapped(
    functools.partial(_run, sample=sample),
    mesh,
    in_axes=(None, 0, 0, None, 0),
    out_axes=0,
  )
  place = functools.partial(sharding.place_split, mesh=mesh)
  arguments = (
    sharding.place_state(_params(), mesh),
    *place(sharding.split((prompts, ids), parts)),
    sharding.place_replicated(facts, mesh),
    place(sharding.split(limits, parts)),
  )
  compiled = mapped.lower(*arguments).compile(
    compiler_options=tiny_training.quick()
  )
  got = sharding.merge(jax.device_get(compiled(*arguments)))
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_array_equal(got.mask, want.mask)
  np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-5)
  # Texts of many lengths, some with the token that stops.
  assert len(set(want.mask.sum(-1).flat)) > 4
  assert want.finished.any() and not want.finished.all()
