"""The sampler: masks and ends, log-probabilities, reproducible texts."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax import types
from awpo_jax.distributed import device_map, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.training.update import objectives
from tests.helpers import decoder_reference, tiny_decoder
from tests.helpers import sampling_cases as cases


def run_chain(ends):
  """Completions of prompts that end with `ends`, by the chain model."""
  prompts = cases.make_prompts([[1, end] for end in ends], 6)
  sampler = cases.sampler(1.0)
  got = sampler(cases.chain(), prompts, cases.sample_ids(), cases.key())
  return jax.tree.map(np.asarray, got)


def trainer_scores(completions, prompts, params, temperature):
  """Log-probabilities and entropies of the trainer."""
  batch = types.Batch.of(prompts, completions)
  decoder = decoder_lib.Decoder(cases.model()[0].config)
  return jax.jit(
    functools.partial(
      objectives.completion_logprobs,
      decoder=decoder,
      temperature=temperature,
      chunk=3,
    )
  )(params, batch)


class EndsTest(chex.TestCase):
  """Token v is followed by v + 1; 56 and more stop; 30 is the padding."""

  def test_by_hand(self):
    got = run_chain([53, 10, 28, 48])
    want = [
      [54, 55, 56, 30, 30, 30, 30, 30],  # The stop token belongs to it.
      [11, 12, 13, 14, 15, 16, 17, 18],  # Cut by the limit.
      [29, 30, 31, 32, 33, 34, 35, 36],  # A sampled 30 is a token.
      [49, 50, 51, 52, 53, 54, 55, 56],  # Stops with the last it may have.
    ]
    lengths = np.array([3, 8, 8, 8])
    mask = np.arange(8) < lengths[:, None]
    for g in range(cases.SAMPLES):
      np.testing.assert_array_equal(got.tokens[:, g], want)
      np.testing.assert_array_equal(got.mask[:, g], mask)
      np.testing.assert_array_equal(got.policy_mask[:, g], mask)
      np.testing.assert_array_equal(
        got.finished[:, g], [True, False, False, True]
      )
      # Two tokens of prompt before the first of the completion.
      np.testing.assert_array_equal(
        got.positions[:, g], np.where(mask, 2 + np.arange(8), 0)
      )
    np.testing.assert_array_equal(got.turn, np.zeros((4, 2, 8)))

  def test_ends_when_all_rows_have(self):
    cases.decode_steps.clear()
    got = run_chain([53, 52, 55, 54])
    jax.effects_barrier()
    np.testing.assert_array_equal(got.mask.sum(axis=-1)[:, 0], [3, 4, 1, 2])
    self.assertLen(cases.decode_steps, 4)
    self.assertTrue(got.finished.all())

  def test_a_row_that_ended_keeps_its_padding(self):
    got = cases.completions(1.0)
    lengths = got.mask.sum(axis=-1)
    self.assertLess(lengths.min(), lengths.max() - 2)
    padding = ~got.mask
    np.testing.assert_array_equal(got.tokens[padding], cases.PAD_ID)
    for x in (got.logprobs, got.entropy, got.positions, got.policy_mask):
      np.testing.assert_array_equal(x[padding], 0)
    stops = np.isin(got.tokens, cases.STOP_IDS) & got.mask
    for p, g in np.ndindex(4, cases.SAMPLES):
      end = lengths[p, g]
      self.assertTrue(got.mask[p, g, :end].all())
      self.assertEqual(stops[p, g].sum(), int(got.finished[p, g]))
      self.assertEqual(stops[p, g, end - 1], got.finished[p, g])
    self.assertTrue(got.finished.any())
    self.assertFalse(got.finished.all())

  def test_the_prompt_is_read_once_for_all_its_samples(self):
    # 4 prompts of 6 columns, 2 samples each, width 32: nothing has 8 x 6
    # columns, and the head never sees a column of a prompt but the last.
    decoder = tiny_decoder.RecordingDecoder(cases.model()[0].config)
    tiny_decoder.calls.clear()
    jax.eval_shape(
      cases.raw_sampler(decoder, 1.0),
      cases.chain(),
      cases.prompts(),
      cases.sample_ids(),
      cases.key(),
    )
    self.assertEqual(tiny_decoder.calls[0], ('hidden', (4, 6), (4, 1, 32)))
    self.assertEqual(
      set(tiny_decoder.calls[1:]),
      {
        ('unembed', (8, 32), (8, cases.VOCAB)),
        ('decode', (8, 1), (8, 1, 32)),
      },
    )


class LogprobsTest(chex.TestCase):
  @parameterized.parameters(1.0, 0.7)
  def test_equal_the_trainers(self, temperature):
    _, params = cases.model()
    got = cases.completions(temperature)
    logprobs, entropy = trainer_scores(
      got, cases.prompts(), params, temperature
    )
    mask = got.mask
    self.assertLess(got.logprobs[mask].max(), -1e-4)
    np.testing.assert_allclose(got.logprobs[mask], logprobs[mask], atol=1e-5)
    np.testing.assert_allclose(got.entropy[mask], entropy[mask], atol=1e-5)

  @parameterized.parameters(1.0, 0.7)
  def test_float64(self, temperature):
    _, params = cases.model()
    got = cases.completions(temperature)
    for p, g in np.ndindex(4, cases.SAMPLES):
      own = got.tokens[p, g][got.mask[p, g]]
      row = [*cases.ROWS[p], *own]
      logits = decoder_reference.logits(row, params, cases.HF) / temperature
      probs = np.exp(logits - logits.max(-1, keepdims=True))
      probs /= probs.sum(-1, keepdims=True)
      start = len(cases.ROWS[p]) - 1
      for t, token in enumerate(own):
        dist = probs[start + t]
        self.assertAlmostEqual(
          got.logprobs[p, g, t], np.log(dist[token]), places=4
        )
        self.assertAlmostEqual(
          got.entropy[p, g, t], -np.sum(dist * np.log(dist)), places=4
        )

  def test_greedy(self):
    decoder, params = cases.model()
    sampler = jax.jit(cases.raw_sampler(decoder, 0.0))
    ids = cases.sample_ids(4, 1)
    got = sampler(params, cases.prompts(), ids, cases.key())
    for p in range(4):
      own = np.asarray(got.tokens[p, 0])[np.asarray(got.mask[p, 0])]
      row = [*cases.ROWS[p], *own]
      logits = decoder_reference.logits(row, params, cases.HF)
      logits = logits[len(cases.ROWS[p]) - 1 : -1]
      np.testing.assert_array_equal(own, logits.argmax(axis=-1))
      best = logits.max(-1) - np.log(np.exp(logits).sum(-1))
      np.testing.assert_allclose(
        got.logprobs[p, 0, : len(own)], best, rtol=1e-4, atol=1e-4
      )


class ReproducibleTest(chex.TestCase):
  """What is drawn follows from prompt, sample id, token index and key."""

  def _sample(self, prompts, ids, key=None):
    _, params = cases.model()
    key = cases.key() if key is None else key
    return cases.sampler(1.0)(params, prompts, ids, key)

  def test_order_of_the_batch(self):
    want, prompts, ids = (
      cases.completions(1.0),
      cases.prompts(),
      cases.sample_ids(),
    )
    order = np.array([2, 0, 3, 1])
    moved = jax.tree.map(lambda x: x[order], prompts)
    got = self._sample(moved, ids[order][:, ::-1])
    np.testing.assert_array_equal(got.tokens[:, ::-1], want.tokens[order])
    np.testing.assert_array_equal(got.finished[:, ::-1], want.finished[order])

  def test_other_batch_and_padding(self):
    # Three of the eight rows, alone with their prompts, in a longer bucket.
    want, ids = cases.completions(1.0), cases.sample_ids()
    rows = np.array([3, 1, 1])
    prompts = cases.make_prompts([cases.ROWS[p] for p in rows], 9, junk=5)
    column = np.array([1, 0, 1])
    got = self._sample(prompts, ids[rows, column][:, None])
    np.testing.assert_array_equal(got.tokens[:, 0], want.tokens[rows, column])
    np.testing.assert_allclose(
      got.logprobs[:, 0], want.logprobs[rows, column], atol=1e-5
    )

  def test_four_devices(self):
    want = cases.completions(1.0)
    _, params = cases.model()
    decoder = decoder_lib.Decoder(cases.model()[0].config)
    raw = cases.raw_sampler(decoder, 1.0)

    def sample(*arguments, axis_name):
      del axis_name
      return raw(*arguments)

    mapped = device_map.mapped(
      sample,
      sharding.data_mesh(),
      in_axes=(None, 0, 0, None),
      out_axes=0,
    )
    split = functools.partial(jax.tree.map, lambda x: x[:, None])
    got = mapped(
      params, split(cases.prompts()), split(cases.sample_ids()), cases.key()
    )
    self.assertLen(got.tokens.sharding.device_set, 4)
    for name in ('tokens', 'mask', 'finished'):
      np.testing.assert_array_equal(
        np.asarray(getattr(got, name))[:, 0], getattr(want, name)
      )

  def test_other_facts_other_texts(self):
    want = cases.completions(1.0)
    prompts, ids = cases.prompts(), cases.sample_ids()
    same = self._sample(prompts, ids)
    np.testing.assert_array_equal(same.tokens, want.tokens)
    for other in (
      self._sample(prompts, ids, cases.key(step=4)),
      self._sample(prompts, ids + 50),
    ):
      differs = jnp.any(other.tokens != want.tokens, axis=-1)
      self.assertGreaterEqual(int(differs.sum()), 6)

  def test_samples_of_a_prompt_differ(self):
    tokens = cases.completions(1.0).tokens
    self.assertGreaterEqual(
      int((tokens[:, 0] != tokens[:, 1]).any(axis=-1).sum()), 3
    )
