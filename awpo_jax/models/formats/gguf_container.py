"""The container of GGUF files: metadata and where each tensor lies."""

import functools
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Stored(NamedTuple):
  """A tensor as the file has it."""

  shape: tuple[int, ...]
  kind: int  # Of `gguf.GGMLQuantizationType`.
  offset: int
  size: int  # Bytes.


class Content(NamedTuple):
  """What a file says of its model, and where each tensor of it lies."""

  metadata: Mapping[str, Any]
  tensors: Mapping[str, Stored]


def content(file: pathlib.Path) -> Content:
  """Metadata and tensors of a file, read once while it stays as it is.

  Raises:
    ValueError: it is no GGUF file, a corrupt one, or one of several parts; or
      the package `gguf` is not installed.
  """
  state = file.stat()
  return _read(file.absolute(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read(file: pathlib.Path, size: int, changed: int) -> Content:
  del size, changed  # They tell one state of the file from another.
  gguf = package()
  try:
    reader = gguf.GGUFReader(file)
    data = {key: field.contents() for key, field in reader.fields.items()}
    found = {
      x.name: Stored(
        tuple(int(n) for n in reversed(x.shape)),
        int(x.tensor_type),
        int(x.data_offset),
        int(x.n_bytes),
      )
      for x in reader.tensors
    }
  # A damaged file fails in whatever the package does next.
  except Exception as error:
    raise ValueError(
      f'{file} is no GGUF file, or truncated or corrupt: download or copy it '
      'again; or it is newer than the package gguf: `pip install -U gguf` '
      f'({type(error).__name__}: {error}).'
    ) from error
  if data.get('split.count', 1) not in (0, 1):
    raise ValueError(
      f'{file} is one of {data["split.count"]} parts: join them first, with '
      '`llama-gguf-split --merge`.'
    )
  if reader.endianess != gguf.GGUFEndian.LITTLE:
    raise ValueError(f'{file} is big-endian, which is not read.')
  return Content(data, found)


def unread(tensors: Mapping[str, Stored]) -> dict[str, str]:
  """Tensors that the package cannot dequantise, row by row, and their kinds."""
  gguf = package()
  found = {}
  for name, stored in tensors.items():
    kind = gguf.GGMLQuantizationType(stored.kind)
    # A row of a vector is one number, which is no whole block.
    width = stored.shape[-1] if len(stored.shape) > 1 else 1
    block, _ = gguf.constants.GGML_QUANT_SIZES[kind]
    if width % block or not _is_dequantised(stored.kind):
      found[name] = kind.name
  return found


@functools.cache
def _is_dequantised(kind: int) -> bool:
  """Whether the package implements it."""
  gguf = package()
  kind = gguf.GGMLQuantizationType(kind)
  _, size = gguf.constants.GGML_QUANT_SIZES[kind]
  try:
    gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
  except NotImplementedError:
    return False
  return True


def package() -> types.ModuleType:
  """The module `gguf`; a `ValueError` says how to get it."""
  try:
    import gguf
  except ImportError as error:
    raise ValueError(
      'Reading GGUF files needs the package gguf: `pip install gguf`.'
    ) from error
  return gguf
