"""AWPO's advantages: worked numbers, every flag value, invariances."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.ops import awpo, gates
from awpo_jax.ops import difficulty as difficulty_lib
from tests.helpers import awpo_cases as cases
from tests.helpers import awpo_reference

# Every value of every flag, with the number that goes with it.
FLAGS = {
  'reward_scale': [{'reward_scale': 'raw'}, {'reward_scale': 'unit'}],
  'mix': [
    {'mix': 'sum'},
    {'mix': 'sum', 'mix_weight': 0.4},
    {'mix': 'convex', 'mix_weight': 0.3},
  ],
  'mix_advantage': [{'mix_advantage': 'mixed'}, {'mix_advantage': 'reasoning'}],
  'ddof': [{'ddof': 1}, {'ddof': 0}],
  'gate': [
    {'gate': 'ratio'},
    {'gate': 'share'},
    {'gate': 'binary'},
    {'gate': 'binary', 'tau': 4.0},
    {'gate': 'binary', 'tau_of': 'share', 'tau': 0.4},
    {'gate': 'always'},
    {'gate': 'none'},
  ],
  'saturation': [
    {'saturation': 'solved_calls'},
    {'saturation': 'solved'},
    {'saturation': 'none'},
  ],
  'difficulty': [
    {'difficulty': 'banded'},
    {'band': (0.3, 0.6), 'base': 0.5, 'priority': 2.0},
    {'difficulty': 'parabola'},
    {'difficulty': 'parabola', 'floor': 0.3},
    {'difficulty': 'none'},
  ],
  'difficulty_scope': [
    {'difficulty_scope': 'whole'},
    {'difficulty_scope': 'mixed'},
  ],
  'combine': [{'combine': 'convex'}, {'combine': 'additive'}],
  'gate_level': [{'gate_level': 'advantage'}, {'gate_level': 'reward'}],
  # Of these judges most groups differ by less than .3.
  'mix_std_floor': [{}, {'mix_std_floor': 0.0}, {'mix_std_floor': 0.3}],
}


def _covering_settings():
  """Settings that hold every pair of flag values at least once."""
  rng = np.random.default_rng(0)
  options = list(FLAGS.values())
  wanted = {
    (a, i, b, j)
    for a, b in itertools.combinations(range(len(options)), 2)
    for i in range(len(options[a]))
    for j in range(len(options[b]))
  }
  while wanted:
    picks = [int(rng.integers(len(values))) for values in options]
    pairs = {
      (a, picks[a], b, picks[b])
      for a, b in itertools.combinations(range(len(options)), 2)
    }
    if pairs & wanted:
      wanted -= pairs
      yield {
        name: value
        for values, i in zip(options, picks, strict=True)
        for name, value in values[i].items()
      }


class WorkedNumbersTest(chex.TestCase):
  @chex.all_variants
  def test_defaults(self):
    got = self.variant(cases.advantages)(*cases.GROUPS)
    want = [
      [1.163553, -0.191194, -2.048509, 1.076150],
      [1.404871, -0.561948, 0, -0.842922],
      [0, 0, 0, 0],
      [-0.424807, -0.424807, 1.486824, -0.637210],
      [0, 0, 0, 0],
      [1.415964, 0.155824, -1.571787, 0],
    ]
    np.testing.assert_allclose(got.advantages, want, atol=2e-6)
    np.testing.assert_allclose(
      got.gate, [0.516861, 0.999997, 0, 0.575192, 0, 0.524143], atol=1e-6
    )
    np.testing.assert_allclose(
      got.solve_rate,
      [0.642857, 0, 1, 0.035714, 0.571429, 0.523810],
      atol=1e-6,
    )
    np.testing.assert_array_equal(got.difficulty, [1.5, 1, 1, 1, 1.5, 1.5])
    np.testing.assert_array_equal(got.counted, [True] * 6)
    np.testing.assert_array_equal(got.advantages[cases.SOLVED], np.zeros(4))
    for field in (got.advantages, got.gate, got.difficulty):
      self.assertEqual(field.dtype, jnp.float32)

  @parameterized.parameters(
    (
      cases.MIXED,
      {'difficulty': 'parabola'},
      [0.712380, -0.117058, -1.254189, 0.658867],
    ),
    (
      cases.MIXED,
      {'gate': 'binary'},
      [1.130667, -0.226133, -2.035201, 1.130667],
    ),
    (
      cases.MIXED,
      {'gate': 'none'},
      [1.130667, -0.226133, -2.035201, 1.130667],
    ),
    (cases.MIXED, {'ddof': 0}, [1.343555, -0.220772, -2.365415, 1.242631]),
    (
      cases.MIXED,
      {'difficulty_scope': 'mixed'},
      [0.981463, -0.154776, -1.720748, 0.894060],
    ),
    (
      cases.SOLVED,
      {'saturation': 'none'},
      [1.088377, 0.418606, -1.255819, -0.251164],
    ),
  )
  def test_variants(self, case, settings, want):
    got = cases.advantages(*cases.GROUPS, **settings).advantages[case]
    np.testing.assert_allclose(got, want, atol=2e-6)

  def test_naive_mix_is_grpo_on_the_sum_of_rewards(self):
    groups = cases.random_groups(5)
    got = cases.advantages(
      *groups,
      gate='always',
      difficulty='none',
      saturation='none',
      mix_std_floor=0.0,
    )
    outcome, reasoning, valid, _, _ = groups
    want = cases.grpo(outcome + reasoning, valid)
    np.testing.assert_allclose(got.advantages, want, atol=1e-6)

  def test_unit_scale_weighs_the_judge_alike_on_both_kinds_of_prompt(self):
    # A call at 4 of [-3, 4] and a reply at 1 of [0, 1] are the same to `unit`;
    # to `raw` the judge weighs seven times more on the reply.
    outcome = np.float32([[4, -3, 4, -3], [1, 0, 1, 0]] * 3)
    reasoning = np.float32([[0.9, 0.1, 0.3, 0.6]] * 6)
    groups = (outcome, reasoning, np.ones((6, 4), bool))
    bounds = np.float32([-3, 0] * 3), np.float32([4, 1] * 3)
    unit, raw = (
      cases.advantages(*groups, *bounds, reward_scale=scale)
      for scale in ('unit', 'raw')
    )
    call, reply = unit.advantages[:2]
    np.testing.assert_allclose(call, reply, atol=1e-5)
    self.assertGreater(np.abs(raw.advantages[0] - raw.advantages[1]).max(), 0.1)

  def test_saturation_looks_at_what_the_prompt_wants(self):
    # Solved calls are left alone, with ToolRL's bounds (-3, 4) and (0, 1) and
    # with those of a reward of 0 or 1 alike; solved replies keep the judge,
    # except with `solved`.
    outcome = np.float32([[4] * 4, [1] * 4] * 3)
    reasoning = np.float32([[0.8, 0.6, 0.1, 0.4]] * 6)
    groups = (outcome, reasoning, np.ones((6, 4), bool))
    bounds = np.float32([-3, 0] * 3), np.float32([4, 1] * 3)
    wanted = np.array([True, False] * 3)
    for scale in awpo.REWARD_SCALES:
      for saturation, want in (
        ('solved_calls', [False, True]),
        ('solved', [False, False]),
        ('none', [True, True]),
      ):
        flags = {'reward_scale': scale, 'saturation': saturation}
        got = cases.advantages(*groups, *bounds, wanted, **flags)
        np.testing.assert_array_equal(got.gate[:2] > 0.5, want)
        binary = (groups[0] > 0).astype(np.float32), *groups[1:]
        got = cases.advantages(
          *binary,
          np.zeros(6, np.float32),
          np.ones(6, np.float32),
          wanted,
          **flags,
        )
        np.testing.assert_array_equal(got.gate[:2] > 0.5, want)

  def test_solved_calls_of_a_binary_reward_have_no_advantage(self):
    # Judge scores .009 apart: s_mix = .009 / sqrt(3), so w = s_mix / (s_mix +
    # 1e-6) = .9998 where the task is not known to want a call.
    outcome = np.ones((2, 4), np.float32)
    reasoning = np.float32([[0.5, 0.5, 0.509, 0.509]] * 2)
    bounds = np.zeros(2, np.float32), np.ones(2, np.float32)
    got = cases.advantages(
      outcome,
      reasoning,
      np.ones((2, 4), bool),
      *bounds,
      np.array([True, False]),
    )
    np.testing.assert_allclose(got.gate, [0, 0.9998], atol=1e-5)
    np.testing.assert_array_equal(got.advantages[0], np.zeros(4))
    self.assertTrue(np.abs(got.advantages[1]).min() > 0)


class EveryFlagTest(chex.TestCase):
  def test_against_float64_loop(self):
    # Bounds say nothing of what is wanted: both are drawn.
    wants_call = np.random.default_rng(1).random(24) < 0.5
    groups = (*cases.random_groups(0), wants_call)
    seen = {name: set() for name in FLAGS}
    for settings in _covering_settings():
      got = cases.advantages(*groups, **settings)
      want = [
        awpo_reference.group(*(x.tolist() for x in group), **settings)
        for group in zip(*groups, strict=True)
      ]
      for values, name in zip(
        zip(*want, strict=True),
        ('advantages', 'gate', 'difficulty'),
        strict=True,
      ):
        np.testing.assert_allclose(
          getattr(got, name),
          np.float64(values),
          # float32 rounds rewards near 3 to 2e-7, over stds of a few percent
          rtol=2e-5,
          atol=1e-4,
          err_msg=f'{name} of {settings}',
        )
      for name in seen:
        seen[name].add(settings.get(name))
    for name, choices in (
      ('reward_scale', awpo.REWARD_SCALES),
      ('mix', awpo.MIXES),
      ('mix_advantage', awpo.MIX_ADVANTAGES),
      ('gate', gates.GATES),
      ('saturation', gates.SATURATIONS),
      ('difficulty', difficulty_lib.DIFFICULTIES),
      *(('difficulty_scope', x) for x in awpo.COMBINATIONS.values()),
      ('combine', awpo.COMBINATIONS),
      ('gate_level', awpo.GATE_LEVELS),
    ):
      self.assertEqual(seen[name] - {None}, set(choices))

  @parameterized.parameters(
    'reward_scale',
    'mix',
    'mix_advantage',
    'gate',
    'trust',
    'saturation',
    'difficulty',
    'difficulty_of',
    'difficulty_norm',
    'difficulty_scope',
    'combine',
    'gate_level',
    'reasoning_tokens',
    'ddof',
  )
  def test_unknown_value_is_refused(self, flag):
    with self.assertRaisesRegex(ValueError, f"{flag}='typo'.*choose one of"):
      cases.advantages(*cases.GROUPS, **{flag: 'typo'})


class InvarianceTest(chex.TestCase):
  def test_masked_equals_removed(self):
    # The last sample of each group fails: as if each group had one fewer.
    outcome, reasoning, _, low, high = (
      np.where(np.isfinite(x), x, 0.5) for x in cases.random_groups(1)
    )
    valid = np.ones(outcome.shape, bool)
    want = cases.jitted()(
      outcome[:, :-1], reasoning[:, :-1], valid[:, :-1], low, high
    )
    outcome[:, -1], reasoning[:, -1], valid[:, -1] = np.nan, -np.inf, False
    got = cases.jitted()(outcome, reasoning, valid, low, high)
    np.testing.assert_allclose(
      got.advantages[:, :-1], want.advantages, atol=1e-6
    )
    np.testing.assert_array_equal(got.advantages[:, -1], np.zeros(24))
    np.testing.assert_allclose(got.gate, want.gate, atol=1e-6)
    self.assertGreater(float(np.abs(want.advantages).max()), 1.0)

  def test_permuted_samples_permute_advantages(self):
    outcome, reasoning, valid, low, high = cases.random_groups(2)
    order = np.random.default_rng(3).permuted(
      np.tile(np.arange(5), (24, 1)), axis=1
    )
    want = cases.jitted()(outcome, reasoning, valid, low, high)
    shuffled = (
      np.take_along_axis(x, order, axis=1) for x in (outcome, reasoning, valid)
    )
    got = cases.jitted()(*shuffled, low, high)
    np.testing.assert_allclose(
      got.advantages,
      np.take_along_axis(np.asarray(want.advantages), order, axis=1),
      atol=1e-6,
    )
    np.testing.assert_allclose(got.gate, want.gate, atol=1e-6)

  def test_groups_do_not_see_each_other(self):
    # vmap over single groups equals the batch.
    groups = cases.random_groups(0)
    want = cases.jitted()(*groups)
    batched = jax.jit(jax.vmap(cases.advantages))
    got = batched(*(x[:, None] for x in groups))
    np.testing.assert_allclose(got.advantages[:, 0], want.advantages, atol=1e-6)
    np.testing.assert_allclose(got.gate[:, 0], want.gate, atol=1e-6)
