"""GGUF files that the package `gguf` writes, read back."""

import itertools
import tracemalloc

import numpy as np
import pytest

from awpo_jax.models import config as config_lib
from awpo_jax.models import rope
from awpo_jax.models.formats import gguf_files, hf_weights
from tests.helpers import gguf_writing as made

gguf = made.gguf
FAMILIES = ('llama', 'qwen2', 'qwen3')
KINDS = ('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1')


def _rotated(value, heads):
  """What llama.cpp's converter made of it, undone entry by entry."""
  result, width = np.empty_like(value), len(value) // heads
  for head in range(heads):
    for i in range(width // 2):
      for half in (0, 1):
        result[head * width + half * width // 2 + i] = value[
          head * width + 2 * i + half
        ]
  return result


@pytest.mark.parametrize(
  ('family', 'kind'),
  [
    *itertools.product(FAMILIES, KINDS),
    *(('llama', kind) for kind in made.BLOCKS),
  ],
)
def test_every_number(tmp_path, family, kind):
  file = tmp_path / 'x.gguf'
  values = made.write(file, family, kind)
  config, params = hf_weights.load_pretrained(
    file, dtype='float32', param_dtype='float32'
  )
  assert config.family == family and config.tied
  assert (config.rope_theta, config.norm_eps) == (5e5, 1e-5)
  assert (config.qkv_bias, config.qk_norm) == (
    family == 'qwen2',
    family == 'qwen3',
  )
  block = params['layers_0']
  query, key = (values[f'blk.0.attn_{x}.weight'] for x in 'qk')
  if family == 'llama':
    query, key = _rotated(query, made.HEADS), _rotated(key, made.KEYS)
  for got, want in (
    (params['embed_tokens']['embedding'], values['token_embd.weight']),
    (block['self_attn']['q_proj']['kernel'], query.T),
    (block['self_attn']['k_proj']['kernel'], key.T),
    (block['self_attn']['v_proj']['kernel'], values['blk.0.attn_v.weight'].T),
    (block['mlp']['down_proj']['kernel'], values['blk.0.ffn_down.weight'].T),
  ):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('head', [32, 96])
@pytest.mark.parametrize('family', ['llama', 'qwen3'])
def test_heads_of_a_width_of_their_own(tmp_path, family, head):
  # Qwen3 0.6B has 16 heads of 128 in a width of 1,024.
  assert head != made.WIDTH // made.HEADS
  file = tmp_path / 'x.gguf'
  rotary = {'rope.dimension_count': head}
  values = made.write(file, family, head=head, numbers=rotary)
  config, params = hf_weights.load_pretrained(
    file, dtype='float32', param_dtype='float32'
  )
  assert (config.head_width, config.heads) == (head, made.HEADS)
  attention = params['layers_0']['self_attn']
  query, key = (values[f'blk.0.attn_{x}.weight'] for x in 'qk')
  if family == 'llama':
    query, key = _rotated(query, made.HEADS), _rotated(key, made.KEYS)
  else:
    for x in 'qk':
      np.testing.assert_array_equal(
        attention[f'{x}_norm']['weight'], values[f'blk.0.attn_{x}_norm.weight']
      )
  output = values['blk.0.attn_output.weight']
  for part, want in (('q', query), ('k', key), ('o', output)):
    got = attention[f'{part}_proj']['kernel']
    np.testing.assert_array_equal(got, want.T)


# Of the config.json of Llama 3.1.
LLAMA3 = rope.Scaling(
  'llama3',
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=8192,
)


def _divisors():
  plain, slowed = (
    rope.frequencies(made.HEAD, theta=5e5, scaling=x)
    for x in (rope.Scaling(), LLAMA3)
  )
  return {'rope_freqs.weight': np.float32(plain / slowed)}


def test_llama3_scaling(tmp_path):
  file, divisors = tmp_path / 'x.gguf', _divisors()
  made.write(file, tensors=divisors)
  assert config_lib.load_config(file).rope_scaling == LLAMA3
  other = tmp_path / 'y.gguf'
  divisors['rope_freqs.weight'] = np.linspace(1, 8, made.HEAD // 2, dtype='f4')
  made.write(other, tensors=divisors)
  with pytest.raises(ValueError, match='not the scaling of Llama 3.1'):
    gguf_files.hf_config(other)


def test_other_scalings(tmp_path):
  linear = {'type': 'linear', 'factor': 4.0, 'original_context_length': 32}
  yarn = {
    **linear,
    'type': 'yarn',
    'yarn_beta_fast': 16.0,
    'yarn_beta_slow': 2.0,
  }
  for i, (given, want) in enumerate(
    (
      (linear, rope.Scaling('linear', factor=4.0)),
      (
        yarn,
        rope.Scaling(
          'yarn',
          factor=4.0,
          original_max_position_embeddings=32,
          beta_fast=16.0,
          beta_slow=2.0,
        ),
      ),
    )
  ):
    file = tmp_path / f'{i}.gguf'
    made.write(
      file, data={f'llama.rope.scaling.{x}': y for x, y in given.items()}
    )
    assert config_lib.load_config(file).rope_scaling == want


def test_biases_and_a_head_of_its_own(tmp_path):
  parts = {
    'attn_q': made.HEADS * made.HEAD,
    'attn_k': made.KEYS * made.HEAD,
    'attn_v': made.KEYS * made.HEAD,
    'attn_output': made.WIDTH,
    'ffn_gate': made.INNER,
    'ffn_up': made.INNER,
    'ffn_down': made.WIDTH,
  }
  rng = np.random.default_rng(1)
  biases = {x: rng.normal(size=n).astype(np.float32) for x, n in parts.items()}
  extra = {f'blk.0.{x}.bias': value for x, value in biases.items()}
  extra['output.weight'] = rng.normal(size=(made.VOCAB, made.WIDTH)).astype(
    np.float32
  )
  file = tmp_path / 'x.gguf'
  made.write(file, tensors=extra)
  config, params = hf_weights.load_pretrained(
    file, dtype='float32', param_dtype='float32'
  )
  assert not config.tied
  block = params['layers_0']
  for got, want in (
    (params['lm_head'], extra['output.weight'].T),
    (
      block['self_attn']['q_proj']['bias'],
      _rotated(biases['attn_q'], made.HEADS),
    ),
    (
      block['self_attn']['k_proj']['bias'],
      _rotated(biases['attn_k'], made.KEYS),
    ),
    (block['self_attn']['o_proj']['bias'], biases['attn_output']),
    (block['mlp']['down_proj']['bias'], biases['ffn_down']),
  ):
    np.testing.assert_array_equal(got, want)


def test_a_file_that_has_changed_is_read_again(tmp_path):
  file = tmp_path / 'x.gguf'
  for length in (128, 64):
    made.write(file, numbers={'context_length': length})
    hf = gguf_files.hf_config(file)
    assert hf['max_position_embeddings'] == length
    # As config.json has it, and not the 9.999999747378752e-06 of a float32.
    assert hf['rms_norm_eps'] == 1e-5


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    (
      {'numbers': {'rope.dimension_count': 32}},
      'rope.dimension_count=32 is not the width of a head, 64',
    ),
    (
      {'head': 32, 'numbers': {'attention.value_length': 16}},
      'attention.value_length=16 is not the width of a head, 32',
    ),
    (
      {'numbers': {'attention.head_count': 0}},
      'head_count=0 is not one positive number',
    ),
    (
      {'data': {'llama.attention.head_count_kv': [2, 1]}},
      r'head_count_kv=\[2, 1\] is not one positive number',
    ),
    (
      {'data': {'llama.embedding_length': None}},
      'llama.embedding_length is missing',
    ),
    (
      {'data': {'llama.rope.scaling.type': 'longrope'}},
      "rope.scaling.type='longrope' is not implemented",
    ),
    (
      {
        'data': {'llama.rope.scaling.type': 'yarn'},
        'tensors': {'rope_freqs.weight': np.ones(made.HEAD // 2, np.float32)},
      },
      "'yarn' beside rope_freqs.weight",
    ),
    (
      {'data': {'llama.attention.layer_norm_rms_epsilon': 'x'}},
      "x.gguf: llama.attention.layer_norm_rms_epsilon='x' is not a number",
    ),
    (
      {'data': {'llama.rope.freq_base': [1.0, 2.0]}},
      r'x.gguf: llama.rope.freq_base=\[1.0, 2.0\] is not a number',
    ),
    ({'data': {'split.count': 2}}, 'is one of 2 parts'),
    ({'data': {'split.count': '2'}}, 'is one of 2 parts'),
    ({'endianess': gguf.GGUFEndian.BIG}, 'big-endian'),
  ],
)
def test_what_would_change_the_model(tmp_path, changes, match):
  made.write(tmp_path / 'x.gguf', **changes)
  with pytest.raises(ValueError, match=match):
    gguf_files.hf_config(tmp_path / 'x.gguf')


def test_refusals_name_all(tmp_path):
  file = tmp_path / 'x.gguf'
  made.write(
    file,
    numbers={'expert_count': 8, 'rope.dimension_count': 32},
    data={
      'llama.attention.value_length': 16,
      'llama.context_length': None,
      'llama.rope.scaling.type': 'longrope',
    },
    tensors={'x.weight': np.zeros(4, np.int32)},
  )
  with pytest.raises(ValueError) as raised:
    gguf_files.hf_config(file)
  for named in (
    'x.gguf: llama.attention.value_length=16 is not the width of a head, 64',
    'llama.context_length is missing',
    'llama.expert_count=8 is not implemented',
    'llama.rope.dimension_count=32 is not the width of a head, 64',
    "rope.scaling.type='longrope' is not implemented",
    'quantisation I32 (of x.weight) cannot be read',
  ):
    assert named in str(raised.value)


def test_what_follows_from_a_wrong_number_is_not_told(tmp_path):
  # The widths and the RoPE below are right ones of the file's true numbers.
  file = tmp_path / 'x.gguf'
  for wrong in ('embedding_length', 'rope.freq_base'):
    made.write(
      file,
      numbers={'rope.dimension_count': made.HEAD},
      data={f'llama.{wrong}': 'x'},
      tensors=_divisors(),
    )
    with pytest.raises(ValueError, match=f"{wrong}='x'") as raised:
      gguf_files.hf_config(file)
    assert ';' not in str(raised.value)


def test_an_architecture_that_is_not_implemented(tmp_path):
  writer = gguf.GGUFWriter(tmp_path / 'g.gguf', 'gemma')
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(ValueError, match="architecture='gemma'"):
    gguf_files.hf_config(tmp_path / 'g.gguf')


def test_a_truncated_file(tmp_path):
  file = tmp_path / 'x.gguf'
  made.write(file)
  file.write_bytes(file.read_bytes()[:-5000])
  with pytest.raises(ValueError, match='truncated or corrupt'):
    gguf_files.hf_config(file)


def test_a_quantisation_that_the_package_does_not_know(tmp_path):
  # Nor whether it is one: a file may be newer than the package.
  file = tmp_path / 'x.gguf'
  made.write(file)
  *parts, kind, _ = gguf.GGUFReader(file).tensors[0].field.parts
  start = gguf.GGUFReader(file).tensors[0].field.offset
  start += sum(part.nbytes for part in parts)
  content = bytearray(file.read_bytes())
  content[start : start + kind.nbytes] = (99).to_bytes(kind.nbytes, 'little')
  file.write_bytes(content)
  with pytest.raises(ValueError, match='install -U gguf.*99.*Quantization'):
    gguf_files.hf_config(file)


@pytest.mark.parametrize('family', ['llama', 'qwen2', 'qwen3'])
def test_a_file_without_key_heads_has_one_for_each_query_head(tmp_path, family):
  file = tmp_path / 'x.gguf'
  made.write(file, family, data={f'{family}.attention.head_count_kv': None})
  assert config_lib.load_config(file).kv_heads == made.HEADS


def test_reading_takes_little_more_than_the_result(tmp_path):
  file = tmp_path / 'x.gguf'
  value = np.random.default_rng(0).normal(size=(32768, 256)).astype(np.float16)
  made.write(file, tensors={'x.weight': value})
  tensor = gguf_files.tensors(file)['x.weight']
  tracemalloc.start()
  got = tensor.read()
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  np.testing.assert_array_equal(got, value.astype(np.float32))
  assert got.nbytes <= peak < 1.5 * got.nbytes
