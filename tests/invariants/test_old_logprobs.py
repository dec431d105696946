"""In float32 on a CPU the sampler's log-probabilities are the trainer's.

`--old_logprobs=auto` then reads no answer a second time.
"""

import functools

import jax
import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.rollout.sampling import continuous_batching, multi_turn, sampler
from awpo_jax.training.update import packing
from tests.helpers import (
  adapted_decoder,
  decoder_reference,
  tiny_decoder,
  tiny_training,
)
from tests.helpers import sampling_cases as cases

MAX_TOKENS, OBSERVED, SAMPLES = 12, 4, 4
STOP_IDS = tuple(range(62, cases.VOCAB))
MODELS = {
  **tiny_decoder.FAMILIES,
  **{f'{name}_local': hf for name, hf in tiny_decoder.LOCAL.items()},
}
# Relative: float32 has 24 bits, so a few units in the last place.
TOLERANCE = 1e-6


def _model(name, **settings):
  """Wide parameters, but a head whose likely tokens are several."""
  if name == 'adapters':
    config, base, trained = adapted_decoder.make()
    params = lora.join(trained, base)
    decoder = decoder_lib.Decoder(config)
  else:
    decoder, params = tiny_decoder.make(MODELS[name], seed=1, **settings)
  norm = {'weight': 0.25 * params['norm']['weight']}
  return decoder, params | {'norm': norm}


def _decoding(decoder, temperature):
  return sampler.Decoding(
    decoder, MAX_TOKENS, STOP_IDS, cases.PAD_ID, temperature
  )


def _inputs():
  return cases.prompts(), cases.sample_ids(4, SAMPLES), cases.key()


def _sampled(decoder, params, temperature=1.0, *, sample=sampler.sample):
  run = functools.partial(sample, decoding=_decoding(decoder, temperature))
  return jax.device_get(tiny_training.jit(run)(params, *_inputs()))


def _several_turns(decoder, params):
  """Each row that stopped in time reads up to four tokens and goes on."""
  prompts, ids, key = _inputs()
  how = {'decoding': _decoding(decoder, 1.0)}
  begin = functools.partial(
    multi_turn.begin, observation_tokens=OBSERVED, **how
  )
  state, shared = tiny_training.jit(begin)(params, prompts, ids, key)
  lengths = 1 + np.arange(ids.size, dtype=np.int32) % OBSERVED
  room = np.asarray(state.length) + lengths < MAX_TOKENS
  lengths *= np.asarray(state.completions.finished) & room
  assert (lengths > 0).sum() >= 3
  rng = np.random.default_rng(2)
  read = rng.integers(1, 50, (ids.size, OBSERVED), np.int32)
  go_on = tiny_training.jit(functools.partial(multi_turn.go_on, **how))
  state = go_on(params, state, shared, key, read, lengths)
  return jax.device_get(
    jax.tree.map(
      lambda x: x.reshape(*ids.shape, *x.shape[1:]), state.completions
    )
  )


def _read(decoder, params, completions, temperature=1.0, *, columns=0):
  """The trainer's log-probabilities, of `columns` packed."""
  prompts, ids, _ = _inputs()
  zeros, valid = np.zeros(ids.shape, np.float32), np.ones(ids.shape, bool)
  rollout = types.Rollout(
    prompts=prompts,
    completions=completions,
    rewards=types.Rewards(
      outcome=zeros,
      outcome_valid=valid,
      reasoning=zeros,
      reasoning_valid=valid,
      outcome_min=zeros[:, 0] - 1,
      outcome_max=zeros[:, 0] + 1,
      wants_call=valid[:, 0],
    ),
    sample_ids=ids,
  )
  if columns:
    laid = packing.Packing(columns).rollout(sharding.split(rollout, 1))
    rollout = jax.tree.map(lambda x: x[0], laid)
  scores = tiny_training.make_scores(
    decoder=decoder, micro=2, temperature=temperature
  )
  prepare = tiny_training.make_prepare(scores=scores)
  return jax.device_get(tiny_training.jit(prepare)(params, rollout))


def _assert_same(prepared, completions, tolerance=TOLERANCE):
  chosen = completions.policy_mask
  assert (completions.logprobs[chosen] < -0.1).mean() > 0.5
  got, want = prepared.trainer_logprobs[chosen], completions.logprobs[chosen]
  np.testing.assert_allclose(got, want, rtol=tolerance)


@pytest.mark.parametrize('name', [*MODELS, 'adapters'])
def test_every_kind_of_model(name):
  decoder, params = _model(name)
  completions = _sampled(decoder, params)
  # Answers that stopped, early ones too, and answers that the limit cut.
  lengths = completions.mask.sum(-1)
  assert lengths.min() < lengths.max() == MAX_TOKENS
  assert completions.finished.any() and not completions.finished.all()
  _assert_same(_read(decoder, params, completions), completions)


@pytest.mark.parametrize('name', MODELS)
def test_float64(name):
  """Both are right, not only equal."""
  decoder, params = _model(name)
  completions = _sampled(decoder, params)
  for prompt, sample in np.ndindex(completions.finished.shape):
    own = completions.tokens[prompt, sample][completions.mask[prompt, sample]]
    text = [*cases.ROWS[prompt], *own]
    logits = decoder_reference.logits(text, params, MODELS[name])
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    first = len(text) - len(own) - 1
    want = log_p[first + np.arange(len(own)), own]
    got = completions.logprobs[prompt, sample, : len(own)]
    np.testing.assert_allclose(got, want, rtol=TOLERANCE)


@pytest.mark.parametrize('temperature', [0.7, 1.5])
def test_a_temperature_divides_both(temperature):
  decoder, params = _model('qwen3')
  completions = _sampled(decoder, params, temperature)
  prepared = _read(decoder, params, completions, temperature)
  _assert_same(prepared, completions)
  other = _read(decoder, params, completions)
  with pytest.raises(AssertionError):
    _assert_same(other, completions, 0.1)


def test_slots():
  decoder, params = _model('qwen2')
  sample = functools.partial(continuous_batching.sample, slots=4, shared=2)
  completions = _sampled(decoder, params, sample=sample)
  _assert_same(_read(decoder, params, completions), completions)


def test_packed():
  decoder, params = _model('llama')
  completions = _sampled(decoder, params)
  prepared = _read(decoder, params, completions, columns=64)
  _assert_same(prepared, completions)


def test_several_turns():
  decoder, params = _model('qwen3')
  completions = _several_turns(decoder, params)
  assert (completions.mask & ~completions.policy_mask).any()
  assert completions.turn.max() > 0
  _assert_same(_read(decoder, params, completions), completions)


def test_sixteen_bits_do_not_agree():
  """Why `auto` asks for float32."""
  decoder, params = _model('qwen3', dtype='bfloat16')
  completions = _sampled(decoder, params)
  prepared = _read(decoder, params, completions)
  _assert_same(prepared, completions, 0.1)
  with pytest.raises(AssertionError):
    _assert_same(prepared, completions, 1e-4)
