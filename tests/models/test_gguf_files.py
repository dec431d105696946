"""GGUF files that the package `gguf` writes, read back."""

import tracemalloc

import numpy as np
import pytest

from awpo_jax.models import config as config_lib
from awpo_jax.models import gguf_files, hf_weights, rope
from awpo_jax.rollout.text import gguf_tokenizers, tokenizers

gguf = pytest.importorskip('gguf', reason='pip install gguf')

HEADS, KEYS, HEAD, WIDTH, INNER, VOCAB = 4, 2, 64, 256, 256, 261
KINDS = ('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1')
TEMPLATE = (
  '{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}'
  '{% if add_generation_prompt %}<s>{% endif %}'
)


def _shapes(family):
  shapes = {
    'token_embd.weight': (VOCAB, WIDTH),
    'output_norm.weight': (WIDTH,),
    'blk.0.attn_norm.weight': (WIDTH,),
    'blk.0.ffn_norm.weight': (WIDTH,),
    'blk.0.attn_q.weight': (HEADS * HEAD, WIDTH),
    'blk.0.attn_k.weight': (KEYS * HEAD, WIDTH),
    'blk.0.attn_v.weight': (KEYS * HEAD, WIDTH),
    'blk.0.attn_output.weight': (WIDTH, HEADS * HEAD),
    'blk.0.ffn_gate.weight': (INNER, WIDTH),
    'blk.0.ffn_up.weight': (INNER, WIDTH),
    'blk.0.ffn_down.weight': (WIDTH, INNER),
  }
  if family == 'qwen2':
    for part, heads in (('q', HEADS), ('k', KEYS), ('v', KEYS)):
      shapes[f'blk.0.attn_{part}.bias'] = (heads * HEAD,)
  if family == 'qwen3':
    shapes |= {f'blk.0.attn_{x}_norm.weight': (HEAD,) for x in 'qk'}
  return shapes


def write(path, family='llama', kind='F32', pre='smollm', **changes):
  """A file of one layer; returns the values that its tensors stand for."""
  writer = gguf.GGUFWriter(path, family)
  numbers = {
    'block_count': 1,
    'context_length': 128,
    'embedding_length': WIDTH,
    'feed_forward_length': INNER,
    'attention.head_count': HEADS,
    'attention.head_count_kv': KEYS,
    **changes.pop('numbers', {}),
  }
  for key, value in numbers.items():
    writer.add_uint32(f'{family}.{key}', value)
  writer.add_float32(f'{family}.attention.layer_norm_rms_epsilon', 1e-5)
  writer.add_float32(f'{family}.rope.freq_base', 5e5)
  bytes_ = tokenizers.hf_tokenizers.pre_tokenizers.ByteLevel.alphabet()
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre(pre)
  writer.add_token_list([*sorted(bytes_), 'ab', 'abc', '<s>', '</s>', '[PAD]'])
  writer.add_token_types([1] * 258 + [3, 3, 5])
  writer.add_token_merges(['a b'])
  writer.add_bos_token_id(258)
  writer.add_eos_token_id(259)
  writer.add_chat_template(TEMPLATE)
  rng, values = np.random.default_rng(0), {}
  extra = changes.pop('tensors', {})
  for name, shape in _shapes(family).items():
    value = rng.normal(size=shape).astype(np.float32)
    used = gguf.GGMLQuantizationType[kind if len(shape) == 2 else 'F32']
    data = gguf.quants.quantize(value, used)
    values[name] = gguf.quants.dequantize(data, used)
    writer.add_tensor(name, data, raw_dtype=used)
  for name, value in extra.items():
    writer.add_tensor(name, value)
  assert not changes
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return values


