"""Parameters for decoding: the same model, cast once and joined."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.models import config as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import decoding_params, lora_layers
from tests.helpers import tiny_decoder

HF = tiny_decoder.HF | {'model_type': 'llama'}


def adapted(targets):
  """A decoder with adapters of rank 2 that are not zero, and parameters."""
  decoder, base = tiny_decoder.make(HF, seed=3)
  lora = lora_layers.LoraConfig(rank=2, alpha=6.0, targets=targets)
  decoder = decoder_lib.Decoder(dataclasses.replace(decoder.config, lora=lora))
  shapes = jax.eval_shape(
    lambda key: decoder_lib.init_params(decoder.config, key), jax.random.key(0)
  )
  rng = np.random.default_rng(4)
  known = dict(jax.tree_util.tree_leaves_with_path(base))

  def leaf(path, shape):
    drawn = 0.3 * rng.normal(size=shape.shape).astype(np.float32)
    return known.get(path, drawn)

  return decoder, jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.mark.parametrize(
  'targets', [lora_layers.LORA_TARGETS, ('v_proj', 'q_proj', 'up_proj')]
)
def test_joined_adapters_say_the_same(targets):
  decoder, params = adapted(targets)
  made = decoding_params.make(decoder.config, params)
  tokens = np.int32([[3, 1, 4, 1, 5]])
  want = jax.jit(decoder.apply)({'params': params}, tokens)
  got = jax.jit(decoder.apply)({'params': made}, tokens)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  # They say something.
  plain = decoder_lib.Decoder(dataclasses.replace(decoder.config, lora=None))
  without = jax.jit(plain.apply)({'params': params}, tokens)
  assert np.abs(got - without).max() > 0.1


def test_joined_by_hand():
  config = dataclasses.replace(
    config_lib.from_hf_dict(HF), lora=lora_layers.LoraConfig(rank=1, alpha=1.0)
  )

  def adapter(down, up):
    return {'lora_a': np.float32(down), 'lora_b': np.float32(up)}

  params = {
    'self_attn': {
      'q_proj': adapter([[1], [2]], [[3, 4]]),
      'k_proj': {'kernel': np.float32([[9]])},
      'v_proj': adapter([[5], [6]], [[7]]),
      'o_proj': adapter([[1]], [[2]]),
    },
    'mlp': {'up_proj': adapter([[8]], [[9]])},
  }
  down = [[1, 5], [2, 6]]
  want = {
    'self_attn': {
      'q_proj': adapter(down, [[3, 4], [0, 0]]),
      'k_proj': {'kernel': np.float32([[9]])},
      'v_proj': adapter(down, [[0], [7]]),
      'o_proj': adapter([[1]], [[2]]),
    },
    'mlp': {'up_proj': adapter([[8]], [[9]])},
  }
  got = decoding_params.make(config, params)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  # One array, so that XLA sees one product.
  got = got['self_attn']
  assert got['q_proj']['lora_a'] is got['v_proj']['lora_a']


def test_cast_makes_nothing_larger():
  params = {
    'wide': np.float32([1 + 2.0**-9, -3]),
    'narrow': jnp.ones(2, jnp.bfloat16),
  }
  got = decoding_params.make(
    config_lib.from_hf_dict(HF, dtype='bfloat16'), params
  )
  assert got['wide'].dtype == jnp.bfloat16
  # bfloat16 has 8 bits: 1 + 2^-9 lies nearer to 1 than to 1 + 2^-7.
  np.testing.assert_array_equal(np.float32(got['wide']), [1, -3])
  assert got['narrow'] is params['narrow']
  got = decoding_params.make(config_lib.from_hf_dict(HF), params)
  assert all(got[name] is params[name] for name in params)
