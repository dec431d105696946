"""Finds and reads the files of a data set; every error names its place.

A row is a `Row`: what it holds is looked at when it is asked for, so that what
nobody reads, a column of times or a number that is not finite, decides nothing.
"""

import codecs
import contextlib
import functools
import glob
import gzip
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar

import huggingface_hub

from awpo_jax.reporting import json_text

_T = TypeVar('_T')
_BETWEEN = re.compile(r'[\s,]*')
_LOOKED_AT = 1 << 16  # Bytes in which the first letter is looked for.


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


class Row(Mapping[str, Any]):
  """An object of a file, whose values are checked when they are read.

  Reading a value that is no JSON (bytes, times, NaN, half a surrogate pair)
  raises a `ValueError` that names file, row and field.
  """

  def __init__(self, values: Mapping[str, Any], where: str):
    """A row.

    Args:
      values: of JSON, or scalars of pyarrow, which become Python's when read.
      where: names the row in errors.
    """
    self._values, self._where = values, where

  def __getitem__(self, name: str) -> Any:
    value = self._values[name]
    try:
      value = _python(value)
      json_text.check(value)
    except ValueError as error:
      raise ValueError(f'{self._where}: "{name}": {error}') from error
    return value

  def __contains__(self, name: object) -> bool:
    return name in self._values  # Without looking at the value.

  def __iter__(self) -> Iterator[str]:
    return iter(self._values)

  def __len__(self) -> int:
    return len(self._values)

  def part(self, name: str) -> 'Row':
    """An object within the row, of which not everything will be read.

    Raises:
      ValueError: it is missing or no object.
    """
    return self._row(name, self._raw(name))

  def parts(self, name: str) -> list['Row']:
    """A list of such objects.

    Raises:
      ValueError: it is missing or no list of objects.
    """
    values = self._raw(name)
    if hasattr(values, 'values') and not hasattr(values, 'keys'):
      values = list(values) if values.is_valid else None  # A list of pyarrow.
    if not isinstance(values, list):
      raise self._wrong(name, values, 'list')
    return [self._row(f'{name}[{i}]', each) for i, each in enumerate(values)]

  def _raw(self, name: str) -> Any:
    if name not in self._values:
      raise ValueError(
        f'{self._where}: no field "{name}", only {sorted(self._values)}'
      )
    return self._values[name]

  def _row(self, name: str, value: Any) -> 'Row':
    if not hasattr(value, 'keys') or getattr(value, 'is_valid', True) is False:
      raise self._wrong(name, value, 'dict')
    return Row(value, self._where)

  def _wrong(self, name: str, value: Any, kind: str) -> ValueError:
    found = type(_python(value)).__name__
    return ValueError(f'{self._where}: "{name}" is of type {found}, not {kind}')


def _python(value: Any) -> Any:
  """A value of Python, of which a scalar of pyarrow makes one when asked."""
  return value.as_py() if hasattr(value, 'as_py') else value


def read_rows(
  path: pathlib.Path,
  parse: Callable[[Row, str], _T],
  skipped: list[str] | None = None,
) -> list[_T]:
  """The records of a file of JSON Lines, of a JSON array, or of parquet.

  JSON is UTF-8, perhaps behind a byte order mark, and compressed where the name
  ends with `.gz`. Lines end with a line feed, perhaps after a carriage return;
  blank ones hold no row.

  Args:
    path: parquet where its suffix says so; an array in a `.json` file whose
      first letter is `[`.
    parse: makes a record of a row and its `file:line`; raises `ValueError`
      where it is a bad one.
    skipped: collects what is wrong with bad rows, which are then left out;
      None: the first one raises.

  Raises:
    ValueError: a bad row, or a file that cannot be read beyond one.
  """
  records = []
  for where, row in _rows(path):
    try:
      records.append(parse(row(), where))
    except ValueError as error:
      if skipped is None:
        raise
      skipped.append(str(error))
  return records


def unique(parse: Callable[[Row, str], _T]) -> Callable[[Row, str], _T]:
  """`parse` that refuses a record whose `row_id` it has made before."""
  seen: set[str] = set()

  def checked(row: Row, where: str) -> _T:
    record: Any = parse(row, where)
    if record.row_id in seen:
      raise ValueError(f'{where}: a second row {record.row_id!r}')
    seen.add(record.row_id)
    return record

  return checked


# Parsed when asked for, so that a bad row does not end those after it.
_Rows = Iterator[tuple[str, Callable[[], Row]]]


