"""Trust in the judge: by hand, against a loop, over devices, at its edges."""

import functools

import chex
import jax
import numpy as np
import pytest

from awpo_jax.ops import awpo, collectives, trust
from tests.helpers import awpo_cases as cases
from tests.helpers import flags

# Both rewards vary in the first three groups:
#   outcome   reasoning   distances               correlation
#   1 2 3     0 1 .5      -1 0 1, -.5 .5 0        .5 / sqrt(2 * .5) = .5
#   0 0 1 1   0 0 1 1     the same                1
#   0 1       .6 .4       opposite                -1
# then equal outcomes, equal reasoning, one valid sample, and none.
NAN = np.nan
OUTCOME = np.float32(
  [
    [1, 2, 3, NAN],
    [0, 0, 1, 1],
    [0, NAN, 1, NAN],
    [4, 4, 4, 4],
    [0, 1, 2, 3],
    [NAN, 1, NAN, NAN],
    [NAN] * 4,
  ]
)
VALID = np.isfinite(OUTCOME)
REASONING = np.float32(
  [
    [0, 1, 0.5, 9],
    [0, 0, 1, 1],
    [0.6, np.inf, 0.4, 9],
    [0.1, 0.2, 0.3, 0.4],
    [0.1, 0.1, 0.1, 0.1],
    [0.5, 0.5, NAN, NAN],
    [NAN] * 4,
  ]
)
GROUPS = OUTCOME, REASONING, VALID


def _trust(outcome, reasoning, valid, all_sum=collectives.identity, **changed):
  numbers = flags.section('advantage', **changed)
  return trust.batch_trust(
    outcome, reasoning, valid, all_sum=all_sum, **numbers
  )


def test_correlations_by_hand():
  got, both = jax.jit(trust.correlations)(*GROUPS)
  np.testing.assert_allclose(got[:3], [0.5, 1, -1], rtol=1e-6)
  np.testing.assert_array_equal(got[3:], np.zeros(4))
  np.testing.assert_array_equal(both, [True] * 3 + [False] * 4)


@pytest.mark.parametrize(
  ('changed', 'kept', 'want'),
  [
    # (.5 + 1 - 1) / (3 + 1), and with a prior of 2 / (3 + 2)
    ({'trust': 'agreement'}, 7, 0.125),
    ({'trust': 'agreement', 'trust_prior': 2.0}, 7, 0.1),
    # Without the third: 1.5 / (2 + 1)
    ({'trust': 'agreement'}, 2, 0.5),
    # n (G - 1) = 2 + 3; .75 - 1 / sqrt(5) = .302786, over .4 and cut at 1.
    ({'trust': 'confident'}, 2, 0.756966),
    ({'trust': 'confident', 'trust_kappa': 0.3}, 2, 1),
    # n (G - 1) = 2 + 3 + 1; 1/6 - 1 / sqrt(6) is below 0.
    ({'trust': 'confident'}, 7, 0),
    ({'trust': 'none'}, 7, 1),
  ],
)
def test_by_hand(changed, kept, want):
  got = jax.jit(functools.partial(_trust, **changed))(
    *(x[[0, 1, 3, 4, 5, 6]] if kept == 2 else x for x in GROUPS)
  )
  np.testing.assert_allclose(got.trust, want, rtol=1e-5)
  np.testing.assert_allclose(got.groups, 2 if kept == 2 else 3)
  agreement = 0.75 if kept == 2 else 0.5 / 3
  np.testing.assert_allclose(got.agreement, agreement, rtol=1e-6)


@pytest.mark.parametrize('name', ['agreement', 'confident'])
def test_a_judge_that_is_against_the_outcome_is_not_trusted(name):
  got = _trust(OUTCOME[:2], -REASONING[:2], VALID[:2], trust=name)
  assert got.trust == 0
  np.testing.assert_allclose(got.agreement, -0.75, rtol=1e-6)


@pytest.mark.parametrize('name', ['agreement', 'confident'])
def test_with_no_group_to_go_by_nothing_is_trusted(name):
  # Constant rewards that float32 cannot add up included.
  tenth = np.full((2, 10), 0.1, np.float32)
  judged = np.arange(20, dtype=np.float32).reshape(2, 10)
  everyone = np.ones((2, 10), bool)
  for groups in (
    [x[3:] for x in GROUPS],
    (tenth, judged, everyone),
    (judged, tenth, everyone),
    (tenth, tenth, everyone),
  ):
    got = _trust(*groups, trust=name)
    chex.assert_tree_all_finite(got)
    assert (got.trust, got.groups, got.agreement) == (0, 0, 0)


