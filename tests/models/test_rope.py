"""Rotary frequencies by hand, and those of transformers for real configs."""

import math
import pathlib

import chex
import jax
import numpy as np
import pytest

from awpo_jax.models import layers, rope
from tests.golden import hf_cases

GOLDEN = pathlib.Path(hf_cases.__file__).parent / 'hf' / 'rope.npz'

YARN = {
  'rope_type': 'yarn',
  'factor': 4.0,
  'original_max_position_embeddings': 32768,
}
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}


def frequencies(width, theta, **scaling):
  return rope.frequencies(width, theta=theta, scaling=rope.Scaling(**scaling))


def read(max_positions=100, **hf):
  return rope.from_hf(hf, max_positions=max_positions)


class TestByHand:
  def test_default(self):
    # C = 4, theta = 100: 100^0 and 100^(-1/2).
    got = frequencies(4, 100.0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [1, 0.1], rtol=1e-6)

  def test_linear(self):
    got = frequencies(4, 100.0, rope_type='linear', factor=2.5)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [0.4, 0.04], rtol=1e-6)

  def test_llama3(self):
    # Pairs of theta = 10^6, C = 6 turn by 1, 0.01, 0.0001 and last 6.283,
    # 628.3 and 62,832 positions. Of a length of 1,000 with low 1 and high 4:
    # below 250 unchanged, above 1,000 divided by 8, between them
    # s = (1000 / 628.3 - 1) / 3 = 0.197183 of it unchanged, the rest divided.
    got = frequencies(
      6, 1e6, **LLAMA3 | {'original_max_position_embeddings': 1000}
    )
    assert got.dtype == np.float32
    between = 0.01 * (0.197183 + (1 - 0.197183) / 8)
    np.testing.assert_allclose(got, [1, between, 1.25e-5], rtol=1e-5)

  # Pairs of theta = 10^4, C = 8 turn by 1, 0.1, 0.01, 0.001. The pair that
  # turns n times in a length of 2 pi 100 is 8 ln(100 / n) / (2 ln 10^4) =
  # log10(100 / n).
  @pytest.mark.parametrize(
    ('fast', 'slow', 'truncate', 'kept'),
    [
      # Pairs 1 to 3: the ramp is 0, 0, 1/2, 1.
      (10.0, 0.1, False, [1, 1, 0.5, 0]),
      # From 0.5 to 2.5: 0, 1/4, 3/4, 1.
      (100 / 10**0.5, 100 / 10**2.5, False, [1, 0.75, 0.25, 0]),
      # From floor(0.5) = 0 to ceil(2.5) = 3: 0, 1/3, 2/3, 1.
      (100 / 10**0.5, 100 / 10**2.5, True, [1, 2 / 3, 1 / 3, 0]),
      # From below 0, taken as 0, to 2.
      (1000.0, 1.0, False, [1, 0.5, 0, 0]),
      # No way between: a step after pair 2.
      (1.0, 1.0, False, [1, 1, 1, 0]),
      (100 / 10**1.5, 100 / 10**1.5, False, [1, 1, 0, 0]),
      # From 1 to beyond C - 1 = 7, taken as 7.
      (10.0, 1e-9, False, [1, 1, 5 / 6, 4 / 6]),
    ],
  )
  def test_yarn(self, fast, slow, truncate, kept):
    got = frequencies(
      8,
      1e4,
      rope_type='yarn',
      factor=4.0,
      original_max_position_embeddings=2 * math.pi * 100,
      beta_fast=fast,
      beta_slow=slow,
      truncate=truncate,
    )
    assert got.dtype == np.float32
    plain, kept = np.array([1, 0.1, 0.01, 0.001]), np.array(kept)
    want = plain * kept + plain / 4 * (1 - kept)
    np.testing.assert_allclose(got, want, rtol=1e-5)

  @pytest.mark.parametrize(
    ('further', 'want'),
    [
      ({}, 1.1386294361),  # 0.1 ln 4 + 1
      ({'factor': 0.5}, 1.0),
      ({'attention_factor': 1.4}, 1.4),
      ({'mscale': 2.0}, 1.1386294361),  # Alone it is not used.
      # (0.2 ln 4 + 1) / (0.05 ln 4 + 1)
      ({'mscale': 2.0, 'mscale_all_dim': 0.5}, 1.1944648761),
    ],
  )
  def test_attention_factor(self, further, want):
    got = rope.attention_factor(rope.Scaling(**YARN | further))
    assert got == pytest.approx(want, rel=1e-9)
    assert rope.attention_factor(rope.Scaling(**LLAMA3)) == 1.0

  def test_angles_use_both(self):
    # Position 3 turns the one pair of C = 2 by 3 / 2, times 0.1 ln 4 + 1.
    scaling = rope.Scaling(**YARN | {'factor': 4.0})
    cos, sin = jax.jit(
      lambda x: layers.rope_angles(x, head_width=2, theta=10.0, scaling=scaling)
    )(np.int32([[0, 3]]))
    chex.assert_shape([cos, sin], (1, 2, 1, 1))
    turn = 3 * frequencies(2, 10.0, **YARN)[0]
    want = 1.1386294361 * np.array([1, np.cos(turn)])
    np.testing.assert_allclose(cos[0, :, 0, 0], want, rtol=1e-6)
    want = 1.1386294361 * np.array([0, np.sin(turn)])
    np.testing.assert_allclose(sin[0, :, 0, 0], want, rtol=1e-6)


