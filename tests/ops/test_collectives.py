"""The same call on one device and on four."""

import functools

import chex
import jax
import numpy as np

from awpo_jax.ops import collectives


class CollectivesTest(chex.TestCase):
  def test_identity_without_an_axis(self):
    tree = {'a': np.float32([1, 2]), 'b': (np.int32(3),)}
    self.assertIs(collectives.make_all_sum()(tree), tree)
    self.assertIs(collectives.make_all_max(None)(tree), tree)

  def test_over_devices(self):
    tree = {
      'a': np.float32([[1, -2], [3, 4], [5, -6], [7, 8]]),
      'b': (np.int32([4, 3, 2, 1]),),
    }
    chex.assert_devices_available(4, 'cpu')
    for wrap in (jax.pmap, jax.vmap):
      over = functools.partial(wrap, axis_name='data', out_axes=None)
      total = over(collectives.make_all_sum('data'))(tree)
      # 1+3+5+7, -2+4-6+8; 4+3+2+1
      np.testing.assert_array_equal(total['a'], [16, 4])
      np.testing.assert_array_equal(total['b'][0], 10)
      largest = over(collectives.make_all_max('data'))(tree)
      np.testing.assert_array_equal(largest['a'], [7, 8])
      np.testing.assert_array_equal(largest['b'][0], 4)
