"""A library's kernel over joined keys against the parts and float64."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from awpo_jax.models import attention, attention_kernels
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from tests.helpers import tiny_decoder
from tests.models import test_attention as cases

JOINED = {
  name: functools.partial(
    attention_kernels.attend_joined,
    scale=cases.SCALE,
    implementation=name,
    interpret=True,
  )
  for name in ('xla', 'splash')
}
PARTS = {
  'one': (cases.OWN,),
  'shared': (cases.SHARED, cases.OWN),
  'per_query': (cases.PER_QUERY, cases.OWN),
  'three': (cases.OWN, cases.SHARED, cases.PER_QUERY),
}


@pytest.mark.parametrize('kernel', JOINED)
@pytest.mark.parametrize('name', PARTS)
def test_one_softmax_over_all_keys(name, kernel):
  query, parts = cases.make_query(), [make() for make in PARTS[name]]
  got = jax.jit(JOINED[kernel])(query, tuple(cases.as_part(x) for x in parts))
  want, _ = cases.reference(query, parts)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kernel', JOINED)
def test_gradients_reach_a_shared_prompt_from_all_its_rows(kernel):
  query, parts = cases.make_query(), [make() for make in PARTS['per_query']]

  def loss(query, keys, values, attend):
    made = [
      attention.Part(keys=k, values=v, bias=attention.mask_bias(part[2]))
      for k, v, part in zip(keys, values, parts, strict=True)
    ]
    return jnp.sum(jnp.sin(attend(query, made)))

  arrays = query, [x[0] for x in parts], [x[1] for x in parts]
  merged = functools.partial(attention.attend, scale=cases.SCALE)
  got, want = (
    jax.jit(jax.grad(functools.partial(loss, attend=f), argnums=(0, 1, 2)))(
      *arrays
    )
    for f in (JOINED[kernel], merged)
  )
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.abs(y).max() > 0.1
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kernel', JOINED)
def test_nothing_visible_is_finite_and_sends_nothing_back(kernel):
  query, (k, v, mask) = cases.make_query(), cases.OWN()
  mask[0, 1] = False

  def loss(query, k, v):
    out = JOINED[kernel](query, [cases.as_part((k, v, mask))])
    return jnp.sum(jnp.sin(out).at[0, 1].set(0.0))

  value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(
    query, k, v
  )
  assert np.isfinite(value)
  assert all(np.isfinite(x).all() for x in grads)
  np.testing.assert_array_equal(grads[0][0, 1], 0.0)


def test_what_sees_nothing_is_zero_to_splash():
  query, (k, v, mask) = cases.make_query(), cases.OWN()
  mask[0, 1] = False

  def lost(*arrays):
    query, *own = arrays
    return JOINED['splash'](query, [cases.as_part((*own, mask))])[0, 1]

  out, back = jax.vjp(jax.jit(lost), query, k, v)
  for x in (out, *back(jnp.ones_like(out))):
    np.testing.assert_array_equal(x, 0.0)


def test_splash_goes_from_block_to_block(monkeypatch):
  """Some of the 2 x 4 blocks are all seen, some in part and some not at all."""
  monkeypatch.setattr(attention_kernels, '_SPLASH_BLOCK', 128)
  rng = np.random.default_rng(0)
  query, cotangent = rng.normal(size=(2, 2, 200, 2, 8)).astype(np.float32)
  # Row 0 sees two blocks of the prompt, row 1 a part of the second; the first
  # 128 queries see none of the last own keys, the others few of the first.
  prompt = np.arange(256) >= np.array([0, 200])[:, None, None]
  places = np.broadcast_to(np.arange(200), (2, 200))
  causal = np.tril(np.ones((2, 200, 200), bool))
  own = attention.within(causal, places, places, window=20)
  parts = [
    (*rng.normal(size=(2, 2, 1, x.shape[2], 8)).astype(np.float32), x)
    for x in (prompt, own)
  ]

  def run(attend):
    def of(query, arrays):
      made = [
        cases.as_part((k, v, x[2]))
        for (k, v), x in zip(arrays, parts, strict=True)
      ]
      return attend(query, made)

    out, back = jax.vjp(jax.jit(of), query, [x[:2] for x in parts])
    return out, back(cotangent)

  merged = functools.partial(attention.attend, scale=cases.SCALE)
  got, want = (
    jax.tree.leaves(run(attend)) for attend in (JOINED['splash'], merged)
  )
  for x, y in zip(got, want, strict=True):
    assert np.abs(y).max() > 0.1
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def _read(decoder, params):
  """Answers of odd and of even length to prompts padded on the left."""
  rng = np.random.default_rng(0)
  prompts = rng.integers(0, 67, (2, 6))
  mask = np.arange(6)[None] >= np.array([[0], [2]])
  apply = functools.partial(decoder.apply, {'params': params}, method='hidden')
  last, layers = apply(prompts, decoder_lib.token_positions(mask), mask, tail=1)
  prefix = cache_lib.Prefix(layers=layers, mask=mask)
  total = jnp.sum(jnp.cos(last))
  for length in (5, 4):
    answers = rng.integers(0, 67, (4, length))
    # The last answer ends early.
    own = np.arange(length)[None] < np.array([9, 9, 9, 3])[:, None]
    positions = np.arange(length)[None] + np.repeat(mask.sum(-1), 2)[:, None]
    hidden, _ = apply(answers, positions, own, prefix=prefix)
    total += jnp.sum(jnp.where(own[..., None], jnp.sin(hidden), 0.0))
  return total


@pytest.mark.parametrize(
  ('family', 'remat', 'attend'),
  [
    ('qwen3', 'none', 'xla'),
    ('qwen3', 'blocks', 'xla'),
    ('mistral', 'none', 'xla'),
    ('mistral', 'blocks', 'splash'),
  ],
)
def test_a_decoder_reads_answers_the_same(family, remat, attend, monkeypatch):
  interpreted = functools.partial(
    attention_kernels.attend_joined, interpret=True
  )
  monkeypatch.setattr(attention_kernels, 'attend_joined', interpreted)
  decoder, params = tiny_decoder.make(tiny_decoder.LOCAL[family])
  kernel = decoder_lib.Decoder(
    dataclasses.replace(decoder.config, attention=attend, remat=remat)
  )
  (want, want_grads), (got, grads) = (
    jax.jit(jax.value_and_grad(lambda p, d=d: _read(d, p)))(params)
    for d in (decoder, kernel)
  )
  np.testing.assert_allclose(got, want, rtol=1e-5)
  largest = [float(jnp.abs(x).max()) for x in jax.tree.leaves(want_grads)]
  assert max(largest) > 0.1
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=5e-5),
    grads,
    want_grads,
  )


def test_decoding_keeps_the_parts():
  parts, params = tiny_decoder.make(tiny_decoder.FAMILIES['qwen3'])
  cache = cache_lib.init_cache(parts.config, 2, 4)
  kernel = decoder_lib.Decoder(
    dataclasses.replace(parts.config, attention='xla')
  )

  def step(decoder):
    arguments = jnp.ones((2, 1), jnp.int32), jnp.zeros((2, 1), jnp.int32)
    index = jnp.zeros(2, jnp.int32)
    run = functools.partial(decoder.apply, method='decode')
    made = jax.make_jaxpr(run)({'params': params}, *arguments, cache, index)
    return re.sub('0x[0-9a-f]+', '', str(made))

  assert step(kernel) == step(parts)


@pytest.mark.parametrize('gradient', [False, True])
def test_what_cudnn_is_asked_for(gradient, monkeypatch):
  """Lowered for a GPU that is not here: which call, of which lengths."""
  monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91_000)
  parts = [cases.as_part(make()) for make in PARTS['shared']]
  parts = jax.tree.map(
    lambda x: x if x.ndim == 3 else x.astype(jnp.bfloat16), parts
  )
  query = cases.make_query().astype(jnp.bfloat16)

  def call(query, parts):
    return attention_kernels.attend_joined(
      query, parts, scale=cases.SCALE, implementation='cudnn'
    ).astype(jnp.float32)

  fn = call
  if gradient:
    fn = jax.grad(lambda *x: jnp.sum(call(*x)))
  lowered = jax.jit(fn).trace(query, parts).lower(lowering_platforms=('cuda',))
  text = lowered.as_text()
  names = set(re.findall(r'@__cudnn\$(\w+)', text))
  wanted = {'fmhaScaleBiasSoftmax'}
  assert names == wanted | {f'{x}Backward' for x in wanted if gradient}
  # Three queries and 7 + 5 keys: a query is added, no key.
  for shape in ('6x4x4x8', '6x12x2x8'):
    assert f'tensor<{shape}xbf16>' in text


def test_what_a_tpu_is_asked_for():
  """Lowered for a TPU that is not here: which kernels, of which arrays."""
  parts = tuple(cases.as_part(make()) for make in PARTS['shared'])

  def loss(query, parts):
    return jnp.sum(
      attention_kernels.attend_joined(
        query, parts, scale=cases.SCALE, implementation='splash'
      )
    )

  fn = jax.jit(jax.grad(loss, argnums=(0, 1)))
  lowered = fn.trace(cases.make_query(), parts)
  text = lowered.lower(lowering_platforms=('tpu',)).as_text()
  calls = re.findall(
    r'tpu_custom_call.*kernel_name = "splash_mha_(\w+?)".*\((tensor.*)\) ->',
    text,
  )
  assert {x for x, _ in calls} == {
    'fwd_residuals',
    'dq_no_residuals',
    'dkv_no_residuals',
  }
  # Four heads share the keys of two, and all of them one mask.
  for _, arguments in calls:
    for shape in ('4x128x8xf32', '2x128x8xf32', '1x128x128xi32'):
      assert f'tensor<{shape}>' in arguments


@pytest.mark.parametrize(
  ('kernel', 'platform', 'fields', 'named'),
  [
    ('parts', 'cpu', {}, []),
    ('xla', 'cpu', {}, []),
    ('cudnn', 'cuda', {}, []),
    ('cudnn', 'tpu', {}, ['this is tpu']),
    ('cudnn', 'cuda', {'dtype': jnp.float32}, ['float32.*--dtype=bfloat16']),
    ('cudnn', 'gpu', {'head_width': 36}, ['width 36']),
    ('cudnn', 'gpu', {'head_width': 264}, ['width 264']),
    ('splash', 'tpu', {'head_width': 36}, []),
    ('splash', 'tpu', {'dtype': jnp.float32}, []),
    ('splash', 'cpu', {}, ['TPUs, this is cpu']),
    ('splash', 'tpu', {'dtype': jnp.float16}, ['float16.*--dtype=bfloat16']),
  ],
)
def test_what_a_kernel_cannot(kernel, platform, fields, named):
  model, _ = tiny_decoder.make(
    tiny_decoder.FAMILIES['qwen3'], dtype=jnp.bfloat16
  )
  model = dataclasses.replace(model.config, **{'head_width': 128, **fields})
  found = list(attention_kernels.misfits(kernel, model, platform))
  assert len(found) == len(named)
  for text, pattern in zip(found, named, strict=True):
    assert re.search(pattern, text)
    assert f'--attention={kernel}' in text
  fits = kernel == 'cudnn' and not named
  best = attention_kernels.best(model, platform)
  assert best == ('cudnn' if fits else 'parts')


def test_both_kernels_of_a_model_are_looked_at():
  model, _ = tiny_decoder.make(tiny_decoder.FAMILIES['qwen3'])
  model = dataclasses.replace(
    model.config, head_width=36, attention='splash', decode_attention='cudnn'
  )
  found = attention_kernels.model_misfits(model, 'cpu')
  for text, pattern in zip(
    found,
    (
      '--attention=splash is .* this is cpu: set --attention=parts',
      '--decode_attention=cudnn is .*cpu: set --decode_attention=parts',
      '--decode_attention=cudnn takes no float32.*or --decode_attention=parts',
      '--decode_attention=cudnn: heads.*36.*set --decode_attention=parts',
    ),
    strict=True,
  ):
    assert re.match(pattern, text)


def test_the_kernels_of_decoding_know_no_window():
  model, _ = tiny_decoder.make(tiny_decoder.LOCAL['mistral'])
  with pytest.raises(ValueError, match='cudnn knows no window.* 3 tokens: set'):
    dataclasses.replace(model.config, decode_attention='cudnn')
