"""Weights of Hugging Face checkpoints in and out, every name exactly once.

Parameter names are theirs but for three habits of Flax: `layers_3` for
`layers.3`, `embedding` for the embedding's `weight`, and `kernel` [in, out] for
a projection's `weight` [out, in].
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.models import config as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import rope
from awpo_jax.models.formats import hf_files

_HEAD = 'lm_head.weight'
_DTYPES = {'F64': 8, 'F32': 4, 'F16': 2, 'BF16': 2}
_INV_FREQ = 'rotary_emb.inv_freq'
_ROWS = 4096  # of a tied head that are compared at a time


@dataclasses.dataclass(frozen=True)
class _Parameter:
  """A parameter of ours and how the checkpoints hold it."""

  path: tuple[str, ...]
  shape: tuple[int, ...]

  @property
  def transposed(self) -> bool:
    return self.path[-1] in ('kernel', 'lm_head')

  @property
  def hf_name(self) -> str:
    *parents, last = self.path
    if last == 'lm_head':
      return _HEAD
    last = 'bias' if last == 'bias' else 'weight'
    return '.'.join(['model', *parents, last]).replace('layers_', 'layers.')

  @property
  def hf_shape(self) -> tuple[int, ...]:
    return self.shape[::-1] if self.transposed else self.shape


def _parameters(config: config_lib.DecoderConfig) -> dict[str, _Parameter]:
  """Every parameter by its Hugging Face name."""
  init = functools.partial(decoder_lib.init_params, config)
  shapes = jax.eval_shape(init, jax.random.key(0))
  found = [
    _Parameter(path, x.shape)
    for path, x in flax.traverse_util.flatten_dict(shapes).items()
  ]
  return {parameter.hf_name: parameter for parameter in found}


def load_pretrained(
  path_or_name: str | os.PathLike,
  *,
  dtype: Any,
  param_dtype: Any,
  sharding: types.ArrayTree = None,
) -> tuple[config_lib.DecoderConfig, types.ArrayTree]:
  """Reads a checkpoint, one tensor at a time, straight to its devices.

  Args:
    path_or_name: a folder with config.json and safetensors, or a repository
      of the Hugging Face hub ('Qwen/Qwen3-4B'), which is downloaded; or a
      GGUF file, or 'smollm2', see `gguf_files.find`.
    dtype: of activations, e.g. 'bfloat16'.
    param_dtype: of the parameters returned; the file's are converted.
    sharding: where they go, a tree shaped like them; None: the default device.

  Returns:
    The config and the parameters of `decoder.Decoder(config)`.

  Raises:
    FileNotFoundError, PermissionError, ConnectionError: it cannot be read.
    ValueError: a config or a file that cannot be used; of tensors all that are
      unknown, missing or of the wrong shape.
  """
  folder = hf_files.find(path_or_name)
  config = config_lib.load_config(folder, dtype=dtype, param_dtype=param_dtype)
  stored = hf_files.tensors(folder)
  wanted = _parameters(config)
  _check(stored, wanted, config, folder)
  where = flax.traverse_util.flatten_dict(sharding or {})
  params = {}
  for name in sorted(wanted, key=lambda x: (stored[x].file, x)):
    parameter = wanted[name]
    value = _read(stored[name], parameter, jnp.dtype(param_dtype))
    params[parameter.path] = _placed(value, where.get(parameter.path))
  return config, flax.traverse_util.unflatten_dict(params)


def _read(
  tensor: hf_files.AnyTensor, parameter: _Parameter, dtype: jnp.dtype
) -> np.ndarray:
  value = tensor.read()
  value = value.T if parameter.transposed else value
  return value.astype(dtype, copy=False)


def _placed(
  value: np.ndarray, sharding: jax.sharding.Sharding | None
) -> jax.Array:
  """A parameter on its devices; waited for, so that one is on the way."""
  if sharding is None:
    return jax.block_until_ready(jax.device_put(value))
  return jax.block_until_ready(
    jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
  )


def _check(
  stored: Mapping[str, hf_files.AnyTensor],
  wanted: Mapping[str, _Parameter],
  config: config_lib.DecoderConfig,
  folder: os.PathLike,
) -> None:
  """Raises a ValueError that lists whatever does not fit the config."""
  problems = [f'missing: {name}' for name in wanted if name not in stored]
  for name, tensor in stored.items():
    if tensor.dtype not in _DTYPES:
      problems.append(f'{name} is {tensor.dtype}; only {", ".join(_DTYPES)}')
    elif name in wanted:
      if tensor.shape != wanted[name].hf_shape:
        problems.append(
          f'wrong shape: {name} is {list(tensor.shape)}, by config.json '
          f'{list(wanted[name].hf_shape)}'
        )
    elif name == _HEAD and config.tied:
      problems += _check_tied(tensor, stored.get('model.embed_tokens.weight'))
    elif name.endswith(_INV_FREQ):
      problems += _check_inv_freq(tensor, config)
    else:
      problems.append(f'unknown: {name}')
  if problems:
    raise ValueError(
      f'The weights in {folder} do not fit its config.json:\n  '
      + '\n  '.join(sorted(problems))
    )


def _check_tied(
  head: hf_files.AnyTensor, embedding: hf_files.AnyTensor | None
) -> Iterable[str]:
  """A head that is stored although it is tied must equal the embedding."""
  if embedding is None:
    return
  if (head.shape, head.dtype) == (embedding.shape, embedding.dtype):
    starts = range(0, head.shape[0], _ROWS)
    if all(_same_rows(head, embedding, start) for start in starts):
      return
  yield (
    f'{_HEAD} differs from model.embed_tokens.weight, and config.json ties '
    'them: set "tie_word_embeddings": false there if they are two'
  )


def _same_rows(
  a: hf_files.AnyTensor, b: hf_files.AnyTensor, start: int
) -> bool:
  rows = slice(start, min(start + _ROWS, a.shape[0]))
  return a.read(rows).tobytes() == b.read(rows).tobytes()


def _check_inv_freq(
  tensor: hf_files.AnyTensor, config: config_lib.DecoderConfig
) -> Iterable[str]:
  """Buffers of old checkpoints: the frequencies, unscaled or scaled."""
  value = np.float32(tensor.read())
  # In half precision 2^-8 of a value, and 2^-24 where they are subnormal.
  half = _DTYPES[tensor.dtype] == 2
  rtol, atol = (2**-8, 6e-8) if half else (1e-5, 0.0)
  for scaling in (rope.Scaling(), config.rope_scaling):
    want = rope.frequencies(
      config.head_width, theta=config.rope_theta, scaling=scaling
    )
    if value.shape != want.shape:
      continue
    if np.allclose(value, want, rtol=rtol, atol=atol):
      return
  yield (
    f'{tensor.name} does not hold the frequencies of config.json '
    f'(rope_theta={config.rope_theta}, head_dim={config.head_width})'
  )


def save_pretrained(
  path: str | os.PathLike,
  config: config_lib.DecoderConfig,
  params: types.ArrayTree,
  tokenizer: Any = None,
  *,
  stop_ids: Iterable[int] | None = None,
  shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes a checkpoint that `transformers` loads, all of it or nothing.

  Args:
    path: absent or an empty folder; its parents are made.
    config: of the model; see `config.to_hf_dict`.
    params: of `decoder.Decoder(config)`, each saved in the dtype it has.
    tokenizer: of `transformers`; saved beside, and its ids in config.json and
      generation_config.json.
    stop_ids: tokens that end an answer, for generation_config.json; None: the
      tokenizer's end-of-sequence token.
    shard_bytes: largest size of a file; one file's tensors are in memory.

  Raises:
    FileExistsError: `path` is not empty.
    ValueError: parameters that are not those of the config, a config of no
      family, or a tokenizer with more tokens than the embedding has rows.
  """
  hf = config_lib.to_hf_dict(config)
  flat = flax.traverse_util.flatten_dict(params)
  wanted = _parameters(config)
  _check_params(flat, wanted)
  hf['dtype'] = flat['embed_tokens', 'embedding'].dtype.name
  ids = _token_ids(config, tokenizer, stop_ids)

  def read(name):
    value = np.asarray(flat[wanted[name].path])
    return value.T if wanted[name].transposed else value

  def fill(folder):
    sizes = {name: flat[x.path].nbytes for name, x in wanted.items()}
    hf_files.write_tensors(folder, sizes, read, shard_bytes=shard_bytes)
    if tokenizer is not None:
      tokenizer.save_pretrained(folder)
    if ids:
      hf_files.write_json(folder / 'generation_config.json', ids)
    # Last: without it nothing here is a checkpoint.
    hf_files.write_json(folder / 'config.json', hf | ids)

  hf_files.write(path, fill)