@pytest.mark.parametrize('name', ['agreement', 'confident'])
def test_groups_of_two_are_yes_or_no(name):
  # Five pairs, four in order: mean .6; 3 / 6, and (.6 - 1 / sqrt(5)) / .4.
  outcome = np.float32([[0, 1]] * 5)
  reasoning = np.float32([[0.2, 0.3]] * 4 + [[0.3, 0.2]])
  got = _trust(outcome, reasoning, np.ones((5, 2), bool), trust=name)
  want = {'agreement': 0.5, 'confident': (0.6 - 5**-0.5) / 0.4}[name]
  np.testing.assert_allclose(got.trust, want, rtol=1e-4)


@pytest.mark.parametrize(
  ('changed', 'kept', 'want'),
  [
    # (.5 + 1 - 1 + 1 * .4) / (3 + 1), and with two such groups 1.3 / 5
    ({'trust': 'agreement', 'trust_start': 0.4}, 7, 0.225),
    ({'trust': 'agreement', 'trust_prior': 2.0, 'trust_start': 0.4}, 7, 0.26),
    # 1.5 + .4 over three groups; one that is measured is as it was
    ({'trust': 'agreement', 'trust_start': 0.4}, 2, 1.9 / 3),
    ({'trust': 'confident', 'trust_start': 0.4}, 2, 0.756966),
    ({'trust': 'confident', 'trust_start': 0.4}, 7, 0),
    # Nothing to go by.
    ({'trust': 'agreement', 'trust_start': 0.4}, 0, 0.4),
    ({'trust': 'agreement', 'trust_prior': 3.0, 'trust_start': 0.4}, 0, 0.4),
    ({'trust': 'confident', 'trust_start': 0.4}, 0, 0.4),
    ({'trust': 'confident', 'trust_start': 1.0}, 0, 1),
  ],
)
def test_trust_at_the_start(changed, kept, want):
  rows = {7: slice(0, 7), 2: [0, 1, 3, 4, 5, 6], 0: slice(3, 7)}[kept]
  run = jax.jit(functools.partial(_trust, **changed))
  got = run(*(x[rows] for x in GROUPS))
  np.testing.assert_allclose(got.trust, want, rtol=1e-5)


def _loop(outcome, reasoning, valid, kind):
  """Trust in float64, one group at a time, and the number of groups."""
  found, sizes = [], []
  for p, kept in enumerate(valid):
    o, r = np.float64(outcome[p][kept]), np.float64(reasoning[p][kept])
    if len(o) >= 2 and np.ptp(o) > 0 and np.ptp(r) > 0:
      found.append(np.corrcoef(o, r)[0, 1])
      sizes.append(len(o))
  n = len(found)
  if kind == 'agreement':
    return np.clip(sum(found) / (n + 1), 0, 1), n
  error = 1 / np.sqrt(n * (np.mean(sizes) - 1))
  return np.clip((np.mean(found) - error) / 0.4, 0, 1), n


def _judged(seed):
  """Random groups with a judge that agrees somewhat, and unevenly."""
  outcome, noise, valid, low, high = cases.random_groups(seed, prompts=32)
  share = (outcome - low[:, None]) / (high - low)[:, None]
  reasoning = np.float32(0.4 * share + 0.6 * noise)
  reasoning[[1, 4]] = 0.7
  return outcome, reasoning, valid


@pytest.mark.parametrize('name', ['agreement', 'confident'])
@pytest.mark.parametrize('seed', range(3))
def test_against_float64_loop_on_one_device_and_many(name, seed):
  groups = _judged(seed)
  want, n = _loop(*groups, name)
  got = _trust(*groups, trust=name)
  np.testing.assert_allclose(got.trust, want, rtol=1e-4)
  assert got.groups == n and want > 0.05
  for parts in (2, 4):
    cut = [x.reshape(parts, -1, *x.shape[1:]) for x in groups]
    each = jax.pmap(
      functools.partial(
        _trust, trust=name, all_sum=collectives.make_all_sum('data')
      ),
      axis_name='data',
    )(*cut)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(
        x, np.full(x.shape, y), rtol=1e-5
      ),
      each,
      got,
    )


@pytest.mark.parametrize('name', ['agreement', 'confident'])
def test_masked_equals_removed(name):
  outcome, reasoning, valid = _judged(3)
  valid[:, -1] = False
  want = _trust(outcome[:, :-1], reasoning[:, :-1], valid[:, :-1], trust=name)
  outcome[:, -1], reasoning[:, -1] = np.nan, np.inf
  got = _trust(outcome, reasoning, valid, trust=name)
  chex.assert_trees_all_close(got, want, rtol=1e-6)


