"""Folders of Hugging Face checkpoints: found, read and written tensor-wise."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import huggingface_hub
import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16)
import numpy as np
import safetensors.numpy
from huggingface_hub import errors as hub_errors

from awpo_jax.models.formats import gguf_files

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
# Weights, configs, tokenizers and chat templates at the root of a repository.
_PATTERNS = ['*.safetensors', '*.json', '*.model', '*.txt', '*.jinja']
_HUB_NAME = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')
_CORRUPT = 'is truncated or corrupt: download or copy it again'


def find(path_or_name: str | os.PathLike) -> pathlib.Path:
  """The folder of a checkpoint; a name that is no folder is downloaded.

  Args:
    path_or_name: a folder, a GGUF file, a name in `gguf_files.PACKAGES`, or
      'owner/name' of the Hugging Face hub. Of a GGUF the file is returned.

  Raises:
    FileNotFoundError: neither is there.
    PermissionError: the hub wants credentials for it.
    ConnectionError: the hub cannot be reached and the cache lacks it.
  """
  path, name = pathlib.Path(path_or_name).expanduser(), str(path_or_name)
  if path.is_dir():
    return path
  gguf = gguf_files.find(path_or_name)
  if gguf is not None:
    return gguf
  if path.exists():
    raise FileNotFoundError(
      f'{path} is a file. Name the folder that holds config.json and the '
      'safetensors, or a file *.gguf.'
    )
  if not _HUB_NAME.fullmatch(name):
    raise FileNotFoundError(
      f'There is no folder {path}, and the hub has no such names. Name a '
      "folder of a checkpoint, or one of the hub as 'Qwen/Qwen3-4B'."
    )
  try:
    folder = huggingface_hub.snapshot_download(
      name, allow_patterns=_PATTERNS, ignore_patterns=['*/*', 'consolidated*']
    )
  except (hub_errors.HfHubHTTPError, OSError) as error:
    raise _explained(name, error) from error
  return pathlib.Path(folder)


def _explained(name: str, error: Exception) -> OSError:
  """What an error of the hub means and what to do about it."""
  if isinstance(error, hub_errors.GatedRepoError):
    return PermissionError(
      f'{name} is gated: accept its terms at https://huggingface.co/{name}, '
      'then run `hf auth login` or set HF_TOKEN.'
    )
  if isinstance(error, hub_errors.RepositoryNotFoundError):
    return FileNotFoundError(
      f'{name} is no folder here and no repository of the hub that you may '
      'read: check the name; if it is private, run `hf auth login` or set '
      'HF_TOKEN.'
    )
  return ConnectionError(
    f'{name} is no folder here, and it could not be downloaded '
    f'({type(error).__name__}: {error}). Check the connection and '
    f'HF_HUB_OFFLINE, or download it elsewhere (`hf download {name}`) and name '
    'the folder.'
  )


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a safetensors file, not read yet.

  Attributes:
    file: where it is.
    name: its name there.
    shape: its shape there.
    dtype: of safetensors, e.g. 'BF16'.
  """

  file: pathlib.Path
  name: str
  shape: tuple[int, ...]
  dtype: str

  def read(self, rows: slice | None = None) -> np.ndarray:
    """All of it, or some rows; its own memory, nothing stays mapped."""
    with _opened(self.file) as file:
      if rows is None:
        return file.get_tensor(self.name)
      return file.get_slice(self.name)[rows]


# Of either kind of file, and read alike.
AnyTensor: TypeAlias = Tensor | gguf_files.Tensor


def tensors(folder: pathlib.Path) -> dict[str, AnyTensor]:
  """Every tensor of a checkpoint by its name; reads the headers only.

  Args:
    folder: of `find`.

  Raises:
    FileNotFoundError: no weights, or shards that the index names are absent.
    ValueError: a corrupt file, or an index that does not fit its shards.
  """
  if folder.is_file():
    return dict(gguf_files.tensors(folder))
  single, index = folder / SINGLE, folder / INDEX
  if single.is_file() and index.is_file():
    raise ValueError(
      f'{folder} holds both {SINGLE} and {INDEX}: remove the one that is not '
      'meant.'
    )
  if single.is_file():
    return dict(_headers(single))
  if index.is_file():
    return dict(_sharded(folder, _read_index(index)))
  others = sorted(
    path.name
    for pattern in ('*.safetensors', '*.bin', '*.pth', '*.pt', '*.gguf')
    for path in folder.glob(pattern)
  )
  raise FileNotFoundError(
    f'{folder} holds no {SINGLE} and no {INDEX}'
    + (f', only {", ".join(others)}' if others else '')
    + '. Of a GGUF name the file itself. Pickled weights are not read: '
    'convert them where PyTorch is '
    'installed, with transformers.AutoModelForCausalLM.from_pretrained(folder)'
    '.save_pretrained(new_folder).'
  )


