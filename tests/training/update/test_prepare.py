"""What is prepared once for a rollout batch, and over all of it."""

import functools

import jax
import numpy as np
import pytest

from awpo_jax.distributed import device_map, sharding
from awpo_jax.ops import awpo
from awpo_jax.training.update import prepare
from tests.helpers import (
  adapted_training,
  awpo_cases,
  awpo_reference,
  row_by_row,
  tiny_training,
)


@functools.cache
def _rollout():
  return tiny_training.rollout(0)


def _six_groups():
  """The worked groups, and no other valid sample."""
  rewards = _rollout().rewards
  outcome, reasoning = rewards.outcome.copy(), rewards.reasoning.copy()
  valid = np.zeros_like(rewards.outcome_valid)
  outcome[:6], reasoning[:6] = awpo_cases.OUTCOME, awpo_cases.REASONING
  valid[:6] = awpo_cases.VALID
  return tiny_training.with_rewards(
    _rollout(),
    outcome=outcome,
    reasoning=reasoning,
    outcome_valid=valid,
    reasoning_valid=valid,
  )


# The mean gate is (.516861 + .999997 + 0 + .575192 + 0 + .524143) / 6.
@pytest.mark.parametrize(
  ('clip', 'radius'),
  [('linear', 0.156397), ('harmonic', 0.183958), ('widen', 0.217441)],
)
def test_worked_groups(clip, radius):
  batch = tiny_training.prepared(_six_groups(), trainer=False, clip=clip).batch
  np.testing.assert_allclose(
    batch.advantages[:4],
    [
      [1.163553, -0.191194, -2.048509, 1.076150],
      [1.404871, -0.561948, 0, -0.842922],
      [0, 0, 0, 0],
      [-0.424807, -0.424807, 1.486824, -0.637210],
    ],
    atol=2e-6,
  )
  np.testing.assert_allclose(
    batch.advantages[4:6],
    [[0, 0, 0, 0], [1.415964, 0.155824, -1.571787, 0]],
    atol=2e-6,
  )
  assert not batch.advantages[6:].any()
  assert batch.clip_radius.shape == (tiny_training.PROMPTS,)
  np.testing.assert_allclose(batch.clip_radius, radius, atol=1e-6)


def test_what_is_told_of_a_group():
  told = tiny_training.prepared(_six_groups(), trainer=False).groups
  outcome = np.float64([4, 1, -3, 4])
  mixed = outcome + [0.8, 0.6, 0.1, 0.4]
  for name, rewards in (
    ('outcome_advantage', outcome),
    ('mix_advantage', mixed),
  ):
    wanted = (rewards - rewards.mean()) / rewards.std(ddof=1)
    np.testing.assert_allclose(told[name][0], wanted, atol=2e-5)
  np.testing.assert_allclose(
    told['gate'][:6],
    [0.516861, 0.999997, 0, 0.575192, 0, 0.524143],
    atol=1e-5,
  )
  np.testing.assert_allclose(
    told['advantage'][0], [1.163553, -0.191194, -2.048509, 1.076150], atol=2e-6
  )


def test_of_tokens_the_mean_over_those_of_the_policy_is_told():
  # Of the second answer the policy chose nothing.
  policy = np.array([[[True, True, False], [False] * 3]])
  per_token = np.float32([[[1, 2, 9], [9, 9, 9]]])
  made = awpo.Advantages(
    advantages=per_token,
    counted=np.array([True]),
    solve_rate=np.float32([0.5]),
    outcome_advantages=np.float32([[1, -1]]),
    mix_advantages=per_token * 2,
  )
  told = prepare.told(made, per_token + 1, policy)
  want = {
    'gate': [0],
    'difficulty': [1],
    'solve_rate': [0.5],
    'outcome_advantage': [[1, -1]],
    'mix_advantage': [[3, 0]],
    'advantage': [[2.5, 0]],
  }
  assert {name: x.tolist() for name, x in told.items()} == want


def _plain(rollout):
  """Advantages, gates and whether they count, one group at a time."""
  r = rollout.rewards
  valid = r.outcome_valid & r.reasoning_valid
  groups = [
    awpo_reference.group(
      r.outcome[p],
      r.reasoning[p],
      valid[p],
      r.outcome_min[p],
      r.outcome_max[p],
      r.wants_call[p],
    )
    for p in range(tiny_training.PROMPTS)
  ]
  advantages, gates, _ = zip(*groups, strict=True)
  return np.array(advantages), np.array(gates), valid


@functools.cache
def _on_four_devices(make=_rollout, **flags):
  mesh = sharding.data_mesh()
  rollout = sharding.place_split(sharding.split(make(), 4), mesh)
  weights = sharding.place_replicated(tiny_training.params(), mesh)
  run = device_map.mapped(
    tiny_training.make_prepare(trainer=False, **flags),
    mesh,
    in_axes=(None, 0),
    out_axes=prepare.Prepared(
      batch=0, trainer_logprobs=0, metrics=None, groups=0
    ),
  )
  got = jax.device_get(run(weights, rollout))
  return got.replace(
    batch=sharding.merge(got.batch), groups=sharding.merge(got.groups)
  )


