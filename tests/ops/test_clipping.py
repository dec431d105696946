"""The clip radius and the upper radius of each sample, by hand."""

import functools

import chex
import jax
import numpy as np
import pytest
from absl.testing import parameterized

from awpo_jax.ops import clipping, collectives
from tests.helpers import flags
from tests.ops.test_estimators import make_samples

GATE = np.float32([0.516861, 0.999997, 0, 0.575192, 0, 0.524143])
COUNTED = np.ones(6, bool)


def _radius(gate, counted, all_sum=collectives.identity, **changed):
  numbers = flags.section('loss', **changed)
  return clipping.clip_radius(gate, counted, all_sum=all_sum, **numbers)


class ClipRadiusTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  @parameterized.parameters(
    # wbar = 2.616193 / 6 = .4360322
    ('linear', 0.156397),  # .2 - .1 wbar
    ('harmonic', 0.183958),  # .2 / (1 + .2 wbar)
    ('widen', 0.217441),  # .2 (1 + .2 wbar)
    ('fixed', 0.2),
  )
  def test_worked_numbers(self, clip, want):
    got = self.variant(functools.partial(_radius, clip=clip))(GATE, COUNTED)
    np.testing.assert_allclose(got, want, atol=1e-6)
    self.assertEqual(got.dtype, np.float32)

  def test_bounds_are_settings(self):
    # wbar = 3/4: .3 - (.3 - .05) 3/4 = .1125
    got = _radius(
      np.float32([1, 0.5]), np.ones(2, bool), clip_min=0.05, clip_max=0.3
    )
    np.testing.assert_allclose(got, 0.1125, rtol=1e-6)

  def test_only_counted_groups(self):
    # mean of 1 and 0 alone: .2 - .1 / 2; what is not counted may be anything
    got = _radius(np.float32([1, np.nan, 0]), np.array([True, False, True]))
    np.testing.assert_allclose(got, 0.15, rtol=1e-6)

  @parameterized.parameters(*clipping.CLIPS)
  def test_no_gate_is_a_gate_of_0(self, clip):
    got = _radius(0.0, np.array([True, False]), clip=clip, clip_max=0.3)
    np.testing.assert_array_equal(got, np.float32(0.3))

  @parameterized.parameters(*clipping.CLIPS)
  def test_no_group_counts(self, clip):
    got = _radius(
      np.full(3, np.nan, np.float32), np.zeros(3, bool), clip=clip, clip_max=0.3
    )
    np.testing.assert_array_equal(got, np.float32(0.3))

  def test_unknown_clip_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'linear, harmonic, widen, fixed'):
      _radius(GATE, COUNTED, clip='none')

  @parameterized.parameters(
    ('linear', [0.15, 0.2, 0.1, 0.2]),  # .2 - .1 w, 0 where not counted
    ('harmonic', [0.2 / 1.1, 0.2, 0.2 / 1.2, 0.2]),
    ('fixed', [0.2] * 4),
  )
  def test_each_group_has_its_own(self, clip, want):
    gate = np.float32([0.5, 0, 1, np.nan])
    counted = np.array([True, True, True, False])
    run = functools.partial(_radius, clip=clip, clip_scope='group')
    got = jax.jit(run)(gate, counted)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # No device needs to know another's; solved groups, of gate 0, widen none.
    split = jax.pmap(
      functools.partial(run, all_sum=collectives.make_all_sum('data')),
      axis_name='data',
    )(gate.reshape(4, 1), counted.reshape(4, 1))
    np.testing.assert_array_equal(np.ravel(split), got)
    np.testing.assert_array_equal(run(0.0, counted), np.full(4, 0.2, 'f'))

  def test_groups_of_one_gate_have_the_radius_of_the_batch(self):
    gate, counted = np.full(6, 0.375, np.float32), np.ones(6, bool)
    got = _radius(gate, counted, clip_scope='group')
    np.testing.assert_allclose(got, np.full(6, _radius(gate, counted)))

  def test_unknown_scope_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'batch, group'):
      _radius(GATE, COUNTED, clip_scope='token')

  def test_mean_over_all_devices_with_uneven_counts(self):
    # Counted: 3, 1, 2 and 0 groups a device.
    #   sum 1 + 1 + 1 + 0 + .5 + .5 = 4 over 6 groups: wbar 2/3,
    #   linear .2 - .1 * 2/3 = .1333333
    # A mean of the devices' means would be (1 + 0 + .5 + 0) / 4 = .375: .1625
    gate = np.float32([[1, 1, 1], [0, 9, 9], [0.5, 0.5, 9], [9, 9, 9]])
    counted = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    chex.assert_devices_available(4, 'cpu')
    radius = functools.partial(
      _radius, all_sum=collectives.make_all_sum('data')
    )
    for wrap in (jax.pmap, jax.vmap):
      got = wrap(radius, axis_name='data')(gate, counted)
      np.testing.assert_allclose(got, np.full(4, 0.4 / 3), rtol=1e-6)
    whole = _radius(gate.ravel(), counted.ravel())
    np.testing.assert_allclose(whole, 0.4 / 3, rtol=1e-6)


# Advantages -1, 0, 1 and one that is not valid: A~ = A.
SAMPLES = make_samples([[1, 1, 1, 0]], np.ones((1, 4), int))
A = np.float32([[-1, 0, 1, 0]])


def _high(name, delta=None):
  return clipping.upper_radius(
    A,
    np.float32(0.2),
    SAMPLES,
    clip_high=name,
    clip_high_factor=1.5,
    clip_high_delta=delta,
    all_sum=collectives.identity,
  )


def test_upper_radius_by_hand():
  np.testing.assert_allclose(_high('factor'), [[0.3] * 4], rtol=1e-6)
  # Phi(-1) = .158655, Phi(0) = .5, Phi(1) = .841345
  np.testing.assert_allclose(
    _high('adaptive', 0.1), [[0.3158655, 0.35, 0.3841345, 0.35]], rtol=1e-5
  )


def test_unknown_rule_is_refused():
  with pytest.raises(ValueError, match='factor, adaptive'):
    _high('higher')
