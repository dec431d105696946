"""Shape and numerics of a decoder, from and to a Hugging Face `config.json`."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from awpo_jax.models import lora_layers, rope
from awpo_jax.models.formats import gguf_files, hf_families

REMATS: Mapping[str, Callable[..., bool]] = {
  'none': jax.checkpoint_policies.everything_saveable,
  'products': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'blocks': jax.checkpoint_policies.nothing_saveable,
  'loop': jax.checkpoint_policies.nothing_saveable,
}
"""What a block keeps for the backward pass: all, its products with weights, or
its input alone; with `loop` the blocks are one loop over stacked parameters."""


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
    rope_scaling: how they are stretched beyond the original length.
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
    family: `model_type` of the config.json it was read from. It says nothing
      that the other fields do not, hence two configs that differ in it alone
      are equal; but a Mistral without a window *is* a Llama, and tokenizers
      and servers look at the name.
    lora: adapters beside the projections; None: none.
    remat: what the backward pass computes anew, a key of `REMATS`.
    attention: `parts`, `xla`, `cudnn` or `splash`: what `hidden` attends by;
      see `attention_kernels`.
    decode_attention: `parts`, `xla` or `cudnn`: what one new token a row
      attends by; the kernels know no window.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_width: int
  mlp_width: int
  rope_theta: float = rope.DEFAULT_THETA
  rope_scaling: rope.Scaling = rope.Scaling()
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
  family: str | None = dataclasses.field(default=None, compare=False)
  lora: lora_layers.LoraConfig | None = None
  remat: str = 'none'
  attention: str = 'parts'
  decode_attention: str = 'parts'

  def __post_init__(self):
    object.__setattr__(self, 'dtype', jnp.dtype(self.dtype))
    object.__setattr__(self, 'param_dtype', jnp.dtype(self.param_dtype))
    if not any(self.local_layers) and len(self.local_layers) == self.layers:
      # A window that no layer looks through: one way to say so.
      object.__setattr__(self, 'local_layers', ())
    if not self.local_layers:
      object.__setattr__(self, 'window', None)
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
    if self.window is not None and self.window < 1:
      raise ValueError(f'sliding_window={self.window} is not positive.')
    if self.window is not None and self.decode_attention != 'parts':
      raise ValueError(
        f'--decode_attention={self.decode_attention} knows no window, but '
        f'layers of this model see {self.window} tokens: set '
        '--decode_attention=parts.'
      )
    if self.head_width % 2:
      raise ValueError(f'RoPE needs an even head_dim, got {self.head_width}.')


def from_hf_dict(
  hf: Mapping[str, Any],
  *,
  dtype: Any = jnp.float32,
  param_dtype: Any = jnp.float32,
) -> DecoderConfig:
  """Reads the parsed `config.json` of a Hugging Face model.

  Args:
    hf: the JSON object, of transformers 4 (`rope_theta`, `rope_scaling`) or 5
      (`rope_parameters`).
    dtype: of activations.
    param_dtype: of parameters.

  Returns:
    The decoder's config.

  Raises:
    ValueError: for a model type, keys or values that are not implemented, or
      sizes that are missing; it names all, one in a line.
  """
  family: Any = hf.get('model_type')
  if not isinstance(family, str) or family not in hf_families.BLOCKS:
    raise ValueError(
      f'model_type={family!r} is not implemented; known: '
      f'{", ".join(hf_families.BLOCKS)}.'
    )
  hf = {**hf_families.DEFAULTS[family], **hf}
  problems: list[str] = []
  with hf_families.collected(problems):
    hf_families.refuse_unknown(hf)
  missing = [key for key in hf_families.SIZES if hf.get(key) is None]
  if missing:
    problems.append(f'config.json does not set {", ".join(missing)}.')
  with hf_families.collected(problems):
    local = hf_families.local_layers(hf)
  with hf_families.collected(problems):
    length = hf['max_position_embeddings']
    theta, scaling = rope.from_hf(hf, max_positions=length)
  if problems:
    raise ValueError('\n'.join(problems))
  fields = {
    hf_families.FIELDS[key]: hf[key] for key in hf_families.FIELDS if key in hf
  }
  if hf.get('head_dim') is None:
    fields['head_width'] = fields['width'] // fields['heads']
  if hf.get('num_key_value_heads') is None:
    fields['kv_heads'] = fields['heads']
  if hf.get('attention_bias') and family != 'qwen2':
    fields |= {'qkv_bias': True, 'out_bias': True}
  fields |= {**hf_families.BLOCKS[family], **local}
  return DecoderConfig(
    rope_theta=theta,
    rope_scaling=scaling,
    dtype=dtype,
    param_dtype=param_dtype,
    family=family,
    **fields,
  )


def to_hf_dict(config: DecoderConfig) -> dict[str, Any]:
  """The `config.json` of a model: the inverse of `from_hf_dict`.

  Token ids are null: the tokenizer knows them (`hf_weights.save_pretrained`).

  Args:
    config: `family` says which model it becomes; None: the first that fits.

  Returns:
    What `json.dumps` and `transformers.AutoConfig` take, also older ones.

  Raises:
    ValueError: no family, or not that of `config.family`, has such a block; it
      names the fields.
  """
  names = [config.family] if config.family else list(hf_families.BLOCKS)
  misfits = {name: _misfits(config, name) for name in names}
  family = next((name for name in names if not misfits[name]), None)
  if family is None:
    reasons = '; '.join(
      f'{name}: {", ".join(f"{x}={getattr(config, x)!r}" for x in fields)}'
      for name, fields in misfits.items()
    )
    raise ValueError(f'Not expressible as a Hugging Face config: {reasons}.')
  hf = {
    'architectures': [f'{family.title()}ForCausalLM'],
    'model_type': family,
    'dtype': config.param_dtype.name,
    **{
      key: getattr(config, field) for key, field in hf_families.FIELDS.items()
    },
    **rope.to_hf(config.rope_theta, config.rope_scaling),
    'attention_bias': config.out_bias,
    'attention_dropout': 0.0,
    'hidden_act': 'silu',
    'use_cache': True,
    **dict.fromkeys(('bos_token_id', 'eos_token_id', 'pad_token_id')),
  }
  for key in hf_families.UNREAD[family]:
    hf.pop(key, None)
  if family == 'qwen2':
    hf.pop('attention_bias', None)
  if family == 'mistral':
    hf['sliding_window'] = config.window
  if family in ('qwen2', 'qwen3'):
    local = config.local_layers or (False,) * config.layers
    hf |= {
      'use_sliding_window': config.window is not None,
      'sliding_window': config.window,
      # What tools that do not know `layer_types` go by.
      'max_window_layers': [*local, True].index(True),
      'layer_types': [
        'sliding_attention' if is_local else 'full_attention'
        for is_local in local
      ],
    }
  return hf


def _misfits(config: DecoderConfig, family: str) -> list[str]:
  """Fields whose values the family's block cannot have."""
  local, out_bias = config.local_layers, config.out_bias
  wrong = {
    'qk_norm': config.qk_norm != (family == 'qwen3'),
    'qkv_bias': config.qkv_bias != (out_bias or family == 'qwen2'),
    'out_bias': out_bias and family in ('mistral', 'qwen2'),
    'mlp_bias': config.mlp_bias and family != 'llama',
    'local_layers': any(local)
    and (family == 'llama' or (family == 'mistral' and not all(local))),
    # What transformers' Llama refuses.
    'heads': family == 'llama' and config.width % config.heads > 0,
  }
  return [field for field, is_wrong in wrong.items() if is_wrong]


def load_config(
  path: str | os.PathLike,
  *,
  dtype: Any = jnp.float32,
  param_dtype: Any = jnp.float32,
) -> DecoderConfig:
  """Reads a `config.json`, of a folder or a GGUF file; see `from_hf_dict`."""
  file = pathlib.Path(path)
  if file.suffix == gguf_files.SUFFIX and file.is_file():
    hf = gguf_files.hf_config(file)
    return from_hf_dict(hf, dtype=dtype, param_dtype=param_dtype)
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
