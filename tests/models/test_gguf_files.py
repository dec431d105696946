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
  order = changes.pop('endianess', gguf.GGUFEndian.LITTLE)
  writer = gguf.GGUFWriter(path, family, endianess=order)
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
  for key, value in changes.pop('data', {}).items():
    writer.kv_data[0].pop(key, None)
    if value is not None:
      add = {
        bool: writer.add_bool,
        float: writer.add_float32,
        int: writer.add_uint32,
        list: writer.add_array,
        str: writer.add_string,
      }[type(value)]
      add(key, value)
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
    write(file, data={f'llama.rope.scaling.{x}': y for x, y in given.items()})
    assert config_lib.load_config(file).rope_scaling == want


def test_biases_and_a_head_of_its_own(tmp_path):
  parts = {
    'attn_q': HEADS * HEAD,
    'attn_k': KEYS * HEAD,
    'attn_v': KEYS * HEAD,
    'attn_output': WIDTH,
    'ffn_gate': INNER,
    'ffn_up': INNER,
    'ffn_down': WIDTH,
  }
  rng = np.random.default_rng(1)
  biases = {x: rng.normal(size=n).astype(np.float32) for x, n in parts.items()}
  extra = {f'blk.0.{x}.bias': value for x, value in biases.items()}
  extra['output.weight'] = rng.normal(size=(VOCAB, WIDTH)).astype(np.float32)
  file = tmp_path / 'x.gguf'
  write(file, tensors=extra)
  config, params = hf_weights.load_pretrained(
    file, dtype='float32', param_dtype='float32'
  )
  assert not config.tied
  block = params['layers_0']
  for got, want in (
    (params['lm_head'], extra['output.weight'].T),
    (block['self_attn']['q_proj']['bias'], _rotated(biases['attn_q'], HEADS)),
    (block['self_attn']['k_proj']['bias'], _rotated(biases['attn_k'], KEYS)),
    (block['self_attn']['o_proj']['bias'], biases['attn_output']),
    (block['mlp']['down_proj']['bias'], biases['ffn_down']),
  ):
    np.testing.assert_array_equal(got, want)


def test_a_file_that_has_changed_is_read_again(tmp_path):
  file = tmp_path / 'x.gguf'
  for length in (128, 64):
    write(file, numbers={'context_length': length})
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
        'tensors': {'rope_freqs.weight': np.ones(HEAD // 2, np.float32)},
      },
      "'yarn' beside rope_freqs.weight",
    ),
    ({'data': {'split.count': 2}}, 'is one of 2 parts'),
    ({'endianess': gguf.GGUFEndian.BIG}, 'big-endian'),
  ],
)
def test_what_would_change_the_model(tmp_path, changes, match):
  write(tmp_path / 'x.gguf', **changes)
  with pytest.raises(ValueError, match=match):
    gguf_files.hf_config(tmp_path / 'x.gguf')


@pytest.mark.parametrize(
  ('data', 'match'),
  [
    ({'model': 'llama'}, "model='llama' is not implemented, only 'gpt2'"),
    ({'merges': None}, 'lacks tokenizer.ggml.merges'),
    ({'merges': ['a zz']}, 'merges does not fit .*`zz` out of vocabulary'),
    ({'token_type': [1, 1]}, '261 tokenizer.ggml.tokens, but 2'),
    ({'tokens': ['a'] * 261}, 'a token twice'),
  ],
)
def test_what_would_change_the_tokenizer(tmp_path, data, match):
  data = {f'tokenizer.ggml.{x}': y for x, y in data.items()}
  write(tmp_path / 'x.gguf', data=data)
  with pytest.raises(ValueError, match=match):
    tokenizers.load_tokenizer(tmp_path / 'x.gguf')


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
  assert tokenizer.chat_template == TEMPLATE
  assert tokenizers.read_generation_config(file) == {'eos_token_id': 259}
  # Of Llama 3 one ends a text, one a turn, one a call; each is named once.
  others = {'eot_token_id': 257, 'eom_token_id': 259}
  write(file, data={f'tokenizer.ggml.{x}': y for x, y in others.items()})
  stops = tokenizers.read_generation_config(file)
  assert stops == {'eos_token_id': [259, 257]}


def test_what_a_file_says_of_its_tokens(tmp_path):
  file = tmp_path / 'x.gguf'
  # `abc` is found in a text before it is split, and is no special token.
  kinds = [1] * 257 + [4, 3, 3, 5]
  for pre, bos in (('llama-bpe', False), ('smollm', True)):
    data = {'token_type': kinds, 'add_bos_token': bos}
    write(
      file, pre=pre, data={f'tokenizer.ggml.{x}': y for x, y in data.items()}
    )
    tokenizer = tokenizers.load_tokenizer(file)
    ids = tokenizer.encode('zabcz')
    want = ['<s>'] * bos + ['z', 'abc', 'z']
    assert tokenizer.convert_ids_to_tokens(ids) == want
    assert tokenizer.decode(ids, skip_special_tokens=True) == 'zabcz'


@pytest.mark.parametrize('pre', list(gguf_tokenizers.PRE))
def test_only_qwen2_composes_letters(tmp_path, pre):
  file = tmp_path / 'x.gguf'
  write(file, pre=pre)
  tokenizer = tokenizers.load_tokenizer(file)
  got = tokenizer.decode(tokenizer.encode('e\u0301', add_special_tokens=False))
  assert got == ('\u00e9' if pre == 'qwen2' else 'e\u0301')


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
