"""Tokenizers: one trained on the texts at hand, or one of Hugging Face.

A new model needs a tokenizer of its own: byte-level BPE, lossless on any text,
with the roles marked as in ChatML.

Tokens and text, for byte-level BPE (Qwen, Llama 3, our own): decoding joins the
bytes of the tokens and reads them as UTF-8; what is no UTF-8 becomes U+FFFD, so
two token rows may have one text. Encoding that text gives the same text again,
but not always the same tokens (Qwen's normalises it to NFC, too): a sampled
answer is kept as tokens, and is never encoded again.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import tokenizers as hf_tokenizers

from awpo_jax.models.formats import gguf_files
from awpo_jax.rollout.text import gguf_tokenizers, templates

if TYPE_CHECKING:
  import transformers

  Tokenizer: TypeAlias = transformers.PreTrainedTokenizerBase
else:
  # Importing it takes most of a second, which programs that read no text need
  # not wait for.
  Tokenizer = Any

PAD = '<|endoftext|>'
TURN_START = '<|im_start|>'
TURN_END = '<|im_end|>'
GENERATION_CONFIG = 'generation_config.json'
MODEL_CONFIG = 'config.json'
# Where a config.json of several models holds that of the text, by its maker.
_TEXT_CONFIGS = (
  'text_config',
  'llm_config',
  'language_config',
  'thinker_config',
  'decoder',
  'generation_config',
)
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
) -> 'transformers.PreTrainedTokenizerFast':
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
  import transformers

  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    pad_token=PAD,
    eos_token=TURN_END,
    additional_special_tokens=[TURN_START],
    chat_template=CHAT_TEMPLATE,
    clean_up_tokenization_spaces=False,
    padding_side='left',
  )


def save_tokenizer(
  tokenizer: Tokenizer,
  folder: str | pathlib.Path,
  generation_config: Mapping[str, Any] | None = None,
) -> None:
  """Writes the tokenizer with its chat template, as `load_tokenizer` reads.

  Args:
    tokenizer: any.
    folder: made if missing.
    generation_config: as `read_generation_config` will find it; None or empty:
      no such file.
  """
  tokenizer.save_pretrained(str(folder))
  if generation_config:
    save_generation_config(folder, generation_config)


def save_generation_config(
  folder: str | pathlib.Path, config: Mapping[str, Any]
) -> None:
  """Writes what `read_generation_config` reads."""
  file = pathlib.Path(folder) / GENERATION_CONFIG
  file.write_text(json.dumps(dict(config), indent=2) + '\n')


def load_tokenizer(path_or_name: str | pathlib.Path) -> Tokenizer:
  """Reads a tokenizer from a folder, or by its name from Hugging Face.

  Args:
    path_or_name: a folder with `tokenizer.json`, a GGUF file, or a name such as
      `Qwen/Qwen3-1.7B` that is cached or can be downloaded.

  Returns:
    The tokenizer. No code that comes with it is run.

  Raises:
    ValueError: there is no tokenizer, or it has no chat template.
  """
  gguf = gguf_files.find(path_or_name)
  tokenizer = gguf_tokenizers.load(gguf) if gguf else _load_hf(path_or_name)
  if not tokenizer.chat_template:
    raise ValueError(
      f'the tokenizer at {path_or_name} has no chat template; use that of an '
      'instruction-tuned model of the same family'
    )
  return tokenizer


def _load_hf(path_or_name: str | pathlib.Path) -> Tokenizer:
  import transformers

  try:
    return transformers.AutoTokenizer.from_pretrained(str(path_or_name))
  # Which error a wrong folder gives depends on what else lies in it.
  except Exception as error:
    raise ValueError(
      f'no tokenizer at {path_or_name}: expected a folder with tokenizer.json '
      'and tokenizer_config.json, a GGUF file, or the name of a Hugging Face '
      f'model that is cached or can be downloaded ({type(error).__name__}: '
      f'{error})'
    ) from error


def read_generation_config(path_or_name: str | pathlib.Path) -> dict[str, Any]:
  """A model's `generation_config.json`, and the stop tokens of its config.json.

  Where a model has both files each may name stop tokens that the other lacks.

  Args:
    path_or_name: as of `load_tokenizer`.

  Returns:
    The object, its `eos_token_id` those of both files; empty where the model
    has neither.

  Raises:
    ValueError: a file is no JSON object, or an `eos_token_id` in it is neither
      an id nor a list of ids.
  """
  gguf = gguf_files.find(path_or_name)
  if gguf:
    return with_stops(
      {}, {'eos_token_id': gguf_files.stop_ids(gguf_files.metadata(gguf))}
    )
  config = _read_json(path_or_name, GENERATION_CONFIG)
  return with_stops(config, _read_json(path_or_name, MODEL_CONFIG))


def with_stops(
  config: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, Any]:
  """A generation config that ends answers with the tokens of another, too."""
  ids = list(dict.fromkeys((*eos_token_ids(config), *eos_token_ids(other))))
  if not ids:
    return dict(config)
  return {**config, 'eos_token_id': ids[0] if len(ids) == 1 else ids}


def _read_json(path_or_name: str | pathlib.Path, name: str) -> dict[str, Any]:
  """A file of a model, its stop tokens checked; empty where there is none."""
  import transformers.utils

  try:
    file = transformers.utils.cached_file(
      str(path_or_name),
      name,
      _raise_exceptions_for_missing_entries=False,
      _raise_exceptions_for_connection_errors=False,
    )
  except OSError:
    file = None
  if file is None:
    return {}
  try:
    config = json.loads(pathlib.Path(file).read_text())
  except ValueError as error:
    raise ValueError(f'{file} is not JSON: {error}') from error
  if not isinstance(config, dict):
    raise ValueError(f'{file} holds no JSON object')
  for value in eos_token_ids(config):
    if type(value) is not int:
      raise ValueError(
        f'{file}: eos_token_id={value!r} is neither an id nor a list of ids'
      )
  return config


def eos_token_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
  """The ids that a generation config or config.json ends answers with.

  Those of the text model within a larger one are among them.
  """
  value = config.get('eos_token_id')
  ids = value if isinstance(value, list) else [value]
  for key in _TEXT_CONFIGS:
    if isinstance(config.get(key), dict):
      ids = [*ids, *eos_token_ids(config[key])]
  return tuple(dict.fromkeys(x for x in ids if x is not None))


def end_of_turn(tokenizer: Tokenizer) -> int | None:
  """The token that the chat template writes after an assistant's answer.

  It is found by rendering an answer and looking for the first special token
  behind it: `<|im_end|>` of Qwen, `<|eot_id|>` of Llama 3.

  Returns:
    Its id; None where there is no template, or no such token.

  Raises:
    ValueError: the template does not render an answer.
  """
  if not tokenizer.chat_template:
    return None
  answer = 'awpo_answer'
  try:
    text = templates.apply(
      tokenizer,
      [
        {'role': 'user', 'content': 'x'},
        {'role': 'assistant', 'content': answer},
      ],
      add_generation_prompt=False,
      tokenize=False,
    )
  except ValueError as error:
    raise ValueError(
      f'the chat template renders no assistant turn: {error}'
    ) from error
  _, found, rest = cast(str, text).rpartition(answer)
  special = set(tokenizer.all_special_ids) | {
    i for i, token in tokenizer.added_tokens_decoder.items() if token.special
  }
  ids = tokenizer.encode(rest, add_special_tokens=False) if found else []
  return next((i for i in ids if i in special), None)


def stop_token_ids(
  tokenizer: Tokenizer, extra: Sequence[int] = ()
) -> tuple[int, ...]:
  """Ids that end a turn; the first is the one to train on.

  Args:
    tokenizer: any; a base model's may name another end of sequence than the
      `end_of_turn` that its chat template writes, and then both stop.
    extra: further ids, `eos_token_ids` for example.

  Returns:
    The ids, each once.

  Raises:
    ValueError: an extra id is no token's, or there is no stop token at all.
  """
  known = (end_of_turn(tokenizer), tokenizer.eos_token_id)
  ids = [*(i for i in known if i is not None), *extra]
  for token in extra:
    if not 0 <= token < len(tokenizer):
      raise ValueError(f'stop token {token} is no token of the tokenizer')
  if not ids:
    raise ValueError('the tokenizer names no end of sequence: give stop tokens')
  return tuple(dict.fromkeys(ids))


def pad_token_id(tokenizer: Tokenizer, stop_ids: Sequence[int]) -> int:
  """The id that fills columns without a token; masks say which ones."""
  pad = tokenizer.pad_token_id
  return stop_ids[0] if pad is None else pad


def decode_answer(
  tokenizer: Tokenizer,
  tokens: Sequence[int] | np.ndarray,
  stop_ids: Sequence[int],
  opened: str,
) -> str:
  """The answer of sampled tokens, without the stop token at the very end.

  Other special tokens stay as text, so that a reward sees them. Ids beyond the
  vocabulary vanish.

  Args:
    tokenizer: decodes them.
    tokens: i[S], sampled.
    stop_ids: tokens that end an answer.
    opened: what their prompt holds of the answer, of `templates.opened`.
  """
  if len(tokens) and tokens[-1] in stop_ids:
    tokens = tokens[:-1]
  decoded = tokenizer.decode(
    [int(token) for token in tokens],
    skip_special_tokens=False,
    clean_up_tokenization_spaces=False,
  )
  # Of several rows it would be a list.
  return templates.complete(opened, cast(str, decoded))
