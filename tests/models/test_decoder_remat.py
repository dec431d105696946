"""Blocks computed anew in the backward pass: less is kept, nothing changes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from tests.helpers import tiny_decoder

TOKENS = np.random.default_rng(1).integers(0, 67, (4, 5))
PROMPTS = np.random.default_rng(2).integers(0, 67, (2, 6))


def _loss(decoder, params):
  """Of answers to shared prompts, as the trainer reads them."""
  mask = np.arange(6)[None] >= np.array([[0], [2]])
  apply = decoder.apply
  last, layers = apply(
    {'params': params},
    PROMPTS,
    decoder_lib.token_positions(mask),
    mask,
    tail=1,
    method='hidden',
  )
  hidden, _ = apply(
    {'params': params},
    TOKENS,
    np.arange(5)[None] + np.repeat(mask.sum(-1), 2)[:, None],
    np.ones((4, 5), bool),
    prefix=cache_lib.Prefix(layers=layers, mask=mask),
    method='hidden',
  )
  return jnp.sum(jnp.sin(hidden)) + jnp.sum(jnp.cos(last))


def _other(decoder, remat):
  return decoder_lib.Decoder(dataclasses.replace(decoder.config, remat=remat))


@functools.cache
def _gradient(remat):
  decoder, params = tiny_decoder.make(tiny_decoder.LOCAL['qwen3'])
  decoder = _other(decoder, remat)
  return jax.jit(jax.value_and_grad(lambda p: _loss(decoder, p)))(params)


@pytest.mark.parametrize('remat', ['products', 'blocks'])
def test_value_and_gradient_stay(remat):
  (loss, grads), (loss_again, grads_again) = map(_gradient, ('none', remat))
  np.testing.assert_allclose(loss_again, loss, rtol=1e-6)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads)) > 0.1
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    grads_again,
    grads,
  )


def _kept(decoder, params):
  """Numbers that the backward pass is handed, the parameters among them."""
  pullback = jax.eval_shape(
    lambda p: jax.vjp(lambda p: _loss(decoder, p), p)[1], params
  )
  return sum(x.size for x in jax.tree.leaves(pullback))


def test_what_is_kept():
  hf = tiny_decoder.FAMILIES['qwen3'] | {'num_hidden_layers': 6}
  decoder, params = tiny_decoder.make(hf)
  number = sum(x.size for x in jax.tree.leaves(params))
  everything, products, inputs = (
    _kept(_other(decoder, remat), params) - number
    for remat in ('none', 'products', 'blocks')
  )
  assert inputs < everything / 4
  assert inputs < products < everything / 1.5


def test_initial_values_stay():
  decoder, _ = tiny_decoder.make(
    tiny_decoder.FAMILIES['qwen2'], dtype='bfloat16', param_dtype='bfloat16'
  )
  made, again = (
    decoder_lib.init_params(x.config, jax.random.key(0))
    for x in (decoder, _other(decoder, 'blocks'))
  )
  jax.tree.map(np.testing.assert_array_equal, again, made)
