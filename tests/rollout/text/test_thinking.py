"""Tokens of the chain of thought, whatever the tags are cut into."""

import functools

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.rollout.text import thinking, tokenizers


@functools.cache
def _tokenizer(vocab_size):
  texts = ['<think> I think so. </think>\n<response> yes </response>'] * 9
  return tokenizers.train_tokenizer(texts, vocab_size=vocab_size)


def _mask(tokenizer, rows):
  encoded = [tokenizer.encode(text, add_special_tokens=False) for text in rows]
  width = max(map(len, encoded)) + 1
  mask = np.arange(width) < np.array([[len(row)] for row in encoded])
  tokens = np.zeros(mask.shape, np.int32)
  for row, ids in zip(tokens, encoded, strict=True):
    row[: len(ids)] = ids
  shape = (1, *mask.shape)
  zeros = np.zeros(shape, np.float32)
  completions = types.Completions(
    tokens=tokens.reshape(shape),
    mask=mask.reshape(shape),
    policy_mask=mask.reshape(shape),
    positions=zeros.astype(np.int32),
    turn=zeros.astype(np.int32),
    logprobs=zeros,
    entropy=zeros,
    finished=np.ones(shape[:2], bool),
  )
  return tokens, thinking.thinking_mask(tokenizer, completions)[0]


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('<think> I think. </think>\n<response> yes </response>', 'I think.'),
    ('so <think>a</think> b', 'a'),
    ('<think> <think> no </think> </think>', '<think> no'),
    ('<think> and no end', 'and no end'),
    ('no thought </think>', ''),
    ('<think></think> nothing', ''),
    ('', ''),
  ],
)
def test_between_the_tags(text, want):
  tokenizer = _tokenizer(400)
  tokens, mask = _mask(tokenizer, [text, 'x'])
  got = tokenizer.decode(tokens[0][mask[0]])
  assert got.strip() == want
  assert not mask[1].any()


@pytest.mark.parametrize(
  ('later', 'want'),
  [('', [' one', ' two', '']), ('<think>\n', [' one', ' two', ' c three'])],
)
def test_every_turn_has_a_thought_of_its_own(later, want):
  # Turn by turn: a thought, a thought behind a word, and one that is not opened
  # unless what comes before the turn has done so.
  tokenizer = _tokenizer(400)
  texts = ['<think> one</think>a', 'b<think> two</think>', ' c three</think>d']
  texts[1] = texts[1].removeprefix('b') if later else texts[1]
  turns = [tokenizer.encode(x, add_special_tokens=False) for x in texts]
  # A token that a tool has returned stands before each further turn.
  said = [([] if i == 0 else [5]) + ids for i, ids in enumerate(turns)]
  tokens = np.array([[sum(said, [])]], np.int32)
  turn = np.array([[sum(([i] * len(x) for i, x in enumerate(said)), [])]])
  policy = np.ones(tokens.shape, bool)
  for i in (1, 2):
    policy[0, 0, np.flatnonzero(turn[0, 0] == i)[0]] = False
  zeros = np.zeros(tokens.shape, np.float32)
  completions = types.Completions(
    tokens=tokens,
    mask=np.ones(tokens.shape, bool),
    policy_mask=policy,
    positions=zeros.astype(np.int32),
    turn=turn.astype(np.int32),
    logprobs=zeros,
    entropy=zeros,
    finished=np.ones((1, 1), bool),
  )
  mask = thinking.thinking_mask(tokenizer, completions, [''], later)
  assert not (mask & ~policy).any()
  got = [
    tokenizer.decode(tokens[0, 0][mask[0, 0] & (turn[0, 0] == i)])
    for i in range(3)
  ]
  assert [x.strip() for x in got] == [x.strip() for x in want]


def test_tags_of_several_tokens():
  # Other letters than the tokenizer has single tokens for.
  tokenizer = _tokenizer(400)
  letters = [tokenizer.encode(x, add_special_tokens=False) for x in '<think>']
  spelt = [token for part in letters for token in part]
  assert len(spelt) > 5
  first, last = thinking._thought(
    tokenizer,
    np.array(
      [*spelt, *tokenizer.encode('ab</think>c', add_special_tokens=False)]
    ),
  )
  assert first == len(spelt)
  ids = [*spelt, *tokenizer.encode('ab</think>c', add_special_tokens=False)]
  assert tokenizer.decode(ids[first:last]) == 'ab'
