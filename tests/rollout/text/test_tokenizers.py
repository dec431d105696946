"""The tokenizer loses nothing, is reproducible and renders ChatML."""

import pytest

from awpo_jax.rollout.text import tokenizers

TEXTS = [
  'Find the weather in Oslo on 2024-05-17.',
  '<think> I should call get_weather. </think>\n<tool_call>\n',
  '{"name": "get_weather", "parameters": {"city": "Oslo"}}',
] * 3
HARD_TEXTS = [
  '',
  '   leading and trailing   ',
  "it 's a test , isn 't it ?",  # clean-up would close these gaps
  'tabs\tand\r\nlines\n\n\n  end',
  'e\u0301 is not \u00e9, \ufb01 is not fi',  # no normalisation
  '\U0001f600 \u4e2d\u6587 \u0627\u0644 \u0000 \u200b \ufeff',
  '<think> 12345 </think><|im_end|><|endoftext|> x',
]


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.train_tokenizer(TEXTS, vocab_size=310)


@pytest.mark.parametrize('text', HARD_TEXTS)
def test_decoding_gives_the_text_back(tokenizer, text):
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_splits_words_numbers_and_punctuation(tokenizer):
  # However often a long number occurs, no token holds more than two digits.
  digits = tokenizer.convert_ids_to_tokens(tokenizer.encode('90210'))
  assert ''.join(digits) == '90210'
  assert len(digits) >= 3 and max(map(len, digits)) <= 2
  pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(
    'I am at 10  Main_St.\n\n{"a": {"b": 3.25}} OK'
  )
  # 'Ġ' and 'Ċ' are how byte-level BPE writes a space and a line end.
  assert [piece for piece, _ in pieces] == [
    *('IĠ', 'amĠ', 'atĠ', '10', 'Ġ', 'Ġ', 'Main', '_St', '.ĊĊ'),
    *('{"', 'a', '":Ġ{"', 'b', '":Ġ', '3', '.25', '}}Ġ', 'OK'),
  ]


def test_a_value_has_the_same_tokens_wherever_it_stands():
  text = 'in Port Alden on 2026-03-05. {"city": "Port Alden"}, Port Alden'
  tokenizer = tokenizers.train_tokenizer([text] * 9, vocab_size=400)
  spoken, quoted, listed = (
    tokenizer.encode(text)
    for text in ('Port Alden', '"Port Alden"', ', Port Alden')
  )
  assert spoken == quoted[1:-1] == listed[1:]
  assert len(spoken) == 2


def test_layout_is_tokens_and_text(tokenizer):
  text = '<think> a </think>\n<tool_call>\n</tool_call><user> b </user>'
  tokens = tokenizer.encode(text)
  # Longer ones first: a tag with its space or line end, if they are there.
  for tag in ('<think> ', ' </think>\n', '<tool_call>\n', ' </user>'):
    assert tokens.count(tokenizer.convert_tokens_to_ids(tag)) == 1
  assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_learns_frequent_words_and_stops_at_the_size():
  small = tokenizers.train_tokenizer(['Oslo'] * 9, vocab_size=1000)
  # 289 and the merges of one word of four letters: three of them.
  assert len(small) == 292
  assert len(small.encode('Oslo')) == 1
  assert len(tokenizers.train_tokenizer(TEXTS, vocab_size=300)) == 300
  with pytest.raises(ValueError, match='vocab_size 288: at least 289'):
    tokenizers.train_tokenizer(TEXTS, vocab_size=288)


def test_training_is_deterministic(tokenizer):
  again = tokenizers.train_tokenizer(iter(TEXTS), vocab_size=310)
  assert again.backend_tokenizer.to_str() == (
    tokenizer.backend_tokenizer.to_str()
  )


def test_chat_template(tokenizer):
  messages = [
    {'role': 'system', 'content': 'S'},
    {'role': 'user', 'content': ' u\n'},
    {'role': 'assistant', 'content': 'a'},
    {'role': 'tool', 'content': 't'},
  ]

  def render(messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)

  turns = (
    '<|im_start|>user\n u\n<|im_end|>\n'
    '<|im_start|>assistant\na<|im_end|>\n<|im_start|>tool\nt<|im_end|>\n'
  )
  assert render(messages) == f'<|im_start|>system\nS<|im_end|>\n{turns}'
  tools = [{'name': 'f'}, {'name': 'g'}]
  listed = '# Tools\n{"name": "f"}\n{"name": "g"}\n<|im_end|>\n'
  assert render(messages, tools=tools, add_generation_prompt=True) == (
    f'<|im_start|>system\nS\n\n{listed}{turns}<|im_start|>assistant\n'
  )
  assert render(messages[1:], tools=tools) == (
    f'<|im_start|>system\n{listed}{turns}'
  )
  with pytest.raises(Exception, match='unknown role critic'):
    render([{'role': 'critic', 'content': ''}])


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
  tokenizers.save_tokenizer(tokenizer, tmp_path)
  loaded = tokenizers.load_tokenizer(tmp_path)
  assert loaded.get_vocab() == tokenizer.get_vocab()
  assert loaded.chat_template == tokenizer.chat_template
  assert (loaded.pad_token, loaded.eos_token) == ('<|endoftext|>', '<|im_end|>')
  assert loaded.clean_up_tokenization_spaces is False
  for text in HARD_TEXTS:
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text


def test_what_is_no_tokenizer_is_refused(tokenizer, tmp_path):
  with pytest.raises(ValueError, match=r'no tokenizer at .*tokenizer\.json'):
    tokenizers.load_tokenizer(tmp_path)
  tokenizer = tokenizers.train_tokenizer(TEXTS, vocab_size=289)
  tokenizer.chat_template = None
  tokenizers.save_tokenizer(tokenizer, tmp_path)
  with pytest.raises(ValueError, match='has no chat template'):
    tokenizers.load_tokenizer(tmp_path)


def test_stop_token_ids():
  # Ids of the special tokens: padding 0, start of turn 1, end of turn 2.
  tokenizer = tokenizers.train_tokenizer(TEXTS, vocab_size=289)
  assert tokenizers.stop_token_ids(tokenizer) == (2,)
  assert tokenizers.stop_token_ids(tokenizer, [0, 2]) == (2, 0)
  # A base model ends its texts otherwise than its template ends a turn.
  tokenizer.eos_token = '<|endoftext|>'
  assert tokenizers.stop_token_ids(tokenizer) == (2, 0)
  for extra in (289, -1):
    with pytest.raises(ValueError, match='is no token'):
      tokenizers.stop_token_ids(tokenizer, [extra])
