"""DVAO, GD2PO, SAW and SA-MRPO: by hand, related methods, over devices."""

import functools

import chex
import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.ops import advantages, collectives
from tests.helpers import awpo_cases as cases
from tests.helpers import flags
from tests.ops.test_estimators import make_samples

RIVALS = ('dvao', 'gd2po', 'saw', 'sa_mrpo')
# One group. Outcome: mean .5, s = sqrt(1/3): A = -.866025 or .866025.
# Reasoning: mean .5, distances -.3 .3 -.1 .1, s = sqrt(.2 / 3) = .258199:
# A = -1.161895 1.161895 -.387298 .387298.
OUTCOME, REASONING = [[0, 0, 1, 1]], [[0.2, 0.8, 0.4, 0.6]]
A_OUT = np.array([-1, -1, 1, 1]) * 0.866025
A_REA = np.array([-3, 3, -1, 1]) * 0.387298


def _rewards(outcome, reasoning, valid=None, low=None, high=None):
  outcome, reasoning = np.float32(outcome), np.float32(reasoning)
  everyone = np.ones(outcome.shape, bool)
  valid = everyone if valid is None else valid
  return types.Rewards(
    outcome=outcome,
    outcome_valid=valid,
    reasoning=reasoning,
    reasoning_valid=valid,
    outcome_min=np.zeros(len(outcome), np.float32) if low is None else low,
    outcome_max=np.ones(len(outcome), np.float32) if high is None else high,
    wants_call=everyone[:, 0],
  )


def _made(
  advantage,
  rewards,
  samples=None,
  all_sum=collectives.identity,
  batch_norm='none',
  **changed,
):
  if samples is None:
    valid = rewards.outcome_valid
    samples = make_samples(valid, np.ones(valid.shape, int))
  changed = {'sa_gamma': 1.0, **changed}
  numbers = flags.section(
    'advantage', advantage=advantage, batch_norm=batch_norm, **changed
  )
  return advantages.rollout_advantages(
    rewards, samples, max_length=128, all_sum=all_sum, **numbers
  )


def _random(seed):
  outcome, reasoning, valid, low, high = cases.random_groups(seed)
  return _rewards(outcome, reasoning, valid, low, high)


# DVAO.


@pytest.mark.parametrize(
  ('weight', 'want'),
  [
    # Outcome 1 2 3, s = 1; reasoning 0 1 .5, s = .5. The sum 1 3 3.5 has mean
    # 2.5: -1.5 .5 1 over 1.5.
    (1.0, [-1, 1 / 3, 2 / 3]),
    # 1 4 4, mean 3: -2 1 1 over 2.
    (2.0, [-1, 0.5, 0.5]),
    (0.0, [-1, 0, 1]),
  ],
)
def test_dvao_by_hand(weight, want):
  rewards = _rewards([[1, 2, 3]], [[0, 1, 0.5]])
  got = _made('dvao', rewards, mix_weight=weight)
  np.testing.assert_allclose(got.advantages, [want], atol=1e-5)
  assert (got.gate, got.difficulty) == (0, 1)


def test_dvao_is_the_naive_sum_over_the_sum_of_stds():
  # Within a group: (R - mean) / (s_out + s_rea), where the naive mix has
  # (R - mean) / std(R); and so it is a mean of A_k with weights s_k.
  rewards = _random(0)
  valid, outcome, reasoning = (
    rewards.outcome_valid,
    rewards.outcome,
    rewards.reasoning,
  )
  got = np.asarray(_made('dvao', rewards).advantages)
  naive = np.asarray(cases.grpo(outcome + reasoning, valid))
  a_out, a_rea = cases.grpo(outcome, valid), cases.grpo(reasoning, valid)
  seen = 0
  for p, kept in enumerate(valid):
    if kept.sum() < 2:
      np.testing.assert_array_equal(got[p], np.zeros(5))
      continue
    o, r = (np.float64(x[p][kept]) for x in (outcome, reasoning))
    s_out, s_rea, s_sum = (np.std(x, ddof=1) for x in (o, r, o + r))
    if s_out + s_rea < 1e-3:
      continue
    np.testing.assert_allclose(
      got[p][kept], naive[p][kept] * s_sum / (s_out + s_rea), atol=1e-4
    )
    mean = (s_out * a_out[p] + s_rea * a_rea[p]) / (s_out + s_rea)
    np.testing.assert_allclose(got[p], mean, atol=1e-4)
    # Never larger than the naive sum, as std(R) <= s_out + s_rea.
    assert (np.abs(got[p]) <= np.abs(naive[p]) + 1e-4).all()
    seen += s_out > 0 and s_rea > 0
  assert seen > 5


