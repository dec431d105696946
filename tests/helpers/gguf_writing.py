"""GGUF files of one layer that the package `gguf` writes."""

import numpy as np
import pytest

from awpo_jax.rollout.text import tokenizers

gguf = pytest.importorskip('gguf', reason='pip install gguf')

HEADS, KEYS, HEAD, WIDTH, INNER, VOCAB = 4, 2, 64, 256, 256, 261
TEMPLATE = (
  '{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}'
  '{% if add_generation_prompt %}<s>{% endif %}'
)


# That the package undoes and does not make, as most downloads have them.
BLOCKS = (
  *('Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K', 'IQ4_NL', 'IQ4_XS'),
  *('TQ1_0', 'TQ2_0', 'MXFP4'),
  *('IQ1_M', 'IQ1_S', 'IQ2_S', 'IQ2_XS', 'IQ2_XXS', 'IQ3_S', 'IQ3_XXS'),
)


def _shapes(family, head, layers, width, inner, vocab):
  shapes = {'token_embd.weight': (vocab, width), 'output_norm.weight': (width,)}
  parts = {
    'attn_norm.weight': (width,),
    'ffn_norm.weight': (width,),
    'attn_q.weight': (HEADS * head, width),
    'attn_k.weight': (KEYS * head, width),
    'attn_v.weight': (KEYS * head, width),
    'attn_output.weight': (width, HEADS * head),
    'ffn_gate.weight': (inner, width),
    'ffn_up.weight': (inner, width),
    'ffn_down.weight': (width, inner),
  }
  if family == 'qwen2':
    for part, heads in (('q', HEADS), ('k', KEYS), ('v', KEYS)):
      parts[f'attn_{part}.bias'] = (heads * head,)
  if family == 'qwen3':
    parts |= {f'attn_{x}_norm.weight': (head,) for x in 'qk'}
  for i in range(layers):
    shapes |= {f'blk.{i}.{name}': shape for name, shape in parts.items()}
  return shapes


def blocks(kind, shape, rng):
  """Random bytes of a quantised tensor all of whose values are finite."""
  used = gguf.GGMLQuantizationType[kind]
  width, size = gguf.constants.GGML_QUANT_SIZES[used]
  found = rng.integers(256, size=(shape[0] * shape[1] // width, size))
  found = found.astype(np.uint8)
  with np.errstate(invalid='ignore', over='ignore'):
    while True:
      values = gguf.quants.dequantize(found, used)
      (wrong,) = np.nonzero(~np.isfinite(values).all(axis=1))
      if not len(wrong):
        return found.reshape(shape[0], -1)
      found[wrong] = rng.integers(256, size=(len(wrong), size))


def write(path, family='llama', kind='F32', pre='smollm', **changes):
  """A file, of one layer; returns the values that its tensors stand for.

  Args:
    path: of the file.
    family: its architecture.
    kind: how its matrices are quantised.
    pre: its `tokenizer.ggml.pre`.
    **changes: `numbers` and `data` replace metadata, `data` with whole keys and
      None to leave one out; `tensors` are further arrays, or pairs of a kind
      and its blocks; `head` is a width of heads of its own, `sizes` are other
      layers, width and inner width.
  """
  order = changes.pop('endianess', gguf.GGUFEndian.LITTLE)
  writer = gguf.GGUFWriter(path, family, endianess=order)
  head = changes.pop('head', None)
  layers, width, inner = changes.pop('sizes', (1, WIDTH, INNER))
  lengths = [f'attention.{x}_length' for x in ('key', 'value')] if head else []
  numbers = {
    **dict.fromkeys(lengths, head),
    'block_count': layers,
    'context_length': 128,
    'embedding_length': width,
    'feed_forward_length': inner,
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
  data = changes.pop('data', {})
  vocab = len(data.get('tokenizer.ggml.tokens', range(VOCAB)))
  for key, value in data.items():
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
  shapes = _shapes(family, head or HEAD, layers, width, inner, vocab)
  for name, shape in shapes.items():
    used = gguf.GGMLQuantizationType[kind if len(shape) == 2 else 'F32']
    if used.name in BLOCKS:
      data = blocks(kind, shape, rng)
    else:
      # Of the size of a model's: rounding is not blown up from layer to layer.
      spread = 1 if len(shape) == 1 else shape[1] ** -0.5
      value = rng.normal(scale=spread, size=shape).astype(np.float32)
      data = gguf.quants.quantize(value, used)
    values[name] = gguf.quants.dequantize(data, used)
    writer.add_tensor(name, data, raw_dtype=used)
  for name, value in extra.items():
    kind, data = value if isinstance(value, tuple) else (None, value)
    used = kind and gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, data, raw_dtype=used)
  assert not changes
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return values
