"""The loop over lengths of the cache: which it takes, and that none differs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.models import cache as cache_lib
from awpo_jax.rollout.sampling import decode_loop, sampler
from tests.helpers import decoder_reference, tiny_decoder
from tests.helpers import sampling_cases as cases
from tests.helpers.tiny_training import jit


class EndsTest(chex.TestCase):
  @parameterized.parameters(
    (128, 4, (48, 96, 128)),  # None is shorter than 48.
    (128, 2, (64, 128)),
    (128, 1, (128,)),
    (8, 4, (8,)),
    (1000, 3, (334, 668, 1000)),
  )
  def test_by_hand(self, columns, count, want):
    self.assertEqual(decode_loop.ends(columns, count), want)


class RunTest(chex.TestCase):
  @parameterized.parameters(False, True)
  def test_every_step(self, in_place):
    # A row from 0 on and one from 95 on, which at 105 begins anew; at 60 a row
    # is done. Lengths of the cache are 50, 100 and 150.
    def step(state, rest, used):
      count, seen = rest
      seen = seen.at[count].set(used)
      length = cache_lib.length(state.cache)
      self.assertEqual(length, 150 if in_place else used)
      first, *others = state.cache
      values = first.values.at[np.arange(2), :, state.length].set(count + 1.0)
      length = state.length + ~state.done
      length = jnp.where(length == 105, 0, length)
      state = state.replace(
        cache=(first.replace(values=values), *others),
        length=length,
        done=length == 60,
      )
      return state, (count + 1, seen)

    decoder, _ = tiny_decoder.make_llama()
    state = sampler.begin(
      jnp.zeros((2, 1)), sampler.Decoding(decoder, 150, (), 0)
    )
    state = state.replace(length=jnp.int32([0, 95]))
    run = jax.jit(
      functools.partial(decode_loop.run, step, count=3, in_place=in_place)
    )
    state, (count, seen) = run(state, (jnp.int32(0), jnp.zeros(99, jnp.int32)))
    self.assertEqual(count, 70)
    # The longest row is 95 to 99, then 100 to 104; 10 to 49, and 50 to 60.
    want = [100] * 5 + [150] * 5 + [50] * 40 + [100] * 20
    np.testing.assert_array_equal(seen[:70], want)
    np.testing.assert_array_equal(state.length, [60, 60])
    # What was written stays, whatever the length at the time.
    got = state.cache[0].values[:, 1, :, 0]
    np.testing.assert_array_equal(got[0, :60], np.arange(1, 61))
    np.testing.assert_array_equal(got[1, :60], np.arange(11, 71))
    np.testing.assert_array_equal(got[1, 95:105], np.arange(1, 11))
    np.testing.assert_array_equal(got[:, 105:], np.zeros((2, 45)))


class SamplerTest(chex.TestCase):
  def test_equal_the_whole_cache(self):
    decoder, params = cases.model()
    lengths = []

    def sample(count, in_place=False):
      run = functools.partial(
        sampler.sample,
        decoding=sampler.Decoding(
          tiny_decoder.RecordingDecoder(decoder.config),
          max_tokens=70,
          stop_ids=(7,),
          pad_id=cases.PAD_ID,
          in_place=in_place,
        ),
        stages=count,
      )
      tiny_decoder.calls.clear()
      got = jit(run)(params, cases.prompts(), cases.sample_ids(), cases.key())
      lengths.append(len(tiny_decoder.calls))
      return jax.device_get(got)

    want, other, got = sample(1), sample(4), sample(4, in_place=True)
    self.assertGreater(lengths[1], lengths[0])
    chosen = want.mask.sum(-1)
    self.assertTrue((chosen == 70).any() and (chosen < 32).any())
    for each in other, got:
      for name in ('tokens', 'mask', 'positions', 'finished'):
        np.testing.assert_array_equal(getattr(each, name), getattr(want, name))
      for name in ('logprobs', 'entropy'):
        np.testing.assert_allclose(
          getattr(each, name), getattr(want, name), atol=1e-5
        )
    # And float64 NumPy without any cache.
    p, g = np.argwhere(chosen == 70)[0]
    own = got.tokens[p, g]
    logits = decoder_reference.logits([*cases.ROWS[p], *own], params, cases.HF)
    logits = logits[len(cases.ROWS[p]) - 1 : -1]
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(
      got.logprobs[p, g], logits[np.arange(70), own], atol=1e-4
    )
