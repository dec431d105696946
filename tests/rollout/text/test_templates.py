"""What a chat template opens of an answer belongs to it."""

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.rewards import toolrl
from awpo_jax.rollout.rewards.judges import rubric
from awpo_jax.rollout.sampling import streaming
from awpo_jax.rollout.text import (
  chat_template,
  demonstrations,
  observations,
  prompts,
  templates,
  thinking,
  tokenizers,
  tool_calls,
)
from tests.helpers import codecs, hf_models, opened_thoughts

CALLS = '<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>'
ANSWER = f'<think> Call f. </think>\n{CALLS}'
TASK = types.Task('t', 'Sys', 'Call f with 1.', (), ANSWER, 'single')
USER = {'role': 'user', 'content': 'x'}


def every_opening(function):
  openings = opened_thoughts.OPEN + opened_thoughts.CLOSED
  return pytest.mark.parametrize('opened', openings)(function)


@pytest.fixture(scope='module')
def qwen(tmp_path_factory):
  folder = tmp_path_factory.mktemp('qwen')
  hf_models.save_qwen_tokenizer(folder)
  return tokenizers.load_tokenizer(folder)


@every_opening
def test_what_is_opened_is_read_off_the_template(opened):
  tokenizer = opened_thoughts.opening(opened)
  # The system text of a task speaks of <think>, too; so may the user.
  task = types.Task('t', prompts.rlla_system(()), '<think>', (), '', 'x')
  assert prompts.opened(tokenizer, task) == opened
  assert templates.opened(tokenizer) == opened
  # The same where the head is always written, asked for or not.
  tokenizer.chat_template = tokenizer.chat_template.replace(
    'if add_generation_prompt', 'if true'
  )
  assert prompts.opened(tokenizer, task) == opened
  # And where nothing is rendered without it.
  tokenizer.chat_template += (
    "{%- if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}"
  )
  assert prompts.opened(tokenizer, task) == opened


def test_templates_that_open_nothing_or_sometimes(qwen):
  plain = opened_thoughts.opening('')
  assert templates.opened(plain, [{**USER, 'content': '<think>'}]) == ''
  # Qwen3's opens and closes one where thinking is turned off.
  told = {None: '', True: '', False: '<think>\n\n</think>\n\n'}
  for value, wanted in told.items():
    assert templates.opened(qwen, enable_thinking=value) == wanted
    style = chat_template.Style('rlla', value)
    assert prompts.opened(qwen, TASK, style) == wanted
  r1 = opened_thoughts.r1()
  called = [USER, {'role': 'assistant', 'content': 'a'}]
  called += [{'role': 'tool', 'content': 'r'}]
  assert templates.opened(r1) == '<think>\n'
  assert templates.opened(r1, called) == ''


def test_an_end_of_text_that_shares_a_letter_with_the_tag():
  tokenizer = opened_thoughts.opening('')
  tokenizer.chat_template = (
    '{{ messages[0].content }}'
    "{{ '<think>\\n' if add_generation_prompt else '<|im_end|>' }}"
  )
  assert templates.opened(tokenizer) == '<think>\n'


@pytest.mark.parametrize(
  ('opened', 'text', 'whole'),
  [
    ('', 'a', 'a'),
    ('<think>\n', 'a </think>\nb', '<think>\na </think>\nb'),
    ('<think>', ' a', '<think> a'),
    ('<think>\n', '', '<think>\n'),
    # The policy writes the tag again: once is enough.
    ('<think>\n', '<think> a </think>', '<think> a </think>'),
    ('<think>\n', '\n<think>a', '\n<think>a'),
    ('<think>\n', 'a <think> b', '<think>\na <think> b'),
    # The layout wants one line end, which the policy cannot take back.
    ('<think>\n\n</think>\n\n', CALLS, f'<think>\n\n</think>\n{CALLS}'),
    ('<think></think>', f'\n{CALLS}', f'<think></think>\n{CALLS}'),
    ('<think>\n\n</think>\n\n', ANSWER, ANSWER),
  ],
)
def test_answers_are_completed(opened, text, whole):
  assert templates.complete(opened, text) == whole


