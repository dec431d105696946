"""The tokenizer in a GGUF file: byte-level BPE as its model was trained with.

A file names how text is split before merging (`tokenizer.ggml.pre`), and not
by which expression: these are those of the models' own `tokenizer.json`.
"""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from awpo_jax.models.formats import gguf_files

if TYPE_CHECKING:
  import transformers

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
_LLAMA3 = rf'{_WORDS}|\p{{N}}{{1,3}}|{_REST}'
_QWEN2 = rf'{_WORDS}|\p{{N}}|{_REST}'
_TEKKEN = (
  r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*'
  r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]+'
  r'|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+'
  r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]*'
  r'|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


class _Pre(NamedTuple):
  """What happens before merging.

  Attributes:
    split: an expression whose matches are the words; '' for GPT-2's.
    digits: each digit is a word, before all else.
    nfc: text is brought into Unicode's normal form C.
    whole: a word that is a token is not merged.
    bos: a text begins with the first token, unless the file says otherwise.
  """

  split: str = ''
  digits: bool = False
  nfc: bool = False
  whole: bool = False
  bos: bool = False


_DIGITS = _Pre(digits=True)
_LLAMA = _Pre(_LLAMA3, whole=True, bos=True)
PRE: Mapping[str, _Pre] = {
  'deepseek-r1-qwen': _Pre(_QWEN2),
  'gpt-2': _Pre(),
  'llama-bpe': _LLAMA,
  'llama-v3': _LLAMA,
  'llama3': _LLAMA,
  'qwen2': _Pre(_QWEN2, nfc=True),
  'refact': _DIGITS,
  'smollm': _DIGITS,
  'starcoder': _DIGITS,
  'tekken': _Pre(_TEKKEN, whole=True, bos=True),
}
"""Values of `tokenizer.ggml.pre` that are read."""

# Of llama.cpp's `llama_token_type`.
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5


def load(file: pathlib.Path) -> 'transformers.PreTrainedTokenizerFast':
  """The tokenizer of a GGUF file, with its chat template if it has one.

  Raises:
    ValueError: the file cannot be read, or its tokenizer is none of these.
  """
  import transformers

  data = gguf_files.metadata(file)
  pre = _pre(file, data)
  vocab = _vocab(file, data)
  model = tokenizers.Tokenizer(_bpe(file, data, vocab, pre))
  if pre.nfc:
    model.normalizer = normalizers.NFC()
  model.pre_tokenizer = _pre_tokenizer(pre)
  model.decoder = decoders.ByteLevel()
  _add_tokens(model, vocab, data)
  roles = _roles(file, data, vocab)
  bos = roles.get('bos_token')
  if bos and data.get('tokenizer.ggml.add_bos_token', pre.bos):
    model.post_processor = processors.TemplateProcessing(
      single=f'{bos} $A',
      pair=f'{bos} $A {bos} $B',
      special_tokens=[(bos, vocab.index(bos))],
    )
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    chat_template=data.get('tokenizer.chat_template'),
    clean_up_tokenization_spaces=False,
    padding_side='left',
    **roles,
  )


def _pre(file: pathlib.Path, data: Mapping[str, Any]) -> _Pre:
  kind, name = (data.get(f'tokenizer.ggml.{x}') for x in ('model', 'pre'))
  remedy = (
    'name the folder of its own tokenizer with --tokenizer, or use the Hugging '
    'Face folder of this model'
  )
  if kind != 'gpt2':
    raise ValueError(
      f'{file}: tokenizer.ggml.model={kind!r} is not implemented, only '
      f"'gpt2', which is byte-level BPE: {remedy}."
    )
  if not isinstance(name, str) or name not in PRE:
    raise ValueError(
      f'{file}: tokenizer.ggml.pre={name!r} is not implemented; known: '
      f'{", ".join(PRE)}. Otherwise {remedy}.'
    )
  absent = [
    f'tokenizer.ggml.{key}'
    for key in ('tokens', 'token_type', 'merges')
    if f'tokenizer.ggml.{key}' not in data
  ]
  if absent:
    raise ValueError(f'{file} lacks {", ".join(absent)}: {remedy}.')
  return PRE[name]


def _vocab(file: pathlib.Path, data: Mapping[str, Any]) -> list[str]:
  """Tokens in the order of their ids, without the padding at the end."""
  tokens, kinds = (
    list(data[f'tokenizer.ggml.{x}']) for x in ('tokens', 'token_type')
  )
  if len(tokens) != len(kinds):
    raise ValueError(
      f'{file}: {len(tokens)} tokenizer.ggml.tokens, but {len(kinds)} '
      'tokenizer.ggml.token_type.'
    )
  while kinds and kinds[-1] == _UNUSED:
    kinds.pop()
  tokens = tokens[: len(kinds)]
  if len(set(tokens)) < len(tokens):
    raise ValueError(f'{file}: tokenizer.ggml.tokens has a token twice.')
  return tokens


def _bpe(
  file: pathlib.Path, data: Mapping[str, Any], vocab: list[str], pre: _Pre
) -> models.BPE:
  ids = {token: i for i, token in enumerate(vocab)}
  pairs = (text.partition(' ') for text in data['tokenizer.ggml.merges'])
  merges = [(left, right) for left, _, right in pairs]
  try:
    return models.BPE(ids, merges, ignore_merges=pre.whole)
  # The package raises nothing more specific.
  except Exception as error:
    raise ValueError(
      f'{file}: tokenizer.ggml.merges does not fit tokenizer.ggml.tokens '
      f'({error}).'
    ) from error


def _pre_tokenizer(pre: _Pre) -> pre_tokenizers.PreTokenizer:
  parts: list[pre_tokenizers.PreTokenizer] = []
  if pre.digits:
    parts.append(pre_tokenizers.Digits(individual_digits=True))
  if pre.split:
    parts.append(pre_tokenizers.Split(tokenizers.Regex(pre.split), 'isolated'))
  parts.append(
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pre.split)
  )
  return pre_tokenizers.Sequence(parts)


def _add_tokens(model, vocab: list[str], data: Mapping[str, Any]) -> None:
  """Tokens that are found in a text before it is split."""
  kinds = data['tokenizer.ggml.token_type']
  for token, kind in zip(vocab, kinds, strict=False):
    if kind in (_CONTROL, _USER_DEFINED):
      special = kind == _CONTROL
      added = tokenizers.AddedToken(token, special=special, normalized=False)
      (model.add_special_tokens if special else model.add_tokens)([added])


def _roles(
  file: pathlib.Path, data: Mapping[str, Any], vocab: list[str]
) -> dict[str, str]:
  """`bos_token` and the like, where the file names them."""
  for key, value in data.items():
    if key.endswith('_token_id') and not isinstance(value, int):
      raise ValueError(f'{file}: {key}={value!r:.80} is no token.')
  roles = {
    'bos_token': 'bos_token_id',
    'eos_token': 'eos_token_id',
    'pad_token': 'padding_token_id',
    'unk_token': 'unknown_token_id',
  }
  ids = {x: data.get(f'tokenizer.ggml.{y}') for x, y in roles.items()}
  return {
    role: vocab[i]
    for role, i in ids.items()
    if i is not None and 0 <= i < len(vocab)
  }
