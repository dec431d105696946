"""Tiny models in the Hugging Face format: tokenizers of two families, weights.

Written by hand from what the families' files look like, not by our own writer.
The templates behave like the families' and have their own wording.
"""

import json
import pathlib

import numpy as np
import tokenizers as hf_tokenizers
import transformers
from safetensors import numpy as safetensors_numpy

TEXTS = [
  'What is the weather in Oslo today? It is 12 degrees in Oslo, says the tool.',
  '{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}',
  'You are a helpful assistant. Use the tools where they help the user.',
]

QWEN_TEMPLATE = """\
{%- if tools %}
  {{- '<|im_start|>system\\n' }}
  {%- if messages[0].role == 'system' %}
    {{- messages[0].content + '\\n\\n' }}
  {%- endif %}
  {{- '# Tools\\nCall them where they help.\\n<tools>' }}
  {%- for tool in tools %}
    {{- '\\n' }}{{- tool | tojson }}
  {%- endfor %}
  {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
  {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
  {%- if message.role == 'system' %}
    {%- if not loop.first %}
      {{- raise_exception('a system message must come first') }}
    {%- endif %}
  {%- elif message.role == 'user' %}
    {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
  {%- elif message.role == 'tool' %}
    {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
    {{- '\\n</tool_response><|im_end|>\\n' }}
  {%- elif message.role == 'assistant' %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}
      {{- '<tool_call>\\n{"name": "' + call.function.name }}
      {{- '", "arguments": ' }}{{- call.function.arguments | tojson }}
      {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' }}
  {%- if enable_thinking is defined and enable_thinking is false %}
    {{- '<think>\\n\\n</think>\\n\\n' }}
  {%- endif %}
{%- endif %}
"""

LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
  {%- set date_string = strftime_now('%d %b %Y') %}
{%- endif %}
{%- set ns = namespace(system='', rest=messages) %}
{%- if messages[0].role == 'system' %}
  {%- set ns.system = messages[0].content | trim %}
  {%- set ns.rest = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Date: ' + date_string + '\\n\\n' + ns.system + '<|eot_id|>' }}
{%- for message in ns.rest %}
  {%- set role = 'ipython' if message.role == 'tool' else message.role %}
  {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
  {%- if tools and loop.first %}
    {{- 'You may call one of these:\\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\\n\\n' }}{%- endfor %}
  {%- endif %}
  {{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_QWEN_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_LLAMA_SPLIT = _QWEN_SPLIT.replace(r'\p{N}|', r'\p{N}{1,3}|')
QWEN_SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
# Added tokens of Qwen3 that are text to everyone else.
QWEN_TEXT = ('<tool_call>', '</tool_call>', '<think>', '</think>')
LLAMA_SPECIAL = (
  '<|begin_of_text|>',
  '<|end_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eom_id|>',
  '<|eot_id|>',
)

CONFIG = {
  'architectures': ['Qwen3ForCausalLM'],
  'model_type': 'qwen3',
  'hidden_act': 'silu',
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 16,
  'rms_norm_eps': 1e-6,
  'rope_theta': 1e4,
  'max_position_embeddings': 2048,
  'tie_word_embeddings': True,
  'attention_bias': False,
}


def _byte_level_bpe(split: str, special, *, vocab_size: int):
  """BPE whose special tokens come last, as the families have them."""
  byte_level = hf_tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  model = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE())
  model.pre_tokenizer = hf_tokenizers.pre_tokenizers.Sequence(
    [
      hf_tokenizers.pre_tokenizers.Split(
        hf_tokenizers.Regex(split), behavior='isolated'
      ),
      byte_level,
    ]
  )
  model.decoder = hf_tokenizers.decoders.ByteLevel()
  trainer = hf_tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    initial_alphabet=sorted(byte_level.alphabet()),
    show_progress=False,
  )
  model.train_from_iterator(TEXTS * 3, trainer)
  model.add_special_tokens(list(special))
  return model


def save_qwen_tokenizer(folder: pathlib.Path, *, base: bool = False) -> None:
  """Qwen3's kind; `base`: it ends texts with `<|endoftext|>`."""
  model = _byte_level_bpe(_QWEN_SPLIT, QWEN_SPECIAL, vocab_size=310)
  model.normalizer = hf_tokenizers.normalizers.NFC()
  model.add_tokens(list(QWEN_TEXT))
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    eos_token='<|endoftext|>' if base else '<|im_end|>',
    pad_token='<|endoftext|>',
    chat_template=QWEN_TEMPLATE,
    clean_up_tokenization_spaces=False,
  )
  tokenizer.save_pretrained(str(folder))
  _rewrite(
    folder / 'tokenizer_config.json', {'tokenizer_class': 'Qwen2Tokenizer'}
  )


def save_llama_tokenizer(folder: pathlib.Path) -> None:
  """Llama 3's kind: a first token of its own, and no padding."""
  model = _byte_level_bpe(_LLAMA_SPLIT, LLAMA_SPECIAL, vocab_size=310)
  bos = LLAMA_SPECIAL[0]
  model.post_processor = hf_tokenizers.processors.Sequence(
    [
      hf_tokenizers.processors.ByteLevel(trim_offsets=False),
      hf_tokenizers.processors.TemplateProcessing(
        single=f'{bos} $A',
        special_tokens=[(bos, model.token_to_id(bos))],
      ),
    ]
  )
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    bos_token=bos,
    eos_token='<|eot_id|>',
    chat_template=LLAMA_TEMPLATE,
    clean_up_tokenization_spaces=True,
  )
  tokenizer.save_pretrained(str(folder))