@pytest.mark.parametrize(
  ('opened', 'answer', 'rest'),
  [
    ('', '<think> a </think>', '<think> a </think>'),
    ('<think>\n', '<think>\na </think>', 'a </think>'),
    ('<think>\n', '<think> a </think>\nb', 'a </think>\nb'),
    ('<think>', '<think> a </think>', ' a </think>'),
    ('<think>\n', '<think></think>\nb', '</think>\nb'),
    # Without a thought the answer is no thought either.
    ('<think>\n', 'b', '</think>\nb'),
    ('<think>\n\n</think>\n\n', 'b', 'b'),
    ('<think>\n\n</think>\n\n', f'<think> </think>\n{CALLS}', CALLS),
    ('<think>\n\n</think>\n\n', ANSWER, ANSWER),
  ],
)
def test_what_is_opened_is_left_off(opened, answer, rest):
  assert templates.continued(opened, answer) == rest


@every_opening
@pytest.mark.parametrize('thought', ['<think> Call f. </think>\n', ''])
def test_prompt_and_demonstration_hold_the_tag_once(opened, thought):
  tokenizer = opened_thoughts.opening(opened)
  stops = tokenizers.stop_token_ids(tokenizer)
  answer = thought + CALLS
  encoded = prompts.encode_prompt(tokenizer, TASK)
  codec, imitated = codecs.make(tokenizer), types.Demonstration(TASK, answer)
  asked, shown = demonstrations.batch(
    codec,
    [imitated],
    [0],
    prompt_buckets=(len(encoded),),
    response_buckets=(128,),
  )
  own = shown.tokens[0, 0][shown.policy_mask[0, 0]]
  told = tokenizer.decode([*asked.tokens[0], *own])
  closed = opened in opened_thoughts.CLOSED
  # Behind an empty thought a demonstration may think all the same.
  assert told.count('<think>') == 1 + (closed and bool(thought))
  assert told.count('</think>') == 1 + (closed and bool(thought))
  length = demonstrations.shown_length(codec, imitated)
  assert length == len(own)
  # Read back it is the same answer, and has the best reward.
  ((text,),) = prompts.decode_completions(tokenizer, shown, stops, [opened])
  whole, wanted = tool_calls.parse(text), tool_calls.parse(answer)
  assert whole.calls == wanted.calls
  assert (whole.thought or '') == (wanted.thought or '')
  glued = opened == '<think></think>' and not thought
  assert toolrl.toolrl(text, TASK).value == (3 if glued else 4)


def test_a_demonstration_is_behind_its_own_prompt(qwen):
  codec = codecs.make(qwen, style=chat_template.Style('rlla', False))
  _, shown = demonstrations.batch(
    codec,
    [types.Demonstration(TASK, f'<think> </think>\n{CALLS}')],
    [0],
    prompt_buckets=(len(codec.encode(TASK)),),
    response_buckets=(128,),
  )
  own = shown.tokens[0, 0][shown.policy_mask[0, 0]]
  assert qwen.decode(own) == f'{CALLS}<|im_end|>'


@every_opening
def test_sampled_answers_have_their_reward_and_judge(opened):
  tokenizer = opened_thoughts.opening(opened)
  stops = tokenizers.stop_token_ids(tokenizer)
  sampled = f'The user wants a call of f. </think>\n{CALLS}'
  if opened in opened_thoughts.CLOSED:
    sampled = CALLS if opened.endswith('\n') else f'\n{CALLS}'
  ids = tokenizer.encode(sampled, add_special_tokens=False)
  text = tokenizers.decode_answer(tokenizer, [*ids, stops[0]], stops, opened)
  score = toolrl.toolrl(text, TASK)
  assert (score.value, score.solved) == (4.0, True)
  asked = types.JudgeRequest(TASK.user, (), text)
  assert (rubric.rubric([asked])[0] > 0) == (opened in opened_thoughts.OPEN)
  # Again by the policy itself: an answer as any other.
  ids = tokenizer.encode(ANSWER, add_special_tokens=False)
  assert tokenizers.decode_answer(tokenizer, ids, stops, opened) == ANSWER


def _completions(tokenizer, text):
  ids = np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)
  shape, zeros = (1, 1, len(ids)), np.zeros((1, 1, len(ids)), np.float32)
  return types.Completions(
    tokens=ids.reshape(shape),
    mask=np.ones(shape, bool),
    policy_mask=np.ones(shape, bool),
    positions=zeros.astype(np.int32),
    turn=zeros.astype(np.int32),
    logprobs=zeros,
    entropy=zeros,
    finished=np.ones((1, 1), bool),
  )


