"""Checkpoints in and out: bits, placement, and every way to be no checkpoint.

Checkpoints are written by `tests.golden.hf_cases`, with names and shapes of its
own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import flax.traverse_util
import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import errors as hub_errors

from awpo_jax.models import config as config_lib
from awpo_jax.models import hf_weights
from tests.golden import hf_cases

UNTIED = hf_cases.CASES['llama_linear_biases']
TIED = hf_cases.CASES['qwen3_tied']


def tensors_of(hf, dtype=np.float32):
  tensors = hf_cases.weights(hf, np.random.RandomState(0))
  return {name: x.astype(dtype) for name, x in tensors.items()}


def write(folder, hf=UNTIED, dtype=np.float32, **changes):
  """A checkpoint; a change of None takes the tensor away."""
  tensors = tensors_of(hf, dtype) | {
    name.replace('__', '.'): x for name, x in changes.items()
  }
  tensors = {name: x for name, x in tensors.items() if x is not None}
  hf_cases.write(folder, hf, tensors)
  return tensors


def write_shards(folder, hf=UNTIED):
  """The checkpoint in two shards with an index."""
  tensors = write(folder, hf)
  (folder / 'model.safetensors').unlink()
  names = sorted(tensors)
  shards = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
  for file, kept in shards.items():
    safetensors.numpy.save_file(
      {name: tensors[name] for name in kept}, folder / file
    )
  index = {name: file for file, kept in shards.items() for name in kept}
  write_index(folder, index)
  return tensors, index


def write_index(folder, index):
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps({'metadata': {}, 'weight_map': index})
  )


def load(folder, dtype='float32', **settings):
  return hf_weights.load_pretrained(
    folder, dtype=dtype, param_dtype=dtype, **settings
  )


def stored(folder):
  """Every tensor of a folder, read by the library alone."""
  result = {}
  for path in folder.glob('*.safetensors'):
    part = safetensors.numpy.load_file(path)
    assert not set(part) & set(result)
    result |= part
  return result


def assert_same_bits(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert got[name].dtype == x.dtype, name
    assert got[name].shape == x.shape, name
    assert got[name].tobytes() == np.ascontiguousarray(x).tobytes(), name


class TestLoad:
  def test_names_and_layouts(self, tmp_path):
    tensors = write(tmp_path)
    config, params = load(tmp_path)
    assert config == config_lib.from_hf_dict(UNTIED)
    flat = flax.traverse_util.flatten_dict(params, sep='.')
    assert len(flat) == len(tensors)
    for ours, theirs, transposed in [
      ('embed_tokens.embedding', 'model.embed_tokens.weight', False),
      ('norm.weight', 'model.norm.weight', False),
      ('lm_head', 'lm_head.weight', True),
      (
        'layers_1.post_attention_layernorm.weight',
        'model.layers.1.post_attention_layernorm.weight',
        False,
      ),
      (
        'layers_0.self_attn.k_proj.kernel',
        'model.layers.0.self_attn.k_proj.weight',
        True,
      ),
      (
        'layers_1.mlp.down_proj.bias',
        'model.layers.1.mlp.down_proj.bias',
        False,
      ),
    ]:
      want = tensors[theirs].T if transposed else tensors[theirs]
      np.testing.assert_array_equal(flat[ours], want)

  def test_shards(self, tmp_path):
    write(tmp_path / 'one')
    write_shards(tmp_path / 'two')
    one, two = load(tmp_path / 'one'), load(tmp_path / 'two')
    assert one[0] == two[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], two[1])

  def test_dtypes(self, tmp_path):
    tensors = write(tmp_path, dtype=ml_dtypes.bfloat16)
    config, params = hf_weights.load_pretrained(
      tmp_path, dtype='bfloat16', param_dtype='float32'
    )
    assert (config.dtype, config.param_dtype) == ('bfloat16', 'float32')
    got = params['norm']['weight']
    assert got.dtype == np.float32
    want = np.float32(tensors['model.norm.weight'])
    np.testing.assert_array_equal(got, want)

  def test_one_sharding_for_all(self, tmp_path):
    write(tmp_path)
    mesh = jax.make_mesh((4,), ('data',))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    _, params = load(tmp_path, sharding=sharding)
    for x in jax.tree.leaves(params):
      assert x.sharding == sharding
    jax.tree.map(np.testing.assert_array_equal, params, load(tmp_path)[1])

  @pytest.mark.parametrize('kind', ['function', 'tree'])
  def test_a_sharding_for_each(self, kind, tmp_path):
    write(tmp_path)
    mesh = jax.make_mesh((2,), ('model',))
    named = jax.sharding.NamedSharding
    split = named(mesh, jax.sharding.PartitionSpec(None, 'model'))
    whole = named(mesh, jax.sharding.PartitionSpec())
    seen = {}

    def where(name, shape):
      seen[name] = shape
      return split if len(shape) == 2 else whole

    _, plain = load(tmp_path)
    if kind == 'tree':
      where = jax.tree.map(lambda x: where('', x.shape), plain)
    _, params = load(tmp_path, sharding=where)
    kernel = params['layers_0']['mlp']['up_proj']['kernel']
    assert kernel.sharding == split
    assert kernel.addressable_shards[0].data.shape == (32, 20)
    assert params['norm']['weight'].sharding == whole
    jax.tree.map(np.testing.assert_array_equal, params, plain)
    if kind == 'function':
      assert seen['layers_0.mlp.up_proj.kernel'] == (32, 40)

  def test_a_tree_of_shardings_lacks_one(self, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match='sharding lacks .*embed_tokens'):
      load(tmp_path, sharding={'norm': {'weight': None}})

  def test_a_tied_head_that_is_stored(self, tmp_path):
    embedding = tensors_of(TIED)['model.embed_tokens.weight']
    write(tmp_path, TIED, lm_head__weight=embedding)
    assert 'lm_head' not in load(tmp_path)[1]
    other = embedding.copy()
    other[-1, -1] += 1e-3
    write(tmp_path, TIED, lm_head__weight=other)
    with pytest.raises(ValueError, match='lm_head.weight differs .*false'):
      load(tmp_path)

  @pytest.mark.parametrize('dtype', [np.float32, np.float16])
  def test_old_frequency_buffers(self, dtype, tmp_path):
    # theta = 10^4, C = 6: 1, 10^(-4/3), 10^(-8/3); linear scaling by 2.5.
    name = 'model__layers__1__self_attn__rotary_emb__inv_freq'
    plain = (1e4 ** (-np.arange(3) / 3)).astype(dtype)
    for good in (plain, plain / dtype(2.5)):
      write(tmp_path, **{name: good})
      load(tmp_path)
    for bad in (plain * dtype(1.1), plain[:2]):
      write(tmp_path, **{name: bad})
      with pytest.raises(ValueError, match='inv_freq does not .*rope_theta'):
        load(tmp_path)

  def test_all_that_is_wrong_in_one_error(self, tmp_path):
    write(
      tmp_path,
      model__norm__weight=None,
      model__layers__0__self_attn__q_proj__bias=None,
      model__layers__2__mlp__up_proj__weight=np.zeros((40, 32), np.float32),
      visual__proj=np.zeros(2, np.float32),
      lm_head__weight=np.zeros((95, 32), np.float32),
      model__layers__1__mlp__up_proj__weight=np.zeros((40, 32), np.int8),
    )
    with pytest.raises(ValueError) as caught:
      load(tmp_path)
    assert str(caught.value).splitlines()[1:] == [
      '  missing: model.layers.0.self_attn.q_proj.bias',
      '  missing: model.norm.weight',
      '  model.layers.1.mlp.up_proj.weight is I8; only F64, F32, F16, BF16',
      '  unknown: model.layers.2.mlp.up_proj.weight',
      '  unknown: visual.proj',
      '  wrong shape: lm_head.weight is [95, 32], by config.json [96, 32]',
    ]

  @pytest.mark.parametrize('name', ['dtype', 'param_dtype'])
  @pytest.mark.parametrize(
    ('dtype', 'message'),
    [
      ('float64', 'float64 needs JAX_ENABLE_X64'),
      ('bf16', "'bf16' is not a dtype of weights: use float32"),
      ('int8', "'int8' is not a dtype of weights"),
      ('float8_e4m3fn', 'is not a dtype of weights'),
    ],
  )
  def test_dtypes_that_do_not_work(self, name, dtype, message, tmp_path):
    given = {'dtype': 'float32', 'param_dtype': 'float32'} | {name: dtype}
    with pytest.raises(ValueError, match=f'^{name}=.*{message}|{message}'):
      hf_weights.load_pretrained(tmp_path, **given)


class TestNoCheckpoint:
  def check(self, folder, error, message):
    with pytest.raises(error, match=message):
      load(folder)

  def test_no_folder(self, tmp_path):
    self.check(tmp_path / 'x', FileNotFoundError, 'no folder .*x.*Qwen/Qwen3')

  def test_a_file(self, tmp_path):
    write(tmp_path)
    self.check(
      tmp_path / 'config.json', FileNotFoundError, 'is a file. Name the folder'
    )

  def test_no_config(self, tmp_path):
    write(tmp_path)
    (tmp_path / 'config.json').unlink()
    self.check(tmp_path, FileNotFoundError, 'config.json')

  def test_no_weights(self, tmp_path):
    write(tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    self.check(tmp_path, FileNotFoundError, 'holds no model.safetensors')

  def test_pickled_weights_only(self, tmp_path):
    write(tmp_path)
    (tmp_path / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
    self.check(
      tmp_path, FileNotFoundError, 'only pytorch_model.bin.*save_pretrained'
    )

  @pytest.mark.parametrize('kept', [4, 100, -1])
  def test_truncated(self, kept, tmp_path):
    write(tmp_path)
    path = tmp_path / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:kept])
    self.check(tmp_path, ValueError, 'model.safetensors is truncated or corrup')

  def test_a_pointer_of_git_lfs(self, tmp_path):
    write(tmp_path)
    (tmp_path / 'model.safetensors').write_text(
      'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'
    )
    self.check(tmp_path, ValueError, 'pointer of git-lfs.*git lfs pull')

  def test_absent_shard(self, tmp_path):
    write_shards(tmp_path)
    (tmp_path / 'b.safetensors').unlink()
    self.check(tmp_path, FileNotFoundError, 'index.json names .*b.safetensors')

  def test_index_and_shards_differ(self, tmp_path):
    _, index = write_shards(tmp_path)
    wrong = index | {'made.up': 'a.safetensors'}
    del wrong['model.norm.weight']
    write_index(tmp_path, wrong)
    self.check(
      tmp_path,
      ValueError,
      'norm.weight is in .* not listed there; made.up is not in a.safetensors',
    )

  @pytest.mark.parametrize('content', ['{', '{}', '[]', '{"weight_map": [1]}'])
  def test_corrupt_index(self, content, tmp_path):
    write_shards(tmp_path)
    (tmp_path / 'model.safetensors.index.json').write_text(content)
    self.check(tmp_path, ValueError, 'index.json is truncated or corrupt')

  def test_index_that_leaves_the_folder(self, tmp_path):
    _, index = write_shards(tmp_path)
    write_index(tmp_path, index | {'x': '../b.safetensors'})
    self.check(tmp_path, ValueError, 'outside its folder: .*../b.safetensors')

  def test_file_and_index(self, tmp_path):
    write_shards(tmp_path)
    write(tmp_path)
    self.check(tmp_path, ValueError, 'holds both')


class Response:
  """As much of an HTTP response as the errors of the hub read."""

  headers: dict = {}
  request = None
  status_code = 403


class TestHub:
  def test_a_name_is_downloaded(self, tmp_path, monkeypatch):
    write(tmp_path)
    asked = []

    def download(name, *, allow_patterns, ignore_patterns):
      asked.append((name, allow_patterns, ignore_patterns))
      return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    config, _ = load('owner/a-model')
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
      load('owner/x')

  @pytest.mark.parametrize('name', ['a/b/c', './model', 'owner/mo del', '-/'])
  def test_what_is_no_name_is_not_asked_for(self, name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', None)
    with pytest.raises(FileNotFoundError, match='no such names'):
      load(name)


class Tokenizer:
  """What `save_pretrained` asks of a tokenizer."""

  bos_token_id, eos_token_id, pad_token_id = None, 7, 3

  def __init__(self, size=90):
    self.size = size

  def __len__(self):
    return self.size

  def save_pretrained(self, folder):
    (folder / 'tokenizer.json').write_text('{}')


class TestSave:
  @pytest.mark.parametrize(
    'dtype', [np.float32, np.float16, ml_dtypes.bfloat16]
  )
  @pytest.mark.parametrize('name', ['llama_linear_biases', 'qwen3_tied'])
  def test_bit_for_bit(self, name, dtype, tmp_path):
    tensors = write(tmp_path / 'a', hf_cases.CASES[name], dtype)
    config, params = load(tmp_path / 'a', np.dtype(dtype).name)
    hf_weights.save_pretrained(tmp_path / 'b', config, params)
    assert_same_bits(stored(tmp_path / 'b'), tensors)
    assert (tmp_path / 'b' / 'model.safetensors').is_file()
    hf = json.loads((tmp_path / 'b' / 'config.json').read_text())
    assert hf['dtype'] == np.dtype(dtype).name
    assert (
      config_lib.load_config(tmp_path / 'b', dtype=dtype, param_dtype=dtype)
      == config
    )

  def test_values_that_are_not_numbers(self, tmp_path):
    # A NaN keeps its payload: nothing computes with what is moved.
    odd = np.array([0x7FC1, 0xFF81, 0x8000, 0x0001] * 8, np.uint16)
    odd = odd.view(ml_dtypes.bfloat16)
    tensors = write(
      tmp_path / 'a', dtype=ml_dtypes.bfloat16, model__norm__weight=odd
    )
    hf_weights.save_pretrained(
      tmp_path / 'b', *load(tmp_path / 'a', 'bfloat16')
    )
    assert_same_bits(stored(tmp_path / 'b'), tensors)

  def test_shards(self, tmp_path):
    tensors = write(tmp_path / 'a')
    config, params = load(tmp_path / 'a')
    hf_weights.save_pretrained(
      tmp_path / 'b', config, params, shard_bytes=12_000
    )
    folder = tmp_path / 'b'
    assert_same_bits(stored(folder), tensors)
    index = json.loads((folder / 'model.safetensors.index.json').read_text())
    files = sorted(path.name for path in folder.glob('*.safetensors'))
    # The embedding and the head have 12,288 bytes each, more than fit.
    assert 5 < len(files) < 12
    assert files[0] == f'model-00001-of-{len(files):05}.safetensors'
    assert sorted(set(index['weight_map'].values())) == files
    total = sum(x.nbytes for x in tensors.values())
    assert index['metadata']['total_size'] == total
    for name, file in index['weight_map'].items():
      with safetensors.safe_open(folder / file, 'numpy') as opened:
        assert name in opened.keys()  # noqa: SIM118  (no dict)
        assert opened.metadata() == {'format': 'pt'}
        sizes = [tensors[x].nbytes for x in opened.keys()]  # noqa: SIM118
      assert sum(sizes) <= 12_000 or len(sizes) == 1
    jax.tree.map(np.testing.assert_array_equal, load(folder)[1], params)

  def test_sharded_parameters(self, tmp_path):
    tensors = write(tmp_path / 'a')
    mesh = jax.make_mesh((2,), ('model',))
    spec = jax.sharding.PartitionSpec('model')
    split = jax.sharding.NamedSharding(mesh, spec)
    config, params = load(tmp_path / 'a', sharding=split)
    hf_weights.save_pretrained(tmp_path / 'b', config, params)
    assert_same_bits(stored(tmp_path / 'b'), tensors)

  def test_a_tokenizer_and_its_ids(self, tmp_path):
    write(tmp_path / 'a')
    config, params = load(tmp_path / 'a')
    hf_weights.save_pretrained(tmp_path / 'b', config, params, Tokenizer())
    read = lambda name: json.loads((tmp_path / name).read_text())  # noqa: E731
    want = {'bos_token_id': None, 'eos_token_id': 7, 'pad_token_id': 3}
    assert read('b/generation_config.json') == want
    assert want.items() <= read('b/config.json').items()
    assert (tmp_path / 'b' / 'tokenizer.json').is_file()
    hf_weights.save_pretrained(
      tmp_path / 'c', config, params, Tokenizer(), stop_ids=[7, 5]
    )
    assert read('c/generation_config.json')['eos_token_id'] == [7, 5]
    hf_weights.save_pretrained(tmp_path / 'd', config, params)
    assert not (tmp_path / 'd' / 'generation_config.json').exists()

  def test_a_tokenizer_too_large(self, tmp_path):
    write(tmp_path / 'a')
    config, params = load(tmp_path / 'a')
    with pytest.raises(ValueError, match='has 97 tokens, the embedding 96'):
      hf_weights.save_pretrained(tmp_path / 'b', config, params, Tokenizer(97))
    assert os.listdir(tmp_path) == ['a']

  def test_parameters_of_another_model(self, tmp_path):
    write(tmp_path / 'a')
    config, params = load(tmp_path / 'a')
    params = dict(params) | {'norm': {'scale': np.ones(32, np.float32)}}
    params['lm_head'] = params['lm_head'].T
    with pytest.raises(ValueError) as caught:
      hf_weights.save_pretrained(tmp_path / 'b', config, params)
    assert str(caught.value).splitlines()[1:] == [
      '  missing: norm.weight',
      '  unknown: norm.scale',
      '  wrong shape: lm_head is [96, 32], by the config [32, 96]',
    ]

  def test_a_folder_that_is_not_empty(self, tmp_path):
    write(tmp_path / 'a')
    before = stored(tmp_path / 'a')
    config, params = load(tmp_path / 'a')
    with pytest.raises(FileExistsError, match='not empty: remove it'):
      hf_weights.save_pretrained(tmp_path / 'a', config, params)
    assert_same_bits(stored(tmp_path / 'a'), before)
    (tmp_path / 'b').mkdir()
    hf_weights.save_pretrained(tmp_path / 'b', config, params)
    assert_same_bits(stored(tmp_path / 'b'), before)


KILLED = """
  import os, signal, sys
  from awpo_jax.models import hf_files, hf_weights
  source, target, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
  loaded = hf_weights.load_pretrained(
    source, dtype='float32', param_dtype='float32')
  count = 0
  def counted(function):
    def wrapped(*args, **kwargs):
      global count
      count += 1
      if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
      return function(*args, **kwargs)
    return wrapped
  save = hf_files.safetensors.numpy.save_file
  hf_files.safetensors.numpy.save_file = counted(save)
  hf_files.write_json = counted(hf_files.write_json)
  hf_weights.save_pretrained(target, *loaded, shard_bytes=40_000)
