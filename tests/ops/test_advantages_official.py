"""Rivals against what their authors' programs compute.

Each reference says which program it follows, in NumPy and in the order of that
program: a flat batch of rows, an index that says which rows are of a prompt,
loops over prompts. DVAO and SA-MRPO have no program that we could find.
"""

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.ops import advantages, aggregation, collectives
from tests.helpers import flags
from tests.ops.test_estimators import make_samples

PROMPTS, SAMPLES = 12, 6


def _batch(seed, low=-3.0, high=4.0):
  """Rewards [P, G] and lengths; some groups are flat in one of them or both."""
  rng = np.random.default_rng(seed)
  outcome = rng.integers(low, high + 1, (PROMPTS, SAMPLES)).astype(np.float32)
  reasoning = rng.integers(0, 5, (PROMPTS, SAMPLES)).astype(np.float32) / 4
  outcome[[0, 1, 2]], reasoning[[1, 2, 3]] = high, 0.25
  return outcome, reasoning, rng.integers(1, 6, outcome.shape)


def _ours(
  outcome, reasoning, lengths, low=-3.0, high=4.0, correct=None, **changed
):
  every = np.ones(outcome.shape, bool)
  rewards = types.Rewards(
    outcome=outcome,
    outcome_valid=every,
    reasoning=reasoning,
    reasoning_valid=every,
    outcome_min=np.full(PROMPTS, low, np.float32),
    outcome_max=np.full(PROMPTS, high, np.float32),
    wants_call=every[:, 0],
  )
  samples = make_samples(every, lengths)
  if correct is not None:
    samples = samples.replace(correct=correct)
  numbers = flags.section('advantage', **changed)
  made = advantages.rollout_advantages(
    rewards, samples, max_length=128, **numbers
  )
  return np.asarray(made.advantages), samples


def _rows(lengths):
  """Of the flat batch: its prompts, and which columns are tokens."""
  index = np.repeat(np.arange(PROMPTS), SAMPLES)
  return index, np.arange(lengths.max()) < lengths.reshape(-1, 1)


def _grpo(scores, index):
  """verl's group norm: unbiased, 1e-6 beside the standard deviation."""
  made = np.zeros(len(scores))
  for i, group in enumerate(index):
    own = np.float64(scores[index == group])
    made[i] = (scores[i] - own.mean()) / (own.std(ddof=1) + 1e-6)
  return made


def _whitened(values, mask):
  """verl's `masked_whiten`, [rows, tokens], as a row's one number."""
  tokens = np.broadcast_to(values[:, None], mask.shape)[mask]
  scale = 1 / np.sqrt(tokens.var(ddof=1) + 1e-8)
  return (values - tokens.mean()) * scale


# GD2PO: github.com/Qwen-Applications/GD2PO, tool-calling/verl/trainer/ppo/
# ray_trainer.py, the estimators gdpo_filter_group_ratio and, with a threshold,
# gdpo_filter_ratio_conflict_group_ratio.


def _gd2po(outcome, reasoning, lengths, threshold):
  index, mask = _rows(lengths)
  parts = np.array([_grpo(x.ravel(), index) for x in (outcome, reasoning)])
  dropped = (parts > 1e-8).any(axis=0) & (parts < -1e-8).any(axis=0)
  if threshold is not None:
    ratio = parts.sum(axis=0) / (np.abs(parts).sum(axis=0) + 1e-8)
    dropped &= np.abs(ratio) < threshold
  kept, total = ~dropped, parts.sum(axis=0)
  for group in range(PROMPTS):
    total[index == group] *= kept[index == group].mean()
  made = _whitened(total * kept, mask & kept[:, None]) * kept
  return made.reshape(outcome.shape), kept


@pytest.mark.parametrize('threshold', [None, 0.2, 0.8])
@pytest.mark.parametrize('seed', range(3))
def test_gd2po(seed, threshold):
  batch = _batch(seed)
  want, kept = _gd2po(*batch, threshold)
  assert 0.1 < kept.mean() < 0.95
  got, _ = _ours(
    *batch, advantage='gd2po', batch_norm='token', gd2po_tau=threshold
  )
  np.testing.assert_allclose(got, want, atol=1e-4)