# GD2PO.


@pytest.mark.parametrize(
  ('tau', 'weight', 'kept'),
  [
    # Sums -2.027920 .295870 .478727 1.253323 over sums of absolute values
    # 2.027920 2.027920 1.253323 1.253323: 1, .145898, .381966, 1.
    (None, 1.0, [True, False, False, True]),
    (0.2, 1.0, [True, False, True, True]),
    (0.8, 1.0, [True, False, False, True]),
    (0.1, 1.0, [True, True, True, True]),
    # With 2 A_rea: -3.189815 1.457765 .091428 1.640622 over 3.189815 3.189815
    # 1.640622 1.640622: 1, .457006, .055728, 1.
    (None, 2.0, [True, False, False, True]),
    (0.2, 2.0, [True, True, False, True]),
  ],
)
def test_gd2po_by_hand(tau, weight, kept):
  rewards = _rewards(OUTCOME, REASONING)
  made = functools.partial(
    _made, 'gd2po', rewards, gd2po_tau=tau, mix_weight=weight
  )
  want = np.where(kept, A_OUT + weight * A_REA, 0) * np.mean(kept)
  np.testing.assert_allclose(made().advantages, [want], atol=1e-5)
  # The norm is over what is kept: the mean and std of those alone.
  normed = made(batch_norm='token').advantages
  left = want[kept]
  want[kept] = (left - left.mean()) / left.std(ddof=1)
  np.testing.assert_allclose(normed, [want], atol=1e-5)


def test_gd2po_that_drops_nothing_is_gdpo():
  # A judge that ranks as the outcome does.
  rewards = _rewards([[1, 2, 4, 3]], [[0.1, 0.2, 0.9, 0.8]])
  got, want = (
    _made(name, rewards, mix_std_floor=0.0, batch_norm='row').advantages
    for name in ('gd2po', 'gdpo')
  )
  # 3 is above both means, 1 and 2 are below.
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_gd2po_of_a_judge_that_is_against_the_outcome_is_nothing():
  rewards = _rewards([[0, 1, 0, 1]], [[0.9, 0.1, 0.9, 0.1]])
  got = _made('gd2po', rewards, batch_norm='token').advantages
  np.testing.assert_array_equal(got, np.zeros((1, 4)))


# SAW.

# cv = sqrt(1/3) / .5 and sqrt(.2 / 3) / .5, of ratio sqrt(5): 2 sqrt(5) / (1 +
# sqrt(5)) = 1.381966 for the outcome and .618034 for the reasoning.
W_OUT, W_REA = 1.381966, 0.618034


@pytest.mark.parametrize('shift', [0, -3])
def test_saw_by_hand(shift):
  # From its worst value on, whatever that is.
  rewards = _rewards(
    np.array(OUTCOME) + shift, REASONING, low=np.float32([shift])
  )
  got = _made('saw', rewards).advantages
  # 0 0 w w + .618034 (.2 .8 .4 .6) = .123607 .494427 1.629180 1.752786: mean 1,
  # squares .768065 + .255604 + .395867 + .566687 = 1.986223, s = .813679.
  want = np.array([-0.876393, -0.505573, 0.629180, 0.752786]) / 0.813679
  np.testing.assert_allclose(got, [want], atol=1e-5)
  got = _made('saw', rewards, saw_on='advantages').advantages
  total = W_OUT * A_OUT + W_REA * A_REA
  np.testing.assert_allclose(got, [total], atol=1e-5)
  # Their mean is 0; squares 3 (W_OUT^2 + W_REA^2) + 2 W_OUT W_REA sum A A.
  got = _made('saw', rewards, saw_on='advantages', batch_norm='row').advantages
  np.testing.assert_allclose(got, [total / total.std(ddof=1)], atol=1e-5)


