"""Chat templates of two families: stop tokens, tools, thinking, bytes."""

import json
import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.text import (
  chat_template,
  demonstrations,
  prompts,
  tokenizers,
  tool_calls,
)
from tests.helpers import codecs, hf_models

ASK = [
  {'role': 'system', 'content': 'Be brief.'},
  {'role': 'user', 'content': 'Hi'},
]
TOOL = types.Tool(
  'get weather', 'Of a day.', {'city': {'type': 'str', 'description': 'where'}}
)
TASK = types.Task('t', 'Be brief.', 'Hi', (), '', 'any')
SCHEMA = (
  '{"type": "function", "function": {"name": "get weather", "description": '
  '"Of a day.", "parameters": {"type": "object", "properties": {"city": '
  '{"type": "string", "description": "where"}}, "required": ["city"]}}}'
)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('families')
  for name in ('qwen', 'base', 'llama'):
    (root / name).mkdir()
  hf_models.save_qwen_tokenizer(root / 'qwen')
  hf_models.save_qwen_tokenizer(root / 'base', base=True)
  hf_models.save_llama_tokenizer(root / 'llama')
  return root


@pytest.fixture(scope='module')
def family(folders):
  return {
    name: tokenizers.load_tokenizer(folders / name)
    for name in ('qwen', 'base', 'llama')
  }


def ids(tokenizer, *names):
  return tuple(tokenizer.convert_tokens_to_ids(list(names)))


@pytest.mark.parametrize(
  ('name', 'stops'),
  [
    ('qwen', ('<|im_end|>',)),
    # A base model's end of text ends an answer, too; `<|im_end|>` is taught.
    ('base', ('<|im_end|>', '<|endoftext|>')),
    ('llama', ('<|eot_id|>',)),
  ],
)
def test_the_template_says_what_ends_a_turn(family, name, stops):
  tokenizer = family[name]
  assert tokenizers.stop_token_ids(tokenizer) == ids(tokenizer, *stops)
  assert tokenizers.end_of_turn(tokenizer) == ids(tokenizer, stops[0])[0]


def test_stop_tokens_of_a_generation_config(family, tmp_path):
  tokenizer = family['llama']
  stops = ids(tokenizer, '<|end_of_text|>', '<|eom_id|>', '<|eot_id|>')
  for stored, wanted in ((list(stops), stops), (stops[1], stops[1:2])):
    hf_models.save_generation_config(
      tmp_path, eos_token_id=stored, temperature=0.6
    )
    config = tokenizers.read_generation_config(tmp_path)
    assert config['temperature'] == 0.6
    assert tokenizers.eos_token_ids(config) == wanted
  # The template's comes first and each once.
  assert tokenizers.stop_token_ids(tokenizer, stops) == (
    stops[2],
    stops[0],
    stops[1],
  )
  for stop in stops:
    q = tokenizer.convert_tokens_to_ids('q')
    assert tokenizers.decode_answer(tokenizer, [q, stop], stops, '') == 'q'


@pytest.mark.parametrize(
  ('model', 'generation', 'want'),
  [
    ({'eos_token_id': 2}, None, 2),
    ({'eos_token_id': [2, 0]}, None, [2, 0]),
    ({'eos_token_id': 2}, {'eos_token_id': [5, 2]}, [5, 2]),
    ({'eos_token_id': [7, 2]}, {'eos_token_id': 5}, [5, 7, 2]),
    ({'eos_token_id': None}, {'eos_token_id': 5}, 5),
    ({}, {'eos_token_id': 5}, 5),
    ({'eos_token_id': 0}, {'temperature': 0.6}, 0),
    # Of a model of several parts that of the text.
    ({'text_config': {'eos_token_id': [3, 4]}}, None, [3, 4]),
    (
      {
        'eos_token_id': 1,
        'text_config': {'eos_token_id': [3, 1]},
        'vision_config': {'eos_token_id': 9},
      },
      {'eos_token_id': 5},
      [5, 1, 3],
    ),
    ({'thinker_config': {'text_config': {'eos_token_id': 6}}}, None, 6),
    ({'text_config': None}, None, None),
  ],
)
def test_stop_tokens_of_a_model(tmp_path, model, generation, want):
  (tmp_path / 'config.json').write_text(json.dumps(model))
  if generation is not None:
    hf_models.save_generation_config(tmp_path, **generation)
  read = tokenizers.read_generation_config(tmp_path)
  kept = (generation or {}) | ({} if want is None else {'eos_token_id': want})
  assert read == kept


def test_a_model_without_a_generation_config(tmp_path):
  assert tokenizers.read_generation_config(tmp_path) == {}
  assert tokenizers.eos_token_ids({}) == ()


