"""Plain GRPO bit for bit, degenerate groups, and AWPO's known traps."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.ops import awpo, clipping
from tests.helpers import awpo_cases as cases
from tests.helpers import flags

GRPO = {'gate': 'none', 'difficulty': 'none'}


def _bits(values):
  return np.asarray(values, np.float32).view(np.int32)


def _straight_line_grpo(rewards, valid):
  """GRPO's advantages with nothing of AWPO and no helper of the library."""
  count = jnp.sum(valid.astype(jnp.float32), axis=1)
  mean = jnp.sum(jnp.where(valid, rewards, 0.0), axis=1) / count
  deviation = jnp.where(valid, rewards - mean[:, None], 0.0)
  variance = jnp.sum(deviation * deviation, axis=1) / (count - 1.0)
  return deviation / (jnp.sqrt(variance)[:, None] + 1e-6)


class PlainGrpoTest(chex.TestCase):
  def _rewards(self):
    # Finite-precision rewards in every group, none of them flat.
    rng = np.random.default_rng(7)
    rewards = rng.normal(0.0, 2.0, (24, 5)).astype(np.float32)
    valid = rng.random((24, 5)) < 0.8
    valid[:, :2] = True
    return np.where(valid, rewards, np.nan), valid

  def test_equals_straight_line_code_bit_for_bit(self):
    rewards, valid = self._rewards()
    bounds = np.full(24, -3, np.float32), np.full(24, 4, np.float32)
    missing = np.full((24, 5), np.nan, np.float32)
    want = _straight_line_grpo(jnp.asarray(rewards), jnp.asarray(valid))
    for combine, scope in itertools.product(
      awpo.COMBINATIONS, awpo.COMBINATIONS['convex']
    ):
      got = cases.advantages(
        rewards,
        missing,
        valid,
        *bounds,
        **GRPO,
        combine=combine,
        difficulty_scope=scope,
      )
      np.testing.assert_array_equal(_bits(got.advantages), _bits(want))
    radius = clipping.clip_radius(
      got.gate, got.counted, **flags.section('loss', clip='fixed')
    )
    self.assertEqual(_bits(radius), _bits(0.2))

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_equals_the_estimator_alone_bit_for_bit(self):
    rewards, valid = self._rewards()
    bounds = np.full(24, -3, np.float32), np.full(24, 4, np.float32)
    missing = np.full((24, 5), np.nan, np.float32)
    got = self.variant(functools.partial(cases.advantages, **GRPO))(
      rewards, missing, valid, *bounds
    )
    want = self.variant(cases.grpo)(rewards, valid)
    np.testing.assert_array_equal(_bits(got.advantages), _bits(want))

  def test_no_floor_changes_a_bit_without_a_gate(self):
    rewards, valid = self._rewards()
    # One group that differs by less than the floor.
    rewards[0] = np.float32([1, 1.001, 1.002, 1.001, 1.0])
    valid[0] = True
    bounds = np.full(24, -3, np.float32), np.full(24, 4, np.float32)
    want = _straight_line_grpo(jnp.asarray(rewards), jnp.asarray(valid))
    for floor in (0.0, 0.02, 10.0):
      got = cases.advantages(
        rewards, rewards, valid, *bounds, **GRPO, mix_std_floor=floor
      )
      np.testing.assert_array_equal(_bits(got.advantages), _bits(want))

  def test_reasoning_changes_nothing_without_a_gate(self):
    groups = cases.random_groups(4)
    for reasoning in (np.nan, np.inf, 0.3):
      got = cases.jitted(**GRPO)(
        groups[0], np.full_like(groups[1], reasoning), *groups[2:]
      )
      want = cases.jitted(**GRPO)(*groups)
      chex.assert_trees_all_equal(got, want)

  def test_reference_numbers(self):
    # Outcome + format of two groups of four; the second has mean 1.
    outcome = np.float32([[1, 0, 0, 1], [0, 0, 0, 1]])
    form = np.float32([[1, 1, 0, 1], [1, 0, 1, 1]])
    got = cases.grpo(outcome + form, np.ones((2, 4), bool))
    want = [
      [0.783349, -0.261116, -1.305581, 0.783349],
      [0, -1.224743, 0, 1.224743],
    ]
    np.testing.assert_allclose(got, want, atol=1e-6)


