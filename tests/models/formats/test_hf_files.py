"""Every way to be no checkpoint, and the hub."""

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from tests.helpers import hf_folders


class TestNoCheckpoint:
  def check(self, folder, error, message):
    with pytest.raises(error, match=message):
      hf_folders.load(folder)

  def test_no_folder(self, tmp_path):
    self.check(tmp_path / 'x', FileNotFoundError, 'no folder .*x.*Qwen/Qwen3')

  def test_a_file(self, tmp_path):
    hf_folders.write(tmp_path)
    self.check(
      tmp_path / 'config.json', FileNotFoundError, 'is a file. Name the folder'
    )

  def test_no_config(self, tmp_path):
    hf_folders.write(tmp_path)
    (tmp_path / 'config.json').unlink()
    self.check(tmp_path, FileNotFoundError, 'config.json')

  def test_no_weights(self, tmp_path):
    hf_folders.write(tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    self.check(tmp_path, FileNotFoundError, 'holds no model.safetensors')

  def test_pickled_weights_only(self, tmp_path):
    hf_folders.write(tmp_path)
    (tmp_path / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
    self.check(
      tmp_path, FileNotFoundError, 'only pytorch_model.bin.*save_pretrained'
    )

  @pytest.mark.parametrize('kept', [4, 100, -1])
  def test_truncated(self, kept, tmp_path):
    hf_folders.write(tmp_path)
    path = tmp_path / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:kept])
    self.check(tmp_path, ValueError, 'model.safetensors is truncated or corrup')

  def test_a_pointer_of_git_lfs(self, tmp_path):
    hf_folders.write(tmp_path)
    (tmp_path / 'model.safetensors').write_text(
      'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'
    )
    self.check(tmp_path, ValueError, 'pointer of git-lfs.*git lfs pull')

  def test_absent_shard(self, tmp_path):
    hf_folders.write_shards(tmp_path)
    (tmp_path / 'b.safetensors').unlink()
    self.check(tmp_path, FileNotFoundError, 'index.json names .*b.safetensors')

  def test_index_and_shards_differ(self, tmp_path):
    _, index = hf_folders.write_shards(tmp_path)
    wrong = index | {'made.up': 'a.safetensors'}
    del wrong['model.norm.weight']
    hf_folders.write_index(tmp_path, wrong)
    self.check(
      tmp_path,
      ValueError,
      'norm.weight is in .* not listed there; made.up is not in a.safetensors',
    )

  @pytest.mark.parametrize('content', ['{', '{}', '[]', '{"weight_map": [1]}'])
  def test_corrupt_index(self, content, tmp_path):
    hf_folders.write_shards(tmp_path)
    (tmp_path / 'model.safetensors.index.json').write_text(content)
    self.check(tmp_path, ValueError, 'index.json is truncated or corrupt')

  def test_index_that_leaves_the_folder(self, tmp_path):
    _, index = hf_folders.write_shards(tmp_path)
    hf_folders.write_index(tmp_path, index | {'x': '../b.safetensors'})
    self.check(tmp_path, ValueError, 'outside its folder: .*../b.safetensors')

  def test_file_and_index(self, tmp_path):
    hf_folders.write_shards(tmp_path)
    hf_folders.write(tmp_path)
    self.check(tmp_path, ValueError, 'holds both')


class Response:
  """As much of an HTTP response as the errors of the hub read."""

  headers: dict = {}
  request = None
  status_code = 403


class TestHub:
  def test_a_name_is_downloaded(self, tmp_path, monkeypatch):
    hf_folders.write(tmp_path)
    asked = []

    def download(name, *, allow_patterns, ignore_patterns):
      asked.append((name, allow_patterns, ignore_patterns))
      return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    config, _ = hf_folders.load('owner/a-model')
    assert config.family == 'llama'
    [(name, allowed, ignored)] = asked
    assert name == 'owner/a-model'
    kept = huggingface_hub.utils.filter_repo_objects(
      [
        *('config.json', 'generation_config.json', 'tokenizer.json'),
        *('model.safetensors.index.json', 'model-00001-of-00002.safetensors'),
        *('chat_template.jinja', 'merges.txt', 'tokenizer.model'),
        *('original/params.json', 'consolidated.safetensors', 'README.md'),
        *('pytorch_model.bin', 'onnx/model.onnx'),
      ],
      allow_patterns=allowed,
      ignore_patterns=ignored,
    )
    assert list(kept) == [
      *('config.json', 'generation_config.json', 'tokenizer.json'),
      *('model.safetensors.index.json', 'model-00001-of-00002.safetensors'),
      *('chat_template.jinja', 'merges.txt', 'tokenizer.model'),
    ]

  @pytest.mark.parametrize(
    ('raised', 'error', 'message'),
    [
      (
        hub_errors.GatedRepoError('no', response=Response()),
        PermissionError,
        'owner/x is gated: accept .*huggingface.co/owner/x.*HF_TOKEN',
      ),
      (
        hub_errors.RepositoryNotFoundError('no', response=Response()),
        FileNotFoundError,
        'owner/x is no folder here and no repository .*check the name',
      ),
      (
        hub_errors.LocalEntryNotFoundError('no'),
        ConnectionError,
        'LocalEntryNotFoundError.*HF_HUB_OFFLINE.*hf download owner/x',
      ),
      (
        hub_errors.OfflineModeIsEnabled('no'),
        ConnectionError,
        'OfflineModeIsEnabled.*HF_HUB_OFFLINE',
      ),
      (
        hub_errors.HfHubHTTPError('503', response=Response()),
        ConnectionError,
        'HfHubHTTPError.*Check the connection',
      ),
    ],
  )
  def test_errors(self, raised, error, message, monkeypatch):
    def download(*_, **__):
      raise raised

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    with pytest.raises(error, match=message):
      hf_folders.load('owner/x')

  @pytest.mark.parametrize('name', ['a/b/c', './model', 'owner/mo del', '-/'])
  def test_what_is_no_name_is_not_asked_for(self, name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', None)
    with pytest.raises(FileNotFoundError, match='no such names'):
      hf_folders.load(name)