def _token_ids(
  config: config_lib.DecoderConfig,
  tokenizer: Any,
  stop_ids: Iterable[int] | None,
) -> dict[str, Any]:
  if tokenizer is None and stop_ids is None:
    return {}
  if tokenizer is not None and len(tokenizer) > config.vocab_size:
    raise ValueError(
      f'The tokenizer has {len(tokenizer)} tokens, the embedding '
      f'{config.vocab_size} rows: they do not belong together.'
    )
  ids = {
    f'{role}_token_id': getattr(tokenizer, f'{role}_token_id', None)
    for role in ('bos', 'eos', 'pad')
  }
  if stop_ids is not None:
    stops = [int(x) for x in stop_ids]
    ids['eos_token_id'] = stops[0] if len(stops) == 1 else stops
  return ids


def _check_params(
  flat: Mapping[tuple[str, ...], types.Array],
  wanted: Mapping[str, _Parameter],
) -> None:
  shapes = {x.path: x.shape for x in wanted.values()}
  problems = [f'missing: {".".join(x)}' for x in shapes if x not in flat]
  for path, value in flat.items():
    name = '.'.join(path)
    if path not in shapes:
      problems.append(f'unknown: {name}')
    elif value.shape != shapes[path]:
      problems.append(
        f'wrong shape: {name} is {list(value.shape)}, by the config '
        f'{list(shapes[path])}'
      )
  if problems:
    raise ValueError(
      'The parameters are not those of the config:\n  '
      + '\n  '.join(sorted(problems))
    )
