"""Tokenizers of GGUF files, by hand from how llama.cpp splits and merges."""

import pytest

from awpo_jax.rollout.text import gguf_tokenizers, tokenizers
from tests.helpers import gguf_writing


@pytest.mark.parametrize(
  ('data', 'match'),
  [
    ({'model': 'llama'}, "model='llama' is not implemented, only 'gpt2'"),
    ({'pre': 'nobody'}, "pre='nobody' is not implemented; known: deepseek"),
    ({'merges': None}, 'lacks tokenizer.ggml.merges'),
    ({'merges': ['a zz']}, 'merges does not fit .*`zz` out of vocabulary'),
    ({'token_type': [1, 1]}, '261 tokenizer.ggml.tokens, but 2'),
    ({'tokens': ['a'] * 261}, 'a token twice'),
    ({'pre': ['smollm']}, r"pre=\['smollm'\] is not implemented; known"),
    ({'eos_token_id': 'x'}, "eos_token_id='x' is no token"),
    ({'bos_token_id': [1, 2]}, r'bos_token_id=\[1, 2\] is no token'),
    ({'eot_token_id': 'x'}, "eot_token_id='x' is no token"),
  ],
)
def test_what_would_change_the_tokenizer(tmp_path, data, match):
  data = {f'tokenizer.ggml.{x}': y for x, y in data.items()}
  gguf_writing.write(tmp_path / 'x.gguf', data=data)
  with pytest.raises(ValueError, match=match):
    tokenizers.load_tokenizer(tmp_path / 'x.gguf')


def test_tokenizer_and_stop_tokens(tmp_path):
  file = tmp_path / 'x.gguf'
  gguf_writing.write(file)
  tokenizer = tokenizers.load_tokenizer(file)
  assert len(tokenizer) == 260  # Without the padding token.
  assert tokenizer.tokenize('ab12<s>') == ['ab', '1', '2', '<s>']
  assert tokenizer.chat_template == gguf_writing.TEMPLATE
  assert tokenizers.read_generation_config(file) == {'eos_token_id': 259}
  # Of Llama 3 one ends a text, one a turn, one a call; each is named once.
  others = {'eot_token_id': 257, 'eom_token_id': 259}
  gguf_writing.write(
    file, data={f'tokenizer.ggml.{x}': y for x, y in others.items()}
  )
  stops = tokenizers.read_generation_config(file)
  assert stops == {'eos_token_id': [259, 257]}


def test_what_a_file_says_of_its_tokens(tmp_path):
  file = tmp_path / 'x.gguf'
  # `abc` is found in a text before it is split, and is no special token.
  kinds = [1] * 257 + [4, 3, 3, 5]
  for pre, bos in (('llama-bpe', False), ('smollm', True)):
    data = {'token_type': kinds, 'add_bos_token': bos}
    gguf_writing.write(
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
  gguf_writing.write(file, pre=pre)
  tokenizer = tokenizers.load_tokenizer(file)
  got = tokenizer.decode(tokenizer.encode('e\u0301', add_special_tokens=False))
  assert got == ('\u00e9' if pre == 'qwen2' else 'e\u0301')


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
  gguf_writing.write(file, pre=pre)
  tokenizer = tokenizers.load_tokenizer(file)
  split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)
  assert [TEXT[start:end] for _, (start, end) in split] == words.split('|')
  # Words that are tokens stay whole, and a text begins with <s>, or neither.
  want = ['<s>', 'abc'] if whole else ['ab', 'c']
  assert tokenizer.convert_ids_to_tokens(tokenizer.encode('abc')) == want


def test_every_pre_tokenizer_is_tested():
  (mark,) = [x for x in test_words.pytestmark if x.name == 'parametrize']
  assert {x[0] for x in mark.args[1]} == set(gguf_tokenizers.PRE)
