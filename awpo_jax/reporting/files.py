"""Files that are there whole or not at all."""

import os
import pathlib


def write_whole(
  path: str | os.PathLike[str], content: str | bytes, errors: str = 'strict'
) -> None:
  """Writes a file beside its place, and moves it there when it is on disk.

  A process that is killed, or a machine that loses power, leaves the old file
  or the new one, and perhaps the unfinished one, `<name>.tmp`.

  Args:
    path: its folder is there.
    content: text is written as UTF-8.
    errors: what becomes of text that has no UTF-8, as of `str.encode`.
  """
  path = pathlib.Path(path)
  data = (
    content if isinstance(content, bytes) else content.encode('utf-8', errors)
  )
  unfinished = path.with_name(path.name + '.tmp')
  with unfinished.open('wb') as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(unfinished, path)