def _read_index(index: pathlib.Path) -> dict[str, str]:
  """Name of a tensor -> name of its file."""
  try:
    files = json.loads(index.read_text())['weight_map']
    names = set(files.values())
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{index} {_CORRUPT} ({error!r}).') from error
  outside = sorted(str(x) for x in names if pathlib.Path(str(x)).name != x)
  if outside:
    raise ValueError(f'{index} names files outside its folder: {outside}.')
  absent = sorted(x for x in names if not (index.parent / x).is_file())
  if absent:
    raise FileNotFoundError(
      f'{index} names files that are absent: {", ".join(absent)}. Download '
      'or copy them again.'
    )
  return files


def _sharded(folder: pathlib.Path, files: Mapping[str, str]):
  """Tensors of the shards, exactly those that the index lists."""
  found, problems = {}, []
  for shard in sorted(set(files.values())):
    for name, tensor in _headers(folder / shard).items():
      if files.get(name) == shard:
        found[name] = tensor
      else:
        problems.append(f'{name} is in {shard} and not listed there')
  problems += [
    f'{name} is not in {shard}'
    for name, shard in files.items()
    if name not in found
  ]
  if problems:
    raise ValueError(
      f'{folder / INDEX} does not fit its shards: {"; ".join(problems)}. '
      'Download or copy them again.'
    )
  return found


def _headers(path: pathlib.Path) -> dict[str, Tensor]:
  with _opened(path) as file:
    found = {}
    for name in file.keys():  # noqa: SIM118  (no dict)
      part = file.get_slice(name)
      found[name] = Tensor(
        path, name, tuple(part.get_shape()), part.get_dtype()
      )
  return found


def _opened(path: pathlib.Path):
  """An open safetensors file; read, not mapped: what is read leaves no page.

  A file is opened for each tensor: mapped or not, what one tensor took is
  given back before the next.
  """
  try:
    return safetensors.safe_open(path, framework='numpy', backend='pread')
  except safetensors.SafetensorError as error:
    with path.open('rb') as file:
      if file.read(20).startswith(b'version https://git'):
        raise ValueError(
          f'{path} is a pointer of git-lfs, not the file: run `git lfs pull`.'
        ) from error
    raise ValueError(f'{path} {_CORRUPT} ({error}).') from error


def write(
  path: str | os.PathLike, fill: Callable[[pathlib.Path], None]
) -> None:
  """Makes a folder at once: a killed process leaves a hidden partial one.

  Args:
    path: absent, or an empty folder.
    fill: writes the files into the folder it is given.

  Raises:
    FileExistsError: something is there.
  """
  path = pathlib.Path(path)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f'{path} is there and not empty: remove it or choose another folder.'
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.parent / f'.{path.name}.partial'
  if partial.exists():
    shutil.rmtree(partial)
  partial.mkdir()
  fill(partial)
  # Some writers (safetensors) keep their files to the owner.
  for file in partial.rglob('*'):
    if file.is_file():
      file.chmod(0o644)
  partial.replace(path)


def write_tensors(
  folder: pathlib.Path,
  sizes: Mapping[str, int],
  read: Callable[[str], np.ndarray],
  *,
  shard_bytes: int,
) -> None:
  """Writes safetensors, with an index if there are several.

  Args:
    folder: where.
    sizes: bytes of each tensor, in the order of writing.
    read: gives a tensor; those of one file are in memory at a time.
    shard_bytes: of a file at most, a single tensor excepted.
  """
  shards: list[list[str]] = [[]]
  room = shard_bytes
  for name, size in sizes.items():
    if size > room and shards[-1]:
      shards.append([])
      room = shard_bytes
    shards[-1].append(name)
    room -= size
  files: dict[str, str] = {}
  for i, names in enumerate(shards):
    file = f'model-{i + 1:05}-of-{len(shards):05}.safetensors'
    file = SINGLE if len(shards) == 1 else file
    arrays = {name: np.ascontiguousarray(read(name)) for name in names}
    # 'pt' tells transformers that the layout is that of PyTorch.
    safetensors.numpy.save_file(arrays, folder / file, {'format': 'pt'})
    files.update(dict.fromkeys(names, file))
  if len(shards) > 1:
    metadata = {'total_size': sum(sizes.values())}
    write_json(folder / INDEX, {'metadata': metadata, 'weight_map': files})


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes an object as indented JSON."""
  path.write_text(json.dumps(content, indent=2) + '\n')
