"""Shape and numerics of a decoder, read from a Hugging Face `config.json`."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from awpo_jax.models import adapters


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """A decoder-only language model; see `decoder.Decoder`.

  Attributes:
    vocab_size: V, rows of the embedding.
    width: D, of the residual stream.
    layers: L, number of blocks.
    heads: H, query heads.
    kv_heads: K, key/value heads; divides `heads`.
    head_width: C; need not be width / heads.
    mlp_width: inner width of the SwiGLU.
    rope_theta: base of the rotary frequencies.
    norm_eps: added to the mean square in RMSNorm.
    qk_norm: RMSNorm over each query and key head (Qwen3).
    qkv_bias: biases on the query, key and value projections (Qwen2).
    out_bias: bias on the attention's output projection.
    mlp_bias: biases on the three projections of the SwiGLU.
    tied: the head is the transposed embedding.
    init_range: standard deviation of the initial weights.
    window: tokens that a local layer sees, its own included; None: all.
    local_layers: of each layer whether it is local; empty: none is.
    max_positions: longest sequence the model was made for.
    dtype: of activations and the cache, e.g. 'bfloat16'.
    param_dtype: of parameters.
    lora: adapters beside the projections; None: none.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_width: int
  mlp_width: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  qk_norm: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  tied: bool = False
  init_range: float = 0.02
  window: int | None = None
  local_layers: tuple[bool, ...] = ()
  max_positions: int = 32_768
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  lora: adapters.LoraConfig | None = None

  def __post_init__(self):
    object.__setattr__(self, 'dtype', jnp.dtype(self.dtype))
    object.__setattr__(self, 'param_dtype', jnp.dtype(self.param_dtype))
    if self.heads % self.kv_heads:
      raise ValueError(
        f'num_attention_heads={self.heads} is not a multiple of '
        f'num_key_value_heads={self.kv_heads}.'
      )
    if self.local_layers and (
      len(self.local_layers) != self.layers or self.window is None
    ):
      raise ValueError(
        f'layer_types names {len(self.local_layers)} layers of '
        f'num_hidden_layers={self.layers}, sliding_window={self.window}.'
      )
    if self.head_width % 2:
      raise ValueError(f'RoPE needs an even head_dim, got {self.head_width}.')


# What distinguishes the families that are this decoder's block.
_FAMILIES: Mapping[str, Mapping[str, Any]] = {
  'qwen3': {'qk_norm': True},
  'qwen2': {'qkv_bias': True},
  'llama': {},
  'mistral': {},
}

# What transformers assumes where a family's config.json is silent.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
  'qwen3': {
    'head_dim': 128,
    'num_key_value_heads': 32,
    'sliding_window': 4096,
    'use_sliding_window': False,
  },
  'qwen2': {
    'num_key_value_heads': 32,
    'sliding_window': 4096,
    'use_sliding_window': False,
  },
  'llama': {},
  'mistral': {'num_key_value_heads': 8, 'sliding_window': 4096},
}

# config.json key -> field of DecoderConfig.
_FIELDS: Mapping[str, str] = {
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
_SIZES = (
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
    'max_window_layers',
    'model_type',
    'output_attentions',
    'output_hidden_states',
    'pad_token_id',
    'pretraining_tp',
    'problem_type',
    'return_dict',
    'torch_dtype',
    'transformers_version',
    'use_cache',
  }
)

# Keys that are understood for one value only.
_REQUIRED: Mapping[str, tuple[Any, ...]] = {
  'hidden_act': ('silu',),
  'attention_dropout': (0, 0.0),
  'is_encoder_decoder': (False,),
  'rope_scaling': (None,),
  'use_mrope': (False,),
  'partial_rotary_factor': (1, 1.0),
}

_ROPE_KEYS = frozenset({'rope_type', 'rope_theta'})


