"""Tiny decoders with parameters that make every term matter."""

import jax
import numpy as np

from awpo_jax.models import config as config_lib
from awpo_jax.models import decoder as decoder_lib

calls = []


class RecordingDecoder(decoder_lib.Decoder):
  """Notes in `calls` what it is traced on: method, shape read, shape made."""

  def hidden(self, tokens, *args, **kwargs):
    result = super().hidden(tokens, *args, **kwargs)
    calls.append(('hidden', tokens.shape, result[0].shape))
    return result

  def decode(self, tokens, *args, **kwargs):
    result = super().decode(tokens, *args, **kwargs)
    calls.append(('decode', tokens.shape, result[0].shape))
    return result

  def unembed(self, hidden):
    result = super().unembed(hidden)
    calls.append(('unembed', hidden.shape, result.shape))
    return result


HF = {
  'vocab_size': 67,
  'hidden_size': 32,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 6,  # not hidden_size / num_attention_heads
  'rms_norm_eps': 1e-5,
  'rope_theta': 100.0,
  'tie_word_embeddings': False,
}

FAMILIES = {
  'qwen3': HF | {'model_type': 'qwen3', 'tie_word_embeddings': True},
  'qwen2': HF | {'model_type': 'qwen2'},
  'llama': HF | {'model_type': 'llama', 'tie_word_embeddings': True},
  'llama_biases': HF
  | {'model_type': 'llama', 'attention_bias': True, 'mlp_bias': True},
}

# Layers that see their last three tokens only.
LOCAL = {
  'mistral': HF | {'model_type': 'mistral', 'sliding_window': 3},
  'qwen3': FAMILIES['qwen3']
  | {
    'use_sliding_window': True,
    'sliding_window': 3,
    'layer_types': ['full_attention', 'sliding_attention'],
  },
}


def make(hf, *, seed=0, **settings):
  """A decoder and its parameters.

  Kernels are drawn wide, norm weights around 1, and biases off 0: at their
  initial values a missing norm weight or bias would change nothing.
  """
  config = config_lib.from_hf_dict(hf, **settings)
  decoder = decoder_lib.Decoder(config)
  shapes = jax.eval_shape(
    lambda key: decoder_lib.init_params(config, key), jax.random.key(0)
  )
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    center = 1.0 if name == 'weight' else 0.0
    spread = {'weight': 0.3, 'embedding': 0.5, 'bias': 0.3}.get(name, 0.25)
    values = center + spread * rng.normal(size=leaf.shape)
    return values.astype(leaf.dtype)

  return decoder, jax.tree_util.tree_map_with_path(draw, shapes)


def make_llama(**settings):
  """Untied, so that the embedding is read as input only."""
  return make(HF | {'model_type': 'llama'}, **settings)
