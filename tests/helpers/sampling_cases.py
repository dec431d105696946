"""Models, prompts and compiled samplers that the sampler's tests share."""

import functools

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import sampler as sampler_lib
from tests.helpers import tiny_decoder

HF = tiny_decoder.HF | {'model_type': 'llama'}
VOCAB = HF['vocab_size']
SAMPLES = 2
MAX_TOKENS = 8
STOP_IDS = tuple(range(56, VOCAB))
PAD_ID = 30
decode_steps = []


class CountingDecoder(decoder_lib.Decoder):
  """Notes in `decode_steps` when it decodes."""

  def decode(self, *args, **kwargs):
    jax.debug.callback(lambda: decode_steps.append(1))
    return super().decode(*args, **kwargs)


@functools.cache
def model():
  """A decoder and random parameters, a few of whose tokens are likely."""
  decoder, params = tiny_decoder.make(HF, seed=1)
  return CountingDecoder(decoder.config), params


@functools.cache
def chain():
  """Parameters with which token v is followed by v + 1, surely.

  The blocks add nothing. Embeddings are sign vectors, normalised they stay
  what they are, and column v + 1 of the head is 20 times that of v: its logit
  is 20 * 32, and others are 20 times products of unlike sign vectors.
  """
  _, params = model()
  signs = np.random.default_rng(0).choice([-1.0, 1.0], (VOCAB, 32))
  zeros = jax.tree.map(np.zeros_like, params)
  return zeros | {
    'embed_tokens': {'embedding': signs.astype(np.float32)},
    'norm': {'weight': np.ones(32, np.float32)},
    'lm_head': 20 * np.roll(signs, 1, axis=0).T.astype(np.float32),
  }


def make_prompts(rows, length, *, junk=0):
  """`types.Prompts` of token lists, padded on the left with `junk`."""
  tokens = np.full((len(rows), length), junk, np.int32)
  mask = np.zeros((len(rows), length), bool)
  for row, text in enumerate(rows):
    tokens[row, length - len(text) :] = text
    mask[row, length - len(text) :] = True
  ids = np.arange(len(rows), dtype=np.int32)
  return types.Prompts(tokens=tokens, mask=mask, ids=ids)


ROWS = ([4, 8, 15], [16, 23, 42, 7, 9, 1], [33, 2, 2, 50], [11])


def prompts():
  """Four prompts of 3, 6, 4 and 1 tokens."""
  return make_prompts(ROWS, 6)


def sample_ids(prompt_count=4, samples=SAMPLES):
  ids = 100 + np.arange(prompt_count * samples, dtype=np.int32)
  return ids.reshape(prompt_count, samples)


def key(step=3):
  return sampler_lib.fact_key(sampler_lib.facts(7, 'train', step))


def raw_sampler(decoder, temperature):
  return functools.partial(
    sampler_lib.sample,
    decoding=sampler_lib.Decoding(
      decoder, MAX_TOKENS, STOP_IDS, PAD_ID, temperature
    ),
  )


@functools.cache
def sampler(temperature):
  """(params, prompts, sample ids, key) -> completions; compiled once."""
  decoder, _ = model()
  return jax.jit(raw_sampler(decoder, temperature))


@functools.cache
def completions(temperature):
  """Of the random model and the four prompts."""
  _, params = model()
  got = sampler(temperature)(params, prompts(), sample_ids(), key())
  return jax.tree.map(np.asarray, got)
