"""Prompts, demonstrations and decoded answers, worked out by hand."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.text import (
  chat_template,
  demonstrations,
  prompts,
  tokenizers,
)
from tests.helpers import codecs

TOOLS = (
  types.Tool(
    'get weather',
    'Weather of a day.\nIn \u00b0C.',
    {'city': {'description': 'a "city"', 'type': 'string', 'default': ''}},
  ),
  types.Tool('ping', 'No parameters.', {}),
)
LISTED = r"""1. Name: get weather
Description: Weather of a day.
In °C.
Parameters: {"city": {"description": "a \"city\"", "type": "string", "default": ""}}
2. Name: ping
Description: No parameters.
Parameters: {}"""  # noqa: E501
PAD, STOP = 0, 2


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.train_tokenizer([LISTED] * 2, vocab_size=300)


def make_task(system='Be brief.', user='Hi'):
  return types.Task('t', system, user, TOOLS, 'truth', 'single')


def test_tools_are_listed_as_in_rlla_and_read_back():
  assert prompts.render_tools(TOOLS) == LISTED
  assert prompts.parse_tools(LISTED) == TOOLS
  assert prompts.parse_tools(f'Use 1. Name: x\n{LISTED}\n\n1. **Think**') == (
    TOOLS
  )
  assert prompts.parse_tools('no tools at all') == ()


def test_system_text_offers_the_tools():
  system = prompts.rlla_system(TOOLS)
  assert f'**Available Tools**\n{LISTED}\n\n**Steps' in system
  assert '{"name": "tool name", "parameters": {"parameter name": ' in system
  assert prompts.parse_tools(system) == TOOLS
  assert prompts.rlla_user('Hi {x}') == (
    '**Dialogue Records History**\n<user> Hi {x} </user>'
  )


@pytest.mark.parametrize(
  ('listed', 'problem'),
  [
    ('1. Name: f\nParameters: {}', 'tool 1: no "Description: "'),
    ('1. Name: f\nDescription: d', 'no "Parameters: "'),
    ('1. Name: f\nDescription: d\nParameters: {x', 'tool 1, f: parameters'),
    ('1. Name: f\nDescription: d\nParameters: []', 'no object of objects'),
    (
      '1. Name: f\nDescription: d\nParameters: {"a": 1}',
      'no object of objects',
    ),
    ('1. Name: f\nDescription: d\nParameters: {} {}', 'text after'),
    (
      '1. Name: f\nDescription: d\nParameters: {}\n2. Name: g\nDescription: d',
      'tool 2: no',
    ),
  ],
)
def test_a_broken_tool_list_is_refused(listed, problem):
  with pytest.raises(ValueError, match=problem):
    prompts.parse_tools(listed)


def test_encoded_prompt_ends_where_the_answer_begins(tokenizer):
  tokens = prompts.encode_prompt(tokenizer, make_task())
  assert tokens.dtype == np.int32 and tokens.ndim == 1
  assert tokenizer.decode(tokens) == (
    '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n'
    '<|im_start|>assistant\n'
  )


def test_no_system_text_is_no_message(tokenizer):
  tokens = prompts.encode_prompt(tokenizer, make_task(''))
  assert tokenizer.decode(tokens) == (
    '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
  )


def test_tools_that_only_the_text_knows_stay_in_it(tokenizer):
  # Not JSON: another data set's list.
  system = "1. Name: f\nDescription: d\nParameters: {'a': 1}"
  task = types.Task('t', system, 'Hi', (), 'truth', 'single')
  style = chat_template.Style('template')
  tokens = prompts.encode_prompt(tokenizer, task, style)
  assert task.system in tokenizer.decode(tokens)


def make_encoded(*lengths):
  return [np.arange(10, 10 + n, dtype=np.int32) for n in lengths]


def test_prompts_are_padded_on_the_left():
  batch = prompts.prompt_batch(
    make_encoded(2, 3), [7, 9], buckets=(4, 8), pad_id=PAD
  )
  np.testing.assert_array_equal(batch.tokens, [[0, 0, 10, 11], [0, 10, 11, 12]])
  np.testing.assert_array_equal(batch.mask, [[0, 0, 1, 1], [0, 1, 1, 1]])
  np.testing.assert_array_equal(batch.ids, [7, 9])
  assert type(batch.tokens) is np.ndarray
  assert [x.dtype for x in (batch.tokens, batch.mask, batch.ids)] == [
    *(np.int32, bool, np.int32)
  ]


def test_padding_is_known_by_the_mask_not_by_the_id():
  batch = prompts.prompt_batch(
    [np.int32([PAD, 5, PAD])], [0], buckets=(4,), pad_id=PAD
  )
  np.testing.assert_array_equal(batch.mask, [[0, 1, 1, 1]])


@pytest.mark.parametrize(
  ('longest', 'width'), [(3, 4), (4, 4), (5, 8), (8, 8), (9, 16)]
)
def test_smallest_bucket_that_holds_the_longest(longest, width):
  batch = prompts.prompt_batch(
    make_encoded(1, longest), [0, 1], buckets=(16, 4, 8), pad_id=PAD
  )
  assert batch.tokens.shape == (2, width)
  assert batch.mask.sum() == 1 + longest


def test_overlong_prompts_are_refused_or_cut_from_the_left():
  arguments = (make_encoded(2, 5), [3, 4])
  options = {'buckets': (2, 4), 'pad_id': PAD}
  with pytest.raises(ValueError, match=r'task 4: 5 .*--prompt_buckets is 4'):
    prompts.prompt_batch(*arguments, **options)
  with pytest.raises(ValueError, match='task rlla_5'):
    prompts.prompt_batch(*arguments, **options, task_ids=['rlla_2', 'rlla_5'])
  batch = prompts.prompt_batch(*arguments, **options, overlong='truncate_left')
  np.testing.assert_array_equal(
    batch.tokens, [[0, 0, 10, 11], [11, 12, 13, 14]]
  )
  # What is dropped was left out before.
  with pytest.raises(ValueError, match='task 4: 5 '):
    prompts.prompt_batch(*arguments, **options, overlong='drop')
  with pytest.raises(ValueError, match="overlong='cut'.*truncate_left"):
    prompts.prompt_batch(*arguments, **options, overlong='cut')


def make_demonstrations(tokenizer, responses, buckets=(4, 8), task_ids='abc'):
  shown = [
    types.Demonstration(types.Task(name, '', '', (), '', 'any'), response)
    for name, response in zip(task_ids, responses, strict=False)
  ]
  encoded = make_encoded(*range(2, 2 + len(responses)))
  codec = codecs.Encoded(
    tokenizer,
    (STOP,),
    PAD,
    chat_template.DEFAULT_STYLE,
    encoded=dict(zip(task_ids, encoded, strict=False)),
  )
  return demonstrations.batch(
    codec,
    shown,
    range(len(responses)),
    prompt_buckets=(4,),
    response_buckets=buckets,
  )


def test_demonstrations_end_with_the_stop_token(tokenizer):
  # 'q' and '!' are bytes in no merge: one token each. Prompts have 2 and 3
  # tokens, so that the answers' first tokens have 2 and 3 before them.
  q, mark = tokenizer.convert_tokens_to_ids(['q', '!'])
  batch, completions = make_demonstrations(tokenizer, ['q!', '!!!'])
  np.testing.assert_array_equal(batch.mask.sum(-1), [2, 3])
  np.testing.assert_array_equal(
    completions.tokens, [[[q, mark, STOP, PAD]], [[mark, mark, mark, STOP]]]
  )
  expected = [[[1, 1, 1, 0]], [[1, 1, 1, 1]]]
  np.testing.assert_array_equal(completions.mask, expected)
  np.testing.assert_array_equal(completions.policy_mask, expected)
  np.testing.assert_array_equal(
    completions.positions, [[[2, 3, 4, 0]], [[3, 4, 5, 6]]]
  )
  assert completions.finished.shape == (2, 1) and completions.finished.all()
  dtypes = {
    'tokens': np.int32,
    'mask': bool,
    'policy_mask': bool,
    'positions': np.int32,
    'turn': np.int32,
    'logprobs': np.float32,
    'entropy': np.float32,
    'finished': bool,
  }
  for name, dtype in dtypes.items():
    array = getattr(completions, name)
    assert type(array) is np.ndarray and array.dtype == dtype, name
    assert array.shape[:2] == (2, 1), name
  for name in ('turn', 'logprobs', 'entropy'):
    np.testing.assert_array_equal(
      getattr(completions, name), np.zeros((2, 1, 4)), name
    )


def test_overlong_responses_are_refused_and_found_beforehand(tokenizer):
  responses = ['!!!', '!!!!', '!', '!']
  # With the stop token 4, 5, 2, 2 tokens; prompts of 2, 3, 4, 5 more than
  # those of an empty task.
  tasks = [make_task('', '!' * count) for count in (2, 3, 4, 5)]
  empty = len(prompts.encode_prompt(tokenizer, make_task('', '')))
  codec = codecs.make(tokenizer)
  shown = [
    types.Demonstration(task, response)
    for task, response in zip(tasks, responses, strict=True)
  ]
  fits = functools.partial(
    demonstrations.fits,
    codec,
    tasks,
    prompt_buckets=(empty + 4, 2),
    response_buckets=(4, 2),
  )
  np.testing.assert_array_equal(fits(shown), [True, False, True, False])
  np.testing.assert_array_equal(fits(), [True, True, True, False])
  # A prompt that is cut fits; a response is not cut.
  np.testing.assert_array_equal(
    fits(shown, overlong='truncate_left'), [True, False, True, True]
  )
  assert demonstrations.fits(
    codec, [], [], prompt_buckets=(4,), response_buckets=(4,)
  ).shape == (0,)
  make_demonstrations(tokenizer, ['!!!'], buckets=(4, 2))
  with pytest.raises(
    ValueError, match=r'task b: 4 tokens .*--response_buckets is 4'
  ):
    make_demonstrations(tokenizer, ['!', '!!!!'], buckets=(4, 2))


def test_a_response_must_not_hold_the_stop_token(tokenizer):
  with pytest.raises(ValueError, match='task a: holds a stop token'):
    make_demonstrations(tokenizer, ['!<|im_end|>!'])


def test_decoding_undoes_the_batch(tokenizer):
  responses = ['<think> \u00e9 </think>', ' q ', '']
  _, completions = make_demonstrations(tokenizer, responses, (64,))
  texts = prompts.decode_completions(tokenizer, completions, (STOP,), [''] * 3)
  assert texts == [[response] for response in responses]


def test_decodes_the_tokens_the_policy_chose(tokenizer):
  q, mark, start = tokenizer.convert_tokens_to_ids(['q', '!', '<|im_start|>'])
  tokens = [
    [q, STOP, mark, STOP, PAD],  # two turns: only the last stop token goes
    [q, PAD, start, 5000, q],  # special ones stay, an unknown id vanishes
    [mark, q, q, mark, STOP],  # the middle was a tool's, not the policy's
    [q, q, q, q, q],  # nothing chosen
  ]
  chosen = [[1, 1, 1, 1, 0], [1] * 5, [1, 0, 0, 1, 1], [0] * 5]
  shape = (2, 2, 5)
  _, completions = make_demonstrations(tokenizer, ['!'])
  completions = completions.replace(
    tokens=jnp.reshape(jnp.array(tokens), shape),
    policy_mask=jnp.reshape(jnp.array(chosen, bool), shape),
  )
  assert prompts.decode_completions(
    tokenizer, completions, (STOP,), ['', '']
  ) == [
    ['q<|im_end|>!', 'q<|endoftext|><|im_start|>q'],
    ['!!', ''],
  ]
