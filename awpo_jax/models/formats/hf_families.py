"""The Hugging Face families that are this decoder's block, key by key.

Checked against the configuration and modeling files of transformers 5.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

# What distinguishes the families that are this decoder's block.
BLOCKS: Mapping[str, Mapping[str, Any]] = {
  'llama': {},
  'mistral': {},
  'qwen2': {'qkv_bias': True},
  'qwen3': {'qk_norm': True},
}

# What transformers assumes where a family's config.json is silent.
_QWEN = {
  'num_key_value_heads': 32,
  'sliding_window': 4096,
  'use_sliding_window': False,
  'max_window_layers': 28,
  'max_position_embeddings': 32_768,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
  'llama': {'max_position_embeddings': 2048},
  'mistral': {
    'num_key_value_heads': 8,
    'sliding_window': 4096,
    'max_position_embeddings': 131_072,
  },
  'qwen2': _QWEN,
  'qwen3': {**_QWEN, 'head_dim': 128},
}

# config.json key -> field of DecoderConfig.
FIELDS: Mapping[str, str] = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'width',
  'num_hidden_layers': 'layers',
  'num_attention_heads': 'heads',
  'num_key_value_heads': 'kv_heads',
  'head_dim': 'head_width',
  'intermediate_size': 'mlp_width',
  'rms_norm_eps': 'norm_eps',
  'tie_word_embeddings': 'tied',
  'initializer_range': 'init_range',
  'max_position_embeddings': 'max_positions',
  'mlp_bias': 'mlp_bias',
}

# Keys without which there is no model.
SIZES = (
  'vocab_size',
  'hidden_size',
  'num_hidden_layers',
  'num_attention_heads',
  'intermediate_size',
)

# Keys that change nothing in the forward pass.
_INERT = frozenset(
  {
    '_name_or_path',
    'architectures',
    'bos_token_id',
    'chunk_size_feed_forward',
    'dtype',
    'eos_token_id',
    'id2label',
    'label2id',
    'model_type',
    'output_attentions',
    'output_hidden_states',
    'pad_token_id',
    'pretraining_tp',
    'problem_type',
    'return_dict',
    'tokenizer_class',
    'torch_dtype',
    'transformers_version',
    'use_cache',
  }
)

# Keys that others have left in a config.json and that say nothing about the
# forward pass: who made it, with what, how it is run and sampled from.
_NOTES = frozenset(
  """
  attn_implementation auto_map base_model bos_token custom_pipelines device_map
  eos_token finetuning_task gradient_checkpointing is_decoder is_llama_config
  keys_to_ignore_at_inference license low_cpu_mem_usage max_seq_len
  max_seq_length max_sequence_length model_max_length model_name model_version
  pad_token prefix seq_length task_specific_params tf_legacy_loss
  tokenizer_model_max_length tokenizer_name tokenizer_padding_side torchscript
  transformers.js_config unk_token use_bfloat16

  bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
  encoder_no_repeat_ngram_size exponential_decay_length_penalty
  generation_config length_penalty max_length max_new_tokens min_length
  min_new_tokens min_p no_repeat_ngram_size num_beam_groups num_beams
  num_return_sequences output_logits output_scores remove_invalid_values
  repetition_penalty return_dict_in_generate suppress_tokens temperature top_k
  top_p typical_p
  """.split()  # noqa: SIM905
)
_NOTE_NAMES = re.compile(
  # What begins with `_` is for the library that wrote it.
  r'_.*|unsloth_.*|.*_token_ids?|(use_)?flash_att(n|ention).*'
)
# Keys of other models whose value 1, or 0, turns off what they name.
_FACTORS = frozenset(
  {
    'embedding_multiplier',
    'lm_head_multiplier',
    'logit_scale',
    'logits_scaling',
    'residual_multiplier',
    'rope_ratio',
    'rope_scaling_factor',
    'rotary_pct',
    'scale_emb',
  }
)
_AMOUNTS = re.compile(r'(num|n)_.*|.*(drop|dropout|dropout_prob|cap|capping)')

# Keys that are understood for one value only.
_REQUIRED: Mapping[str, tuple[Any, ...]] = {
  'hidden_act': ('silu',),
  'attention_dropout': (0, 0.0, None),
  'is_encoder_decoder': (False, None),
  'use_mrope': (False, None),
  'partial_rotary_factor': (1, 1.0, None),
}

# Keys read by functions of their own.
_READ = frozenset(
  {
    'attention_bias',
    'layer_types',
    'max_window_layers',
    'rope_parameters',
    'rope_scaling',
    'rope_theta',
    'sliding_window',
    'use_sliding_window',
  }
)

# Keys that a family's block does not read, and what they would have to say.
UNREAD: Mapping[str, Mapping[str, Any]] = {
  'llama': {'sliding_window': None, 'use_sliding_window': False},
  'mistral': {'attention_bias': False, 'mlp_bias': False},
  'qwen2': {'attention_bias': True, 'mlp_bias': False},
  'qwen3': {'mlp_bias': False},
}


@contextlib.contextmanager
def collected(problems: list[str]) -> Iterator[None]:
  """Keeps the text of a ValueError, so that what else is wrong is told, too."""
  try:
    yield
  except ValueError as error:
    problems.append(str(error))


def refuse_unknown(hf: Mapping[str, Any]) -> None:
  """Raises a ValueError for keys or values that would change the model.

  It names all of them. A line on stderr names those that are not known and
  change nothing, so that a new one does not go unnoticed.
  """
  family, problems, ignored = hf['model_type'], [], []
  known = _INERT | _READ | set(FIELDS) | set(_REQUIRED)
  for key, value in hf.items():
    shown = f'{key}={value!r:.200}'
    unread = UNREAD[family]
    if key not in known:
      if is_harmless(key, value):
        ignored.append(key)
      else:
        problems.append(f'key {shown} is not implemented')
    elif key in _REQUIRED and value not in _REQUIRED[key]:
      problems.append(f'value {shown} is not implemented')
    elif key in unread and value is not None and value != unread[key]:
      problems.append(
        f'value {shown} is not implemented for model_type={family!r}'
      )
  if problems:
    raise ValueError(f'config.json {"; ".join(problems)}.')
  if ignored:
    tell_ignored(tuple(ignored))


def is_harmless(key: str, value: Any) -> bool:
  """Whether a key that is not read leaves the numbers as they are.

  Because of what it names, or because its value turns off what it names.
  """
  if key in _NOTES or _NOTE_NAMES.fullmatch(key):
    return True
  if isinstance(value, bool) or not isinstance(value, int | float):
    return not value  # null, false, an empty string, list or object.
  off = 1 if key in _FACTORS else 0 if _AMOUNTS.fullmatch(key) else None
  return value == off


@functools.cache
def tell_ignored(keys: tuple[str, ...]) -> None:
  """Says once which keys of a config.json are ignored."""
  print(
    f'config.json: {", ".join(keys)} ignored: nothing is computed from it.',
    file=sys.stderr,
  )


def local_layers(hf: Mapping[str, Any]) -> dict[str, Any]:
  """Which layers see a window only.

  Qwen's are named by `layer_types`, or are those from `max_window_layers` on;
  `use_sliding_window` turns them off. Mistral's are all or none, Llama's none.

  Raises:
    ValueError: keys that contradict each other, or a kind of layer that is not
      implemented.
  """
  window, kinds = hf.get('sliding_window'), hf.get('layer_types')
  # That there is no number of layers is told elsewhere.
  layers = hf.get('num_hidden_layers') or len(kinds or ())
  if hf['model_type'] in ('llama', 'mistral'):
    local = [window is not None] * layers
    if hf.get('use_sliding_window') not in (None, window is not None):
      raise ValueError(
        f'config.json use_sliding_window={hf["use_sliding_window"]!r} '
        f'contradicts sliding_window={window!r}.'
      )
  else:
    window = window if hf.get('use_sliding_window') else None
    first = layers if window is None else hf['max_window_layers']
    local = [i >= first for i in range(layers)]
  wanted = [
    'sliding_attention' if is_local else 'full_attention' for is_local in local
  ]
  if kinds is not None and list(kinds) != wanted:
    unknown = set(kinds) - {'full_attention', 'sliding_attention'}
    if unknown or hf['model_type'] in ('llama', 'mistral'):
      raise ValueError(
        f'config.json layer_types={sorted(unknown or set(kinds))!r} is not '
        f'implemented for model_type={hf["model_type"]!r} with '
        f'sliding_window={window!r}.'
      )
    local = [kind == 'sliding_attention' for kind in kinds]
  return {'window': window, 'local_layers': tuple(local)}
