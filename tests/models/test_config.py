"""Decoder configs from config.json, of transformers 5 and of older files."""

import json

import jax.numpy as jnp
import pytest
import transformers

from awpo_jax.models import config

# Keys of a config.json written before `rope_parameters`.
LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'vocab_size': 300,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'hidden_act': 'silu',
  'rms_norm_eps': 1e-5,
  'rope_theta': 500000.0,
  'rope_scaling': None,
  'attention_bias': False,
  'torch_dtype': 'bfloat16',
}

SHAPE = {
  'vocab_size': 300,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'rms_norm_eps': 1e-5,
  'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6},
  'max_position_embeddings': 512,
}


def check_shape(got):
  assert got.vocab_size == 300
  assert got.width == 32
  assert got.mlp_width == 48
  assert got.layers == 2
  assert got.heads == 4
  assert got.kv_heads == 2
  assert got.norm_eps == 1e-5
  assert got.rope_theta == 1e6
  assert got.max_positions == 512


@pytest.mark.parametrize('full', [True, False])
@pytest.mark.parametrize(
  ('kind', 'further', 'want'),
  [
    (
      'Qwen3Config',
      {'head_dim': 16, 'tie_word_embeddings': True},
      {'head_width': 16, 'tied': True, 'qk_norm': True},
    ),
    ('Qwen3Config', {}, {'head_width': 128, 'qk_norm': True}),
    (
      'Qwen3Config',
      {'attention_bias': True},
      {'head_width': 128, 'qk_norm': True, 'qkv_bias': True, 'out_bias': True},
    ),
    ('Qwen2Config', {}, {'head_width': 8, 'qkv_bias': True}),
    ('LlamaConfig', {}, {'head_width': 8}),
    (
      'LlamaConfig',
      {'attention_bias': True, 'mlp_bias': True, 'head_dim': 6},
      {'head_width': 6, 'qkv_bias': True, 'out_bias': True, 'mlp_bias': True},
    ),
    (
      'MistralConfig',
      {'sliding_window': None, 'initializer_range': 0.1},
      {'head_width': 8, 'init_range': 0.1},
    ),
  ],
)
def test_families_of_transformers(kind, further, want, full):
  hf = getattr(transformers, kind)(**SHAPE, **further)
  got = config.from_hf_dict(hf.to_dict() if full else hf.to_diff_dict())
  check_shape(got)
  defaults = {
    'tied': False,
    'qk_norm': False,
    'qkv_bias': False,
    'out_bias': False,
    'mlp_bias': False,
    'init_range': 0.02,
  }
  for name, value in (defaults | want).items():
    assert getattr(got, name) == value, name


@pytest.mark.parametrize('kind', ['Qwen3Config', 'Qwen2Config', 'LlamaConfig'])
def test_unmodified_configs_are_read(kind):
  hf = getattr(transformers, kind)()
  got = config.from_hf_dict(hf.to_dict())
  assert (got.vocab_size, got.kv_heads) == (hf.vocab_size, 32)


def test_older_keys():
  got = config.from_hf_dict(LLAMA)
  assert got.rope_theta == 500000.0
  assert got.head_width == 8
  assert got.norm_eps == 1e-5
  assert not got.tied


def test_a_window_that_is_off_changes_nothing():
  # As in the published Qwen2.5 files.
  hf = LLAMA | {
    'model_type': 'qwen2',
    'sliding_window': 131072,
    'max_window_layers': 28,
    'use_sliding_window': False,
    'use_mrope': False,
  }
  del hf['attention_bias']
  assert config.from_hf_dict(hf).qkv_bias
  del hf['use_sliding_window']  # Off is what transformers assumes.
  assert config.from_hf_dict(hf).qkv_bias


def test_layers_with_a_window():
  hf = transformers.MistralConfig(**SHAPE, sliding_window=16)
  got = config.from_hf_dict(hf.to_dict())
  assert (got.window, got.local_layers) == (16, (True, True))
  hf = transformers.Qwen3Config(
    **SHAPE, use_sliding_window=True, sliding_window=16, max_window_layers=1
  )
  got = config.from_hf_dict(hf.to_dict())
  assert (got.window, got.local_layers) == (16, (False, True))


def test_defaults_where_the_file_is_silent():
  hf = {
    'vocab_size': 300,
    'hidden_size': 64,
    'intermediate_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 32,
  }
  for kind in ('qwen3', 'qwen2', 'llama', 'mistral'):
    theirs = transformers.AutoConfig.for_model(kind, **hf)
    given = {'model_type': kind, **hf}
    if kind == 'mistral':
      assert config.from_hf_dict(given).window == theirs.sliding_window == 4096
    ours = config.from_hf_dict(given)
    assert ours.kv_heads == theirs.num_key_value_heads
    head_dim = getattr(theirs, 'head_dim', None) or 64 // 32
    assert ours.head_width == head_dim
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters['rope_theta']
    assert ours.max_positions == theirs.max_position_embeddings