def test_saw_gives_a_constant_reward_no_weight():
  # cv = 0: the other has weight 2, which a group's norm takes out again.
  for outcome, reasoning, varies in (
    ([[0, 0, 1, 1]], [[0.1] * 4], A_OUT),
    ([[1, 1, 1, 1]], REASONING, A_REA),
    ([[0] * 4], [[0] * 4], np.zeros(4)),
  ):
    rewards = _rewards(outcome, reasoning)
    got = _made('saw', rewards).advantages
    np.testing.assert_allclose(got, [varies], atol=1e-4)
    got = _made('saw', rewards, saw_on='advantages').advantages
    np.testing.assert_allclose(got, [2 * varies], atol=2e-4)


# SA-MRPO.


@pytest.mark.parametrize(
  ('gamma', 'f_out', 'f_rea'),
  [(0.0, 1, 1), (1.0, 0.75, 0.5), (2.0, 0.5625, 0.25)],
)
def test_sa_mrpo_by_hand(gamma, f_out, f_rea):
  # Outcome -3 -3 -3 1 of [-3, 1]: on average a quarter of the way; distances
  # -1 -1 -1 3, s = 2: -.5 -.5 -.5 1.5. The reasoning's mean is a half.
  rewards = _rewards(
    [[-3, -3, -3, 1]], REASONING, low=np.float32([-3]), high=np.float32([1])
  )
  got = _made('sa_mrpo', rewards, sa_gamma=gamma, mix_weight=2.0).advantages
  want = f_out * np.array([-0.5, -0.5, -0.5, 1.5]) + 2 * f_rea * A_REA
  np.testing.assert_allclose(got, [want], atol=1e-5)


@pytest.mark.parametrize('batch_norm', ['row', 'token'])
def test_sa_mrpo_without_a_power_is_gdpo(batch_norm):
  rewards = _random(1)
  got = _made('sa_mrpo', rewards, sa_gamma=0.0, batch_norm=batch_norm)
  want = _made('gdpo', rewards, mix_std_floor=0.0, batch_norm=batch_norm)
  chex.assert_trees_all_close(got, want, atol=1e-6)


# All of them.

ALL = [
  *((name, norm, {}) for name in RIVALS for norm in ('none', 'row')),
  ('gd2po', 'token', {'gd2po_tau': 0.8}),
  ('saw', 'token', {'saw_on': 'advantages'}),
]


@pytest.mark.parametrize(('name', 'norm', 'changed'), ALL)
def test_over_devices(name, norm, changed):
  rewards = _random(2)
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 6, rewards.outcome.shape)
  samples = make_samples(rewards.outcome_valid, lengths)
  run = functools.partial(_made, name, batch_norm=norm, **changed)
  want = run(rewards, samples).advantages
  for parts in (2, 4):
    cut = jax.tree.map(
      lambda x, n=parts: x.reshape(n, -1, *x.shape[1:]), (rewards, samples)
    )
    each = jax.pmap(
      functools.partial(run, all_sum=collectives.make_all_sum('data')),
      axis_name='data',
    )(*cut)
    got = np.reshape(each.advantages, (24, 5))
    np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.abs(want).max() > 0.5
  assert not np.asarray(want)[~rewards.outcome_valid].any()


@pytest.mark.parametrize(('name', 'norm', 'changed'), ALL)
def test_masked_equals_removed(name, norm, changed):
  outcome, reasoning, valid, low, high = cases.random_groups(3)
  valid[:, -1] = False
  got = _made(
    name,
    _rewards(outcome, reasoning, valid, low, high),
    batch_norm=norm,
    **changed,
  )
  outcome, reasoning, valid = (x[:, :-1] for x in (outcome, reasoning, valid))
  want = _made(
    name,
    _rewards(outcome, reasoning, valid, low, high),
    batch_norm=norm,
    **changed,
  )
  np.testing.assert_allclose(got.advantages[:, :-1], want.advantages, atol=1e-5)


@pytest.mark.parametrize('name', RIVALS)
def test_nothing_to_compare_is_exactly_nothing(name):
  # Nothing valid and no bounds; one valid; equal rewards that float32 cannot
  # add up; with every other group likewise.
  for count in (0, 1, 10):
    valid = np.arange(10)[None] < count
    outcome = np.where(valid, np.float32(0.1), np.nan)
    bound = np.float32([np.nan if count < 2 else 0.0])
    rewards = _rewards(outcome, outcome, valid, bound, bound + 1)
    got = _made(name, rewards)
    np.testing.assert_array_equal(got.advantages, np.zeros((1, 10)))