def from_hf_dict(
  hf: Mapping[str, Any],
  *,
  dtype: Any = jnp.float32,
  param_dtype: Any = jnp.float32,
) -> DecoderConfig:
  """Reads the parsed `config.json` of a Hugging Face model.

  Args:
    hf: the JSON object, of transformers 4 (`rope_theta`) or 5
      (`rope_parameters`).
    dtype: of activations.
    param_dtype: of parameters.

  Returns:
    The decoder's config.

  Raises:
    ValueError: for a model type, key or value that is not implemented; it
      names the key.
  """
  family: Any = hf.get('model_type')
  if not isinstance(family, str) or family not in _FAMILIES:
    raise ValueError(
      f'model_type={family!r} is not implemented; known: '
      f'{", ".join(_FAMILIES)}.'
    )
  hf = {**_DEFAULTS[family], **hf}
  _refuse_unknown(hf)
  missing = [key for key in _SIZES if hf.get(key) is None]
  if missing:
    raise ValueError(f'config.json does not set {", ".join(missing)}.')
  fields = {_FIELDS[key]: hf[key] for key in _FIELDS if key in hf}
  if hf.get('head_dim') is None:
    fields['head_width'] = fields['width'] // fields['heads']
  if hf.get('num_key_value_heads') is None:
    fields['kv_heads'] = fields['heads']
  if hf.get('attention_bias'):
    fields |= {'qkv_bias': True, 'out_bias': True}
  fields |= {**_FAMILIES[family], **_local_layers(hf)}
  return DecoderConfig(
    rope_theta=_rope_theta(hf),
    dtype=dtype,
    param_dtype=param_dtype,
    **fields,
  )


def _refuse_unknown(hf: Mapping[str, Any]) -> None:
  known = _INERT | set(_FIELDS) | set(_REQUIRED)
  known |= {'attention_bias', 'layer_types', 'rope_parameters', 'rope_theta'}
  known |= {'sliding_window', 'use_sliding_window'}
  for key, value in hf.items():
    if key not in known:
      raise ValueError(f'config.json key {key}={value!r} is not implemented.')
    if key in _REQUIRED and value not in _REQUIRED[key]:
      raise ValueError(f'config.json value {key}={value!r} is not implemented.')


def _local_layers(hf: Mapping[str, Any]) -> dict[str, Any]:
  """Which layers see a window only (`layer_types`, `sliding_window`).

  Where a config names no types, Mistral's layers are all local and those of
  the other families are not.
  """
  kinds = hf.get('layer_types')
  window = hf.get('sliding_window')
  if hf.get('use_sliding_window') is False:
    window = None
  if kinds is None:
    if window is not None and hf['model_type'] != 'mistral':
      raise ValueError(
        f'config.json sliding_window={window!r} without layer_types is not '
        'implemented.'
      )
    kinds = ['sliding_attention' if window else 'full_attention']
    kinds *= hf['num_hidden_layers']
  unknown = set(kinds) - {'full_attention', 'sliding_attention'}
  if unknown:
    raise ValueError(
      f'config.json layer_types={sorted(unknown)!r} is not implemented.'
    )
  local = tuple(kind == 'sliding_attention' for kind in kinds)
  return {'window': window, 'local_layers': local} if any(local) else {}


def _rope_theta(hf: Mapping[str, Any]) -> float:
  rope = hf.get('rope_parameters') or {}
  unknown = set(rope) - _ROPE_KEYS
  if unknown or rope.get('rope_type', 'default') != 'default':
    raise ValueError(
      f'config.json rope_parameters={rope!r} is not implemented.'
    )
  return float(rope.get('rope_theta') or hf.get('rope_theta') or 10_000.0)


def load_config(
  path: str | os.PathLike,
  *,
  dtype: Any = jnp.float32,
  param_dtype: Any = jnp.float32,
) -> DecoderConfig:
  """Reads a `config.json`, or the one in a folder; see `from_hf_dict`."""
  file = pathlib.Path(path)
  file = file / 'config.json' if file.is_dir() else file
  if not file.is_file():
    raise FileNotFoundError(
      f'No model config at {path}: expected a Hugging Face config.json or a '
      'folder that holds one.'
    )
  try:
    hf = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} is not JSON: {error}') from error
  return from_hf_dict(hf, dtype=dtype, param_dtype=param_dtype)
