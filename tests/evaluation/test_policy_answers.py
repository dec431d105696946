"""Batches of answers are those that single prompts have."""

import jax
import numpy as np
import pytest

from awpo_jax.checkpointing import policies
from awpo_jax.evaluation import policy_answers
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import streaming
from awpo_jax.rollout.text import tokenizers
from tests.helpers import hf_models

MAX_TOKENS = 6


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model') / 'qwen3'
  hf_models.save_qwen3(folder)
  return policies.load(folder)


def make(policy, **options):
  return policy_answers.Answerer(
    policy.params,
    decoder_lib.Decoder(policy.config),
    policy.tokenizer,
    policy.stop_ids,
    **{
      'buckets': (8, 16),
      'batch': 3,
      'max_tokens': MAX_TOKENS,
      'temperature': 1.0,
      'seed': 5,
      **options,
    },
  )


def prompts(policy, *texts):
  return [np.asarray(policy.tokenizer.encode(text), np.int32) for text in texts]


def test_greedy_answers_are_those_of_one_prompt_alone(policy):
  texts = ['ab', 'abcdefghijkl', 'xyz']
  encoded = prompts(policy, *texts)
  got = make(policy, temperature=0.0).answer(encoded, np.zeros((3, 1), int))
  settings = streaming.Settings(max_tokens=MAX_TOKENS, temperature=0.0)
  for prompt, ((text, length),) in zip(encoded, got, strict=True):
    *_, ((tokens, _),) = streaming.snapshots(
      policy.params,
      prompt,
      settings,
      decoder=decoder_lib.Decoder(policy.config),
      stop_ids=policy.stop_ids,
      pad_id=tokenizers.pad_token_id(policy.tokenizer, policy.stop_ids),
    )
    stop_ids = policy.stop_ids
    assert length == len(tokens)
    assert text == tokenizers.decode_answer(
      policy.tokenizer, tokens, stop_ids, ''
    )


def test_draws_hang_on_their_ids_alone(policy):
  answerer = make(policy)
  a, b = prompts(policy, 'ab', 'xyz')
  both = answerer.answer([a, b], np.array([[1, 2], [3, 4]]))
  (alone,) = answerer.answer([b], np.array([[3, 4]]))
  assert alone == both[1]
  assert alone[0] != alone[1]
  # Another seed, another draw.
  (other,) = make(policy, seed=6).answer([b], np.array([[3, 4]]))
  assert other != alone


def test_rows_are_dealt_to_the_devices(policy):
  assert len(jax.local_devices()) == 4
  texts = ['ab', 'abcdefghijkl', 'xyz', 'b', 'cc', 'ddd', 'abc', 'z']
  encoded = prompts(policy, *texts)
  ids = np.arange(16).reshape(8, 2)
  four = make(policy, batch=8)
  # Seven rows divide over one device alone.
  one = make(policy, batch=7)
  assert four.answer(encoded, ids) == [
    *one.answer(encoded[:4], ids[:4]),
    *one.answer(encoded[4:], ids[4:]),
  ]
  assert four.devices == 4
  assert one.devices == 1


def test_one_program_a_shape(policy):
  answerer = make(policy)
  a, b = prompts(policy, 'ab', 'abcdefghijkl')
  answerer.answer([a], np.array([[1]]))
  once = answerer.compile_seconds
  assert once > 0
  answerer.answer([a, a], np.array([[1], [2]]))
  assert answerer.compile_seconds == once
  answerer.answer([b], np.array([[1]]))
  assert answerer.compile_seconds > once
