"""Finds and reads the files of a data set; every error names its place."""

import glob
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def find(
  data: str | None, *, suffixes: Sequence[str], expected: str
) -> list[pathlib.Path]:
  """Files that the flag `--data` names.

  Args:
    data: folders, files and glob patterns, separated by commas.
    suffixes: of the files taken from a folder, e.g. `.jsonl`.
    expected: what the data set needs, for the error messages.

  Returns:
    The files, each once; those of a folder or a pattern sorted by name.

  Raises:
    ValueError: nothing is named, or one of those named does not exist or holds
      no such file.
  """
  if not data:
    raise ValueError(f'--data is missing: expected {expected}')
  found = []
  for item in data.split(','):
    path = pathlib.Path(item).expanduser()
    if path.is_dir():
      files = sorted(f for f in path.iterdir() if f.suffix in suffixes)
    elif path.is_file():
      files = [path]
    else:
      files = sorted(map(pathlib.Path, glob.glob(str(path), recursive=True)))
    if not files:
      problem = 'holds no such file' if path.is_dir() else 'does not exist'
      raise ValueError(
        f'--data={data}: {item!r} {problem}: expected {expected}'
      )
    found.extend(files)
  return list(dict.fromkeys(found))


def read_json_lines(
  path: pathlib.Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """The objects of a JSON Lines file, each with its `file:line`.

  Blank lines hold no row and are passed over.

  Raises:
    ValueError: a line is not UTF-8 or not a JSON object.
  """
  with path.open('rb') as lines:
    for number, line in enumerate(lines, start=1):
      where = f'{path}:{number}'
      if not line.strip():
        continue
      try:
        row = json.loads(line)
        # A lone surrogate, which JSON can write, is no text to tokenise.
        json.dumps(row, ensure_ascii=False).encode()
      except ValueError as error:
        raise ValueError(f'{where}: not JSON: {error}') from error
      if not isinstance(row, dict):
        raise ValueError(f'{where}: a {type(row).__name__}, not an object')
      yield where, row


def field(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
  """`row[name]`, of type `kind` and not an empty string.

  Raises:
    ValueError: it is missing, empty text or of another type.
  """
  if name not in row:
    raise ValueError(f'{where}: no field "{name}", only {sorted(row)}')
  if not isinstance(row[name], kind):
    found = type(row[name]).__name__
    raise ValueError(
      f'{where}: "{name}" is of type {found}, not {kind.__name__}'
    )
  if row[name] == '':
    raise ValueError(f'{where}: "{name}" is empty')
  return row[name]
