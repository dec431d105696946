"""Tokenizers: one trained on the texts at hand, or one of Hugging Face.

A model of one's own from nothing needs a tokenizer of its own: byte-level BPE,
lossless on any text, with the roles marked as in ChatML.
"""

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import tokenizers as hf_tokenizers
import transformers

Tokenizer: TypeAlias = transformers.PreTrainedTokenizerBase

PAD = '<|endoftext|>'
TURN_START = '<|im_start|>'
TURN_END = '<|im_end|>'
SPECIAL_TOKENS = (PAD, TURN_START, TURN_END)
# What RLLA writes around every tool, turn and call: one token each, and plain
# text to everyone else. Of two that match the longer one is taken.
LAYOUT = (
  *(
    f'<{end}{name}>'
    for name in ('think', 'tool_call', 'response', 'user', 'obs')
    for end in ('', '/')
  ),
  '<think> ',
  ' </think>\n',
  '<tool_call>\n',
  '\n</tool_call>',
  '<response> ',
  ' </response>',
  '<user> ',
  ' </user>',
  '**Available Tools**\n',
  '\n\n**Output Format**\n',
  '**Dialogue Records History**\n',
  '. Name: ',
  '\nDescription: ',
  '\nParameters: {"',
  '": {"type": "',
  '": {"description": "',
  '", "type": "',
  '", "default": "',
  '{"name": "',
  '", "parameters": {"',
)
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS) + len(LAYOUT)

# A word with the space after it, so that it is the same token after a space,
# a quote and a bracket: what is copied is copied token by token. Two digits,
# the first with a sign or decimal point. Punctuation with the spaces within
# and after it, so that `": {"` of JSON can be one token. Line ends; spaces.
_SPLIT = (
  r'_?\p{L}+ ?|[-.]?\p{N}{1,2}|(?: ?[^\s\p{L}\p{N}]+)+ ?[\r\n]*'
  r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)

CHAT_TEMPLATE = """\
{%- if tools %}
  {{- '<|im_start|>system\\n' }}
  {%- if messages and messages[0].role == 'system' %}
    {{- messages[0].content + '\\n\\n' }}
    {%- set messages = messages[1:] %}
  {%- endif %}
  {{- '# Tools\\n' }}
  {%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
  {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
  {%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}
    {{- raise_exception('unknown role ' + message.role) }}
  {%- endif %}
  {{- '<|im_start|>' + message.role + '\\n' + message.content }}
  {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def train_tokenizer(
  texts: Iterable[str], *, vocab_size: int
) -> transformers.PreTrainedTokenizerFast:
  """Learns a byte-level BPE; the same texts give the same tokenizer.

  Words keep the space after them, not before. Nothing is normalised:
  `decode(encode(text))` is `text`.
  RLLA's tags and fixed texts are one token each, and text: decoding keeps
  them.

  Args:
    texts: what to learn merges from.
    vocab_size: at most so many tokens, the special ones and the layout's
      among them; few texts may hold too few pairs for all.

  Returns:
    A tokenizer with ChatML's template, which also renders `tools=`. It pads
    with `<|endoftext|>` and ends a turn with `<|im_end|>`.

  Raises:
    ValueError: `vocab_size` has no room for all bytes and special tokens.
  """
  if vocab_size < MIN_VOCAB_SIZE:
    raise ValueError(
      f'vocab_size {vocab_size}: at least {MIN_VOCAB_SIZE} (256 bytes, '
      f'{len(SPECIAL_TOKENS)} special tokens and {len(LAYOUT)} of the layout)'
    )
  split = hf_tokenizers.pre_tokenizers.Split(
    hf_tokenizers.Regex(_SPLIT), behavior='isolated'
  )
  byte_level = hf_tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  model = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE())
  model.pre_tokenizer = hf_tokenizers.pre_tokenizers.Sequence(
    [split, byte_level]
  )
  model.decoder = hf_tokenizers.decoders.ByteLevel()
  trainer = hf_tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size - len(LAYOUT),
    special_tokens=list(SPECIAL_TOKENS),
    initial_alphabet=sorted(byte_level.alphabet()),
    show_progress=False,
  )
  longest_first = sorted(LAYOUT, key=len, reverse=True)
  layout = re.compile('|'.join(map(re.escape, longest_first)))
  model.train_from_iterator(
    (piece for text in texts for piece in layout.split(text)), trainer
  )
  model.add_tokens(longest_first)
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    pad_token=PAD,
    eos_token=TURN_END,
    additional_special_tokens=[TURN_START],
    chat_template=CHAT_TEMPLATE,
    clean_up_tokenization_spaces=False,
    padding_side='left',
  )


def save_tokenizer(tokenizer: Tokenizer, folder: str | pathlib.Path) -> None:
  """Writes the tokenizer with its chat template, as `load_tokenizer` reads."""
  tokenizer.save_pretrained(str(folder))


def load_tokenizer(path_or_name: str | pathlib.Path) -> Tokenizer:
  """Reads a tokenizer from a folder, or by its name from Hugging Face.

  Args:
    path_or_name: a folder with `tokenizer.json`, or a name such as
      `Qwen/Qwen3-1.7B` that is cached or can be downloaded.

  Returns:
    The tokenizer. No code that comes with it is run.

  Raises:
    ValueError: there is no tokenizer, or it has no chat template.
  """
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path_or_name))
  # Which error a wrong folder gives depends on what else lies in it.
  except Exception as error:
    raise ValueError(
      f'no tokenizer at {path_or_name}: expected a folder with tokenizer.json '
      'and tokenizer_config.json, or the name of a Hugging Face model that is '
      f'cached or can be downloaded ({type(error).__name__}: {error})'
    ) from error
  if not tokenizer.chat_template:
    raise ValueError(
      f'the tokenizer at {path_or_name} has no chat template; use that of an '
      'instruction-tuned model of the same family'
    )
  return tokenizer


def stop_token_ids(
  tokenizer: Tokenizer, extra: Sequence[str | int] = ()
) -> tuple[int, ...]:
  """Ids that end a turn; the first is the one to train on.

  Args:
    tokenizer: any; a base model's may name another end of sequence than the
      `<|im_end|>` that its chat template writes, and then both stop.
    extra: further tokens or their ids.

  Returns:
    The ids, each once.

  Raises:
    ValueError: an extra token is none, or there is no stop token at all.
  """
  vocab = tokenizer.get_vocab()
  ids = [vocab[TURN_END]] if TURN_END in vocab else []
  if tokenizer.eos_token_id is not None:
    ids.append(tokenizer.eos_token_id)
  for token in extra:
    ids.append(vocab.get(token, -1) if isinstance(token, str) else token)
    if not 0 <= ids[-1] < len(tokenizer):
      raise ValueError(f'stop token {token!r} is no token of the tokenizer')
  if not ids:
    raise ValueError('the tokenizer names no end of sequence: give stop tokens')
  return tuple(dict.fromkeys(ids))