@pytest.mark.parametrize('name', hf_cases.ROPES)
def test_frequencies_of_transformers(name):
  theta, scaling = rope.from_hf(hf_cases.ROPES[name], max_positions=4096)
  width = hf_cases.ROPES[name]['head_dim']
  got = rope.frequencies(width, theta=theta, scaling=scaling)
  golden = np.load(GOLDEN)
  want = golden[name]
  assert want.shape == (width // 2,)
  # Two powers and divisions in float32, each within an ulp of 2^-24..2^-23.
  np.testing.assert_allclose(got, want, rtol=4e-7)
  factor = golden[f'{name}.factor']
  assert rope.attention_factor(scaling) == pytest.approx(factor, rel=1e-9)


class TestConfigs:
  def test_new_and_older_keys(self):
    want = 5e5, rope.Scaling(**LLAMA3)
    assert read(rope_parameters=LLAMA3 | {'rope_theta': 5e5}) == want
    assert read(rope_theta=5e5, rope_scaling=LLAMA3) == want
    older = {'type' if k == 'rope_type' else k: v for k, v in LLAMA3.items()}
    assert read(rope_theta=5e5, rope_scaling=older) == want
    both = older | {'rope_type': 'llama3'}
    assert read(rope_theta=5e5, rope_scaling=both) == want

  def test_silence(self):
    plain = 10_000.0, rope.Scaling()
    assert read() == plain
    assert read(rope_parameters=None, rope_scaling=None) == plain
    assert read(rope_scaling={'type': 'default'}) == plain
    assert read(rope_parameters={'partial_rotary_factor': 1.0}) == plain

  def test_the_original_length_is_that_of_the_model(self):
    given = {'rope_type': 'yarn', 'factor': 2.0}
    _, scaling = read(max_positions=77, rope_scaling=given)
    assert scaling.original_max_position_embeddings == 77

  @pytest.mark.parametrize(
    'given',
    [
      {},
      {'rope_type': 'linear', 'factor': 2.0},
      LLAMA3,
      YARN | {'mscale': 1.0, 'truncate': False},
    ],
  )
  def test_there_and_back(self, given):
    want = read(rope_theta=3e4, rope_scaling=given)
    hf = rope.to_hf(*want)
    assert rope.from_hf(hf, max_positions=1) == want
    del hf['rope_parameters']
    assert rope.from_hf(hf, max_positions=1) == want
    hf = rope.to_hf(*want)
    assert read(rope_parameters=hf['rope_parameters']) == want

  @pytest.mark.parametrize(
    ('hf', 'message'),
    [
      (
        {'rope_scaling': {'type': 'dynamic', 'factor': 2.0}},
        "'dynamic' is not",
      ),
      (
        {'rope_parameters': {'rope_type': 'longrope'}},
        "rope_parameters: rope_type='longrope' is not implemented; known:",
      ),
      ({'rope_scaling': {'type': ['x']}}, r"rope_type=\['x'\] is not"),
      (
        {'rope_scaling': {'type': 'linear', 'rope_type': 'yarn'}},
        "rope_type='yarn' and type='linear'",
      ),
      ({'rope_scaling': 'linear'}, "rope_scaling='linear' is not an object"),
      (
        {'rope_scaling': YARN | {'finetuned': True}},
        "rope_scaling key finetuned=True is not implemented for .*'yarn'",
      ),
      (
        {'rope_parameters': {'full_attention': {'rope_type': 'default'}}},
        'rope_parameters key full_attention',
      ),
      (
        {'rope_parameters': {'partial_rotary_factor': 0.5}},
        'rope_parameters key partial_rotary_factor=0.5',
      ),
      ({'rope_scaling': {'type': 'linear'}}, "'linear' needs factor"),
      (
        {'rope_scaling': {'type': 'llama3', 'factor': None}},
        "'llama3' needs factor, low_freq_factor, high_freq_factor",
      ),
      (
        {'rope_scaling': {'type': 'linear', 'factor': '2'}},
        "rope_scaling.factor='2' is not a positive number",
      ),
      ({'rope_scaling': YARN | {'beta_slow': 0}}, 'beta_slow=0 is not'),
      ({'rope_scaling': YARN | {'truncate': None}}, 'truncate=None'),
      ({'rope_theta': True}, 'rope_theta=True is not'),
      (
        {'rope_scaling': LLAMA3 | {'low_freq_factor': 4.0}},
        'low_freq_factor must be below',
      ),
      (
        {'rope_theta': 1e4, 'rope_parameters': {'rope_theta': 1e6}},
        'rope_theta and rope_parameters.rope_theta differ',
      ),
      (
        {'rope_parameters': YARN, 'rope_scaling': YARN | {'factor': 2.0}},
        'rope_parameters and rope_scaling differ',
      ),
    ],
  )
  def test_what_is_not_implemented_is_an_error(self, hf, message):
    with pytest.raises(ValueError, match=message):
      rope.from_hf(hf, max_positions=100)

  def test_all_that_is_wrong_is_named_at_once(self):
    hf = {
      'rope_theta': -1,
      'rope_scaling': {'type': 'llama3', 'factor': '8', 'alpha': 2.0},
      'rope_parameters': {'rope_type': 'longrope'},
    }
    with pytest.raises(ValueError) as raised:
      rope.from_hf(hf, max_positions=100)
    for named in (
      'rope_theta=-1 is not a positive number',
      'rope_scaling key alpha=2.0 is not implemented',
      "rope_scaling.factor='8' is not a positive number",
      "'llama3' needs low_freq_factor, high_freq_factor",
      "rope_type='longrope' is not implemented",
    ):
      assert named in str(raised.value)
