"""Tokens of GGUF files are those of llama.cpp itself, by its server.

It is that of the package `xllamacpp`, which needs no compiler.
"""

import json
import urllib.request

import pytest

from awpo_jax.models.formats import gguf_files
from awpo_jax.rollout.text import gguf_tokenizers, tokenizers
from tests.golden import make_smollm2
from tests.helpers import gguf_writing as made

xllamacpp = pytest.importorskip('xllamacpp', reason='pip install xllamacpp')
try:
  SMOLLM2 = gguf_files.find('smollm2')
except FileNotFoundError as error:
  pytest.skip(str(error), allow_module_level=True)
pytestmark = pytest.mark.slow

TEXTS = (
  make_smollm2.TEXT,
  "I'LL pay 12345, HttpXML's  ok\n\nz, they'RE 'there'; we've 'Ve it's'S",
  'tabs\t\tand \t mixed   \r\n\r\n  lines\n \n\tend   ',
  'a/b//c://d...\n/e\r\n//f!!!\n\n\n???  ()[]{}<>-+=_*&^%$#@~`|',
  'camelCaseWORDSAndHTTPServerIDs zéro étéX ひらがな漢字 한국어',
  '1 12 123 1234 12345 123456 3.14 1e-9 ٣٤٥ ²³ Ⅻ ½ x1y22z333 007',
  '🙂👩‍🚀🇳🇴 \u200b zero\u00a0width\u3000wide\u2028line\u0085next',
  '<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n',
)
CAPITALS = 'ÀÉÎ éàÜß ǅ ʰ aΩmega ЖукЖУК'
COMBINED = 'e\u0301 n\u0303o \u0915\u094d\u0937 \u0645\u064f'


def _ids(file, texts):
  """What llama.cpp makes of each text, and of `ab` with what it adds."""
  params = xllamacpp.CommonParams()
  params.model.path = str(file)
  params.n_ctx, params.warmup = 64, False
  server = xllamacpp.Server(params)

  def tokenize(text, **flags):
    request = urllib.request.Request(
      f'{server.listening_address}/tokenize',
      json.dumps({'content': text, **flags}).encode(),
      {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
      return json.load(reply)['tokens']

  return [tokenize(x) for x in texts], tokenize('ab', add_special=True)


def _assert_alike(file, texts):
  tokenizer = tokenizers.load_tokenizer(file)
  wanted, begun = _ids(file, texts)
  for text, want in zip(texts, wanted, strict=True):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == (
      tokenizer.convert_ids_to_tokens(want)
    ), text
  assert tokenizer.encode('ab') == begun


def test_smollm2():
  _assert_alike(SMOLLM2, (*TEXTS, CAPITALS, COMBINED))


def _words():
  """Metadata of a vocabulary whose tokens go over every boundary of words.

  With that of a model a wrong split would often not show: it has no token that
  reaches from one of its words into the next.
  """
  hf = tokenizers.hf_tokenizers
  model = hf.Tokenizer(hf.models.BPE())
  model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
  trainer = hf.trainers.BpeTrainer(
    vocab_size=900, initial_alphabet=alphabet, show_progress=False
  )
  model.train_from_iterator((*TEXTS[:-1], CAPITALS, COMBINED), trainer)
  made_of = json.loads(model.to_str())['model']
  tokens = sorted(made_of['vocab'], key=made_of['vocab'].get)
  special = ['<s>', '</s>', '<|im_start|>', '<|im_end|>']
  values = {
    'tokens': tokens + special,
    'token_type': [1] * len(tokens) + [3] * len(special),
    'merges': [' '.join(pair) for pair in made_of['merges']],
    'bos_token_id': len(tokens),
    'eos_token_id': len(tokens) + 1,
  }
  return {f'tokenizer.ggml.{key}': value for key, value in values.items()}


@pytest.mark.parametrize('pre', list(gguf_tokenizers.PRE))
def test_every_way_to_split(tmp_path, pre):
  file = tmp_path / 'x.gguf'
  made.write(file, pre=pre, data=_words())
  # Where llama.cpp is not the model's own tokenizer, which is followed here:
  # Qwen2's composes letters, and Tekken knows marks, and capitals beyond ASCII.
  left_out = {'qwen2': (COMBINED,), 'tekken': (CAPITALS, COMBINED)}.get(pre, ())
  texts = [x for x in (*TEXTS, CAPITALS, COMBINED) if x not in left_out]
  _assert_alike(file, texts)