@pytest.mark.parametrize('devices', [1, 4])
def test_statistics_are_of_the_whole_rollout(devices):
  advantages, gates, valid = _plain(_rollout())
  counted = valid.sum(axis=1) >= 2
  per_device = counted.reshape(4, -1).sum(axis=1)
  # Devices count unequally: the mean of their means would be another.
  assert len(set(per_device)) > 1
  means = [
    g[c].mean()
    for g, c in zip(gates.reshape(4, -1), counted.reshape(4, -1), strict=True)
  ]
  wbar = gates[counted].mean()
  assert abs(np.mean(means) - wbar) > 1e-3
  if devices == 1:
    got = tiny_training.prepared(_rollout(), trainer=False)
  else:
    got = _on_four_devices()
  np.testing.assert_allclose(got.batch.advantages, advantages, atol=1e-5)
  np.testing.assert_allclose(got.batch.clip_radius, 0.2 - 0.1 * wbar, rtol=1e-5)
  policy = _rollout().completions.policy_mask
  np.testing.assert_array_equal(
    got.batch.policy_mask, policy & valid[..., None]
  )


def test_four_devices_prepare_what_one_prepares():
  one, four = (
    tiny_training.prepared(_rollout(), trainer=False),
    _on_four_devices(),
  )
  assert one.metrics.keys() == four.metrics.keys()
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    one,
    four,
  )


def test_metrics_are_sums_and_counts():
  rollout, got = (
    _rollout(),
    tiny_training.prepared(_rollout(), trainer=False).metrics,
  )
  advantages, gates, valid = _plain(rollout)
  rewards, completions = rollout.rewards, rollout.completions
  samples = tiny_training.PROMPTS * tiny_training.SAMPLES
  counted = valid.sum(axis=1) >= 2
  outcome = rewards.outcome[rewards.outcome_valid]
  reasoning = rewards.reasoning[rewards.reasoning_valid]
  policy = completions.policy_mask.sum()
  want = {
    'reward/outcome': (outcome.sum(), outcome.size),
    'reward/reasoning': (reasoning.sum(), reasoning.size),
    'reward/valid': (valid.sum(), samples),
    'gate/mean': (gates[counted].sum(), counted.sum()),
    'advantage/abs_mean': (np.abs(advantages).sum(), valid.sum()),
    'advantage/groups': (advantages.any(axis=1).sum(), tiny_training.PROMPTS),
    'length/mean': (policy, samples),
    'length/finished': (completions.finished.sum(), samples),
    'entropy': (1.5 * policy, policy),
    'ratio/sampler_abs_log_mean': (0, policy),
    'selection/tokens': (
      (completions.policy_mask & valid[..., None]).sum(),
      policy,
    ),
  }
  elsewhere = {
    'gate/amplified',
    'difficulty/mean',
    'difficulty/solve_rate',
    'clip/radius',
  }
  assert set(got) == set(want) | elsewhere
  for name, pair in want.items():
    np.testing.assert_allclose(got[name], pair, rtol=1e-5, err_msg=name)


def test_metrics_of_trust_are_of_the_whole_batch():
  # In the six worked groups both rewards vary in the first, the fourth and the
  # last; on four devices each metric is what it is on one.
  corr = [
    np.corrcoef(awpo_cases.OUTCOME[p, :n], awpo_cases.REASONING[p, :n])[0, 1]
    for p, n in ((0, 4), (3, 4), (5, 3))
  ]
  flags = {'trainer': False, 'trust': 'agreement'}
  one = tiny_training.prepared(_six_groups(), **flags)
  for name, want in {
    'trust/mean': sum(corr) / (3 + 1),
    'trust/groups': 3,
    'trust/agreement': sum(corr) / 3,
  }.items():
    total, count = one.metrics[name]
    np.testing.assert_allclose(total / count, want, rtol=1e-5, err_msg=name)
  four = _on_four_devices(_six_groups, trust='agreement')
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    one,
    four,
  )
  total, count = one.metrics['gate/mean']
  np.testing.assert_allclose(
    one.batch.clip_radius, 0.2 - 0.1 * total / count, rtol=1e-5
  )