"""


def test_a_killed_save_leaves_nothing_that_looks_whole(tmp_path):
  tensors = write(tmp_path / 'a')
  target = tmp_path / 'b'
  # The second file of weights, and config.json with all weights written: two
  # shards of 40,000 bytes, the index, the config.
  size = sum(x.nbytes for x in tensors.values())
  assert 40_000 < size < 80_000
  for at in (2, 4):
    done = subprocess.run(
      [
        *(sys.executable, '-c', textwrap.dedent(KILLED)),
        *(str(tmp_path / 'a'), str(target), str(at)),
      ],
      check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(FileNotFoundError, match='no folder'):
      load(target)
    [partial] = [x for x in tmp_path.iterdir() if x.name != 'a']
    assert not (partial / 'config.json').exists()
  hf_weights.save_pretrained(target, *load(tmp_path / 'a'))
  assert_same_bits(stored(target), tensors)
  assert sorted(os.listdir(tmp_path)) == ['a', 'b']


PEAK = """
  import json, resource, sys
  from awpo_jax.models import hf_weights
  def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  small, big = sys.argv[1:3]
  settings = {'dtype': 'bfloat16', 'param_dtype': 'bfloat16'}
  hf_weights.load_pretrained(small, **settings)  # What JAX itself takes.
  before = peak()
  loaded = hf_weights.load_pretrained(big, **settings)
  print(json.dumps([before, peak()]))
