"""What is trained on are the tokens that were sampled, not their text's."""

import numpy as np

from awpo_jax import types
from awpo_jax.training.collection import sample, score
from tests.helpers import tiny_run

WORD = 'system'  # A word of every prompt, and so a token of the tokenizer.


def _spelt(word):
  """The same text, a token a letter."""
  tokenizer = tiny_run.experiment().codec.tokenizer
  return tokenizer.convert_tokens_to_ids(list(word))


def _completions(rows):
  """The rows of tokens [P, 1], as the sampler would return them."""
  codec = tiny_run.experiment().codec
  shape = (len(rows), 1, tiny_run.RESPONSE_BUCKETS[-1])
  lengths = np.array([[len(row)] for row in rows])
  mask = np.arange(shape[-1]) < lengths[..., None]
  tokens = np.full(shape, codec.pad_id, np.int32)
  tokens[mask] = np.concatenate(rows)
  return types.Completions(
    tokens=tokens,
    mask=mask,
    policy_mask=mask,
    positions=np.where(mask, np.arange(shape[-1], dtype=np.int32), 0),
    turn=np.zeros(shape, np.int32),
    logprobs=np.where(mask, -1 - np.arange(shape[-1]) / 8, 0).astype('f4'),
    entropy=np.zeros(shape, np.float32),
    finished=np.ones(shape[:2], bool),
  )


def test_the_sampled_tokens_are_trained_on_as_they_are():
  sampler, codec = tiny_run.sampler(), tiny_run.experiment().codec
  tokenizer, stop = codec.tokenizer, codec.stop_ids[0]
  whole = tokenizer.encode(WORD, add_special_tokens=False)
  spelt = _spelt(WORD)
  # Two ways to write one text; encoding it gives the first only.
  assert len(whole) < len(spelt) == 6
  assert tokenizer.decode(spelt) == tokenizer.decode(whole) == WORD
  tasks, prompts, _ = sampler.next_prompts(0)
  rows = [[*spelt, stop], [*whole, stop], [*spelt[:3], *spelt[:4]], [stop]]
  sampled = _completions(rows)
  samples = sample.sample_ids(prompts.ids, 1)
  texts = codec.decode(sampled, tasks)
  scored, transcripts = score.score(
    sample.Sampled(tasks, prompts, samples, sampled, texts),
    sampler.config,
    sampler.scorer,
    codec,
  )
  # Both rows read alike to the rewards, and stay what they were.
  assert [row['response'] for row in transcripts] == [WORD, WORD]
  kept = scored.rollout.completions
  for row, tokens, mask in zip(rows, kept.tokens, kept.mask, strict=True):
    np.testing.assert_array_equal(tokens[0][mask[0]], row)
  width = kept.tokens.shape[-1]
  for name in ('tokens', 'mask', 'policy_mask', 'positions', 'logprobs'):
    np.testing.assert_array_equal(
      getattr(kept, name), getattr(sampled, name)[..., :width], name
    )