def _rows(path: pathlib.Path) -> _Rows:
  if path.suffix == '.parquet':
    return _parquet_rows(path)
  suffixes = [x for x in path.suffixes if x != '.gz']
  with _open(path) as file:
    head = file.read(_LOOKED_AT)
  if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise ValueError(f'{path}: is UTF-16; write it as UTF-8')
  start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
  if suffixes[-1:] == ['.json'] and start == b'[':
    return _array_rows(path)
  return _line_rows(path)


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """The bytes of a file, which may be compressed.

  Iterated over, they give lines: of bytes, so that nothing but a line feed ends
  one, whatever separators a text holds.
  """
  try:
    with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as file:
      yield file  # type: ignore[misc]
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ValueError(f'{path}: cannot be read: {error}') from error


def _line_rows(path: pathlib.Path) -> _Rows:
  with _open(path) as lines:
    for number, line in enumerate(lines, start=1):
      # A mark begins every file of those that were put together.
      text = line.removeprefix(codecs.BOM_UTF8).strip()
      if text:
        where = f'{path}:{number}'
        yield where, functools.partial(_parse_row, text, where)


def _parse_row(line: bytes, where: str) -> Row:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where}: not JSON: {error}') from error
  return _row(row, where)


def _row(row: Any, where: str) -> Row:
  if not isinstance(row, dict):
    raise ValueError(f'{where}: a {type(row).__name__}, not an object')
  return Row(row, where)


def _array_rows(path: pathlib.Path) -> _Rows:
  """The elements of a JSON array, each with the line it begins on."""
  with _open(path) as file:
    data = file.read()
  try:
    text = data.decode('utf-8-sig')
  except ValueError as error:
    raise ValueError(f'{path}: not UTF-8: {error}') from error
  decoder, end = json.JSONDecoder(), text.index('[') + 1
  line, counted = 1, 0
  while True:
    start = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]
    line += text.count('\n', counted, start)
    counted, where = start, f'{path}:{line}'
    if text[start : start + 1] == ']':
      if text[start + 1 :].strip():
        raise ValueError(f'{where}: not JSON: text after the array')
      return
    try:
      row, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{where}: not JSON: {error}') from error
    yield where, functools.partial(_row, row, where)


class _Columns(Mapping[str, Any]):
  """A row of a parquet file; a column is read when one of its rows asks."""

  def __init__(self, column: Callable[[str], Any], names, index: int):
    self._column, self._names, self._index = column, names, index

  def __getitem__(self, name: str) -> Any:
    if name not in self._names:
      raise KeyError(name)
    return self._column(name)[self._index]

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)


def _parquet_rows(path: pathlib.Path) -> _Rows:
  """The rows of a parquet file, each with `file: row`.

  Raises:
    ImportError: pyarrow is not there.
    ValueError: it is no such file, or a column that is asked for is damaged.
  """
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise ImportError(
      f'{path}: reading parquet needs pyarrow: pip install pyarrow'
    ) from error
  try:
    file = pyarrow.parquet.ParquetFile(path)
    names = dict.fromkeys(file.schema_arrow.names)
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f'{path}: not a parquet file: {error}') from error

  @functools.cache
  def column(name: str) -> Any:
    try:
      return file.read(columns=[name]).column(name)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
      raise ValueError(f'cannot be read: {error}') from error

  for index in range(file.metadata.num_rows):
    where = f'{path}: row {index}'
    yield where, functools.partial(Row, _Columns(column, names, index), where)


def field(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
  """`row[name]`, of type `kind` and not an empty string.

  Raises:
    ValueError: it is missing, empty text or of another type.
  """
  if name not in row:
    raise ValueError(f'{where}: no field "{name}", only {sorted(row)}')
  value = row[name]
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    raise ValueError(
      f'{where}: "{name}" is of type {type(value).__name__}, not '
      f'{kind.__name__}'
    )
  if value == '':
    raise ValueError(f'{where}: "{name}" is empty')
  return value


def identifier(row: Mapping[str, Any], where: str, default: str = '') -> str:
  """The row's `id` as text: a text, or a whole number, also one like 7.0.

  Args:
    row: of a file.
    where: names it.
    default: where the field is missing, null or empty; '' for none.

  Raises:
    ValueError: it is something else, or missing without a default.
  """
  value = row.get('id')
  if value is None or value == '':
    return default or field(row, 'id', str, where)
  # Tables turn whole numbers into floats where one of them is missing.
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, bool) or not isinstance(value, str | int):
    raise ValueError(
      f'{where}: "id" is of type {type(value).__name__}, not a text or a whole '
      'number'
    )
  return str(value)