@pytest.mark.parametrize(
  ('opened', 'text', 'thought'),
  [
    ('<think>\n', 'I think. </think>\n<response> yes </response>', 'I think.'),
    ('<think>', ' and no end', 'and no end'),
    ('<think>\n', '</think> nothing', ''),
    ('<think>\n', '<think> mine </think> b', 'mine'),
    ('<think>\n', 'one </think> two <think> three </think>', 'one'),
    ('<think>\n\n</think>\n\n', '<response> yes </response>', ''),
    ('<think>\n\n</think>\n\n', '<think> mine </think> b', 'mine'),
    ('', 'no thought </think>', ''),
  ],
)
def test_tokens_of_an_opened_thought(opened, text, thought):
  tokenizer = opened_thoughts.opening(opened)
  completions = _completions(tokenizer, text)
  mask = thinking.thinking_mask(tokenizer, completions)
  assert tokenizer.decode(completions.tokens[mask]).strip() == thought
  # The prompt says it, whatever others of that template open.
  plain = opened_thoughts.opening('')
  again = thinking.thinking_mask(plain, completions, [opened])
  np.testing.assert_array_equal(again, mask)


@pytest.mark.parametrize('style', ['rlla', 'template'])
def test_later_turns_are_opened_as_their_prompts_are(style):
  tokenizer = opened_thoughts.r1()
  stops = tokenizers.stop_token_ids(tokenizer)
  reader = observations.Reader(tokenizer, stops, chat_template.Style(style), 96)
  observed = (('obs', '1'),)
  between = tokenizer.decode(reader.encode(observed))
  # After a result R1's template leaves the head to the policy.
  opened = '<think>\n' if style == 'rlla' else ''
  assert reader.opened(observed) == opened
  assert between.endswith(opened) and bool(opened) == ('<think>' in between)
  shown = types.Demonstration(
    TASK, ANSWER, further=(types.Exchange(observed, ANSWER),)
  )
  _, got = demonstrations.batch(
    codecs.make(tokenizer, reader=reader),
    [shown],
    [0],
    prompt_buckets=(256,),
    response_buckets=(256,),
  )
  turns = [
    tokenizer.decode(
      got.tokens[0, 0][got.policy_mask[0, 0] & (got.turn == n)[0, 0]]
    )
    for n in range(2)
  ]
  rest = ANSWER.removeprefix('<think> ')
  second = rest if style == 'rlla' else ANSWER
  assert turns == [f'{rest}<|im_end|>', f'{second}<|im_end|>']


def test_history_holds_the_tag_once():
  said = [USER, {'role': 'assistant', 'content': ANSWER}, USER]
  start = '<|im_start|>assistant\n'
  for history in (False, True):
    tokenizer = opened_thoughts.opening('<think>\n', history=history)
    text = chat_template.render(tokenizer, said)
    told = '<think>\nCall f.' if history else '<think> Call f.'
    assert f'{start}{told} </think>\n{CALLS}<|im_end|>' in text
    assert text.count('<think>') == 2 and text.endswith(f'{start}<think>\n')
  # What a template takes out of history it still takes out.
  text = chat_template.render(opened_thoughts.r1(), said)
  assert text == f'<|User|>x<|Assistant|>\n{CALLS}<|im_end|><|User|>x' + (
    '<|Assistant|><think>\n'
  )


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('ab', ['<think>\na', 'b']),
    ('<thin air', ['<think>\n<thin ', 'a', 'i', 'r']),
    ('<think>a', ['<think>', 'a']),
    ('\n<', ['<think>\n\n<']),
  ],
)
def test_text_that_grows_begins_with_what_was_opened(text, wanted):
  opened = '<think>\n'
  tokenizer = opened_thoughts.opening(opened)
  ids = [
    token
    for letter in text
    for token in tokenizer.encode(letter, add_special_tokens=False)
  ]
  assert len(ids) == len(text)
  grown = (
    [(np.array(ids[:n], np.int32), n == len(ids))]
    for n in range(1, len(ids) + 1)
  )
  got = [piece for _, piece in streaming.stream(tokenizer, grown, (), opened)]
  assert got == wanted
  assert ''.join(got) == tokenizers.decode_answer(tokenizer, ids, (), opened)
