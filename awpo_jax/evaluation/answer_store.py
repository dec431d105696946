"""Answers on disk: appended as they come, read again by a later start."""

import fcntl
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax.reporting import file_locks, json_text


class Key(NamedTuple):
  """Which answer: of a row, and the number of the sample."""

  row_id: str
  sample: int


class Answers:
  """The answers of a benchmark, one JSON object a line.

  Attributes:
    texts: what was answered, by key; several texts where a row asked again,
      none where it could not be asked.
  """

  def __init__(self, path: pathlib.Path):
    """Reads what is there; a line that a killed process left half is cut.

    Raises:
      ValueError: the file holds something else, and its line is named; or
        another evaluation has it open.
    """
    self._path = path
    self.texts: dict[Key, tuple[str, ...]] = {}
    self.seconds = self.tokens = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = path.open('ab+')
    # Let go of when the process ends, however it ends.
    if not file_locks.try_lock(self._file, fcntl.flock):
      self._file.close()
      raise ValueError(
        f'{path}: another evaluation is writing here; wait for its end, or '
        'name another --output_dir.'
      )
    self._read()

  def close(self) -> None:
    """Lets others write."""
    self._file.close()

  def _read(self) -> None:
    whole = 0
    self._file.seek(0)
    for number, line in enumerate(self._file, start=1):
      if not line.endswith(b'\n'):
        self._file.truncate(whole)
        break
      whole += len(line)
      try:
        self._take(json.loads(line))
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
          f'{self._path}:{number}: not an answer ({error}); remove the line, '
          'and it is generated again.'
        ) from error

  def _take(self, row: Mapping[str, Any]) -> None:
    key = Key(str(row['id']), int(row['sample']))
    self.texts[key] = tuple(str(text) for text in row['answers'])
    self.seconds += float(row['seconds'])
    self.tokens += float(row['tokens'])

  def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes answers down before it returns.

    Args:
      rows: with `id`, `sample`, `answers`, `seconds` that they took and
        `tokens` that they have.
    """
    lines = ''.join(json_text.dumps(row) + '\n' for row in rows)
    self._file.write(lines.encode())
    self._file.flush()
    os.fsync(self._file.fileno())
    for row in rows:
      self._take(row)