def _rotated(value, heads):
  """What llama.cpp's converter made of it, undone entry by entry."""
  result = np.empty_like(value)
  for head in range(heads):
    for i in range(HEAD // 2):
      for half in (0, 1):
        result[head * HEAD + half * HEAD // 2 + i] = value[
          head * HEAD + 2 * i + half
        ]
  return result


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('family', ['llama', 'qwen2', 'qwen3'])
def test_every_number(tmp_path, family, kind):
  file = tmp_path / 'x.gguf'
  values = write(file, family, kind)
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
    query, key = _rotated(query, HEADS), _rotated(key, KEYS)
  for got, want in (
    (params['embed_tokens']['embedding'], values['token_embd.weight']),
    (block['self_attn']['q_proj']['kernel'], query.T),
    (block['self_attn']['k_proj']['kernel'], key.T),
    (block['self_attn']['v_proj']['kernel'], values['blk.0.attn_v.weight'].T),
    (block['mlp']['down_proj']['kernel'], values['blk.0.ffn_down.weight'].T),
  ):
    np.testing.assert_array_equal(got, want)


def test_llama3_scaling(tmp_path):
  # Of the config.json of Llama 3.1.
  scaling = rope.Scaling(
    'llama3',
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
  )
  plain, slowed = (
    rope.frequencies(HEAD, theta=5e5, scaling=x)
    for x in (rope.Scaling(), scaling)
  )
  divisors = {'rope_freqs.weight': np.float32(plain / slowed)}
  file = tmp_path / 'x.gguf'
  write(file, tensors=divisors)
  assert config_lib.load_config(file).rope_scaling == scaling
  other = tmp_path / 'y.gguf'
  divisors['rope_freqs.weight'] = np.linspace(1, 8, HEAD // 2, dtype='f4')
  write(other, tensors=divisors)
  with pytest.raises(ValueError, match='not the scaling of Llama 3.1'):
    gguf_files.hf_config(other)


def test_refusals_name_all(tmp_path):
  file = tmp_path / 'x.gguf'
  write(file, numbers={'expert_count': 8, 'rope.dimension_count': 32})
  with pytest.raises(ValueError, match='expert_count=8'):
    gguf_files.hf_config(file)
  write(tmp_path / 'y.gguf', tensors={'x.weight': np.zeros(4, np.int32)})
  with pytest.raises(ValueError, match='quantisation I32'):
    gguf_files.hf_config(tmp_path / 'y.gguf')
  write(tmp_path / 'z.gguf', pre='nobody')
  with pytest.raises(ValueError, match="pre='nobody' is not implemented"):
    tokenizers.load_tokenizer(tmp_path / 'z.gguf')
  writer = gguf.GGUFWriter(tmp_path / 'g.gguf', 'gemma')
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(ValueError, match="architecture='gemma'"):
    gguf_files.hf_config(tmp_path / 'g.gguf')


def test_a_truncated_file(tmp_path):
  file = tmp_path / 'x.gguf'
  write(file)
  file.write_bytes(file.read_bytes()[:-5000])
  with pytest.raises(ValueError, match='truncated or corrupt'):
    gguf_files.hf_config(file)


def test_tokenizer_and_stop_tokens(tmp_path):
  file = tmp_path / 'x.gguf'
  write(file)
  tokenizer = tokenizers.load_tokenizer(file)
  assert len(tokenizer) == 260  # Without the padding token.
  assert tokenizer.tokenize('ab12<s>') == ['ab', '1', '2', '<s>']
  assert tokenizers.read_generation_config(file) == {'eos_token_id': 259}


def test_reading_takes_little_more_than_the_result(tmp_path):
  file = tmp_path / 'x.gguf'
  value = np.random.default_rng(0).normal(size=(32768, 256)).astype(np.float16)
  write(file, tensors={'x.weight': value})
  tensor = gguf_files.tensors(file)['x.weight']
  tracemalloc.start()
  got = tensor.read()
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  np.testing.assert_array_equal(got, value.astype(np.float32))
  assert got.nbytes <= peak < 1.5 * got.nbytes


# By hand from the expressions of llama.cpp's `llm_tokenizer_bpe`.
TEXT = "I'LL pay 12345, HttpXML's  ok\n\nz"
GPT2 = "I|'|LL| pay| 12345|,| HttpXML|'s| | ok|\n|\n|z"
DIGITS = "I|'|LL| pay| |1|2|3|4|5|,| HttpXML|'s| | ok|\n|\n|z"
QWEN2 = "I|'LL| pay| |1|2|3|4|5|,| HttpXML|'s| | ok|\n\n|z"
LLAMA3 = "I|'LL| pay| |123|45|,| HttpXML|'s| | ok|\n\n|z"
TEKKEN = "I|'LL| pay| |1|2|3|4|5|,| Http|XML|'s| | ok|\n\n|z"


@pytest.mark.parametrize(
  ('pre', 'words', 'whole'),
  [
    ('gpt-2', GPT2, False),
    *((x, DIGITS, False) for x in ('refact', 'smollm', 'starcoder')),
    *((x, QWEN2, False) for x in ('deepseek-r1-qwen', 'qwen2')),
    *((x, LLAMA3, True) for x in ('llama-bpe', 'llama-v3', 'llama3')),
    ('tekken', TEKKEN, True),
  ],
)
def test_words(tmp_path, pre, words, whole):
  file = tmp_path / 'x.gguf'
  write(file, pre=pre)
  tokenizer = tokenizers.load_tokenizer(file)
  split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)
  assert [TEXT[start:end] for _, (start, end) in split] == words.split('|')
  # Words that are tokens stay whole, and a text begins with <s>, or neither.
  want = ['<s>', 'abc'] if whole else ['ab', 'c']
  assert tokenizer.convert_ids_to_tokens(tokenizer.encode('abc')) == want


def test_every_pre_tokenizer_is_tested():
  (mark,) = [x for x in test_words.pytestmark if x.name == 'parametrize']
  assert {x[0] for x in mark.args[1]} == set(gguf_tokenizers.PRE)