class DegenerateGroupsTest(chex.TestCase):
  def _groups(self):
    # All equal; all equal and no float32 number; one valid; none valid and no
    # bounds; equal where valid, NaN and inf elsewhere; a prompt of one outcome.
    outcome = np.float32(
      [
        [4, 4, 4, 4],
        [0.9, 0.9, 0.9, np.nan],
        [np.nan, 4, np.nan, np.inf],
        [np.nan] * 4,
        [1.7, 1.7, -np.inf, 1.7],
        [0.7, 0.7, 0.7, 0.7],
      ]
    )
    reasoning = np.where(np.isfinite(outcome), np.float32(0.3), np.nan)
    low = np.float32([-3, -3, 0, np.nan, -3, 0.7])
    high = np.float32([4, 4, 1, np.nan, 4, 0.7])
    return outcome, reasoning, np.isfinite(outcome), low, high

  @chex.all_variants
  @parameterized.parameters(
    {},
    {'gate': 'always', 'combine': 'additive', 'saturation': 'none'},
    {'gate': 'binary', 'mix_advantage': 'reasoning', 'reward_scale': 'unit'},
  )
  def test_exactly_zero(self, **settings):
    got = self.variant(functools.partial(cases.advantages, **settings))(
      *self._groups()
    )
    np.testing.assert_array_equal(got.advantages, np.zeros((6, 4)))
    np.testing.assert_array_equal(
      got.counted, [True, True, False, False, True, True]
    )
    chex.assert_tree_all_finite(got)
    self.assertEqual(got.advantages.dtype, jnp.float32)
    np.testing.assert_array_equal(got.gate[2:4], np.zeros(2))
    np.testing.assert_array_equal(got.difficulty[2:4], np.zeros(2))

  def test_a_group_alone_is_what_it_is_among_others(self):
    # Under vmap each group is a batch of one: nothing may cross groups.
    def alone(*group):
      groups = jax.tree.map(lambda x: x[None], group)
      return jax.tree.map(lambda x: x[0], cases.advantages(*groups))

    degenerate = self._groups()
    got = jax.vmap(alone)(*degenerate)
    np.testing.assert_array_equal(got.advantages, np.zeros((6, 4)))
    chex.assert_tree_all_finite(got)
    both = [
      np.concatenate(x) for x in zip(degenerate, cases.GROUPS, strict=True)
    ]
    got = jax.vmap(alone)(*both)
    want = cases.advantages(*both)
    self.assertGreater(float(np.abs(got.advantages[6:]).max()), 1.0)
    chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-6)

  @parameterized.parameters(0.1, 0.3, 0.7, -2.1)
  def test_equal_rewards_that_float32_cannot_average(self, reward):
    # Added one by one, seven times 0.1 divided by 7 is not 0.1, and the
    # difference over a std of 0 + 1e-6 is an advantage of some percent.
    rewards = np.full((6, 7), reward, np.float32)
    total = np.float32(0)
    for value in rewards[0]:
      total += value
    residue = rewards[0, 0] - total / np.float32(7)
    self.assertGreater(abs(residue) / 1e-6, 0.005)
    everyone = np.ones((6, 7), bool)
    got = cases.jitted(gate='always', saturation='none')(
      rewards, rewards, everyone, *cases.GROUPS[3:]
    )
    np.testing.assert_array_equal(got.advantages, np.zeros((6, 7)))
    np.testing.assert_array_equal(got.mix_std, np.zeros(6))
    np.testing.assert_array_equal(
      cases.grpo(rewards, everyone), np.zeros((6, 7))
    )

  @chex.variants(with_jit=True, with_pmap=True)
  def test_constant_for_differentiation(self):
    def total(outcome, reasoning, *rest):
      got = cases.advantages(outcome, reasoning, *rest)
      radius = clipping.clip_radius(
        got.gate, got.counted, **flags.section('loss')
      )
      return jnp.sum(got.advantages**2) + jnp.sum(got.difficulty) + radius

    for groups in (self._groups(), cases.GROUPS):
      gradients = self.variant(jax.grad(total, argnums=(0, 1)))(*groups)
      chex.assert_trees_all_equal(gradients, (np.zeros((6, 4)),) * 2)

  @chex.all_variants
  def test_finite_gradient_inside_of_the_boundary(self):
    # What the boundary stops is finite too, should someone move it.
    outcome, _, valid, _, _ = self._groups()
    outcome[0] = [4, 1, -3, 4]

    def total(rewards):
      standardized = cases.grpo(rewards, valid)
      return jnp.sum(
        standardized * np.arange(24.0, dtype=np.float32).reshape(6, 4)
      )

    gradient = self.variant(jax.grad(total))(outcome)
    chex.assert_tree_all_finite(gradient)
    self.assertGreater(float(jnp.abs(gradient[0]).max()), 0.1)
    np.testing.assert_array_equal(np.asarray(gradient)[~valid], 0.0)

  def test_float32_even_under_x64(self):
    with jax.enable_x64(True):
      groups = [x if x.dtype == bool else np.float64(x) for x in cases.GROUPS]
      got = jax.eval_shape(cases.advantages, *groups)
      clip = functools.partial(
        clipping.clip_radius,
        **flags.section('loss', clip_max=np.float64(0.2)),
      )
      radius = jax.eval_shape(clip, got.gate, got.counted)
    for leaf in jax.tree.leaves((got, radius)):
      self.assertIn(leaf.dtype, (jnp.float32, jnp.bool_))


