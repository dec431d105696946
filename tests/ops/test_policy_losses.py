"""Losses of the policy: published reference numbers, by hand, at the edges."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.ops import aggregation as aggregation_lib
from awpo_jax.ops import collectives, policy_losses
from awpo_jax.ops import surrogate as surrogate_lib
from tests.helpers import flags
from tests.helpers import reference_batch as reference


def _tokens(logprobs, low, high, scores=reference.SCORES):
  column = np.ones((8, 1), np.float32)
  return policy_losses.Tokens(
    logprobs=jnp.where(reference.MASK, logprobs, 0.0),
    log_ratio=surrogate_lib.log_ratio(logprobs, reference.OLD, reference.MASK),
    mask=reference.MASK,
    advantages=np.float32(scores)[:, None],
    clip_low=low * column,
    clip_high=high * column,
    ref_logprobs=np.where(reference.MASK, reference.REF, 0),
  )


def _value_and_size(
  loss, aggregation, low=0.2, high=0.2, correction=None, **numbers
):
  """The loss at the reference batch, and the summed size of its gradient."""
  weights = aggregation_lib.token_weights(
    reference.MASK,
    aggregation=aggregation,
    all_sum=collectives.identity,
    max_length=5,
  )

  def total(logprobs):
    return policy_losses.weighted_loss(
      _tokens(logprobs, low, high),
      weights,
      loss=loss,
      samples=4,
      prompts=2,
      correction=correction,
      **flags.section('numbers', **numbers),
    )

  value, gradient = jax.jit(jax.value_and_grad(total))(reference.NEW)
  assert not np.asarray(gradient)[~reference.MASK].any()
  return value, np.abs(gradient).sum()


PER_ROW = 'seq-mean-token-mean'


class ReferenceNumbersTest(parameterized.TestCase):
  @parameterized.named_parameters(
    *(
      ('_'.join(map(str, row[:4])), *row)
      for row in (
        ('gspo', PER_ROW, 0.2, 0.2, 0.105556, 0.665884),
        ('gspo', PER_ROW, 3e-4, 4e-4, 0.167585, 0.451482),
        # With one A a row it is GSPO.
        ('gspo_token', PER_ROW, 0.2, 0.2, 0.105556, 0.665884),
        ('gspo_token', PER_ROW, 3e-4, 4e-4, 0.167585, 0.451482),
        ('sapo', PER_ROW, 0.2, 0.2, 0.032148, 0.649055),
        ('gmpo', PER_ROW, 0.4, 0.4, 0.226118, 0.518439),
        ('cispo', 'token-mean', 10, 0.2, 0.080792, 0.663319),
        ('cispo', 'token-mean', 10, 4, -0.044252, 1.147003),
      )
    )
  )
  def test_losses(self, loss, aggregation, low, high, value, size):
    got = _value_and_size(loss, aggregation, low, high)
    np.testing.assert_allclose(got, (value, size), atol=1e-5)

  def test_dppo_tv(self):
    got = _value_and_size(
      'dppo_tv', 'token-mean', tv_bound=0.2, tv_max_ratio=20.0
    )
    np.testing.assert_allclose(got, (-0.161394, 1.040511), atol=1e-5)

  @parameterized.parameters(
    ('tis', 'token', 0.225916, 0.563317),
    ('tis', 'row', 0.186834, 0.548489),
    ('icepop', 'token', 0.263624, 0.606627),
  )
  def test_mismatch(self, name, level, value, size):
    correction = surrogate_lib.mismatch_weights(
      reference.OLD,
      reference.ROLL,
      reference.MASK,
      **flags.section('loss', mismatch=name, mismatch_level=level),
    )
    got = _value_and_size(
      'ppo', 'token-mean', correction=correction, dual_clip=3.0
    )
    np.testing.assert_allclose(got, (value, size), atol=1e-5)

  @parameterized.parameters(
    ('disco', 'log-likelihood', 10.0, 3.193699, 77.677778),
    ('disco', 'ratio', 1.0, 3.509029, 77.037091),
  )
  def test_disco(self, loss, score, tau, value, size):
    weights = aggregation_lib.token_weights(
      reference.MASK, aggregation='token-mean', all_sum=collectives.identity
    )
    signs = np.where(reference.OUTCOME == 1, 1, -1).reshape(8)

    def total(logprobs):
      tokens = _tokens(logprobs, 0.2, 0.2, signs)
      surrogate = policy_losses.weighted_loss(
        tokens,
        weights,
        loss=loss,
        samples=4,
        prompts=2,
        **flags.section('numbers', disco_score=score, disco_tau=tau),
      )
      kl = -jnp.sum(weights * tokens.log_ratio)
      return surrogate + policy_losses.kl_penalty(kl, beta=1e3, delta=1e-4)

    got, gradient = jax.jit(jax.value_and_grad(total))(reference.NEW)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(np.abs(gradient).sum(), size, rtol=1e-5)


# Two groups of two rows; A = 2, -1 and 1, -1. Of r the log is what it says.
RATIO = np.float32([[2, 0.5], [1.5, 1], [1, 1], [0.5, 4]])
LOGPROBS = np.log(np.float32([[0.4, 0.2], [0.3, 0.5], [0.5, 0.5], [0.1, 0.8]]))
ROWS = np.array([[1, 1], [1, 0], [1, 1], [1, 1]], bool)
SCORES = np.float32([2, -1, 1, -1])


def _small(**fields):
  tokens = policy_losses.Tokens(
    logprobs=np.where(ROWS, LOGPROBS, 0),
    log_ratio=np.where(ROWS, np.log(RATIO), 0),
    mask=ROWS,
    advantages=SCORES[:, None],
    clip_low=np.full((4, 1), 0.2, np.float32),
    clip_high=np.full((4, 1), 0.4, np.float32),
    ref_logprobs=np.where(ROWS, LOGPROBS - 0.5, 0),
  )
  return dataclasses.replace(tokens, **fields)


L = LOGPROBS.astype(np.float64)
HAND = {
  # min(r A, clip(r) A): 2.8 and 1; A < 0: -1.5; 1; -.8 (r = .5), -4
  'ppo': ({}, [[-2.8, -1], [1.5, None], [-1, -1], [0.8, 4]]),
  'reinforce': (
    {},
    [
      [-2 * L[0, 0], -2 * L[0, 1]],
      [L[1, 0], None],
      [-L[2, 0], -L[2, 1]],
      [L[3, 0], L[3, 1]],
    ],
  ),
  # (.5 - 4)^2, (.5 + 2)^2, (.5 - 2)^2
  'apa': (
    {'apa_lambda': 0.5},
    [[12.25, 12.25], [6.25, None], [2.25, 2.25], [6.25, 6.25]],
  ),
}
ROW_HAND = {
  # s: sqrt(2 / 2) = 1; 1.5; 1; sqrt(2), not clipped at A < 0
  'gspo': ({}, [-2, 1.5, -1, np.sqrt(2)]),
  # logs at most .4 (A > 0) or at least -.2: (.4 - ln 2) / 2, ln 1.5, 0,
  # (-.2 + ln 4) / 2
  'gmpo': (
    {},
    [
      -2 * np.exp((0.4 - np.log(2)) / 2),
      1.5,
      -1,
      np.exp((-0.2 + np.log(4)) / 2),
    ],
  ),
}
GROUP_HAND = {
  # Of one wrong sample the soft maximum is its score. Mean ratios 1.25, 1.5; 1,
  # 2.25.
  ('disco', 'ratio'): [0.25, 1.25],
  ('disco', 'log-likelihood'): [
    L[1, 0] - L[0].mean(),
    L[3].mean() - L[2].mean(),
  ],
}


class ByHandTest(parameterized.TestCase):
  @parameterized.parameters(*HAND)
  def test_token_losses(self, name):
    numbers, want = HAND[name]
    numbers = flags.section('numbers', **numbers)
    got = policy_losses.TOKEN_LOSSES[name](_small(), **numbers)
    want = np.array(want, float)
    np.testing.assert_allclose(
      np.asarray(got)[ROWS], want[ROWS], rtol=1e-5, atol=1e-6
    )

  @parameterized.parameters(*ROW_HAND)
  def test_row_losses(self, name):
    numbers, want = ROW_HAND[name]
    got = policy_losses.ROW_LOSSES[name](_small(), **numbers)
    np.testing.assert_allclose(got, want, rtol=1e-5)

  @parameterized.parameters(*GROUP_HAND)
  def test_group_losses(self, name, score):
    got = policy_losses.GROUP_LOSSES[name](
      _small(), samples=2, disco_score=score, disco_tau=1.0
    )
    np.testing.assert_allclose(got, GROUP_HAND[name, score], rtol=1e-5)

  def test_disco_weighs_the_likelier_wrong_answer_more(self):
    # One right answer of score 1; wrong ones of 1.5, 1, 2.25 and tau = 1:
    # log((e^1.5 + e + e^2.25) / 3) - 1.25
    got = policy_losses.disco(
      _small(advantages=np.float32([[1], [-1], [-1], [-1]])),
      samples=4,
      disco_score='ratio',
      disco_tau=1.0,
    )
    want = np.log((np.exp(1.5) + np.e + np.exp(2.25)) / 3) - 1.25
    np.testing.assert_allclose(got, [want], rtol=1e-5)

  def test_groups_of_one_kind_say_nothing(self):
    def total(logprobs, name):
      tokens = _small(advantages=jnp.ones((4, 1)), logprobs=logprobs)
      loss = policy_losses.GROUP_LOSSES[name]
      return jnp.sum(loss(tokens, samples=2, **flags.section('numbers')))

    for name in policy_losses.GROUP_LOSSES:
      value, gradient = jax.value_and_grad(total)(LOGPROBS, name)
      self.assertEqual(value, 0)
      np.testing.assert_array_equal(gradient, np.zeros((4, 2)))

  def test_trust_region_by_hand(self):
    # Below delta nothing; above it b / 2 (kl - delta)^2.
    got = [
      policy_losses.kl_penalty(jnp.float32(kl), beta=10.0, delta=0.1)
      for kl in (-1, 0.05, 0.3)
    ]
    np.testing.assert_allclose(got, [0, 0, 0.2], rtol=1e-5)

  def test_clip_fractions(self):
    # r of A > 0 above 1.4: the first; of A < 0 below .8: the .5.
    got = policy_losses.is_clipped(_small(), loss='ppo')
    np.testing.assert_array_equal(got & ROWS, [[1, 0], [0, 0], [0, 0], [1, 0]])
    # s = 1, 1.5, 1, 1.4: none of them.
    got = policy_losses.is_clipped(_small(), loss='gspo')
    assert got.shape == (4, 2) and not got.any()
    assert policy_losses.is_clipped(_small(), loss='sapo') is None


class EveryLossTest(parameterized.TestCase):
  @parameterized.parameters(*policy_losses.LOSSES)
  def test_masked_tokens_change_nothing_and_gradients_are_finite(self, name):
    numbers = flags.section('numbers')
    numbers |= {'samples': 2, 'loss': name, 'prompts': 2}
    weights = np.where(ROWS, np.float32(1 / 7), 0)

    def total(logprobs, advantages):
      log_ratio = surrogate_lib.log_ratio(
        logprobs, LOGPROBS - np.log(RATIO), ROWS
      )
      tokens = _small(
        logprobs=jnp.where(ROWS, logprobs, 0.0),
        log_ratio=log_ratio,
        advantages=advantages[:, None],
      )
      return policy_losses.weighted_loss(tokens, weights, **numbers)

    run = jax.jit(jax.value_and_grad(total))
    value, gradient = run(LOGPROBS, SCORES)
    spoiled = np.where(ROWS, LOGPROBS, np.nan)
    again, same = run(spoiled, SCORES)
    np.testing.assert_array_equal(again, value)
    np.testing.assert_array_equal(same, gradient)
    chex.assert_tree_all_finite((value, gradient))
    assert np.abs(gradient).max() > 0.01
    assert not np.asarray(gradient)[~ROWS].any()
    # A group without an advantage moves nothing, but where A is a target.
    _, still = run(LOGPROBS, np.zeros(4, np.float32))
    if name != 'apa':
      np.testing.assert_array_equal(still, np.zeros((4, 2)))

  def test_unknown_loss_is_refused(self):
    with self.assertRaisesRegex(ValueError, "loss='trpo'.*ppo, gspo_token"):
      policy_losses.weighted_loss(
        _small(), np.ones((4, 2)), loss='trpo', samples=2, prompts=2
      )

  def test_apa_needs_a_reference(self):
    with self.assertRaisesRegex(ValueError, 'ref_logprobs'):
      policy_losses.apa(_small(ref_logprobs=None), apa_lambda=0.1)