def test_null_head_counts():
  hf = LLAMA | {'num_key_value_heads': None, 'head_dim': None}
  got = config.from_hf_dict(hf)
  assert (got.kv_heads, got.head_width) == (4, 8)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model_type': 'gemma'}, "model_type='gemma'.*qwen3"),
    ({'model_type': None}, 'model_type=None'),
    ({'model_type': ['llama']}, r"model_type=\['llama'\] is not"),
    ({'logit_softcap': 30.0}, 'logit_softcap=30.0'),
    ({'hidden_act': 'gelu'}, "hidden_act='gelu'"),
    ({'attention_dropout': 0.1}, 'attention_dropout=0.1'),
    ({'is_encoder_decoder': True}, 'is_encoder_decoder=True'),
    ({'sliding_window': 4096}, 'sliding_window=4096'),
    ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5'),
    ({'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}}, 'rope_scaling'),
    (
      {'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e4}},
      'rope_parameters.*yarn',
    ),
    (
      {'rope_parameters': {'rope_theta': 1e4, 'factor': 2.0}},
      'rope_parameters.*factor',
    ),
    (
      {'layer_types': ['full_attention', 'sliding_attention']},
      "layer_types=.* model_type='llama' with sliding_window=None",
    ),
    (
      {'model_type': 'qwen3', 'layer_types': ['sliding_attention'] * 2},
      'layer_types names 2 layers .* sliding_window=None',
    ),
    (
      {
        'model_type': 'qwen3',
        'layer_types': ['sliding_attention'],
        'use_sliding_window': True,
        'sliding_window': 4,
      },
      'layer_types names 1 layers of num_hidden_layers=2',
    ),
    ({'layer_types': ['linear_attention'] * 2}, 'layer_types.*linear'),
    (
      {'num_key_value_heads': 3},
      'num_attention_heads=4 .* num_key_value_heads=3',
    ),
    ({'head_dim': 7}, 'head_dim, got 7'),
  ],
)
def test_what_is_not_implemented_is_an_error(change, message):
  with pytest.raises(ValueError, match=message):
    config.from_hf_dict(LLAMA | change)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'model_type': 'mistral', 'attention_bias': True},
      "attention_bias=True is not implemented for model_type='mistral'",
    ),
    (
      {'model_type': 'qwen2', 'attention_bias': False},
      "attention_bias=False is not implemented for model_type='qwen2'",
    ),
    (
      {'model_type': 'qwen3', 'mlp_bias': True},
      "mlp_bias=True is not implemented for model_type='qwen3'",
    ),
    (
      {'model_type': 'mistral', 'use_sliding_window': False},
      'use_sliding_window=False contradicts sliding_window=4096',
    ),
    (
      {
        'model_type': 'mistral',
        'layer_types': ['full_attention', 'sliding_attention'],
      },
      "layer_types=.*'mistral' with sliding_window=4096",
    ),
    ({'use_sliding_window': True}, 'use_sliding_window=True'),
    (
      {'model_type': 'mistral', 'sliding_window': 0},
      'sliding_window=0 is not positive',
    ),
    ({'quantization_config': {'bits': 4}}, 'key quantization_config='),
    ({'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}, "'dynamic'"),
  ],
)
def test_what_a_family_does_not_have_is_an_error(change, message):
  hf = LLAMA | {'attention_bias': None} | change
  with pytest.raises(ValueError, match=message):
    config.from_hf_dict(hf)


@pytest.mark.parametrize(
  ('first', 'local'), [(0, (True, True)), (1, (False, True)), (2, ())]
)
def test_windows_without_layer_types(first, local):
  # As transformers: layers from `max_window_layers` on see a window.
  hf = {
    key: value for key, value in LLAMA.items() if key != 'attention_bias'
  } | {
    'model_type': 'qwen2',
    'use_sliding_window': True,
    'sliding_window': 8,
    'max_window_layers': first,
  }
  got = config.from_hf_dict(hf)
  assert got.local_layers == local
  assert got.window == (8 if local else None)


@pytest.mark.parametrize('key', ['vocab_size', 'hidden_size'])
def test_missing_size(key):
  hf = {name: value for name, value in LLAMA.items() if name != key}
  with pytest.raises(ValueError, match=f'does not set {key}'):
    config.from_hf_dict(hf)


def test_dtypes():
  got = config.from_hf_dict(LLAMA, dtype='bfloat16', param_dtype='float32')
  assert got.dtype == jnp.bfloat16
  assert got.param_dtype == jnp.float32
  assert config.from_hf_dict(LLAMA).dtype == jnp.float32
  # Equal configs hash alike: a jitted function keyed on one compiles once.
  assert hash(got) == hash(
    config.from_hf_dict(LLAMA, dtype=jnp.bfloat16, param_dtype=jnp.float32)
  )


def test_load_config(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(LLAMA))
  (tmp_path / 'other.json').write_text(json.dumps(LLAMA | {'vocab_size': 9}))
  assert config.load_config(tmp_path) == config.from_hf_dict(LLAMA)
  assert config.load_config(tmp_path / 'other.json').vocab_size == 9
  got = config.load_config(tmp_path, dtype='bfloat16')
  assert got.dtype == jnp.bfloat16


def test_load_config_errors(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere.*config.json'):
    config.load_config(tmp_path / 'nowhere')
  with pytest.raises(FileNotFoundError, match='config.json'):
    config.load_config(tmp_path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json is not JSON'):
    config.load_config(tmp_path)