# SAW: github.com/Zhaolutuan/SAW, verl/trainer/ppo/ray_trainer.py, the
# estimators grpo-h and gdpo-h. Correctness is shifted by 3, its worst value.


def _saw_weights(correctness, other):
  shifted = (np.float64(correctness) + 3.0).ravel(), np.float64(other).ravel()
  variation = [x.std(ddof=1) / (np.abs(x.mean()) + 1e-8) for x in shifted]
  return [2.0 * x / (sum(variation) + 1e-8) for x in variation]


@pytest.mark.parametrize('seed', range(3))
def test_saw_on_rewards(seed):
  outcome, reasoning, lengths = _batch(seed)
  w_out, w_rea = _saw_weights(outcome, reasoning)
  index, _ = _rows(lengths)
  want = _grpo((w_out * outcome + w_rea * reasoning).ravel(), index)
  got, _ = _ours(outcome, reasoning, lengths, advantage='saw')
  np.testing.assert_allclose(got.ravel(), want, atol=1e-4)


@pytest.mark.parametrize('seed', range(3))
def test_saw_on_advantages(seed):
  outcome, reasoning, lengths = _batch(seed)
  w_out, w_rea = _saw_weights(outcome, reasoning)
  index, mask = _rows(lengths)
  total = w_out * _grpo(outcome.ravel(), index)
  total += w_rea * _grpo(reasoning.ravel(), index)
  got, _ = _ours(
    outcome,
    reasoning,
    lengths,
    advantage='saw',
    saw_on='advantages',
    batch_norm='token',
  )
  np.testing.assert_allclose(got.ravel(), _whitened(total, mask), atol=1e-4)


# DGPO: github.com/AMAP-ML/MathForge, trl-0.20.0/trl/trainer/grpo_trainer.py,
# with enable_dgpo and enable_dgpo_dqw, temperature 2 as in its scripts. What is
# compared is what a token has in the loss, as the program makes up for the
# groups without a spread by a factor on the advantages.


def _dgpo(accuracy, lengths):
  means, size = accuracy.mean(axis=1), accuracy.shape[1]
  spread = ~np.isclose(accuracy.std(axis=1, ddof=1), 0)
  zero_mask_ratio = lengths.sum() / lengths[spread].sum()
  weights = np.ones(len(means))
  hard = np.exp(-means[spread] / 2)
  weights[spread] = spread.sum() * hard / hard.sum()
  away = np.float64(accuracy - means[:, None])
  made = size * away / (np.abs(away).sum(axis=1, keepdims=True) + 1e-4)
  made *= zero_mask_ratio * weights[:, None]
  return made / lengths.sum()


@pytest.mark.parametrize('seed', range(3))
def test_dgpo(seed):
  outcome, reasoning, lengths = _batch(seed, low=0.0, high=1.0)
  want = _dgpo(outcome, lengths)
  made, samples = _ours(
    outcome,
    reasoning,
    lengths,
    low=0.0,
    high=1.0,
    estimator='dgpo',
    gate='none',
    difficulty='none',
    reward_scale='unit',
  )
  # As experiments/algorithms/dgpo.flags has it.
  kept = samples.mask & aggregation.drop_empty(made)[:, None, None]
  weights = aggregation.token_weights(
    kept, aggregation='token-mean', all_sum=collectives.identity
  )
  got = np.asarray(weights) * made[..., None]
  np.testing.assert_allclose(
    got, np.where(samples.mask, want[..., None], 0), atol=1e-6
  )
  assert np.abs(want).max() > 1e-3


# MaxRL: github.com/tajwarfahim/maxrl, verl/trainer/ppo/core_algos.py, the
# estimator that its scripts call maxrl, (r - mean) / (mean + 1e-6).


@pytest.mark.parametrize('seed', range(3))
def test_maxrl(seed):
  outcome, reasoning, lengths = _batch(seed, low=0.0, high=1.0)
  outcome[4] = 0
  means = np.float64(outcome).mean(axis=1, keepdims=True)
  want = (outcome - means) / (means + 1e-6)
  got, _ = _ours(
    outcome,
    reasoning,
    lengths,
    low=0.0,
    high=1.0,
    correct=outcome == 1,
    estimator='maxrl',
    gate='none',
    difficulty='none',
  )
  np.testing.assert_allclose(got, want, atol=1e-4)
  assert want.max() > 0.9 and not want[4].any()
