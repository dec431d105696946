"""A prompt read once gives what it gives when every row reads its own."""

import functools

import jax
import numpy as np

from awpo_jax.ops import collectives, logprobs
from awpo_jax.training.update import objectives
from tests.helpers import row_by_row, tiny_training
from tests.helpers import tiny_decoder as models_tiny

# With the defaults it is compared in the test of devices.
ALL_OPTIONS = functools.partial(
  tiny_training.RL_TERMS, clip_high_factor=1.4, dual_clip=1.5, entropy_coef=0.1
)


@functools.cache
def _batch():
  return row_by_row.random_batch(0)


def _weighed():
  return objectives.weigh(
    _batch(), collectives.identity, aggregation='token-mean'
  )


@functools.cache
def _gradient(terms):
  return tiny_training.jit(jax.grad(terms, has_aux=True))


def _compare(terms, want_grads, want):
  grads, got = _gradient(terms)(tiny_training.params(), _weighed())
  tiny_training.assert_close(grads, want_grads, scale=want_grads, rtol=1e-5)
  metrics = got.sums | got.maxima
  assert metrics.keys() == want.keys()
  for name, value in metrics.items():
    np.testing.assert_allclose(value, want[name], rtol=1e-5, err_msg=name)
  return metrics


def test_sft_equals_the_row_by_row_loss():
  metrics = _compare(
    tiny_training.SFT_TERMS, *row_by_row.sft(tiny_training.params(), _batch())
  )
  np.testing.assert_allclose(metrics['weight'], 1, rtol=1e-6)


def test_rl_equals_the_row_by_row_loss():
  want = row_by_row.rl(
    tiny_training.params(), _batch(), high=1.4, dual=1.5, bonus=0.1
  )
  metrics = _compare(ALL_OPTIONS, *want)
  # Bounds are compared only where they are reached.
  assert 0.1 < metrics['clip_fraction'] < 0.9
  assert metrics['ratio_abs_log_max'] > np.log(1.5)


def test_the_prompt_is_read_once_per_group(monkeypatch):
  # 8 prompts of 7 columns, 4 completions each of 6: the prompts are read as 8
  # rows, and the head sees one column of each and what follows it, no more.
  seen = []
  original = logprobs.token_logprobs

  def token_logprobs(hidden, *args, **kwargs):
    seen.append(hidden.shape)
    return original(hidden, *args, **kwargs)

  monkeypatch.setattr(logprobs, 'token_logprobs', token_logprobs)
  models_tiny.calls.clear()
  run = functools.partial(
    objectives.completion_logprobs,
    decoder=models_tiny.RecordingDecoder(tiny_training.CONFIG),
    temperature=1.0,
    chunk=3,
  )
  jax.eval_shape(run, tiny_training.params(), _batch())
  assert models_tiny.calls == [
    ('hidden', (8, 7), (8, 1, 32)),
    ('hidden', (32, 5), (32, 5, 32)),
  ]
  assert seen == [(32, 6, 32)]


def test_temperature_divides_the_logits():
  run = functools.partial(
    objectives.completion_logprobs,
    decoder=tiny_training.DECODER,
    temperature=0.5,
    chunk=128,
  )
  got = tiny_training.jit(run)(tiny_training.params(), _batch())
  doubled = tiny_training.params() | {
    'lm_head': 2 * tiny_training.params()['lm_head']
  }
  want = row_by_row.scores(doubled, _batch())
  mask = _batch().mask
  for value, expected in zip(got, want, strict=True):
    np.testing.assert_allclose(
      np.asarray(value)[mask], expected[mask], rtol=1e-5, atol=1e-5
    )


def test_weights_are_of_the_tokens_that_are_trained_on():
  batch = _weighed()
  used = batch.policy_mask
  assert used.any() and (batch.mask & ~used).any()
  np.testing.assert_allclose(
    batch.weights, used / used.sum(dtype=np.float64), rtol=1e-6
  )


def test_what_is_not_used_may_be_nan():
  batch = _weighed()
  used = np.asarray(batch.weights) > 0
  spoiled = batch.replace(
    old_logprobs=np.where(used, batch.old_logprobs, np.nan)
  )
  gradient = _gradient(ALL_OPTIONS)
  tiny_training.assert_equal(
    gradient(tiny_training.params(), batch),
    gradient(tiny_training.params(), spoiled),
  )
