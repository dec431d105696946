"""The decoder: formulas in float64, causality, padding, cache, shared prompts.

Models are `tiny`: parameters far from their initial values, so that every norm
weight, bias and rotation counts.
"""

import dataclasses
import functools

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from tests.helpers import decoder_reference as reference
from tests.helpers import tiny_decoder

VOCAB = tiny_decoder.HF['vocab_size']


@functools.cache
def llama():
  return tiny_decoder.make_llama()


@functools.cache
def qwen3():
  """The last layer sees three tokens only."""
  return tiny_decoder.make(tiny_decoder.LOCAL['qwen3'])


@functools.cache
def mistral():
  """Every layer sees three tokens only."""
  return tiny_decoder.make(tiny_decoder.LOCAL['mistral'])


def random_tokens(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.integers(0, VOCAB, shape).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def forward(decoder, params, tokens, mask=None):
  return decoder.apply({'params': params}, tokens, mask)


class FormulaTest(chex.TestCase):
  @parameterized.parameters(
    *tiny_decoder.FAMILIES.values(), *tiny_decoder.LOCAL.values()
  )
  def test_float64(self, **hf):
    decoder, params = tiny_decoder.make(hf)
    tokens = random_tokens(1, 2, 9)
    got = forward(decoder, params, tokens)
    self.assertEqual(got.dtype, jnp.float32)
    self.assertEqual(got.shape, (2, 9, VOCAB))
    for n in range(2):
      want = reference.logits(tokens[n], params, hf)
      self.assertGreater(np.std(want), 0.5)
      np.testing.assert_allclose(got[n], want, rtol=1e-4, atol=1e-4)

  def test_bfloat16_activations(self):
    hf = tiny_decoder.FAMILIES['qwen3']
    decoder, params = tiny_decoder.make(hf, dtype='bfloat16')
    tokens = random_tokens(2, 1, 6)
    got = forward(decoder, params, tokens)
    self.assertEqual(got.dtype, jnp.float32)
    want = reference.logits(tokens[0], params, hf)
    error = np.abs(got[0] - want).max() / np.std(want)
    # Rounded to 8 bits a few dozen times: not exact, and not far.
    self.assertBetween(error, 1e-4, 0.1)

  @parameterized.parameters('float32', 'bfloat16')
  def test_dtype_of_parameters(self, param_dtype):
    config = tiny_decoder.make(
      tiny_decoder.FAMILIES['qwen2'], dtype='bfloat16', param_dtype=param_dtype
    )[0].config
    params = jax.eval_shape(
      functools.partial(decoder_lib.init_params, config), jax.random.key(0)
    )
    for leaf in jax.tree.leaves(params):
      self.assertEqual(leaf.dtype, param_dtype)


class NamesTest(chex.TestCase):
  @parameterized.parameters(
    ('llama', (), ()),
    ('qwen3', ('self_attn.q_norm.weight', 'self_attn.k_norm.weight'), ()),
    ('qwen2', (), ('q_proj', 'k_proj', 'v_proj')),
    (
      'llama_biases',
      (),
      (
        *('q_proj', 'k_proj', 'v_proj', 'o_proj'),
        *('gate_proj', 'up_proj', 'down_proj'),
      ),
    ),
  )
  def test_names_of_the_checkpoints(self, family, norms, biases):
    hf = tiny_decoder.FAMILIES[family]
    attn = {'q_proj': 24, 'k_proj': 12, 'v_proj': 12}  # heads * head_dim
    shapes = {f'self_attn.{name}': (32, out) for name, out in attn.items()}
    shapes['self_attn.o_proj'] = (24, 32)
    shapes['mlp.gate_proj'] = shapes['mlp.up_proj'] = (32, 24)
    shapes['mlp.down_proj'] = (24, 32)
    layer = {
      'input_layernorm.weight': (32,),
      'post_attention_layernorm.weight': (32,),
      **dict.fromkeys(norms, (6,)),
    }
    for name, shape in shapes.items():
      layer[f'{name}.kernel'] = shape
      if name.split('.')[1] in biases:
        layer[f'{name}.bias'] = shape[1:]
    want = {'embed_tokens.embedding': (VOCAB, 32), 'norm.weight': (32,)}
    if not hf['tie_word_embeddings']:
      want['lm_head'] = (32, VOCAB)
    for i in range(2):
      want |= {f'layers_{i}.{name}': s for name, s in layer.items()}
    decoder, _ = tiny_decoder.make(hf)
    params = jax.eval_shape(
      functools.partial(decoder_lib.init_params, decoder.config),
      jax.random.key(0),
    )
    flat = flax.traverse_util.flatten_dict(params, sep='.')
    self.assertEqual({name: x.shape for name, x in flat.items()}, want)

  def test_initial_values(self):
    decoder, _ = tiny_decoder.make(tiny_decoder.FAMILIES['llama_biases'])
    params = decoder_lib.init_params(decoder.config, jax.random.key(0))
    for name, x in flax.traverse_util.flatten_dict(params, sep='.').items():
      if name.endswith('weight'):
        np.testing.assert_array_equal(x, np.ones(x.shape))
      elif name.endswith(('bias', 'o_proj.kernel', 'down_proj.kernel')):
        np.testing.assert_array_equal(x, np.zeros(x.shape))
      else:
        self.assertBetween(float(np.std(x)), 0.8 * 0.02, 1.2 * 0.02)


class TracingTest(chex.TestCase):
  def test_equal_blocks_are_traced_once(self):
    decoder, params = llama()
    jaxpr = jax.make_jaxpr(decoder.apply)(
      {'params': params}, random_tokens(0, 2, 5)
    )
    blocks = [
      id(equation.params['jaxpr'])
      for equation in jaxpr.eqns
      if equation.params.get('name') == '_run_block'
    ]
    assert len(blocks) == decoder.config.layers > 1
    assert len(set(blocks)) == 1


class PositionsTest(chex.TestCase):
  def test_by_hand(self):
    mask = np.array([[0, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 0]], bool)
    got = decoder_lib.token_positions(mask)
    self.assertEqual(got.dtype, jnp.int32)
    np.testing.assert_array_equal(got[0][mask[0]], [0, 1, 2])
    np.testing.assert_array_equal(got[1][mask[1]], [0, 1, 2, 3])


class CausalityTest(chex.TestCase):
  def test_gradients(self):
    decoder, params = llama()
    tokens = np.int32([[5, 60, 11, 3, 40, 23]])  # Distinct: a row each.
    direction = np.random.default_rng(0).normal(size=VOCAB)
    direction = direction.astype(np.float32)

    def scores(embedding):
      changed = params | {'embed_tokens': {'embedding': embedding}}
      return decoder.apply({'params': changed}, tokens)[0] @ direction

    jacobian = jax.jit(jax.jacrev(scores))(params['embed_tokens']['embedding'])
    size = np.abs(jacobian[:, tokens[0]]).max(axis=-1)  # [logits at, token]
    future = np.triu(np.ones((6, 6), bool), 1)
    np.testing.assert_array_equal(size[future], 0.0)
    self.assertGreater(size[~future].min(), 1e-3)


class PaddingTest(chex.TestCase):
  def _padded(self, tokens, junk):
    """Five tokens with 0 to 3 columns of junk on the left, 3 in all."""
    padded = np.full((4, 8), junk, np.int32)
    mask = np.zeros((4, 8), bool)
    for left in range(4):
      padded[left, left : left + 5] = tokens
      mask[left, left : left + 5] = True
    return padded, mask

  def test_logits(self):
    decoder, params = qwen3()
    tokens = random_tokens(3, 5)
    want = forward(decoder, params, tokens[None])[0]
    for junk in (0, 66):
      padded, mask = self._padded(tokens, junk)
      got = forward(decoder, params, padded, mask)
      self.assertTrue(np.isfinite(got).all())
      for n in range(4):
        np.testing.assert_allclose(got[n][mask[n]], want, rtol=1e-4, atol=1e-4)

  def test_gradients(self):
    decoder, params = llama()
    tokens = np.int32([4, 8, 15, 16, 23])
    weights = np.random.default_rng(1).normal(size=(5, VOCAB))
    weights = weights.astype(np.float32)

    def loss(params, tokens, mask, left):
      logits = decoder.apply({'params': params}, tokens, mask)
      return jnp.sum(weights * logits[0, left : left + 5])

    grad = jax.jit(jax.grad(loss), static_argnums=3)
    want = grad(params, tokens[None], np.ones((1, 5), bool), 0)
    padded, mask = self._padded(tokens, 42)
    got = grad(params, padded[2:3], mask[2:3], 2)
    chex.assert_trees_all_close(got, want, rtol=1e-3, atol=1e-3)
    junk = got['embed_tokens']['embedding'][42]
    np.testing.assert_array_equal(junk, np.zeros(32))


def hidden(decoder, params, tokens, positions, mask, **kwargs):
  return decoder.apply(
    {'params': params}, tokens, positions, mask, method='hidden', **kwargs
  )


def unembed(decoder, params, states):
  return decoder.apply({'params': params}, states, method='unembed')


@functools.partial(jax.jit, static_argnums=(0, 4))
def read(decoder, params, tokens, mask, tail=None):
  """Logits and layers of prompts, of the last `tail` columns."""
  positions = decoder_lib.token_positions(mask)
  states, layers = hidden(decoder, params, tokens, positions, mask, tail=tail)
  return unembed(decoder, params, states), layers


@functools.partial(jax.jit, static_argnums=0)
def decode(decoder, params, tokens, positions, cache, index, prefix=None):
  states, cache = decoder.apply(
    {'params': params},
    tokens,
    positions,
    cache,
    index,
    prefix=prefix,
    method='decode',
  )
  return unembed(decoder, params, states), cache


class TailTest(chex.TestCase):
  def test_last_column_and_every_key(self):
    decoder, params = qwen3()
    tokens, mask = random_tokens(4, 2, 7), np.ones((2, 7), bool)
    mask[1, :3] = False
    want, want_layers = read(decoder, params, tokens, mask)
    got, layers = read(decoder, params, tokens, mask, 1)
    self.assertEqual(got.shape, (2, 1, VOCAB))
    np.testing.assert_allclose(got, want[:, -1:], rtol=1e-5, atol=1e-4)
    chex.assert_trees_all_close(layers, want_layers, rtol=1e-5, atol=1e-5)


class CachedDecodingTest(chex.TestCase):
  def _check(self, states, n, start, want):
    np.testing.assert_allclose(
      states, want[n, start : start + len(states)], rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters('parts', 'xla')
  def test_rows_at_different_lengths(self, kernel):
    # The kernel knows no window.
    kind = 'LOCAL' if kernel == 'parts' else 'FAMILIES'
    decoder, params = tiny_decoder.make(getattr(tiny_decoder, kind)['qwen3'])
    decoder = decoder_lib.Decoder(
      dataclasses.replace(decoder.config, decode_attention=kernel)
    )
    tokens = random_tokens(5, 3, 9)
    want = forward(decoder, params, tokens)
    cache = cache_lib.init_cache(decoder.config, 3, 9)
    # Three tokens at once. Then row n goes on from its own length, over
    # columns that hold other keys: two at once, and one by one.
    length = np.int32([0, 0, 0])
    for count, keep in ((3, (3, 1, 2)), (2, (2, 2, 2)), (1, (1, 1, 1))) * 2:
      columns = length[:, None] + np.arange(count, dtype=np.int32)
      if columns.max() >= 9:
        break
      new = np.take_along_axis(tokens, columns, axis=1)
      got, cache = decode(decoder, params, new, columns, cache, length)
      for n in range(3):
        self._check(got[n], n, length[n], want)
      length = length + np.int32(keep)
    np.testing.assert_array_equal(length, [9, 5, 7])

  def test_with_a_shared_prompt(self):
    decoder, params = mistral()
    prompts = random_tokens(6, 2, 5)
    mask = np.ones((2, 5), bool)
    mask[0, :2] = False
    own = random_tokens(7, 4, 4)  # Two completions of each prompt.
    _, layers = read(decoder, params, prompts, mask, 1)
    prefix = cache_lib.Prefix(layers=layers, mask=mask)
    cache = cache_lib.init_cache(decoder.config, 4, 4)
    start = np.repeat(mask.sum(axis=1), 2).astype(np.int32)
    got = []
    for t in range(4):
      index = np.full(4, t, np.int32)
      logits, cache = decode(
        decoder,
        params,
        own[:, t : t + 1],
        (start + t)[:, None],
        cache,
        index,
        prefix,
      )
      got.append(logits[:, 0])
    for n in range(4):
      prompt = prompts[n // 2][mask[n // 2]]
      row = np.concatenate([prompt, own[n]])
      want = forward(decoder, params, row[None])[0, -4:]
      for t in range(4):
        np.testing.assert_allclose(got[t][n], want[t], rtol=1e-4, atol=1e-4)


class SharedPromptTest(chex.TestCase):
  """Two prompts of 3 and 5 tokens, three completions of each, one short."""

  def setUp(self):
    super().setUp()
    self.prompts = random_tokens(8, 2, 5)
    self.prompt_mask = np.ones((2, 5), bool)
    self.prompt_mask[0, :2] = False
    self.own = random_tokens(9, 6, 4)
    self.own_mask = np.ones((6, 4), bool)
    self.own_mask[2, 3:] = self.own_mask[4, 1:] = False
    weights = np.random.default_rng(2).normal(size=(6, 4, VOCAB))
    weights = weights * self.own_mask[..., None]
    self.weights = weights.astype(np.float32)

  def _parts(self, decoder, params, repeats):
    """Prompts read apart, each row `repeats` times; logits of completions."""
    prompts, mask = (
      np.repeat(x, repeats, axis=0) for x in (self.prompts, self.prompt_mask)
    )
    positions = decoder_lib.token_positions(mask)
    _, layers = hidden(decoder, params, prompts, positions, mask, tail=1)
    lengths = np.repeat(self.prompt_mask.sum(axis=1), 3)[:, None]
    own_positions = lengths + decoder_lib.token_positions(self.own_mask)
    states, _ = hidden(
      decoder,
      params,
      self.own,
      own_positions,
      self.own_mask,
      prefix=cache_lib.Prefix(layers=layers, mask=mask),
    )
    return unembed(decoder, params, states)

  def _concatenated(self, decoder, params):
    prompts, mask = (
      np.repeat(x, 3, axis=0) for x in (self.prompts, self.prompt_mask)
    )
    return decoder.apply(
      {'params': params},
      np.concatenate([prompts, self.own], axis=1),
      np.concatenate([mask, self.own_mask], axis=1),
    )[:, 5:]

  def _loss_and_gradients(self, decoder, params, logits):
    def loss(params):
      scores = jax.nn.log_softmax(logits(decoder, params))
      return jnp.sum(self.weights * scores)

    return jax.jit(jax.value_and_grad(loss))(params)

  def test_parts_equal_the_concatenation(self):
    decoder, params = qwen3()
    want, want_gradients = self._loss_and_gradients(
      decoder, params, self._concatenated
    )
    self.assertGreater(abs(want), 1.0)
    got, gradients = self._loss_and_gradients(
      decoder, params, functools.partial(self._parts, repeats=1)
    )
    np.testing.assert_allclose(got, want, rtol=1e-4)
    chex.assert_trees_all_close(gradients, want_gradients, rtol=1e-3, atol=2e-3)

  def test_a_shared_prompt_equals_one_for_each_row(self):
    decoder, params = qwen3()
    got, want = (
      jax.jit(functools.partial(self._parts, decoder, repeats=repeats))(params)
      for repeats in (1, 3)
    )
    np.testing.assert_allclose(
      got[self.own_mask], want[self.own_mask], rtol=1e-5, atol=1e-4
    )
