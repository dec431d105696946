"""One query a row over the first keys of parts, in float64 and by parts."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from awpo_jax.models import attention, attention_kernels
from tests.models import test_attention as cases

N, H, K, C, SCALE = cases.N, cases.H, cases.K, cases.C, cases.SCALE
# Two prompts that three rows each share, and the rows' own keys.
PROMPTS, OWN = (3, 7), (1, 5, 2, 4, 0, 3)


def make_part(seed, *, lengths, keys):
  """Keys and values, large ones where they may not be seen, and the mask."""
  rng = np.random.default_rng(seed)
  k, v = rng.normal(0, 1.5, (2, len(lengths), K, keys, C)).astype(np.float32)
  mask = np.arange(keys) < np.array(lengths)[:, None]
  hidden = ~mask[:, None, :, None]
  return np.where(hidden, 50, k), np.where(hidden, 50, v), mask[:, None]


def make_query():
  return cases.make_query()[:, :1]


def reference(query, parts):
  """f64 softmax of each row and head over the keys that it sees, if any."""
  out = np.full(query.shape, np.nan)
  for n, h in np.ndindex(N, H):
    keys, values = [], []
    for k, v, mask in parts:
      row = n // (N // len(k))
      seen = mask[row, 0]
      keys.extend(np.float64(k[row, h // (H // K), seen]))
      values.extend(np.float64(v[row, h // (H // K), seen]))
    if not keys:
      continue
    scores = SCALE * np.array(keys) @ np.float64(query[n, 0, h])
    weights = np.exp(scores - scores.max())
    out[n, 0, h] = weights @ np.array(values) / weights.sum()
  return out


def run(attend, query, parts, **options):
  attend = jax.jit(functools.partial(attend, scale=SCALE, **options))
  return attend(query, tuple(cases.as_part(x) for x in parts))


PARTS = {
  'both': [
    make_part(1, lengths=PROMPTS, keys=7),
    make_part(2, lengths=OWN, keys=6),
  ],
  # No row of these sees nothing.
  'prompt': [make_part(1, lengths=PROMPTS, keys=7)],
  'own': [make_part(3, lengths=(1, 5, 2, 6, 4, 3), keys=6)],
}


@pytest.mark.parametrize('name', PARTS)
def test_one_softmax_over_the_keys_in_use(name):
  query, parts = make_query(), PARTS[name]
  kernel = attention_kernels.attend_by_lengths
  got = run(kernel, query, parts, implementation='xla')
  np.testing.assert_allclose(got, reference(query, parts), rtol=1e-5, atol=1e-5)
  merged = run(attention.attend, query, parts)
  np.testing.assert_allclose(got, merged, rtol=1e-5, atol=1e-5)


def test_nothing_visible_is_finite_and_leaves_the_others():
  # The second prompt is empty, and row 4 has no key of its own either.
  query, own = make_query(), PARTS['both'][1]
  parts = [make_part(1, lengths=(3, 0), keys=7), own]
  kernel = attention_kernels.attend_by_lengths
  got = np.asarray(run(kernel, query, parts, implementation='xla'))
  want = reference(query, parts)
  seen = np.isfinite(want)
  assert seen.all(axis=(1, 2, 3)).tolist() == [True] * 4 + [False, True]
  assert np.isfinite(got).all()
  np.testing.assert_allclose(got[seen], want[seen], rtol=1e-5, atol=1e-5)


def test_what_cudnn_is_asked_for(monkeypatch):
  """Lowered for a GPU that is not here: which calls, on which arrays."""
  monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91_000)
  parts = [
    jax.tree.map(
      lambda x: x if x.ndim == 3 else jnp.asarray(x, jnp.bfloat16),
      cases.as_part(x),
    )
    for x in PARTS['both']
  ]
  fn = functools.partial(
    attention_kernels.attend_by_lengths, scale=SCALE, implementation='cudnn'
  )
  lowered = jax.jit(fn).trace(make_query().astype(jnp.bfloat16), parts)
  text = lowered.lower(lowering_platforms=('cuda',)).as_text()
  calls = re.findall(r'@__cudnn\$(\w+)\(.*?\) \{.*: \((.*?)\) ->', text)
  assert len(calls) == 2
  shapes = []
  for name, arguments in calls:
    assert name == 'fmhaSoftmax'  # Without a bias.
    shapes.append(re.findall(r'tensor<(\S+?)>', arguments))
  # A prompt's rows are its queries, and heads that share keys do not repeat
  # them; the lengths of queries and keys are told.
  assert shapes == [
    ['2x3x4x8xbf16', *['2x7x2x8xbf16'] * 2, '2xi32', '2xi32'],
    ['6x1x4x8xbf16', *['6x6x2x8xbf16'] * 2, '6xi32', '6xi32'],
  ]
