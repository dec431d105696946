"""Tiny Hugging Face checkpoints made from a seed, for goldens and live parity.

Names and shapes of the tensors are written out here, not taken from awpo_jax.
Weights come from `RandomState`, whose stream NumPy keeps for ever.
"""

import json
import pathlib
import zlib

import numpy as np
import safetensors.numpy

VOCAB = 96
NEW_TOKENS = 64
LONG = 72  # positions, past every original length below
LONG_KEPT = 6  # of them whose logits are stored
FAR = 20_000  # added to all positions: relative distances stay
PADDED = ((0, 0), (7, 0), (0, 9), (3, 4))  # columns left and right
WIDTH = 24

_BASE = {
  'vocab_size': VOCAB,
  'hidden_size': 32,
  'intermediate_size': 40,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'rms_norm_eps': 1e-6,
  'max_position_embeddings': 128,
  'tie_word_embeddings': False,
  'hidden_act': 'silu',
  'bos_token_id': None,
  'eos_token_id': None,
}
_QWEN3 = _BASE | {'model_type': 'qwen3', 'head_dim': 12}
_QWEN2 = _BASE | {'model_type': 'qwen2', 'rope_theta': 1e6}
_LLAMA = _BASE | {'model_type': 'llama', 'rms_norm_eps': 1e-5}
_MISTRAL = _BASE | {'model_type': 'mistral', 'sliding_window': None}

CASES = {
  'qwen3_tied': _QWEN3
  | {
    'tie_word_embeddings': True,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6},
  },
  'qwen3_bias_window': _QWEN3
  | {
    'attention_bias': True,
    'use_sliding_window': True,
    'sliding_window': 5,
    'max_window_layers': 1,
  },
  'qwen3_yarn': _QWEN3
  | {
    'rope_theta': 1e4,
    'rope_scaling': {
      'rope_type': 'yarn',
      'factor': 4.0,
      'original_max_position_embeddings': 32,
    },
  },
  'qwen2_tied_gqa': _QWEN2 | {'tie_word_embeddings': True},
  'qwen2_yarn_old_keys': _QWEN2
  | {
    'rope_scaling': {
      'type': 'yarn',
      'factor': 8.0,
      'original_max_position_embeddings': 16,
      'beta_fast': 4.0,
      'beta_slow': 0.5,
      'mscale': 1.3,
      'mscale_all_dim': 0.4,
      'truncate': False,
    },
  },
  'qwen2_layer_types': _QWEN2
  | {
    'num_hidden_layers': 3,
    'use_sliding_window': True,
    'sliding_window': 6,
    'layer_types': ['sliding_attention', 'full_attention', 'sliding_attention'],
  },
  'llama_mha': _LLAMA | {'num_key_value_heads': 4},
  'llama_llama3_tied': _LLAMA
  | {
    'head_dim': 16,
    'tie_word_embeddings': True,
    'rope_parameters': {
      'rope_type': 'llama3',
      'rope_theta': 500.0,
      'factor': 4.0,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      'original_max_position_embeddings': 32,
    },
  },
  'llama_linear_biases': _LLAMA
  | {
    'attention_bias': True,
    'mlp_bias': True,
    'head_dim': 6,
    'rope_scaling': {'type': 'linear', 'factor': 2.5},
  },
  'llama_yarn_factor': _LLAMA
  | {
    'rope_parameters': {
      'rope_type': 'yarn',
      'rope_theta': 1e4,
      'factor': 4.0,
      'original_max_position_embeddings': 32,
      'attention_factor': 1.4,
    },
  },
  'mistral_window': _MISTRAL | {'sliding_window': 7, 'rope_theta': 1e4},
  'mistral_head_dim': _MISTRAL
  | {'head_dim': 20, 'rope_parameters': {'rope_theta': 1e6}},
}

