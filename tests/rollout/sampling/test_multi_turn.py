"""Several turns on one cache: as if read at once, and masked at birth."""

import functools

import chex
import jax
import numpy as np
from absl.testing import parameterized

from awpo_jax import types
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import multi_turn, sampler
from awpo_jax.training.update import objectives
from tests.helpers import decoder_reference, tiny_decoder, tiny_training
from tests.helpers import sampling_cases as cases

MAX_TOKENS, OBSERVED = 20, 4
RL_FLAGS = tiny_training.RL_FLAGS | {'kl_coef': 0.1}


def decoding_of(decoder):
  return sampler.Decoding(decoder, MAX_TOKENS, cases.STOP_IDS, cases.PAD_ID)


@functools.cache
def programs():
  decoder, _ = cases.model()
  decoding = decoding_of(decoder)
  begin = functools.partial(
    multi_turn.begin, decoding=decoding, observation_tokens=OBSERVED
  )
  go_on = functools.partial(multi_turn.go_on, decoding=decoding)
  return jax.jit(begin), jax.jit(go_on)


def play(params, prompts, ids, rounds):
  """State after `begin` and rounds of (tokens [N, So], lengths [N])."""
  begin, go_on = programs()
  state, shared = begin(params, prompts, ids, cases.key())
  for tokens, lengths in rounds:
    state = go_on(
      params,
      state,
      shared,
      cases.key(),
      np.asarray(tokens, np.int32),
      np.asarray(lengths, np.int32),
    )
  return jax.device_get(state)


@functools.cache
def played():
  """Two observations for rows that have room, of the random model."""
  _, params = cases.model()
  rng = np.random.default_rng(3)
  prompts, ids = cases.prompts(), cases.sample_ids()
  rounds = []
  for number in range(2):
    state = play(params, prompts, ids, rounds)
    lengths = 1 + np.arange(8) % OBSERVED
    # Rows that a limit cut have ended; one waits in the first round.
    over = ~state.completions.finished | (state.length + lengths >= MAX_TOKENS)
    lengths[over] = 0
    if number == 0:
      lengths[np.flatnonzero(lengths)[0]] = 0
    rounds.append((rng.integers(1, 50, (8, OBSERVED)), lengths))
  return rounds, play(params, prompts, ids, rounds)


class ByHandTest(chex.TestCase):
  """Token v is followed by v + 1; 56 and more stop; 30 is the padding."""

  def test_by_hand(self):
    prompts = cases.make_prompts([[1, 53], [1, 48], [1, 10]], 6)
    ids = cases.sample_ids(3, 1)
    first = [[9, 51, 7, 7], [9, 9, 9, 53], [0, 0, 0, 0]]
    second = [[54, 0, 0, 0], [8, 8, 8, 8], [0, 0, 0, 0]]
    state = play(
      cases.chain(), prompts, ids, [(first, [2, 4, 0]), (second, [1, 0, 0])]
    )
    got = state.completions
    want = [
      # Turns of the policy, what it read in between, padding.
      [54, 55, 56, 9, 51, 52, 53, 54, 55, 56, 54, 55, 56] + [30] * 7,
      [49, 50, 51, 52, 53, 54, 55, 56, 9, 9, 9, 53, 54, 55, 56] + [30] * 5,
      list(range(11, 31)),  # Cut by the limit: it has no second turn.
    ]
    chosen = [
      [1] * 3 + [0] * 2 + [1] * 5 + [0] + [1] * 2 + [0] * 7,
      [1] * 8 + [0] * 4 + [1] * 3 + [0] * 5,
      [1] * 20,
    ]
    turn = [
      [0] * 3 + [1] * 7 + [2] * 3 + [0] * 7,
      [0] * 8 + [1] * 7 + [0] * 5,
      [0] * 20,
    ]
    lengths = np.array([13, 15, 20])
    mask = np.arange(MAX_TOKENS) < lengths[:, None]
    np.testing.assert_array_equal(got.tokens, want)
    np.testing.assert_array_equal(got.policy_mask, chosen)
    np.testing.assert_array_equal(got.turn, turn)
    np.testing.assert_array_equal(got.mask, mask)
    np.testing.assert_array_equal(
      got.positions, np.where(mask, 2 + np.arange(MAX_TOKENS), 0)
    )
    np.testing.assert_array_equal(state.length, lengths)
    np.testing.assert_array_equal(got.finished, [True, True, False])
    unchosen = ~np.asarray(chosen, bool)
    np.testing.assert_array_equal(got.logprobs[unchosen], 0)
    np.testing.assert_array_equal(got.entropy[unchosen], 0)