@pytest.mark.parametrize(
  ('text', 'problem'),
  [
    ('{', 'not JSON'),
    ('[1]', 'no JSON object'),
    ('{"eos_token_id": "</s>"}', "eos_token_id='</s>' is neither"),
    ('{"eos_token_id": [1, "a"]}', 'eos_token_id=.*is neither'),
  ],
)
@pytest.mark.parametrize('name', ['generation_config.json', 'config.json'])
def test_a_broken_file_with_stop_tokens_is_named(tmp_path, name, text, problem):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=f'/{name}.*{problem}'):
    tokenizers.read_generation_config(tmp_path)


def test_a_stop_token_beyond_the_vocabulary_is_refused(family):
  with pytest.raises(ValueError, match='stop token 128009 is no token'):
    tokenizers.stop_token_ids(family['qwen'], [128009])


def test_demonstrations_end_as_the_template_ends_a_turn(family):
  tokenizer = family['base']
  stops = tokenizers.stop_token_ids(tokenizer)

  def batch(response):
    return demonstrations.batch(
      codecs.make(tokenizer),
      [types.Demonstration(TASK, response)],
      [0],
      prompt_buckets=(128,),
      response_buckets=(4,),
    )[1]

  completions = batch('q')
  (q,) = ids(tokenizer, 'q')
  np.testing.assert_array_equal(completions.tokens[0, 0, :2], [q, stops[0]])
  assert prompts.decode_completions(tokenizer, completions, stops, ['']) == [
    ['q']
  ]
  # The sampler would have stopped there.
  for stop in ('<|im_end|>', '<|endoftext|>'):
    with pytest.raises(ValueError, match='holds a stop token'):
      batch(f'q{stop}')


def test_qwens_prompt_with_and_without_thinking(family):
  tokenizer = family['qwen']
  wanted = (
    '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n'
    '<|im_start|>assistant\n'
  )
  empty = '<think>\n\n</think>\n\n'
  for value, end in ((None, ''), (True, ''), (False, empty)):
    tokens = chat_template.encode(tokenizer, ASK, enable_thinking=value)
    assert tokens.dtype == np.int32
    assert tokenizer.decode(tokens) == wanted + end


def test_llamas_prompt_begins_once_and_is_the_same_every_day(family):
  # Without a date the template would write today's.
  assert family['llama'].decode(chat_template.encode(family['llama'], ASK)) == (
    '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n'
    'Date: 26 Jul 2024\n\nBe brief.<|eot_id|>'
    '<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>'
    '<|start_header_id|>assistant<|end_header_id|>\n\n'
  )


def test_tools_of_a_task_go_where_the_style_says(family):
  task = types.Task(
    't', prompts.rlla_system([TOOL]), 'Hi', (TOOL,), 'truth', 'single'
  )
  for name in ('qwen', 'llama'):
    tokenizer = family[name]
    listed = tokenizer.decode(prompts.encode_prompt(tokenizer, task))
    assert '1. Name: get weather\n' in listed and SCHEMA not in listed
    style = chat_template.Style('template')
    given = tokenizer.decode(prompts.encode_prompt(tokenizer, task, style))
    assert '1. Name: ' not in given and given.count(SCHEMA) == 1
    # What the rewards read is asked for in both.
    for text in (listed, given):
      assert '<think> reasoning </think>\n<tool_call>' in text
    # Qwen's template asks for "arguments", which the rewards do not read.
    assert 'a call is an object of "name" and "parameters"' in given


def test_the_keys_of_a_template_are_not_those_of_the_rewards():
  wanted = tool_calls.render_answer('t', [tool_calls.ToolCall('f', {'a': 1})])
  other = wanted.replace('"parameters"', '"arguments"')
  totals = [toolrl.outcome_reward(x, wanted).total for x in (wanted, other)]
  assert totals == [1 + 3, 1 - 3]


def test_a_list_of_tools_is_cut_out_of_a_system_text():
  text = 'A\n1. Name: f\nDescription: d\nParameters: {}\n2. Name: g\n'
  text += 'Description: e\nParameters: {"a": {}}'
  elsewhere = (
    'Those whose JSON schemas are given in this conversation. Whatever keys '
    'are asked for beside the schemas, a call is an object of "name" and '
    '"parameters".'
  )
  assert prompts.without_tools(f'{text}\n\nB') == f'A\n{elsewhere}\n\nB'
  assert prompts.without_tools(text) == f'A\n{elsewhere}'
  assert prompts.without_tools('no tools at all') == 'no tools at all'