# The rotary keys of published configs, and rarer ones.
_YARN = {'rope_type': 'yarn', 'original_max_position_embeddings': 32_768}
_LLAMA3 = {
  'rope_type': 'llama3',
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}
ROPES = {
  'qwen3': {'head_dim': 128, 'rope_theta': 1e6},
  'qwen3_yarn': {
    'head_dim': 128,
    'rope_theta': 1e6,
    'rope_scaling': _YARN | {'factor': 4.0},
  },
  'llama3_1': {
    'head_dim': 128,
    'rope_theta': 5e5,
    'rope_scaling': _LLAMA3 | {'factor': 8.0},
  },
  'llama3_2': {
    'head_dim': 64,
    'rope_theta': 5e5,
    'rope_scaling': _LLAMA3 | {'factor': 32.0},
  },
  'linear': {
    'head_dim': 96,
    'rope_theta': 1e4,
    'rope_scaling': {'rope_type': 'linear', 'factor': 3.0},
  },
  'yarn_keys': {
    'head_dim': 80,
    'rope_theta': 1.5e5,
    'rope_scaling': _YARN
    | {
      'factor': 40.0,
      'beta_fast': 20.0,
      'beta_slow': 2.0,
      'mscale': 1.2,
      'mscale_all_dim': 0.6,
      'truncate': False,
    },
  },
}


def seed(name: str) -> int:
  """Of a case's weights and tokens."""
  return zlib.crc32(name.encode()) % 2**31


def shapes_of(hf):
  """HF name -> shape, [out, in] for projections."""
  width, inner = hf['hidden_size'], hf['intermediate_size']
  head = hf.get('head_dim') or width // hf['num_attention_heads']
  q, kv = (head * hf[f'num_{x}_heads'] for x in ('attention', 'key_value'))
  shapes = {
    'model.embed_tokens.weight': (hf['vocab_size'], width),
    'model.norm.weight': (width,),
  }
  if not hf['tie_word_embeddings']:
    shapes['lm_head.weight'] = (hf['vocab_size'], width)
  biased = {'qwen2': 'qkv'}.get(hf['model_type'], '')
  biased = 'qkvo' if hf.get('attention_bias') else biased
  for i in range(hf['num_hidden_layers']):
    layer = f'model.layers.{i}'
    for norm in ('input_layernorm', 'post_attention_layernorm'):
      shapes[f'{layer}.{norm}.weight'] = (width,)
    sizes = {'q': (q, width), 'k': (kv, width), 'v': (kv, width)}
    for x, shape in (sizes | {'o': (width, q)}).items():
      shapes[f'{layer}.self_attn.{x}_proj.weight'] = shape
      if x in biased:
        shapes[f'{layer}.self_attn.{x}_proj.bias'] = shape[:1]
    if hf['model_type'] == 'qwen3':
      for x in 'qk':
        shapes[f'{layer}.self_attn.{x}_norm.weight'] = (head,)
    sizes = {'gate': (inner, width), 'up': (inner, width)}
    for x, shape in (sizes | {'down': (width, inner)}).items():
      shapes[f'{layer}.mlp.{x}_proj.weight'] = shape
      if hf.get('mlp_bias'):
        shapes[f'{layer}.mlp.{x}_proj.bias'] = shape[:1]
  return shapes


def weights(hf, rng):
  """f32 tensors by HF name, far from initial values: all of them matter."""
  result = {}
  for name, shape in shapes_of(hf).items():
    value = rng.standard_normal(shape)
    if 'norm' in name:
      value = 1 + 0.3 * value
    elif name.endswith('bias'):
      value = 0.3 * value
    elif 'embed_tokens' in name or 'lm_head' in name:
      value = 0.5 * value
    else:
      value = 1.4 * value / np.sqrt(shape[1])
    result[name] = value.astype(np.float32)
  return result


def write(folder, hf, tensors):
  """A checkpoint folder, without any code of awpo_jax."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(hf))
  path = folder / 'model.safetensors'
  safetensors.numpy.save_file(tensors, path, {'format': 'pt'})


def inputs(rng):
  """Padded tokens and mask [4, 24], and unpadded tokens [2, 72]."""
  mask = np.ones((len(PADDED), WIDTH), bool)
  for row, (left, right) in zip(mask, PADDED, strict=True):
    row[:left] = False
    row[WIDTH - right :] = False
  tokens = rng.randint(0, VOCAB, mask.shape).astype(np.int32)
  long = rng.randint(0, VOCAB, (2, LONG)).astype(np.int32)
  return tokens, mask, long


def prompts(tokens):
  """Two prompts of 12 columns and their mask, the second padded on the left."""
  mask = np.ones((2, 12), bool)
  mask[1, :5] = False
  return tokens[:2, :12], mask


def positions(mask):
  """Real tokens before each one."""
  return np.maximum(np.cumsum(mask, axis=-1) - 1, 0).astype(np.int32)


def make(name):
  """The checkpoint's tensors and inputs of a named case."""
  rng = np.random.RandomState(seed(name))
  return weights(CASES[name], rng), *inputs(rng)
