"""Slots that are refilled: the same texts as without, in fewer steps."""

import functools

import chex
import jax
import numpy as np
from absl.testing import parameterized

from awpo_jax.rollout.sampling import continuous_batching
from awpo_jax.rollout.sampling import sampler as sampler_lib
from experiments.benchmarks import counts
from tests.helpers import sampling_cases as cases
from tests.helpers.tiny_training import jit


def run(function, params, ids, *, limits=None, max_tokens=8, stops=None, **kw):
  """Completions of the four prompts, or of as many as there are ids."""
  decoder, _ = cases.model()
  prompts = jax.tree.map(lambda x: x[: len(ids)], cases.prompts())
  call = functools.partial(
    function,
    decoding=sampler_lib.Decoding(
      decoder,
      max_tokens,
      cases.STOP_IDS if stops is None else stops,
      cases.PAD_ID,
    ),
    **kw,
  )
  sampler = jit(lambda *x, limits: call(*x, limits=limits))
  got = sampler(params, prompts, ids, cases.key(), limits=limits)
  return jax.tree.map(np.asarray, got)


@functools.cache
def plain():
  """Six samples of each prompt, limited to 1 to 8 tokens, all at once."""
  _, params = cases.model()
  ids = cases.sample_ids(4, 6)
  limits = np.random.default_rng(2).integers(1, 9, ids.shape, np.int32)
  return (
    params,
    ids,
    limits,
    run(sampler_lib.sample, params, ids, limits=limits),
  )


def check(got, want):
  for name in (
    'tokens',
    'mask',
    'policy_mask',
    'positions',
    'turn',
    'finished',
  ):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name), name)
  for name in ('logprobs', 'entropy'):
    np.testing.assert_allclose(
      getattr(got, name), getattr(want, name), atol=1e-5
    )


class SameTextTest(chex.TestCase):
  @parameterized.parameters(
    {'slots': 5},
    {'slots': 40, 'shared': 2},  # More than there are samples.
    {'slots': 6, 'shared': 3, 'parts': 4},
  )
  def test_short(self, **kwargs):
    params, ids, limits, want = plain()
    got = run(continuous_batching.sample, params, ids, limits=limits, **kwargs)
    check(got, want)
    # Ends of both kinds, and texts of many lengths.
    self.assertTrue(want.finished.any() and not want.finished.all())
    self.assertGreater(len(set(want.mask.sum(-1).flat)), 5)

  def test_over_the_lengths_of_the_cache(self):
    # Long ones among short ones: the loop goes up to longer heads of the cache
    # and back, and slots find what longer samples left behind.
    _, params = cases.model()
    ids = cases.sample_ids(2, 8)
    limits = np.full(ids.shape, 6, np.int32)
    limits[0, 2], limits[1, 1], limits[1, 5] = 70, 40, 66
    kwargs = {'max_tokens': 70, 'stops': (), 'limits': limits}
    want = run(sampler_lib.sample, params, ids, stages=1, **kwargs)
    np.testing.assert_array_equal(want.mask.sum(-1), limits)
    check(
      run(continuous_batching.sample, params, ids, slots=3, stages=3, **kwargs),
      want,
    )


class StepsTest(chex.TestCase):
  LIMITS = np.int32([[3, 1, 2], [4, 1, 1]])

  @parameterized.parameters(
    (1, 1, 12),
    (2, 1, 7),  # 3 and 4; 1, 2, 1 and 1.
    (3, 1, 5),  # 3 and 1; 1 and 4; 2 and 1.
    (3, 3, 7),  # A lane of three waits for its longest: 3 and 4.
    (6, 3, 4),
    (9, 1, 4),
  )
  def test_counted_by_hand(self, count, shared, steps):
    got = counts.steps_in_slots(self.LIMITS, slots=count, shared=shared)
    self.assertEqual(got, steps)

  @parameterized.parameters(
    ({'slots': 2}, 7),
    ({'slots': 3, 'shared': 3}, 7),
    ({'slots': 3, 'shared': 3, 'parts': 2}, 4),  # As many in each part.
  )
  def test_by_hand(self, kwargs, steps):
    limits, ids = self.LIMITS, cases.sample_ids(2, 3)
    cases.decode_steps.clear()
    got = run(
      continuous_batching.sample,
      cases.chain(),
      ids,
      limits=limits,
      stops=(),
      **kwargs,
    )
    jax.effects_barrier()
    self.assertLen(cases.decode_steps, steps)
    # Prompts end with 15 and 1, and token v is followed by v + 1.
    mask = np.arange(8) < limits[..., None]
    following = np.array([15, 1])[:, None, None] + 1 + np.arange(8)
    np.testing.assert_array_equal(got.mask, mask)
    np.testing.assert_array_equal(
      got.tokens, np.where(mask, following, cases.PAD_ID)
    )
    self.assertFalse(got.finished.any())

  def test_what_does_not_divide(self):
    _, params = cases.model()
    for kwargs in ({'slots': 3, 'shared': 2}, {'slots': 4, 'shared': 4}):
      with self.assertRaises(AssertionError):
        run(
          continuous_batching.sample, params, cases.sample_ids(2, 6), **kwargs
        )
