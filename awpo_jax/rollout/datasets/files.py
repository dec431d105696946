"""Finds and reads the files of a data set; every error names its place."""

import functools
import glob
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import huggingface_hub

_T = TypeVar('_T')
_BETWEEN = re.compile(r'[\s,]*')


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


def place(data: str | None, *, expected: str) -> pathlib.Path:
  """A folder or file that exists, or a data set `owner/name` of the hub.

  Raises:
    ValueError: nothing is named, or it neither exists nor can be fetched.
  """
  if not data:
    raise ValueError(f'--data is missing: expected {expected}')
  path = pathlib.Path(data).expanduser()
  if path.exists():
    return path
  if re.fullmatch(r'[\w.-]+/[\w.-]+', data):
    try:
      return pathlib.Path(
        huggingface_hub.snapshot_download(data, repo_type='dataset')
      )
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
      raise ValueError(
        f'--data={data}: no such folder, and the hub did not give a data set '
        f'of that name: {error}'
      ) from error
  raise ValueError(f'--data={data} does not exist: expected {expected}')


def read_rows(
  path: pathlib.Path,
  parse: Callable[[dict[str, Any], str], _T],
  skipped: list[str] | None = None,
) -> list[_T]:
  """The records of a file of JSON Lines, of a JSON array, or of parquet.

  Args:
    path: parquet where its suffix says so; an array in a `.json` file that
      begins with `[`.
    parse: makes a record of an object and its `file:line`; raises `ValueError`
      where it is a bad row.
    skipped: collects what is wrong with bad rows, which are then left out;
      None: the first one raises.

  Raises:
    ValueError: a bad row, or a file that cannot be read beyond one.
  """
  if path.suffix == '.parquet':
    rows = _parquet_objects(path)
  elif path.suffix == '.json' and path.read_bytes()[:1] == b'[':
    rows = _array_objects(path)
  else:
    rows = _line_objects(path)
  records = []
  for where, row in rows:
    try:
      records.append(parse(row(), where))
    except ValueError as error:
      if skipped is None:
        raise
      skipped.append(str(error))
  return records


def unique(
  parse: Callable[[dict[str, Any], str], _T],
) -> Callable[[dict[str, Any], str], _T]:
  """`parse` that refuses a record whose `row_id` it has made before."""
  seen: set[str] = set()

  def checked(row: dict[str, Any], where: str) -> _T:
    record: Any = parse(row, where)
    if record.row_id in seen:
      raise ValueError(f'{where}: a second row {record.row_id!r}')
    seen.add(record.row_id)
    return record

  return checked


def read_json_lines(
  path: pathlib.Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """The objects of a JSON Lines file, each with its `file:line`.

  Blank lines hold no row and are passed over.

  Raises:
    ValueError: a line is not UTF-8 or not a JSON object.
  """
  for where, row in _line_objects(path):
    yield where, row()


# Parsed when asked for, so that a bad row does not end those after it.
_Rows = Iterator[tuple[str, Callable[[], dict[str, Any]]]]


def _line_objects(path: pathlib.Path) -> _Rows:
  with path.open('rb') as lines:
    for number, line in enumerate(lines, start=1):
      if line.strip():
        where = f'{path}:{number}'
        yield where, functools.partial(_parse_object, line, where)


def _parse_object(line: bytes, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where}: not JSON: {error}') from error
  return _object(row, where)


def _object(row: Any, where: str) -> dict[str, Any]:
  try:
    # A lone surrogate, which JSON can write, is no text to tokenise.
    json.dumps(row, ensure_ascii=False).encode()
  except ValueError as error:
    raise ValueError(f'{where}: not JSON: {error}') from error
  if not isinstance(row, dict):
    raise ValueError(f'{where}: a {type(row).__name__}, not an object')
  return row


def _array_objects(path: pathlib.Path) -> _Rows:
  """The elements of a JSON array, each with the line it begins on."""
  try:
    text = path.read_text(encoding='utf-8')
  except ValueError as error:
    raise ValueError(f'{path}: not UTF-8: {error}') from error
  decoder, end = json.JSONDecoder(), 1
  line, counted = 1, 0
  while True:
    start = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]
    line += text.count('\n', counted, start)
    counted, where = start, f'{path}:{line}'
    if text[start : start + 1] == ']':
      return
    try:
      row, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{where}: not JSON: {error}') from error
    yield where, functools.partial(_object, row, where)


def _parquet_objects(path: pathlib.Path) -> _Rows:
  for where, row in read_parquet(path):
    yield where, functools.partial(_object, row, where)


def read_parquet(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """The rows of a parquet file, each with `file: row`.

  Raises:
    ImportError: pyarrow is not there.
    ValueError: it is no such file.
  """
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise ImportError(
      f'{path}: reading parquet needs pyarrow: pip install pyarrow'
    ) from error
  try:
    rows = pyarrow.parquet.read_table(path).to_pylist()
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f'{path}: not a parquet file: {error}') from error
  for index, row in enumerate(rows):
    yield f'{path}: row {index}', row


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
