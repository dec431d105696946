"""`convert.py` there and back, and what it refuses."""

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
