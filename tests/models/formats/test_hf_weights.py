"""Weights in and out: names, bits, dtypes, placement, nothing half saved."""

import json
import os

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from awpo_jax.models import config as config_lib
from awpo_jax.models.formats import hf_weights
from tests.golden import hf_cases
from tests.helpers import hf_folders


class TestLoad:
  def test_names_and_layouts(self, tmp_path):
    tensors = hf_folders.write(tmp_path)
    config, params = hf_folders.load(tmp_path)
    assert config == config_lib.from_hf_dict(hf_folders.UNTIED)
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
    hf_folders.write(tmp_path / 'one')
    hf_folders.write_shards(tmp_path / 'two')
    one, two = (
      hf_folders.load(tmp_path / 'one'),
      hf_folders.load(tmp_path / 'two'),
    )
    assert one[0] == two[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], two[1])

  def test_dtypes(self, tmp_path):
    tensors = hf_folders.write(tmp_path, dtype=ml_dtypes.bfloat16)
    config, params = hf_weights.load_pretrained(
      tmp_path, dtype='bfloat16', param_dtype='float32'
    )
    assert (config.dtype, config.param_dtype) == ('bfloat16', 'float32')
    got = params['norm']['weight']
    assert got.dtype == np.float32
    want = np.float32(tensors['model.norm.weight'])
    np.testing.assert_array_equal(got, want)

  def test_one_sharding_for_all(self, tmp_path):
    hf_folders.write(tmp_path)
    mesh = jax.make_mesh((4,), ('data',))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    where = jax.tree.map(lambda _: sharding, hf_folders.load(tmp_path)[1])
    _, params = hf_folders.load(tmp_path, sharding=where)
    for x in jax.tree.leaves(params):
      assert x.sharding == sharding
    jax.tree.map(
      np.testing.assert_array_equal, params, hf_folders.load(tmp_path)[1]
    )

  def test_a_sharding_for_each(self, tmp_path):
    hf_folders.write(tmp_path)
    mesh = jax.make_mesh((2,), ('model',))
    named = jax.sharding.NamedSharding
    split = named(mesh, jax.sharding.PartitionSpec(None, 'model'))
    whole = named(mesh, jax.sharding.PartitionSpec())
    _, plain = hf_folders.load(tmp_path)
    where = jax.tree.map(lambda x: split if x.ndim == 2 else whole, plain)
    _, params = hf_folders.load(tmp_path, sharding=where)
    kernel = params['layers_0']['mlp']['up_proj']['kernel']
    assert kernel.sharding == split
    assert kernel.addressable_shards[0].data.shape == (32, 20)
    assert params['norm']['weight'].sharding == whole
    jax.tree.map(np.testing.assert_array_equal, params, plain)

  @pytest.mark.parametrize('rows', [40, 4096])
  def test_a_tied_head_that_is_stored(self, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_weights, '_ROWS', rows)
    embedding = hf_folders.tensors_of(hf_folders.TIED)[
      'model.embed_tokens.weight'
    ]
    hf_folders.write(tmp_path, hf_folders.TIED, lm_head__weight=embedding)
    assert 'lm_head' not in hf_folders.load(tmp_path)[1]
    other = embedding.copy()
    other[-1, -1] += 1e-3
    hf_folders.write(tmp_path, hf_folders.TIED, lm_head__weight=other)
    with pytest.raises(ValueError, match='lm_head.weight differs .*false'):
      hf_folders.load(tmp_path)

  @pytest.mark.parametrize('dtype', [np.float32, np.float16])
  def test_old_frequency_buffers(self, dtype, tmp_path):
    # theta = 10^4, C = 6: 1, 10^(-4/3), 10^(-8/3); linear scaling by 2.5.
    name = 'model__layers__1__self_attn__rotary_emb__inv_freq'
    plain = (1e4 ** (-np.arange(3) / 3)).astype(dtype)
    for good in (plain, plain / dtype(2.5)):
      hf_folders.write(tmp_path, **{name: good})
      hf_folders.load(tmp_path)
    for bad in (plain * dtype(1.1), plain[:2]):
      hf_folders.write(tmp_path, **{name: bad})
      with pytest.raises(ValueError, match='inv_freq does not .*rope_theta'):
        hf_folders.load(tmp_path)

  def test_all_that_is_wrong_in_one_error(self, tmp_path):
    hf_folders.write(
      tmp_path,
      model__norm__weight=None,
      model__layers__0__self_attn__q_proj__bias=None,
      model__layers__2__mlp__up_proj__weight=np.zeros((40, 32), np.float32),
      visual__proj=np.zeros(2, np.float32),
      lm_head__weight=np.zeros((95, 32), np.float32),
      model__layers__1__mlp__up_proj__weight=np.zeros((40, 32), np.int8),
    )
    with pytest.raises(ValueError) as caught:
      hf_folders.load(tmp_path)
    assert str(caught.value).splitlines()[1:] == [
      '  missing: model.layers.0.self_attn.q_proj.bias',
      '  missing: model.norm.weight',
      '  model.layers.1.mlp.up_proj.weight is I8; only F64, F32, F16, BF16',
      '  unknown: model.layers.2.mlp.up_proj.weight',
      '  unknown: visual.proj',
      '  wrong shape: lm_head.weight is [95, 32], by config.json [96, 32]',
    ]


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
    tensors = hf_folders.write(tmp_path / 'a', hf_cases.CASES[name], dtype)
    config, params = hf_folders.load(tmp_path / 'a', np.dtype(dtype).name)
    hf_weights.save_pretrained(tmp_path / 'b', config, params)
    hf_folders.assert_same_bits(hf_folders.stored(tmp_path / 'b'), tensors)
    assert (tmp_path / 'b' / 'model.safetensors').is_file()
    hf = json.loads((tmp_path / 'b' / 'config.json').read_text())
    assert hf['dtype'] == np.dtype(dtype).name
    assert (
      config_lib.load_config(tmp_path / 'b', dtype=dtype, param_dtype=dtype)
      == config
    )

  def test_the_dtype_is_that_of_the_parameters(self, tmp_path):
    hf_folders.write(tmp_path / 'a')
    config, params = hf_folders.load(tmp_path / 'a')
    low = jax.tree.map(lambda x: x.astype('bfloat16'), params)
    hf_weights.save_pretrained(tmp_path / 'b', config, low)
    hf = json.loads((tmp_path / 'b' / 'config.json').read_text())
    assert hf['dtype'] == 'bfloat16'

  def test_values_that_are_not_numbers(self, tmp_path):
    # A NaN keeps its payload: nothing computes with what is moved.
    odd = np.array([0x7FC1, 0xFF81, 0x8000, 0x0001] * 8, np.uint16)
    odd = odd.view(ml_dtypes.bfloat16)
    tensors = hf_folders.write(
      tmp_path / 'a', dtype=ml_dtypes.bfloat16, model__norm__weight=odd
    )
    hf_weights.save_pretrained(
      tmp_path / 'b', *hf_folders.load(tmp_path / 'a', 'bfloat16')
    )
    hf_folders.assert_same_bits(hf_folders.stored(tmp_path / 'b'), tensors)

  def test_shards(self, tmp_path):
    tensors = hf_folders.write(tmp_path / 'a')
    config, params = hf_folders.load(tmp_path / 'a')
    hf_weights.save_pretrained(
      tmp_path / 'b', config, params, shard_bytes=12_000
    )
    folder = tmp_path / 'b'
    hf_folders.assert_same_bits(hf_folders.stored(folder), tensors)
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
    jax.tree.map(
      np.testing.assert_array_equal, hf_folders.load(folder)[1], params
    )

  def test_sharded_parameters(self, tmp_path):
    tensors = hf_folders.write(tmp_path / 'a')
    mesh = jax.make_mesh((2,), ('model',))
    spec = jax.sharding.PartitionSpec('model')
    split = jax.sharding.NamedSharding(mesh, spec)
    where = jax.tree.map(lambda _: split, hf_folders.load(tmp_path / 'a')[1])
    config, params = hf_folders.load(tmp_path / 'a', sharding=where)
    hf_weights.save_pretrained(tmp_path / 'b', config, params)
    hf_folders.assert_same_bits(hf_folders.stored(tmp_path / 'b'), tensors)

  def test_a_tokenizer_and_its_ids(self, tmp_path):
    hf_folders.write(tmp_path / 'a')
    config, params = hf_folders.load(tmp_path / 'a')
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
    hf_folders.write(tmp_path / 'a')
    config, params = hf_folders.load(tmp_path / 'a')
    with pytest.raises(ValueError, match='has 97 tokens, the embedding 96'):
      hf_weights.save_pretrained(tmp_path / 'b', config, params, Tokenizer(97))
    assert os.listdir(tmp_path) == ['a']

  def test_parameters_of_another_model(self, tmp_path):
    hf_folders.write(tmp_path / 'a')
    config, params = hf_folders.load(tmp_path / 'a')
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
    hf_folders.write(tmp_path / 'a')
    before = hf_folders.stored(tmp_path / 'a')
    config, params = hf_folders.load(tmp_path / 'a')
    with pytest.raises(FileExistsError, match='not empty: remove it'):
      hf_weights.save_pretrained(tmp_path / 'a', config, params)
    hf_folders.assert_same_bits(hf_folders.stored(tmp_path / 'a'), before)
    (tmp_path / 'b').mkdir()
    hf_weights.save_pretrained(tmp_path / 'b', config, params)
    hf_folders.assert_same_bits(hf_folders.stored(tmp_path / 'b'), before)