def test_neither_scale_nor_shift_of_a_reward_matters():
  outcome, reasoning, valid = _judged(4)
  want = _trust(outcome, reasoning, valid, trust='agreement')
  got = _trust(7 * outcome - 3, 0.1 * reasoning, valid, trust='agreement')
  chex.assert_trees_all_close(got, want, rtol=1e-4)


# In AWPO.


@pytest.mark.parametrize('name', ['agreement', 'confident'])
@pytest.mark.parametrize('gate', ['ratio', 'share', 'binary', 'always'])
def test_every_gate_is_multiplied_by_it(gate, name):
  # A = (1 - t w) A_out + t w A_mix is A_out and the A of trust 1, weighed.
  outcome, noise, valid, low, high = cases.random_groups(5)
  reasoning = np.float32(
    0.2 * (outcome - low[:, None]) / (high - low)[:, None] + 0.8 * noise
  )
  groups = outcome, reasoning, valid, low, high
  settings = {'gate': gate, 'difficulty': 'none'}
  got = cases.advantages(*groups, trust=name, **settings)
  want = cases.advantages(*groups, **settings)
  alone = cases.advantages(*groups, gate='none', difficulty='none')
  t = float(got.trust.trust)
  assert 0.2 < t < 1 and np.asarray(want.gate).max() > 0.5
  np.testing.assert_allclose(got.gate, t * want.gate, rtol=1e-6)
  np.testing.assert_allclose(
    got.advantages, (1 - t) * alone.advantages + t * want.advantages, atol=1e-5
  )
  assert want.trust is None


def test_worked_groups_with_trust():
  # Correlations of the mixed group, the hard one and the last: .7573, .8165
  # and .9872 (below), so t = 2.5610 / 4 = .6402. All wrong: A_out = 0 and
  # A = t w A_mix, that is .6402 of what it is without trust.
  #   4 1 -3 4 | .8 .6 .1 .4: distances 2.5 -.5 -4.5 2.5 and .325 .125 -.375
  #   -.075; products .8125 - .0625 + 1.6875 - .1875; squares 33 and .2675
  #   -3 -3 -2 -3 | .5 .5 .75 .25: -.25 -.25 .75 -.25 and 0 0 .25 -.25;
  #   products .25; squares .75 and .125
  #   4 1 -3 | .8 .6 .1: 10/3 1/3 -11/3 and .3 .1 -.4; products 2.5; squares
  #   74/3 and .26
  corr = [
    2.25 / (33 * 0.2675) ** 0.5,
    0.25 / (0.75 * 0.125) ** 0.5,
    2.5 / (74 / 3 * 0.26) ** 0.5,
  ]
  got = cases.advantages(*cases.GROUPS, trust='agreement')
  t = sum(corr) / 4
  np.testing.assert_allclose(got.trust.trust, t, rtol=1e-5)
  np.testing.assert_allclose(
    got.advantages[cases.ALL_WRONG],
    t * np.array([1.404871, -0.561948, 0, -0.842922]),
    atol=2e-6,
  )
  np.testing.assert_array_equal(got.advantages[cases.SOLVED], np.zeros(4))


def test_without_a_gate_it_is_not_computed():
  groups = cases.random_groups(6)
  settings = {'gate': 'none', 'difficulty': 'none'}
  got = cases.advantages(*groups, trust='confident', **settings)
  want = cases.advantages(*groups, **settings)
  assert got.trust is None
  chex.assert_trees_all_equal(got, want)


def test_constant_for_differentiation():
  def total(outcome, reasoning):
    got = cases.advantages(
      outcome, reasoning, *cases.GROUPS[2:], trust='agreement'
    )
    return (got.advantages**2).sum() + got.trust.trust

  gradients = jax.grad(total, argnums=(0, 1))(*cases.GROUPS[:2])
  chex.assert_trees_all_equal(gradients, (np.zeros((6, 4)),) * 2)


def test_trap_no_outcome_varies():
  # Where nothing can be checked the update is GRPO's: here, none at all.
  case = cases.ALL_WRONG
  groups = [x[[case] * 6] for x in cases.GROUPS]
  got = cases.advantages(*groups, trust='agreement')
  np.testing.assert_array_equal(got.gate, np.zeros(6))
  np.testing.assert_array_equal(got.advantages, np.zeros((6, 4)))
  assert not np.asarray(awpo.amplified_groups(got)).any()
  # Unless something is believed to begin with: a quarter of it.
  got = cases.advantages(*groups, trust='agreement', trust_start=0.25)
  want = 0.25 * np.array([1.404871, -0.561948, 0, -0.842922])
  np.testing.assert_allclose(got.advantages, [want] * 6, atol=2e-6)