def save_generation_config(folder: pathlib.Path, **values) -> None:
  (folder / 'generation_config.json').write_text(json.dumps(values))


def _rewrite(file: pathlib.Path, changes) -> None:
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def save_qwen3(folder: pathlib.Path, *, seed: int = 0, dtype='float32') -> None:
  """A random Qwen3 with its tokenizer; wider than its vocabulary, as Qwen's."""
  folder.mkdir(parents=True, exist_ok=True)
  save_qwen_tokenizer(folder)
  names = ('<|im_end|>', '<|endoftext|>')
  ids = transformers.AutoTokenizer.from_pretrained(
    str(folder)
  ).convert_tokens_to_ids(list(names))
  save_generation_config(folder, eos_token_id=ids, temperature=0.6)
  config = CONFIG | {'vocab_size': 336, 'torch_dtype': dtype}
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors_numpy.save_file(
    {
      name: value.astype(dtype)
      for name, value in qwen3_tensors(config, seed).items()
    },
    folder / 'model.safetensors',
    metadata={'format': 'pt'},
  )


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Of the only file of weights in a folder."""
  return safetensors_numpy.load_file(folder / 'model.safetensors')


def qwen3_tensors(config, seed: int) -> dict[str, np.ndarray]:
  """Tensors under the names of Hugging Face, [out, in]."""
  rng = np.random.default_rng(seed)
  width, inner = config['hidden_size'], config['intermediate_size']
  head = config['head_dim']
  query = config['num_attention_heads'] * head
  key = config['num_key_value_heads'] * head
  shapes = {
    'model.embed_tokens.weight': (config['vocab_size'], width),
    'model.norm.weight': (width,),
  }
  for i in range(config['num_hidden_layers']):
    layer = f'model.layers.{i}.'
    shapes |= {
      f'{layer}input_layernorm.weight': (width,),
      f'{layer}post_attention_layernorm.weight': (width,),
      f'{layer}self_attn.q_proj.weight': (query, width),
      f'{layer}self_attn.k_proj.weight': (key, width),
      f'{layer}self_attn.v_proj.weight': (key, width),
      f'{layer}self_attn.o_proj.weight': (width, query),
      f'{layer}self_attn.q_norm.weight': (head,),
      f'{layer}self_attn.k_norm.weight': (head,),
      f'{layer}mlp.gate_proj.weight': (inner, width),
      f'{layer}mlp.up_proj.weight': (inner, width),
      f'{layer}mlp.down_proj.weight': (width, inner),
    }
  return {
    name: (1 + 0.1 * rng.normal(size=shape)).astype(np.float32)
    if len(shape) == 1
    else (0.1 * rng.normal(size=shape)).astype(np.float32)
    for name, shape in shapes.items()
  }