"""


@pytest.mark.slow
def test_peak_memory_of_loading_a_gigabyte(tmp_path):
  """One copy of the model and little more than one tensor."""
  hf = TIED | {
    'vocab_size': 32_768,
    'hidden_size': 2048,
    'intermediate_size': 6144,
    'num_hidden_layers': 10,
    'num_attention_heads': 16,
    'num_key_value_heads': 8,
    'head_dim': 128,
  }
  write(tmp_path / 'small', TIED, ml_dtypes.bfloat16)
  tensors = write(tmp_path / 'big', hf, ml_dtypes.bfloat16)
  size = sum(x.nbytes for x in tensors.values())
  largest = max(x.nbytes for x in tensors.values())
  assert size > 1e9
  del tensors
  done = subprocess.run(
    [
      *(sys.executable, '-c', textwrap.dedent(PEAK)),
      *(str(tmp_path / 'small'), str(tmp_path / 'big')),
    ],
    check=True,
    capture_output=True,
    text=True,
  )
  before, after = json.loads(done.stdout)
  shutil.rmtree(tmp_path / 'big')
  print(
    f'model {size / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB; '
    f'before {before / 1e6:.0f} MB, peak {after / 1e6:.0f} MB: '
    f'{(after - before) / size:.3f} of the model'
  )
  # A tensor as read and as transposed for the device.
  assert after - before < size + 2 * largest + 50e6
