"""`convert.py` there and back, and what it refuses."""

import numpy as np
import pytest

from tests.helpers import hf_models, whole_runs


@pytest.fixture
def convert(tmp_path):
  def run(*flags):
    program = 'experiments/convert.py'
    return whole_runs.forked(flags, tmp_path, program=program)

  return run


def test_there_and_back(convert, tmp_path):
  hf_models.save_qwen3(tmp_path / 'hf', dtype='bfloat16')
  for source, target in (('hf', 'orbax'), ('orbax', 'back')):
    result = convert(f'--from={tmp_path / source}', f'--to={tmp_path / target}')
    assert result.returncode == 0, result.stderr
  assert (tmp_path / 'orbax' / 'checkpoints' / '0' / 'state').is_dir()
  assert f'--init_from={tmp_path / "orbax"}' not in result.stdout
  old, new = (
    hf_models.read_tensors(tmp_path / folder) for folder in ('hf', 'back')
  )
  assert old.keys() == new.keys()
  for name, tensor in old.items():
    assert tensor.dtype == new[name].dtype
    assert tensor.tobytes() == new[name].tobytes(), name


def test_a_run_is_exported_in_another_dtype(reference, convert, tmp_path):
  result = convert(
    f'--from={reference.folder}',
    f'--to={tmp_path / "export"}',
    '--param_dtype=bfloat16',
  )
  assert result.returncode == 0, result.stderr
  assert f'{tmp_path / "export"}: a Hugging Face folder' in result.stdout
  tensors = hf_models.read_tensors(tmp_path / 'export')
  assert {tensor.dtype.name for tensor in tensors.values()} == {'bfloat16'}
  last = whole_runs.stored(reference.folder, reference.last)
  want = last["['params']['layers_0']['mlp']['up_proj']['kernel']"].T
  got = tensors['model.layers.0.mlp.up_proj.weight']
  assert got.tobytes() == want.astype(got.dtype).tobytes()


def test_a_gguf_file_becomes_a_folder_that_others_read(convert, tmp_path):
  from tests.helpers import gguf_writing  # Skips where gguf is not installed.

  values = gguf_writing.write(tmp_path / 'x.gguf', kind='Q4_1')
  target = tmp_path / 'hf'
  result = convert(f'--from={tmp_path / "x.gguf"}', f'--to={target}')
  assert result.returncode == 0, result.stderr
  assert f'{target}: a Hugging Face folder' in result.stdout
  tensors = hf_models.read_tensors(target)
  assert {tensor.dtype.name for tensor in tensors.values()} == {'float32'}
  for name, stored in (
    ('model.embed_tokens', 'token_embd'),
    ('model.layers.0.mlp.down_proj', 'blk.0.ffn_down'),
  ):
    np.testing.assert_array_equal(
      tensors[f'{name}.weight'], values[f'{stored}.weight']
    )
  assert (target / 'tokenizer.json').is_file()
  modes = {oct(x.stat().st_mode & 0o777) for x in target.iterdir()}
  assert modes == {'0o644'}


@pytest.mark.parametrize(
  ('flags', 'problem'),
  [
    ([], 'Set --from and --to'),
    (['--from=/nowhere', '--to=new'], '/nowhere'),
    (['--from=OLD', '--to=OLD'], 'exists already'),
  ],
)
def test_a_mistake_is_one_line(reference, convert, flags, problem):
  result = convert(
    *(flag.replace('OLD', str(reference.folder)) for flag in flags)
  )
  assert result.returncode == 2 and not result.stdout
  (line,) = result.stderr.strip().splitlines()
  assert problem in line
