"""Replays: projected gradients of answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.training import replay
from tests.training import tiny

P, G, PROMPT, RESPONSE = 2, 3, 4, 5


def rollout():
  rng = np.random.default_rng(0)

  def tokens(*shape):
    return rng.integers(0, tiny.VOCAB, shape, np.int32)

  lengths = np.int32([[5, 3, 1], [2, 5, 4]])
  mask = np.arange(RESPONSE) < lengths[..., None]
  completions = types.Completions(
    tokens=tokens(P, G, RESPONSE),
    mask=mask,
    policy_mask=mask,
    positions=np.tile(PROMPT + np.arange(RESPONSE, dtype=np.int32), (P, G, 1)),
    turn=np.zeros(mask.shape, np.int32),
    logprobs=np.zeros(mask.shape, np.float32),
    entropy=np.zeros(mask.shape, np.float32),
    finished=np.ones((P, G), bool),
  )
  return types.Rollout(
    prompts=types.Prompts(
      tokens=tokens(P, PROMPT),
      mask=np.ones((P, PROMPT), bool),
      ids=np.arange(P, dtype=np.int32),
    ),
    completions=completions,
    rewards=None,
    sample_ids=np.arange(P * G, dtype=np.int32).reshape(P, G),
  )


class ScoreVectorsTest(chex.TestCase):
  def test_against_differences(self):
    # Along a direction u the derivative of an answer's log-probability is
    # (f(x + h u) - f(x - h u)) / 2h, with f of the unshared full sequences.
    taken, seed = rollout(), 5
    params = jax.tree.map(jnp.asarray, tiny.params())
    got = replay.score_vectors(
      tiny.DECODER, params, taken, directions=2, seed=seed, chunk=3
    )
    self.assertEqual(got.shape, (P * G, 2))
    prompts = np.repeat(taken.prompts.tokens, G, axis=0)
    answers = taken.completions.tokens.reshape(P * G, -1)
    mask = taken.completions.mask.reshape(P * G, -1)

    @jax.jit
    def log_likelihood(params):
      tokens = np.concatenate([prompts, answers], axis=1)
      logits = tiny.DECODER.apply({'params': params}, tokens)
      log_p = jax.nn.log_softmax(logits[:, PROMPT - 1 : -1])
      chosen = jnp.take_along_axis(log_p, answers[..., None], axis=-1)[..., 0]
      return jnp.sum(jnp.where(mask, chosen, 0.0), axis=-1)

    leaves, tree = jax.tree.flatten(params)
    for k, key in enumerate(jax.random.split(jax.random.key(seed), 2)):
      keys = jax.random.split(key, len(leaves))
      steps = [
        1e-3 * jax.random.normal(k, x.shape)
        for k, x in zip(keys, leaves, strict=True)
      ]
      above, below = (
        log_likelihood(
          jax.tree.unflatten(
            tree, [x + sign * s for x, s in zip(leaves, steps, strict=True)]
          )
        )
        for sign in (1, -1)
      )
      want = (np.float64(above) - np.float64(below)) / 2e-3
      np.testing.assert_allclose(got[:, k], want, rtol=0.02, atol=0.05)
