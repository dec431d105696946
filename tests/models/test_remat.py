"""Blocks computed anew in the backward pass: less is kept, nothing changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from tests.models import tiny

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


def _both(hf):
  decoder, params = tiny.make(hf)
  config = dataclasses.replace(decoder.config, remat=True)
  return decoder, decoder_lib.Decoder(config), params


def test_value_and_gradient_stay():
  plain, again, params = _both(tiny.LOCAL['qwen3'])
  (loss, grads), (loss_again, grads_again) = (
    jax.jit(jax.value_and_grad(lambda p, d=d: _loss(d, p)))(params)
    for d in (plain, again)
  )
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


def test_only_the_inputs_of_blocks_are_kept():
  hf = tiny.FAMILIES['qwen3'] | {'num_hidden_layers': 6}
  plain, again, params = _both(hf)
  number = sum(x.size for x in jax.tree.leaves(params))
  assert _kept(again, params) - number < (_kept(plain, params) - number) / 4


def test_names_and_shapes_of_parameters_stay():
  plain, again, params = _both(tiny.FAMILIES['qwen2'])
  shapes = jax.eval_shape(
    lambda: decoder_lib.init_params(again.config, jax.random.key(0))
  )
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
