"""Sampling by a kernel that is told how many keys are in use."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from awpo_jax.rollout.sampling import continuous_batching, sampler
from tests.helpers import sampling_cases as cases
from tests.helpers import tiny_decoder
from tests.helpers.tiny_training import jit

# Two lengths of the cache for the parts, and in each a row that ends.
MAX_TOKENS = 70


def sampled(kernel, run=sampler.sample, **options):
  """Completions by a kernel, and for how many lengths it was traced."""
  decoder, params = cases.model()
  config = dataclasses.replace(decoder.config, decode_attention=kernel)
  decoding = sampler.Decoding(
    tiny_decoder.RecordingDecoder(config),
    MAX_TOKENS,
    stop_ids=(7,),
    pad_id=cases.PAD_ID,
  )
  tiny_decoder.calls.clear()
  got = jit(functools.partial(run, decoding=decoding, **options))(
    params, cases.prompts(), cases.sample_ids(), cases.key()
  )
  traced = [name for name, *_ in tiny_decoder.calls].count('decode')
  return jax.device_get(got), traced


@functools.cache
def by_parts():
  return sampled('parts')


@pytest.mark.parametrize(
  ('run', 'options'),
  [(sampler.sample, {}), (continuous_batching.sample, {'slots': 3})],
)
def test_the_same_answers_as_by_parts(run, options):
  want, _ = by_parts()
  lengths = want.mask.sum(-1)
  assert len(set(lengths.ravel())) == 4 and lengths.max() == MAX_TOKENS
  got, _ = sampled('xla', run, **options)
  for name in ('tokens', 'mask', 'positions', 'finished'):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
  for name in ('logprobs', 'entropy'):
    np.testing.assert_allclose(
      getattr(got, name), getattr(want, name), atol=1e-5
    )


def test_it_is_compiled_for_one_length_of_the_cache():
  assert by_parts()[1] == 2
  assert sampled('xla')[1] == 1