class SameAsReadAtOnceTest(chex.TestCase):
  def test_something_happened(self):
    rounds, state = played()
    self.assertGreaterEqual(min((x[1] > 0).sum() for x in rounds), 3)
    self.assertGreaterEqual(int(state.turn.max()), 2)

  def test_float64(self):
    """Each token of the policy has the probability of the whole text."""
    _, params = cases.model()
    _, state = played()
    got = state.completions
    for row in range(8):
      own = got.tokens[row][got.mask[row]]
      text = [*cases.ROWS[row // cases.SAMPLES], *own]
      logits = decoder_reference.logits(text, params, cases.HF)
      dist = logits - logits.max(-1, keepdims=True)
      dist -= np.log(np.exp(dist).sum(-1, keepdims=True))
      start = len(text) - len(own) - 1
      for column in np.flatnonzero(got.policy_mask[row]):
        self.assertAlmostEqual(
          got.logprobs[row, column],
          dist[start + column, own[column]],
          places=4,
        )

  def test_a_first_turn_is_that_of_the_sampler(self):
    _, params = cases.model()
    want = cases.completions(1.0)
    state = play(params, cases.prompts(), cases.sample_ids(), [])
    tokens = state.completions.tokens.reshape(4, cases.SAMPLES, MAX_TOKENS)
    short = want.finished
    np.testing.assert_array_equal(
      tokens[..., : cases.MAX_TOKENS][short], want.tokens[short]
    )

  def test_who_waits_beside_a_row_changes_nothing(self):
    # Round 1 for row 0 and round 2 for the others, or all in one round.
    _, params = cases.model()
    prompts, ids = cases.prompts(), cases.sample_ids()
    state = play(params, prompts, ids, [])
    tokens = np.random.default_rng(4).integers(1, 50, (8, OBSERVED))
    lengths = np.where(state.completions.finished & (state.length < 12), 3, 0)
    early = np.where(np.arange(8) < 4, lengths, 0)
    self.assertGreater(early.sum(), 0)
    self.assertGreater((lengths - early).sum(), 0)
    together = play(params, prompts, ids, [(tokens, lengths)])
    apart = play(
      params, prompts, ids, [(tokens, early), (tokens, lengths - early)]
    )
    np.testing.assert_array_equal(
      together.completions.tokens, apart.completions.tokens
    )
    np.testing.assert_allclose(
      together.completions.logprobs, apart.completions.logprobs, atol=1e-5
    )

  def test_the_past_is_not_read_again(self):
    # After `begin`, `go_on` reads So new columns of each row, then one by one.
    decoder = tiny_decoder.RecordingDecoder(cases.model()[0].config)
    _, params = cases.model()
    begin = functools.partial(
      multi_turn.begin,
      decoding=decoding_of(decoder),
      observation_tokens=OBSERVED,
    )
    state, shared = jax.eval_shape(
      begin, params, cases.prompts(), cases.sample_ids(), cases.key()
    )
    tiny_decoder.calls.clear()
    jax.eval_shape(
      functools.partial(multi_turn.go_on, decoding=decoding_of(decoder)),
      params,
      state,
      shared,
      cases.key(),
      np.zeros((8, OBSERVED), np.int32),
      np.zeros(8, np.int32),
    )
    self.assertEqual(
      tiny_decoder.calls[0], ('decode', (8, OBSERVED), (8, 4, 32))
    )
    self.assertEqual(
      set(tiny_decoder.calls[1:]),
      {('unembed', (8, 32), (8, cases.VOCAB)), ('decode', (8, 1), (8, 1, 32))},
    )


class NeverTrainedOnTest(chex.TestCase):
  """Observations reach the loss only as what the policy has read."""

  def batch(self):
    _, state = played()
    got = state.completions
    shape = (4, cases.SAMPLES)
    parts = jax.tree.map(
      lambda x: x.reshape(*shape, *x.shape[1:]),
      (got.tokens, got.mask, got.positions, got.policy_mask, got.logprobs),
    )
    tokens, mask, positions, policy_mask, logprobs = parts
    prompts = cases.prompts()
    return types.Batch(
      prompt_tokens=prompts.tokens,
      prompt_mask=prompts.mask,
      tokens=tokens,
      mask=mask,
      positions=positions,
      policy_mask=policy_mask,
      old_logprobs=logprobs,
      advantages=np.linspace(-1, 1, 8, dtype=np.float32).reshape(shape),
      clip_radius=np.full(4, 0.2, np.float32),
      ref_logprobs=logprobs - 0.25 * policy_mask,
    )

  @parameterized.parameters('token-mean', 'seq-mean-token-mean')
  def test_by_the_gradient_of_the_logits(self, aggregation):
    """The loss moves with a token's own logit where the policy chose it."""
    decoder = decoder_lib.Decoder(cases.model()[0].config)
    _, params = cases.model()
    batch = self.batch()
    weighed = objectives.weigh(
      batch, lambda x: x, aggregation=aggregation, max_length=MAX_TOKENS
    )
    unchosen = batch.mask & ~batch.policy_mask
    self.assertGreater(unchosen.sum(), 5)
    np.testing.assert_array_equal(weighed.weights[unchosen], 0)

    def loss(shift):
      """The loss as a function of each token's log-probability."""

      def shifted(*args, **kwargs):
        logprobs, entropy = original(*args, **kwargs)
        return logprobs + shift, entropy

      original = objectives.completion_logprobs
      objectives.completion_logprobs = shifted
      try:
        return objectives.rl_terms(
          params, weighed, decoder=decoder, **RL_FLAGS
        )[0]
      finally:
        objectives.completion_logprobs = original

    grad = jax.jit(jax.grad(loss))(np.zeros(batch.tokens.shape, np.float32))
    np.testing.assert_array_equal(np.asarray(grad)[~batch.policy_mask], 0)
    moved = np.abs(np.asarray(grad)[batch.policy_mask]) > 0
    self.assertGreater(moved.mean(), 0.9)

  def test_their_old_and_reference_logprobs_do_not_count(self):
    decoder = decoder_lib.Decoder(cases.model()[0].config)
    _, params = cases.model()
    batch = self.batch()
    unchosen = ~batch.policy_mask

    def grads(batch):
      weighed = objectives.weigh(
        batch, lambda x: x, aggregation='token-mean', max_length=MAX_TOKENS
      )
      terms = functools.partial(
        objectives.rl_terms, decoder=decoder, **RL_FLAGS
      )
      return jax.jit(jax.value_and_grad(terms, has_aux=True))(params, weighed)

    junk = batch.replace(
      old_logprobs=np.where(unchosen, 7.0, batch.old_logprobs),
      ref_logprobs=np.where(unchosen, -9.0, batch.ref_logprobs),
    )
    chex.assert_trees_all_close(grads(batch), grads(junk), atol=0)