class TrapsTest(chex.TestCase):
  def test_agreeing_judge_makes_the_gate_lean_not_switch(self):
    # The judge ranks samples as the outcome does, so s_mix >= s_out, w >= 1/2:
    # the ratio gate never closes, though the outcome needs no help.
    rng = np.random.default_rng(11)
    outcome = rng.integers(-3, 5, (24, 5)).astype(np.float32)
    outcome[:, :2] = [-3, 4]
    reasoning = (outcome + 3) / 7 * rng.random((24, 1), np.float32)
    bounds = np.full(24, -3, np.float32), np.full(24, 4, np.float32)
    groups = (outcome, reasoning, np.ones((24, 5), bool), *bounds)
    gate = cases.advantages(*groups).gate
    self.assertGreaterEqual(float(gate.min()), 0.5 - 1e-6)
    self.assertLess(float(gate.max()), 0.6)
    binary = cases.advantages(*groups, gate='binary').gate
    np.testing.assert_array_equal(binary, np.zeros(24))

  def test_parabola_throws_the_reasoning_signal_away(self):
    # All wrong and all right: 4 p (1 - p) = 0 just where the gate is open.
    settings = {'saturation': 'none'}
    parabola = cases.advantages(
      *cases.GROUPS, difficulty='parabola', **settings
    )
    banded = cases.advantages(*cases.GROUPS, **settings)
    for case in (cases.ALL_WRONG, cases.SOLVED):
      self.assertGreater(float(parabola.gate[case]), 0.99)
      np.testing.assert_array_equal(parabola.advantages[case], np.zeros(4))
      self.assertGreater(float(np.abs(banded.advantages[case]).max()), 1.0)
    # A floor keeps some of it: 0.25 of the advantage with weight 1.
    floor = cases.advantages(
      *cases.GROUPS, difficulty='parabola', floor=0.25, **settings
    )
    np.testing.assert_allclose(
      floor.advantages[cases.ALL_WRONG],
      banded.advantages[cases.ALL_WRONG] / 4,
      rtol=1e-6,
    )

  def test_tiny_reasoning_differences_are_held_down_by_the_floor(self):
    # All wrong; reasoning .500 .501 .502 .503: s_mix = .00129, and without a
    # floor the advantages are those of 0 1 2 3: -1.5 / 1.290994 = -1.161895 at
    # the end (times s / (s + 1e-6) twice: once in w, once in A_mix). With one
    # of .02 they are the differences over .02: -.0015 / .02.
    reasoning = cases.REASONING.copy()
    reasoning[cases.ALL_WRONG] = [0.5, 0.501, 0.502, 0.503]
    groups = cases.OUTCOME, reasoning, cases.VALID, cases.LOW, cases.HIGH
    steps = np.float64([-1.5, -0.5, 0.5, 1.5])
    usual = cases.advantages(*cases.GROUPS)
    for floor, want in ((0.0, steps / 1.290994), (0.02, steps / 20)):
      got = cases.advantages(*groups, mix_std_floor=floor)
      np.testing.assert_allclose(
        got.advantages[cases.ALL_WRONG], want, rtol=3e-3
      )
      np.testing.assert_array_equal(
        awpo.amplified_groups(got), np.arange(6) == cases.ALL_WRONG
      )
      # The gate sees what varies, not by how much: it is as open as without.
      self.assertGreater(float(got.gate[cases.ALL_WRONG]), 0.999)
      # Other groups differ by more than the floor: not a bit changes.
      np.testing.assert_array_equal(
        np.delete(_bits(got.advantages), cases.ALL_WRONG, axis=0),
        np.delete(_bits(usual.advantages), cases.ALL_WRONG, axis=0),
      )
    np.testing.assert_array_equal(
      awpo.amplified_groups(usual), np.zeros(6, bool)
    )
