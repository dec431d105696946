"""Logits and greedy answers are those of Hugging Face's PyTorch models.

Stored answers (`tests/golden`) always; live where torch can be imported.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models.formats import hf_weights
from tests.golden import hf_cases

GOLDEN = pathlib.Path(hf_cases.__file__).parent / 'hf'


@functools.partial(jax.jit, static_argnums=0)
def answers(decoder, params, tokens, mask, long):
  """As `hf_torch.answers`."""
  apply = functools.partial(decoder.apply, {'params': params})
  counted = jnp.arange(hf_cases.LONG, dtype=jnp.int32)[None]
  far, _ = apply(
    long[:1],
    counted + hf_cases.FAR,
    jnp.ones((1, hf_cases.LONG), bool),
    method='hidden',
    tail=hf_cases.LONG_KEPT,
  )
  return {
    'padded': apply(tokens, mask) * mask[..., None],
    'long': apply(long)[:, -hf_cases.LONG_KEPT :],
    'far': apply(far, method='unembed'),
    'greedy': _greedy(decoder.config, apply, *hf_cases.prompts(tokens)),
  }


def _greedy(config, apply, tokens, mask):
  """The most likely tokens, one at a time, the prompt as a shared part."""
  rows, lengths = len(mask), mask.sum(axis=-1)
  hidden, layers = apply(
    tokens, hf_cases.positions(mask), mask, method='hidden', tail=1
  )
  prefix = cache_lib.Prefix(layers=layers, mask=jnp.asarray(mask))

  def choose(hidden):
    logits = apply(hidden[:, -1], method='unembed')
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)

  def step(carry, i):
    token, own = carry
    hidden, own = apply(
      token[:, None],
      (lengths + i)[:, None].astype(jnp.int32),
      own,
      jnp.full(rows, i),
      prefix=prefix,
      method='decode',
    )
    return (choose(hidden), own), token

  steps = hf_cases.NEW_TOKENS
  own = cache_lib.init_cache(config, rows, steps)
  indices = jnp.arange(steps, dtype=jnp.int32)
  _, chosen = jax.lax.scan(step, (choose(hidden), own), indices)
  return chosen.T


def load(folder, dtype='float32'):
  config, params = hf_weights.load_pretrained(
    folder, dtype=dtype, param_dtype=dtype
  )
  return decoder_lib.Decoder(config), params


def differences(got, want, mask):
  """Largest difference over the spread of the logits, by kind."""
  result = {}
  for kind in ('padded', 'long', 'far'):
    ours, theirs = np.asarray(got[kind]), np.asarray(want[kind])
    if kind == 'padded':
      ours, theirs = ours[mask], theirs[mask]
    assert ours.shape == theirs.shape
    result[kind] = float(np.abs(ours - theirs).max() / theirs.std())
  return result


def check(got, want, mask, *, far=1e-4):
  for kind, difference in differences(got, want, mask).items():
    assert difference < (far if kind == 'far' else 1e-4), (kind, difference)
  np.testing.assert_array_equal(got['greedy'], want['greedy'])


@pytest.mark.parametrize('name', hf_cases.CASES)
def test_stored_answers(name, tmp_path):
  tensors, tokens, mask, long = hf_cases.make(name)
  hf_cases.write(tmp_path, hf_cases.CASES[name], tensors)
  want = np.load(GOLDEN / f'{name}.npz')
  assert want['padded'][mask].std() > 0.5
  check(answers(*load(tmp_path), tokens, mask, long), want, mask)


def random_case(rng):
  """A config.json with options drawn at random."""
  chance = lambda: bool(rng.randint(2))  # noqa: E731
  family = rng.choice(['qwen3', 'qwen2', 'llama', 'mistral'])
  kv_heads, groups = rng.randint(1, 4), rng.randint(1, 4)
  layers, head = rng.randint(1, 4), 2 * rng.randint(2, 9)
  heads = int(kv_heads * groups)
  hf = hf_cases.CASES['llama_mha'] | {
    'model_type': str(family),
    'hidden_size': int(head * heads),
    'num_attention_heads': heads,
    'num_key_value_heads': int(kv_heads),
    'num_hidden_layers': int(layers),
    'tie_word_embeddings': chance(),
    'rope_theta': float(10 ** rng.uniform(2.5, 6)),
    'rope_scaling': random_scaling(rng),
  }
  # Where it is silent a Qwen3 has 128.
  if family == 'qwen3' or (family != 'qwen2' and chance()):
    hf['head_dim'] = int(2 * rng.randint(2, 9))
  if family in ('qwen3', 'llama'):
    hf['attention_bias'] = chance()
  if family == 'llama':
    hf['mlp_bias'] = chance()
  if family == 'mistral':
    hf['sliding_window'] = int(rng.randint(2, 12)) if chance() else None
  if family in ('qwen2', 'qwen3') and chance():
    hf |= {
      'use_sliding_window': True,
      'sliding_window': int(rng.randint(2, 12)),
      'max_window_layers': int(rng.randint(0, layers + 1)),
    }
  return hf


def random_scaling(rng):
  kind = rng.choice(['default', 'linear', 'llama3', 'yarn'])
  factor = float(rng.uniform(1.5, 10))
  length = int(rng.choice([16, 32, 48]))
  if kind == 'default':
    return None
  if kind == 'linear':
    return {'type': 'linear', 'factor': factor}
  scaling = {
    'rope_type': str(kind),
    'factor': factor,
    'original_max_position_embeddings': length,
  }
  if kind == 'llama3':
    low = float(rng.uniform(0.5, 2))
    return scaling | {'low_freq_factor': low, 'high_freq_factor': 3 + low}
  further = {
    'beta_fast': float(rng.uniform(4, 40)),
    'beta_slow': float(rng.uniform(0.3, 2)),
    'attention_factor': float(rng.uniform(0.8, 1.5)),
    'truncate': bool(rng.randint(2)),
  }
  return scaling | {key: further[key] for key in further if rng.randint(2)}


@pytest.fixture(name='hf_torch')
def _hf_torch():
  pytest.importorskip('torch')
  from tests.golden import hf_torch as hf_torch_lib

  return hf_torch_lib


@pytest.mark.parametrize('i', range(6))
def test_live_on_a_random_config(i, hf_torch, tmp_path):
  del i
  entropy = np.random.SeedSequence().generate_state(1)[0]
  rng = np.random.RandomState(entropy)
  hf = random_case(rng)
  print(f'RandomState({entropy}): {json.dumps(hf)}')
  hf_cases.write(tmp_path, hf, hf_cases.weights(hf, rng))
  tokens, mask, long = hf_cases.inputs(rng)
  want = hf_torch.answers(hf_torch.load(tmp_path), tokens, mask, long)
  # A frequency of PyTorch that is an ulp off (see `rope.frequencies`) turns
  # by 20,000 * 2^-24 = 0.001 too far.
  got = answers(*load(tmp_path), tokens, mask, long)
  check(got, want, mask, far=5e-3)


# Of bfloat16 logits over their spread: the largest and the mean difference
# from theirs, both of which lie as far from the float32 ones.
BFLOAT16_MAX, BFLOAT16_MEAN = 0.3, 0.03


def bfloat16_differences(hf_torch, folder, tokens, mask):
  """Largest and mean from theirs, and the means of both from float32."""
  theirs = {}
  for dtype in ('bfloat16', 'float32'):
    model = hf_torch.load(folder, dtype)
    theirs[dtype] = hf_torch.logits(model, tokens, mask)[mask]
  decoder, params = load(folder, 'bfloat16')
  ours = jax.jit(decoder.apply)({'params': params}, tokens, mask)
  ours, spread = np.asarray(ours)[mask], theirs['float32'].std()

  def apart(a, b):
    return np.abs(a - b) / spread

  return (
    apart(ours, theirs['bfloat16']).max(),
    apart(ours, theirs['bfloat16']).mean(),
    apart(ours, theirs['float32']).mean(),
    apart(theirs['bfloat16'], theirs['float32']).mean(),
  )


@pytest.mark.parametrize('name', hf_cases.CASES)
def test_live_bfloat16(name, hf_torch, tmp_path):
  tensors, tokens, mask, _ = hf_cases.make(name)
  hf_cases.write(tmp_path, hf_cases.CASES[name], tensors)
  most, mean, ours, theirs = bfloat16_differences(
    hf_torch, tmp_path, tokens, mask
  )
  assert most < BFLOAT16_MAX
  assert mean < BFLOAT16_MEAN
  assert ours < 1.2 * theirs


@pytest.mark.parametrize('name', hf_cases.CASES)
def test_live_what_is_saved_gives_the_same_logits(name, hf_torch, tmp_path):
  tensors, tokens, mask, _ = hf_cases.make(name)
  hf_cases.write(tmp_path / 'a', hf_cases.CASES[name], tensors)
  decoder, params = load(tmp_path / 'a')
  hf_weights.save_pretrained(
    tmp_path / 'b', decoder.config, params, shard_bytes=20_000
  )
  before, after = (hf_torch.load(tmp_path / x) for x in 'ab')
  assert type(before) is type(after)
  np.testing.assert_array_equal(
    hf_torch.logits(after, tokens, mask), hf_torch.logits(before, tokens, mask)
  )