def test_metrics_of_gate_difficulty_and_radius():
  # All prompts are calls, -3 to 4. Of eight groups that count these have
  #   outcome     reasoning        s_out  s_mix  w     p    d in the band
  #   -3 always   .50 .52 .50 .52  0      .01    1-    0    1    amplified
  #   0 1 0 1     1 0 .95 .05      .6     .04    .06   .5   1.5  s_out > 0
  #   -3 always   0 1 0 1          0      .6     1-    0    1    s_mix > .1
  #   4 always    .50 .52 .50 .52  0      .01    0     1    1    solved
  # and four more are flat: mean 1, w = 0, p = 4/7, d = 1.5.
  rewards = _rollout().rewards
  outcome = np.ones_like(rewards.outcome)
  reasoning = np.full_like(rewards.reasoning, 0.5)
  valid = np.zeros_like(rewards.outcome_valid)
  valid[:8] = True
  outcome[:4] = [[-3] * 4, [0, 1, 0, 1], [-3] * 4, [4] * 4]
  tiny_spread = [0.5, 0.52, 0.5, 0.52]
  reasoning[:4] = [tiny_spread, [1, 0, 0.95, 0.05], [0, 1, 0, 1], tiny_spread]
  rollout = tiny_training.with_rewards(
    _rollout(),
    outcome=outcome,
    reasoning=reasoning,
    outcome_valid=valid,
    reasoning_valid=valid,
  )
  got = tiny_training.prepared(rollout, trainer=False).metrics
  np.testing.assert_array_equal(got['gate/amplified'], [1, 8])
  np.testing.assert_allclose(
    got['difficulty/mean'], [1 + 1.5 + 1 + 1 + 4 * 1.5, 8], rtol=1e-6
  )
  np.testing.assert_allclose(
    got['difficulty/solve_rate'],
    [0 + 3.5 / 7 + 0 + 1 + 4 * 4 / 7, 8],
    rtol=1e-6,
  )
  total, count = got['gate/mean']
  radius, prompts = got['clip/radius']
  np.testing.assert_allclose(
    radius / prompts, 0.2 - 0.1 * total / count, rtol=1e-5
  )
  assert prompts == tiny_training.PROMPTS


def test_old_logprobs_of_the_trainer():
  got = tiny_training.prepared(_rollout())
  policy = _rollout().completions.policy_mask
  for part, whole in zip(
    tiny_training.minibatches(got.batch),
    tiny_training.minibatches(policy),
    strict=True,
  ):
    want, _ = row_by_row.scores(tiny_training.params(), part)
    np.testing.assert_allclose(
      part.old_logprobs[whole], want[whole], rtol=1e-4, atol=1e-5
    )
    assert not part.old_logprobs[~whole].any()
  np.testing.assert_array_equal(got.trainer_logprobs, got.batch.old_logprobs)
  sampler = _rollout().completions.logprobs
  gap = np.abs(sampler - got.batch.old_logprobs)[policy].sum()
  np.testing.assert_allclose(
    got.metrics['ratio/sampler_abs_log_mean'], [gap, policy.sum()], rtol=1e-5
  )


def test_old_logprobs_of_the_sampler_are_taken_as_they_are():
  got = tiny_training.prepared(_rollout(), trainer=False)
  np.testing.assert_array_equal(
    got.batch.old_logprobs, _rollout().completions.logprobs
  )
  assert got.trainer_logprobs is None


def test_without_a_gate_the_judge_need_not_answer():
  unjudged = tiny_training.with_rewards(
    _rollout(), reasoning_valid=np.zeros_like(_rollout().rewards.outcome_valid)
  )
  got = tiny_training.prepared(
    unjudged, trainer=False, **tiny_training.GRPO
  ).batch
  policy, valid = unjudged.completions.policy_mask, unjudged.rewards
  np.testing.assert_array_equal(
    got.policy_mask, policy & valid.outcome_valid[..., None]
  )
  none = tiny_training.prepared(unjudged, trainer=False).batch
  assert not none.policy_mask.any()


@pytest.mark.parametrize('with_adapters', [False, True])
def test_log_probabilities_of_the_reference(with_adapters):
  decoder = adapted_training.DECODER if with_adapters else tiny_training.DECODER
  run = functools.partial(
    tiny_training.make_prepare(),
    scores=tiny_training.make_scores(
      trainer=False, decoder=decoder, reference=True
    ),
  )
  if with_adapters:
    policy, reference = (
      adapted_training.params(seed=2),
      adapted_training.trained(seed=1),
    )
    whole = jax.tree.map(np.asarray, adapted_training.merged(reference))
  else:
    whole = reference = tiny_training.params()
    policy = jax.tree.map(lambda x: 1.1 * x, whole)
  got = jax.device_get(
    tiny_training.jit(run)(policy, _rollout(), reference)
  ).batch
  mask = _rollout().completions.policy_mask
  want = [
    row_by_row.scores(whole, x)[0] for x in tiny_training.minibatches(got)
  ]
  np.testing.assert_allclose(
    got.ref_logprobs[mask], np.concatenate(want)[mask], rtol=1e-4, atol=2e-5
  )
  assert not got.ref_logprobs[~mask].any()


def test_without_a_kl_term_the_batch_has_no_reference():
  assert (
    tiny_training.prepared(_rollout(), trainer=False).batch.ref_logprobs is None
  )
