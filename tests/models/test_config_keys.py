"""Keys of a config.json that change nothing are ignored, the others named."""

import pytest
import transformers

from awpo_jax.models import config
from awpo_jax.models.formats import hf_families
from tests.models import test_config

LLAMA = test_config.LLAMA
SMOLLM2 = {
  '_name_or_path': 'HuggingFaceTB/SmolLM2-135M',
  'architectures': ['LlamaForCausalLM'],
  'attention_bias': False,
  'attention_dropout': 0.0,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'hidden_act': 'silu',
  'hidden_size': 576,
  'initializer_range': 0.041666666666666664,
  'intermediate_size': 1536,
  'is_llama_config': True,
  'max_position_embeddings': 8192,
  'mlp_bias': False,
  'model_type': 'llama',
  'num_attention_heads': 9,
  'num_hidden_layers': 30,
  'num_key_value_heads': 3,
  'pad_token_id': 2,
  'pretraining_tp': 1,
  'rms_norm_eps': 1e-05,
  'rope_interleaved': False,
  'rope_scaling': None,
  'rope_theta': 100000,
  'tie_word_embeddings': True,
  'torch_dtype': 'bfloat16',
  'transformers.js_config': {'kv_cache_dtype': {'q4f16': 'float16'}},
  'transformers_version': '4.42.3',
  'use_cache': True,
  'vocab_size': 49152,
}


def test_smollm2_is_read_as_it_is(capsys):
  got = config.from_hf_dict(SMOLLM2)
  theirs = transformers.AutoConfig.for_model(**SMOLLM2)
  assert got.rope_theta == theirs.rope_parameters['rope_theta'] == 100000
  assert (got.heads, got.kv_heads, got.head_width) == (9, 3, theirs.head_dim)
  assert got.init_range == theirs.initializer_range and got.tied
  (line,) = capsys.readouterr().err.splitlines()
  assert 'is_llama_config, rope_interleaved, transformers.js_config ig' in line
  config.from_hf_dict(SMOLLM2)
  assert not capsys.readouterr().err  # Once is enough.


# What older versions of transformers wrote into every config.json.
OLDER = {
  'add_cross_attention': False,
  'bad_words_ids': None,
  'cross_attention_hidden_size': None,
  'decoder_start_token_id': None,
  'diversity_penalty': 0.0,
  'do_sample': True,
  'early_stopping': False,
  'finetuning_task': None,
  'forced_eos_token_id': None,
  'is_decoder': True,
  'length_penalty': 1.0,
  'max_length': 20,
  'min_length': 0,
  'no_repeat_ngram_size': 0,
  'num_beam_groups': 1,
  'num_beams': 1,
  'prefix': None,
  'pruned_heads': {},
  'remove_invalid_values': False,
  'repetition_penalty': 1.0,
  'sep_token_id': None,
  'suppress_tokens': None,
  'task_specific_params': None,
  'temperature': 0.9,
  'tf_legacy_loss': False,
  'tie_encoder_decoder': False,
  'top_k': 50,
  'top_p': 0.6,
  'torchscript': False,
  'typical_p': 1.0,
  'use_bfloat16': False,
}


@pytest.mark.parametrize('model_type', ['llama', 'mistral', 'qwen2', 'qwen3'])
@pytest.mark.parametrize(
  'further',
  [
    OLDER,
    {'unsloth_fixed': True, 'unsloth_version': '2025.3.19'},
    {'_attn_implementation_autoset': True, '_attn_implementation': 'sdpa'},
    {'max_sequence_length': 2048, 'unk_token_id': 3, 'use_flash_attn': True},
    {'auto_map': {'AutoModel': 'x.Y'}, 'gradient_checkpointing': True},
    # What is off.
    {'rope_interleaved': False, 'logits_soft_cap': None, 'clip_qkv': None},
    {'quantization_config': None, 'qk_layernorm': False, 'layer_types': None},
    {'resid_pdrop': 0.0, 'hidden_dropout': 0, 'num_experts': 0},
    {'logit_scale': 1.0, 'embedding_multiplier': 1, 'is_encoder_decoder': None},
    {'partial_rotary_factor': 1.0, 'rope_scaling': {'type': 'default'}},
    {'rope_scaling': {'rope_type': 'default', 'factor': 1.0, 'x': None}},
  ],
)
def test_what_changes_nothing_is_ignored_and_named(
  model_type, further, monkeypatch, capsys
):
  told = hf_families.tell_ignored.__wrapped__
  monkeypatch.setattr(hf_families, 'tell_ignored', told)
  hf = {k: v for k, v in LLAMA.items() if k != 'attention_bias'}
  hf |= {'model_type': model_type}
  assert config.from_hf_dict(hf | further) == config.from_hf_dict(hf)
  named = capsys.readouterr().err
  known = {*hf, 'partial_rotary_factor', 'is_encoder_decoder', 'layer_types'}
  assert all(key in named for key in set(further) - known)


def test_all_that_is_not_implemented_is_named_at_once():
  further = {
    'rope_interleaved': True,
    'logit_scale': 0.5,
    'attention_multiplier': 1.0,
    'num_experts': 8,
    'alibi': True,
    'hidden_act': 'gelu',
    'sliding_window': 4096,
    'quantization_config': {'bits': 4},
    'embedding_multiplier': True,
    'hidden_dropout': 0.1,
    'unknown': 'text',
    'unsloth_version': '1',
  }
  with pytest.raises(ValueError, match='not implemented') as error:
    config.from_hf_dict(LLAMA | further)
  for key, value in further.items():
    named = f'{key}={value!r} is not implemented' in str(error.value)
    assert named == (key != 'unsloth_version'), key
  scaling = {'type': 'linear', 'factor': 2.0, 'alpha': 3.0, 'mrope': [1]}
  with pytest.raises(ValueError, match=r'alpha=3.0, mrope=\[1\] is not'):
    config.from_hf_dict(LLAMA | {'rope_scaling': scaling})


@pytest.mark.parametrize('absent', ['num_hidden_layers', 'hidden_size'])
def test_keys_layers_rope_and_sizes_are_named_at_once(absent):
  further = {
    'alibi': True,
    'rope_scaling': {'type': 'dynamic', 'factor': 2.0},
    'layer_types': ['linear_attention'] * 2,
  }
  hf = {key: x for key, x in LLAMA.items() if key != absent} | further
  with pytest.raises(ValueError) as raised:
    config.from_hf_dict(hf)
  for named, line in zip(
    (
      'key alibi=True is not implemented',
      f'does not set {absent}.',
      "layer_types=['linear_attention'] is not implemented",
      "rope_type='dynamic' is not implemented",
    ),
    str(raised.value).splitlines(),
    strict=True,
  ):
    assert named in line
  # Nor does a missing number of layers make right ones look wrong.
  hf |= {'layer_types': ['full_attention'] * 2}
  with pytest.raises(ValueError) as raised:
    config.from_hf_dict(hf)
  assert 'layer_types' not in str(raised.value)
