"""Blocks computed anew in the backward pass: less is kept, nothing changes.

With `loop` all but the last are a loop over stacked parameters; with `none`
they are unrolled, and agree with Hugging Face (`test_hf_weights_parity.py`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.rollout.sampling import sampler
from tests.helpers import adapted_decoder, tiny_decoder

MIXED = tiny_decoder.LOCAL['qwen3'] | {
  'num_hidden_layers': 4,
  'layer_types': [
    f'{x}_attention' for x in ('full', 'sliding', 'full', 'full')
  ],
}
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


def _packed_loss(decoder, params):
  """Of two blocks of five tokens, of which the second sees both."""
  positions = np.arange(10).reshape(2, 5)
  hidden = decoder.apply(
    {'params': params},
    TOKENS[:2],
    positions,
    np.int32([[[0, 0], [0, 1]]]),
    # A first block would see itself twice.
    np.stack(
      [
        np.pad(np.tri(5, dtype=bool), ((0, 0), (0, 5))),
        np.tri(5, 10, 5, dtype=bool),
      ]
    ),
    method='packed',
  )
  return jnp.sum(jnp.sin(hidden))


def _adapted():
  config, base, trained = adapted_decoder.make(MIXED)
  return decoder_lib.Decoder(config), lora.join(trained, base)


MODELS = {
  'dense': lambda: tiny_decoder.make(MIXED),
  'adapted': _adapted,
  'two layers': lambda: tiny_decoder.make(tiny_decoder.LOCAL['qwen3']),
  'one layer': lambda: tiny_decoder.make(
    tiny_decoder.FAMILIES['llama'] | {'num_hidden_layers': 1}
  ),
}
LOSSES = {'groups': _loss, 'packed': _packed_loss}


@functools.cache
def _gradient(remat, model, loss):
  decoder, params = MODELS[model]()
  decoder = _other(decoder, remat)
  run = jax.jit(jax.value_and_grad(lambda p: LOSSES[loss](decoder, p)))
  return run(params)


@pytest.mark.parametrize(
  ('remat', 'model', 'loss'),
  [
    ('products', 'dense', 'groups'),
    ('blocks', 'dense', 'groups'),
    ('loop', 'dense', 'groups'),
    ('loop', 'dense', 'packed'),
    ('loop', 'adapted', 'groups'),
    ('loop', 'two layers', 'groups'),
    ('loop', 'one layer', 'groups'),
  ],
)
def test_value_and_gradient_stay(remat, model, loss):
  (want, want_grads), (got, grads) = (
    _gradient(x, model, loss) for x in ('none', remat)
  )
  np.testing.assert_allclose(got, want, rtol=1e-6)
  largest = [float(jnp.abs(x).max()) for x in jax.tree.leaves(want_grads)]
  assert max(largest) > 0.1
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    grads,
    want_grads,
  )


def test_a_loop_is_compiled_as_one_block():
  def products(layers):
    hf = tiny_decoder.FAMILIES['qwen3'] | {'num_hidden_layers': layers}
    decoder, params = tiny_decoder.make(hf)
    run = jax.grad(lambda p: _loss(_other(decoder, 'loop'), p))
    return str(jax.make_jaxpr(run)(params)).count('dot_general')

  assert products(4) == products(7) > 20


def test_a_sampler_reads_prompts_without_the_loop():
  decoder, params = tiny_decoder.make(MIXED)
  prompts = types.Prompts(
    tokens=PROMPTS, mask=np.ones(PROMPTS.shape, bool), ids=np.arange(2)
  )

  def scans(remat):
    run = functools.partial(
      sampler.read_prompts, decoder=_other(decoder, remat)
    )
    return str(jax.make_jaxpr(run)(params, prompts)).count('scan[')

  # It would copy all parameters.
  assert scans('loop') == scans('none')


def test_parameters_are_stacked_in_the_dtype_of_their_use():
  decoder, params = tiny_decoder.make(MIXED, dtype='bfloat16')
  made = jax.make_jaxpr(lambda p: _loss(_other(decoder, 'loop'), p))(params)
  scan = next(x for x in made.eqns if x.primitive.name == 'scan')
  stacked = [x.aval for x in scan.invars if x.aval.shape[:2] == (3, 32)]
  assert len(stacked) >= 7
  assert {x.dtype.name for x in stacked} == {'bfloat16'}


def _kept(decoder, params):
  """Numbers that the backward pass is handed, the parameters among them."""
  pullback = jax.eval_shape(
    lambda p: jax.vjp(lambda p: _loss(decoder, p), p)[1], params
  )
  return sum(x.size for x in jax.tree.leaves(pullback))


@pytest.mark.parametrize('remat', ['blocks', 'loop'])
def test_what_is_kept(remat):
  hf = tiny_decoder.FAMILIES['qwen3'] | {'num_hidden_layers': 6}
  decoder, params = tiny_decoder.make(hf)
  number = sum(x.size for x in jax.tree.leaves(params))
  everything, products, inputs = (
    _kept(_other(decoder, remat), params) - number
    for remat in ('none', 'products', remat)
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
