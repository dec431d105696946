"""Adapters by hand, against float64, and as a new model has them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import layers, lora, lora_layers
from tests.helpers import adapted_decoder, tiny_decoder
from tests.helpers import decoder_reference as reference

TOKENS = np.int32([[5, 60, 11, 3, 40, 23, 7]])


def test_by_hand():
  # x = (1, 2), W = (3 0; 0 1), b = (10, 20): x W + b = (13, 22)
  # A = (1, 3)^T: x A = 7; B = (2, -1); alpha / r = 1 / 2: (7, -3.5)
  dense = lora_layers.AdaptedDense(
    2, dtype=jnp.float32, lora=lora_layers.LoraConfig(rank=1, alpha=0.5)
  )
  params = {
    'kernel': np.float32([[3, 0], [0, 1]]),
    'bias': np.float32([10, 20]),
    'lora_a': np.float32([[1], [3]]),
    'lora_b': np.float32([[2, -1]]),
  }
  got = dense.apply({'params': params}, np.float32([[1, 2]]))
  np.testing.assert_array_equal(got, [[20, 18.5]])


@pytest.mark.parametrize('family', ['qwen3', 'llama_biases'])
def test_the_decoder_is_that_of_the_sums(family):
  config, base, trained = adapted_decoder.make(family)
  got = adapted_decoder.apply(config, lora.join(trained, base), TOKENS)[0]
  whole = adapted_decoder.merged(base, trained, 7.5 / 3)
  want = reference.logits(TOKENS[0], whole, tiny_decoder.FAMILIES[family])
  plain = reference.logits(TOKENS[0], base, tiny_decoder.FAMILIES[family])
  assert np.abs(want - plain).max() > 0.3 * np.std(plain)
  np.testing.assert_allclose(got, want, atol=2e-4 * np.std(want))


def test_every_target_alone_makes_a_difference():
  for name in lora_layers.LORA_TARGETS:
    config, base, trained = adapted_decoder.make(
      settings=lora_layers.LoraConfig(rank=2, alpha=2.0, targets=(name,))
    )
    paths = traverse_util.flatten_dict(trained)
    assert {path[-2] for path in paths} == {name} and len(paths) == 4
    got = adapted_decoder.apply(config, lora.join(trained, base), TOKENS)
    without = dataclasses.replace(config, lora=None)
    assert (
      np.abs(got - adapted_decoder.apply(without, base, TOKENS)).max() > 0.1
    )


def test_a_new_adapter_changes_no_bit():
  config, base, _ = adapted_decoder.make('llama_biases')
  trained = lora.new_adapters(config, jax.random.key(1))
  got = adapted_decoder.apply(config, lora.join(trained, base), TOKENS)
  plain = dataclasses.replace(config, lora=None)
  np.testing.assert_array_equal(got, adapted_decoder.apply(plain, base, TOKENS))


def test_new_parameters_are_those_of_the_base_and_adapters_as_of_peft():
  config, _, _ = adapted_decoder.make(
    settings=lora_layers.LoraConfig(rank=64, alpha=1.0)
  )
  key = jax.random.key(3)
  trained, frozen = lora.split(decoder_lib.init_params(config, key))
  plain = dataclasses.replace(config, lora=None)
  base = decoder_lib.init_params(plain, key)
  jax.tree.map(np.testing.assert_array_equal, frozen, base)
  for path, x in traverse_util.flatten_dict(trained).items():
    if path[-1] == 'lora_b':
      np.testing.assert_array_equal(x, np.zeros(x.shape))
      continue
    # kaiming_uniform_(a=sqrt(5)): within 1 / sqrt(in), so this / sqrt(3) wide.
    bound = x.shape[0] ** -0.5
    assert 0.95 * bound < np.abs(x).max() <= bound
    np.testing.assert_allclose(np.std(x), bound / 3**0.5, rtol=0.05)


def test_adapters_are_float32_beside_a_bfloat16_base():
  config, base, trained = adapted_decoder.make(
    dtype=jnp.bfloat16, param_dtype=jnp.bfloat16
  )
  assert {x.dtype.name for x in jax.tree.leaves(base)} == {'bfloat16'}
  assert {x.dtype.name for x in jax.tree.leaves(trained)} == {'float32'}
  params = lora.join(trained, base)
  shapes = jax.eval_shape(
    lambda: decoder_lib.init_params(config, jax.random.key(0))
  )
  assert jax.tree.map(lambda x: x.dtype, shapes) == jax.tree.map(
    lambda x: x.dtype, params
  )
  got = adapted_decoder.apply(config, params, TOKENS)
  whole = adapted_decoder.merged(
    jax.tree.map(np.float32, base), trained, adapted_decoder.LORA.scale
  )
  want = reference.logits(TOKENS[0], whole, tiny_decoder.FAMILIES['qwen3'])
  np.testing.assert_allclose(got[0], want, atol=0.1 * np.std(want))


def test_what_is_no_target_is_a_plain_projection():
  config, _, _ = adapted_decoder.make(
    settings=lora_layers.LoraConfig(rank=1, alpha=1.0, targets=('k_proj',))
  )
  assert isinstance(
    layers._dense(config, 3, False, 'k_proj'), lora_layers.AdaptedDense
  )
  assert not isinstance(
    layers._dense(config, 3, False, 'v_proj'), lora_layers.AdaptedDense
  )