def test_schemas_say_types_in_the_words_of_json():
  tool = types.Tool(
    'f',
    'd',
    {
      'a': {'type': 'List[int]', 'description': 'x'},
      'b': {'type': 'str, optional'},
      'c': {'type': 'float', 'default': ''},
      'd': {'type': 'boolean', 'enum': [True]},
      'e': {'type': 'book'},
      'f': {'description': 'untyped'},
      'g': {'type': ['string', 'null']},
    },
  )
  (schema,) = chat_template.tool_schemas([tool])
  assert schema == {
    'type': 'function',
    'function': {
      'name': 'f',
      'description': 'd',
      'parameters': {
        'type': 'object',
        'properties': {
          'a': {
            'type': 'array',
            'items': {'type': 'integer'},
            'description': 'x',
          },
          'b': {'type': 'string'},
          'c': {'type': 'number', 'default': ''},
          'd': {'type': 'boolean', 'enum': [True]},
          'e': {'description': '(type: book)'},
          'f': {'description': 'untyped'},
          'g': {'type': ['string', 'null']},
        },
        # RLLA's empty default says nothing.
        'required': ['a', 'c', 'd', 'e', 'f', 'g'],
      },
    },
  }


def test_what_a_template_would_ignore_is_refused(family):
  thinking = chat_template.Style('rlla', False)
  chat_template.check_style(
    family['qwen'], chat_template.Style('template', False)
  )
  chat_template.check_style(family['llama'], chat_template.Style('template'))
  with pytest.raises(ValueError, match='--enable_thinking=false: .*not know'):
    chat_template.check_style(family['llama'], thinking)
  plain = tokenizers.train_tokenizer(['a'], vocab_size=300)
  chat_template.check_style(plain, chat_template.Style('template'))
  plain.chat_template = "{{- messages[0].content + '<|im_end|>' }}"
  chat_template.check_style(plain, chat_template.DEFAULT_STYLE)
  with pytest.raises(ValueError, match='--prompt_style=template: .*not know'):
    chat_template.check_style(plain, chat_template.Style('template'))


def test_a_template_that_refuses_says_so(family):
  with pytest.raises(
    ValueError, match='template refuses .*a system message must come first'
  ):
    chat_template.encode(family['qwen'], ASK[::-1])


def _bytes_of(tokenizer):
  """Token id -> its bytes: byte-level BPE writes each byte as a character."""
  # The printable bytes stand for themselves, the others for 256 and above.
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  table = {chr(b): b for b in printable}
  table |= {chr(256 + i): b for i, b in enumerate(others)}
  added = set(tokenizer.get_added_vocab())
  return {
    i: token.encode() if token in added else bytes(table[c] for c in token)
    for token, i in tokenizer.get_vocab().items()
  }


@pytest.mark.parametrize('name', ['qwen', 'llama'])
def test_text_of_any_tokens_is_that_of_their_bytes(family, name):
  tokenizer = family[name]
  meaning = _bytes_of(tokenizer)
  rng = np.random.default_rng(0)
  broken = 0
  for _ in range(200):
    tokens = rng.choice(list(meaning), size=rng.integers(1, 12))
    joined = b''.join(meaning[token] for token in tokens)
    text = tokenizers.decode_answer(tokenizer, tokens, (), '')
    assert text == joined.decode(errors='replace')
    broken += '\ufffd' in text
    # Encoding it may give other tokens, but gives the same text.
    again = prompts.encode_response(tokenizer, text, '')
    normal = unicodedata.normalize('NFC', text) if name == 'qwen' else text
    assert tokenizers.decode_answer(tokenizer, again, (), '') == normal
  assert 50 < broken < 200


@pytest.mark.parametrize('name', ['qwen', 'llama'])
@pytest.mark.parametrize(
  'text',
  [
    " it 's a test , isn 't it ? ",  # clean-up would close these gaps
    'tabs\tand\r\nlines\n\n\n  end',
    '\U0001f600 \u4e2d\u6587 \u0627\u0644 \u200b \ufeff',
    '<think>\n1234567 </think>\n<tool_call>\n{"a": "\u00e9"}\n</tool_call>',
    '<|im_start|> <|eot_id|><|endoftext|> in the middle',
  ],
)
def test_text_that_is_encoded_comes_back(family, name, text):
  tokenizer = family[name]
  tokens = prompts.encode_response(tokenizer, text, '')
  assert tokens.ndim == 1
  assert tokenizers.decode_answer(tokenizer, tokens, (), '') == text


def test_qwen_normalises_what_it_encodes(family):
  tokens = prompts.encode_response(family['qwen'], 'e\u0301', '')
  text = tokenizers.decode_answer(family['qwen'], tokens, (), '')
  assert text == '\u00e9' != 'e\u0301'


def test_sampled_ids_that_are_no_tokens_vanish(family):
  tokenizer = family['qwen']
  (q,) = ids(tokenizer, 'q')
  tokens = jnp.array([q, len(tokenizer) + 3, q])
  assert tokenizers.decode_answer(tokenizer, np.asarray(tokens), (), '') == 'qq'


def test_a_tokenizer_without_padding_pads_with_its_stop_token(family):
  assert (
    tokenizers.pad_token_id(family['qwen'], (7,))
    == ids(family['qwen'], '<|endoftext|>')[0]
  )
  assert tokenizers.pad_token_id(family['llama'], (7, 8)) == 7
