"""Files that are written whole."""

import pytest

from awpo_jax.reporting import files


def test_what_is_written_is_there(tmp_path):
  path = tmp_path / 'x.json'
  files.write_whole(path, 'ä\n')
  files.write_whole(path, 'ö\r\n')
  assert path.read_bytes() == 'ö\r\n'.encode()
  files.write_whole(str(path), b'\xff')
  assert path.read_bytes() == b'\xff'
  assert [x.name for x in tmp_path.iterdir()] == ['x.json']


def test_text_without_utf_8(tmp_path):
  path = tmp_path / 'x.txt'
  files.write_whole(path, 'old')
  with pytest.raises(UnicodeEncodeError):
    files.write_whole(path, '\ud800')
  assert path.read_text() == 'old'
  files.write_whole(path, '\ud800', errors='backslashreplace')
  assert path.read_text() == '\\ud800'
