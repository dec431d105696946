"""A new model that copies: its circuit by hand, and what it is worth."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.models import config as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import induction_init

CONFIG = config_lib.DecoderConfig(
  vocab_size=1024,
  width=128,
  layers=3,
  heads=4,
  kv_heads=4,
  head_width=64,
  mlp_width=256,
  rope_theta=10000.0,
  qkv_bias=True,
  tied=True,
  init_range=0.088,
)
# Columns of the heads that look one and two back, and of those that repeat.
COLUMNS = {'layers_0': 2 * CONFIG.head_width, 'layers_1': CONFIG.width}
UNIFORM = -np.log(CONFIG.vocab_size)  # -6.93 nats


@functools.cache
def _params(init, seed):
  return jax.device_get(init(CONFIG, jax.random.key(seed)))


@functools.cache
def _forward():
  return jax.jit(decoder_lib.Decoder(CONFIG).apply)


def _repeated(half, rows=4):
  """Tokens [rows, 2 half]: distinct ones, then the same ones once more."""
  rng = np.random.default_rng(half)
  first = [rng.permutation(CONFIG.vocab_size)[:half] for _ in range(rows)]
  return np.tile(np.int32(first), 2)


def _copying(init, seed, half):
  """Log-probability and rank of each next token that could be copied."""
  tokens = _repeated(half)
  logits = _forward()({'params': _params(init, seed)}, tokens)
  logits = np.float64(logits[:, half:-1])
  wanted = tokens[:, half + 1 :, None]
  right = np.take_along_axis(logits, wanted, axis=-1)
  rank = np.sum(logits > right, axis=-1)
  top = logits.max(axis=-1, keepdims=True)
  total = top + np.log(np.sum(np.exp(logits - top), axis=-1, keepdims=True))
  return (right - total)[..., 0], rank


def test_repeats_what_followed_the_same_token():
  # Sixteen tokens, and the same ones again. Without the circuit the present
  # token's own embedding, e^11 times as likely as another, leaves the next one
  # far below chance; with it a good part of the weight is on the next.
  got, rank = _copying(induction_init.init_params, seed=0, half=16)
  plain, plain_rank = _copying(decoder_lib.init_params, seed=0, half=16)
  assert plain.mean() < UNIFORM
  assert got.mean() > UNIFORM + 2  # -4.1 measured
  assert got.mean() > plain.mean() + 5  # 6.9 better measured
  # Of 1024 tokens: one of the first ten, and anywhere.
  assert np.median(rank) < 10
  assert np.median(plain_rank) > 100


def _rotated(x, position):
  """RoPE in float64: pairs (i, i + C/2) turned by position theta^(-2i / C)."""
  half = CONFIG.head_width // 2
  turn = position * CONFIG.rope_theta ** (-np.arange(half) / half)
  pairs = (x[:half] + 1j * x[half:]) * np.exp(1j * turn)
  return np.concatenate([pairs.real, pairs.imag])


def test_position_heads_look_back():
  layer = _params(induction_init.init_params, 0)['layers_0']['self_attn']
  query, key = (
    np.float64(layer[name]['bias']).reshape(CONFIG.heads, CONFIG.head_width)
    for name in ('q_proj', 'k_proj')
  )
  length = 300
  for head, back in enumerate((1, 2)):
    queries = np.array([_rotated(query[head], t) for t in range(length)])
    keys = np.array([_rotated(key[head], s) for s in range(length)])
    scores = queries @ keys.T / np.sqrt(CONFIG.head_width)
    for t in range(back, length):
      assert np.argmax(scores[t, : t + 1]) == t - back
    # Pairs turn by 10000^(-i/32), i < 5: 1, .75, .56, .42, .32 radians. Their
    # mean cosine is 1 there and .81 on either side: 20 against 16.2.
    weights = np.exp(scores[127, :128])
    assert weights[127 - back] > 0.9 * np.sum(weights)
  # The other heads are as they were: without a bias.
  assert not query[2:].any() and not key[2:].any()


def _flat(params):
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }


def test_all_else_is_as_without_the_circuit():
  got = _flat(_params(induction_init.init_params, 0))
  want = _flat(_params(decoder_lib.init_params, 0))
  assert got.keys() == want.keys()
  changed = set()
  for name, array in got.items():
    assert (array.shape, array.dtype) == (want[name].shape, want[name].dtype)
    if np.any(array != want[name]):
      changed.add(name)
  kernels = ('q_proj', 'k_proj', 'v_proj', 'o_proj')
  assert changed == {
    *(f'layers_{i}/self_attn/{x}/kernel' for i in (0, 1) for x in kernels),
    *(f'layers_0/self_attn/{x}/bias' for x in ('q_proj', 'k_proj')),
  }
  # The columns of the other heads are left alone.
  for name in sorted(changed):
    new, old = got[name], want[name]
    if 'o_proj' in name:
      new, old = new.T, old.T
    columns = COLUMNS[name.partition('/')[0]]
    assert 0 < columns < new.shape[-1]
    np.testing.assert_array_equal(new[..., columns:], old[..., columns:], name)


def test_parameters_keep_their_type():
  config = dataclasses.replace(CONFIG, vocab_size=8, param_dtype=jnp.bfloat16)
  params = induction_init.init_params(config, jax.random.key(0))
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
  assert dtypes == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'layers': 1}, 'fewer than 2 layers'),
    ({'heads': 1, 'kv_heads': 1}, 'fewer than 2 heads'),
    ({'qkv_bias': False}, 'no query and key biases'),
    ({'qk_norm': True}, 'q/k-norm'),
    ({'kv_heads': 2}, 'fewer key heads than query heads'),
    ({'head_width': 130}, 'a head wider than the residual stream'),
    ({'layers': 1, 'qk_norm': True}, 'fewer than 2 layers; q/k-norm'),
  ],
)
def test_other_architectures_are_refused(change, message):
  config = dataclasses.replace(CONFIG, **change)
  with pytest.raises(
    ValueError, match=f'the model has {message}[^;]*. Use --init'
  ):
    induction_init.init_params(config, jax.random.key(0))


def test_shapes_are_known_without_computing():
  init = functools.partial(induction_init.init_params, CONFIG)
  shapes = jax.eval_shape(init, jax.random.key(0))
  assert jax.tree.map(np.shape, shapes) == jax.tree.map(
    np.shape, _params(induction_init.init_params, 0)
  )
