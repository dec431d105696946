"""Adapters found, merged, and exchanged with PEFT."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import hf_weights, induction_init, lora, lora_layers
from tests.helpers import adapted_decoder

TOKENS = np.int32([[5, 60, 11, 3, 40, 23, 7], [9, 9, 1, 0, 2, 33, 66]])


def _assert_equal(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def test_split_and_join():
  _, base, trained = adapted_decoder.make()
  whole = lora.join(trained, base)
  assert set(whole['layers_1']['mlp']['up_proj']) == {
    'kernel',
    'lora_a',
    'lora_b',
  }
  got, rest = lora.split(whole)
  _assert_equal((got, rest), (trained, base))
  # Nothing is frozen where there is no adapter.
  assert lora.split(base) == (base, {}) and lora.join(base, {}) is base


def test_new_adapters_are_those_of_a_new_model():
  config, _, _ = adapted_decoder.make()
  key = jax.random.key(7)
  want, _ = lora.split(decoder_lib.init_params(config, key))
  _assert_equal(lora.new_adapters(config, key), want)


def test_the_copying_start_keeps_its_adapters():
  plain, _, _ = adapted_decoder.make('qwen2')
  config = dataclasses.replace(plain, kv_heads=plain.heads, rope_theta=1e6)
  key = jax.random.key(7)
  trained, frozen = lora.split(induction_init.init_params(config, key))
  _assert_equal(trained, lora.new_adapters(config, key))
  plain = dataclasses.replace(config, lora=None)
  _assert_equal(frozen, induction_init.init_params(plain, key))


@pytest.mark.parametrize('family', ['qwen3', 'llama_biases'])
def test_merged(family):
  config, base, trained = adapted_decoder.make(family)
  params = lora.join(trained, base)
  plain, got = lora.merge(config, params)
  assert plain == dataclasses.replace(config, lora=None)
  want = adapted_decoder.merged(base, trained, 7.5 / 3)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
  logits = adapted_decoder.apply(plain, got, TOKENS)
  np.testing.assert_allclose(
    logits,
    adapted_decoder.apply(config, params, TOKENS),
    atol=1e-4 * logits.std(),
  )


def test_merging_rounds_once():
  config, base, trained = adapted_decoder.make(param_dtype=jnp.bfloat16)
  _, got = lora.merge(config, lora.join(trained, base))
  want = adapted_decoder.merged(
    jax.tree.map(np.float32, base), trained, adapted_decoder.LORA.scale
  )
  kernel = got['layers_0']['mlp']['up_proj']['kernel']
  exact = want['layers_0']['mlp']['up_proj']['kernel']
  assert kernel.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float64(kernel), exact, rtol=1.001 * 2**-8, atol=1e-6
  )


def test_merging_without_adapters_or_their_config():
  config, base, trained = adapted_decoder.make()
  plain, got = lora.merge(config, base)
  assert plain.lora is None
  _assert_equal(got, base)
  with pytest.raises(ValueError, match='q_proj/lora_a: config.lora'):
    lora.merge(
      plain,
      lora.join(
        {
          'layers_0': {
            'self_attn': {'q_proj': trained['layers_0']['self_attn']['q_proj']}
          }
        },
        base,
      ),
    )


# PEFT's format.


def test_files_of_peft(tmp_path):
  settings = lora_layers.LoraConfig(
    rank=2, alpha=8.0, targets=('q_proj', 'down_proj')
  )
  config, base, trained = adapted_decoder.make(settings=settings)
  lora.save_peft(tmp_path / 'a', config, lora.join(trained, base), 'org/base')
  stored = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
  assert stored['peft_type'] == 'LORA' and stored['task_type'] == 'CAUSAL_LM'
  assert stored['base_model_name_or_path'] == 'org/base'
  assert (stored['r'], stored['lora_alpha']) == (2, 8)
  assert stored['target_modules'] == ['q_proj', 'down_proj']
  tensors = safetensors.numpy.load_file(
    tmp_path / 'a' / 'adapter_model.safetensors'
  )
  # Width 32, four heads of 6, 24 inner: [r, in] and [out, r].
  assert {name: x.shape for name, x in tensors.items()} == {
    f'base_model.model.model.layers.{i}.{name}.weight': shape
    for i in range(2)
    for name, shape in {
      'self_attn.q_proj.lora_A': (2, 32),
      'self_attn.q_proj.lora_B': (24, 2),
      'mlp.down_proj.lora_A': (2, 24),
      'mlp.down_proj.lora_B': (32, 2),
    }.items()
  }
  np.testing.assert_array_equal(
    tensors['base_model.model.model.layers.1.mlp.down_proj.lora_B.weight'],
    trained['layers_1']['mlp']['down_proj']['lora_b'].T,
  )


def test_a_round_trip(tmp_path):
  config, base, trained = adapted_decoder.make()
  lora.save_peft(tmp_path, config, trained, 'base')
  plain = dataclasses.replace(config, lora=None)
  read, got = lora.load_peft(tmp_path, plain, base)
  assert read == config
  _assert_equal(got, lora.join(trained, base))
  # What was there before is replaced.
  other = lora.new_adapters(config, jax.random.key(0))
  _, got = lora.load_peft(tmp_path, config, lora.join(other, base))
  _assert_equal(got, lora.join(trained, base))


def _changed(folder, config=None, tensors=None):
  """Rewrites the files of adapters."""
  file = folder / 'adapter_config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | (config or {})))
  weights = folder / 'adapter_model.safetensors'
  if tensors:
    found = safetensors.numpy.load_file(weights)
    safetensors.numpy.save_file(tensors(found), weights)


@pytest.fixture
def saved(tmp_path):
  config, base, trained = adapted_decoder.make()
  lora.save_peft(tmp_path, config, trained, 'base')
  return tmp_path, config, base


@pytest.mark.parametrize(
  'change',
  [
    {'use_dora': True},
    {'use_rslora': True},
    {'bias': 'all'},
    {'modules_to_save': ['lm_head']},
    {'alpha_pattern': {'q_proj': 3}},
    {'peft_type': 'IA3'},
    {'init_lora_weights': 'pissa'},
    {'something_new': 1},
  ],
)
def test_what_is_not_implemented_is_refused(saved, change):
  folder, config, base = saved
  _changed(folder, config=change)
  (key,) = change
  with pytest.raises(ValueError, match=f'{key}=.*not implemented'):
    lora.load_peft(folder, config, base)


def test_all_that_is_not_implemented_is_named_at_once(saved):
  folder, config, base = saved
  _changed(folder, config={'use_dora': True, 'bias': 'all', 'new': None})
  message = "bias='all', use_dora=True is not|use_dora=True, bias='all' is not"
  with pytest.raises(ValueError, match=message):
    lora.load_peft(folder, config, base)


def test_what_peft_writes_beside_is_let_through(saved):
  folder, config, base = saved
  unset = {'modules_to_save': None, 'rank_pattern': {}, 'lora_bias': False}
  _changed(folder, config={**unset, 'lora_dropout': 0.05, 'revision': 'main'})
  lora.load_peft(folder, config, base)


_FIRST = 'base_model.model.model.layers.0.mlp.up_proj.lora_A.weight'


@pytest.mark.parametrize(
  ('tensors', 'message'),
  [
    (lambda x: {k: v for k, v in x.items() if k != _FIRST}, 'up_.*is missing'),
    (lambda x: x | {'base_model.model.lm_head.a.b': x[_FIRST]}, 'is unknown'),
    (lambda x: x | {_FIRST: x[_FIRST].T.copy()}, r'is \[32, 3\], .*\[3, 32\]'),
  ],
)
def test_tensors_that_do_not_fit_are_named(saved, tensors, message):
  folder, config, base = saved
  _changed(folder, tensors=tensors)
  with pytest.raises(ValueError, match=message):
    lora.load_peft(folder, config, base)


def test_files_that_are_missing(saved, tmp_path):
  folder, config, base = saved
  with pytest.raises(FileNotFoundError, match='nowhere: expected adapter_con'):
    lora.load_peft(tmp_path / 'nowhere', config, base)
  (folder / 'adapter_model.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='adapter_model'):
    lora.load_peft(folder, config, base)
  with pytest.raises(ValueError, match='config.lora is None'):
    lora.save_peft(
      tmp_path / 'x', dataclasses.replace(config, lora=None), base, 'base'
    )


def test_bfloat16_adapters_are_read_as_float32(saved):
  folder, config, base = saved
  _changed(
    folder,
    tensors=lambda x: {k: v.astype(ml_dtypes.bfloat16) for k, v in x.items()},
  )
  _, got = lora.load_peft(folder, config, base)
  leaf = got['layers_0']['mlp']['up_proj']['lora_a']
  assert leaf.dtype == np.float32 and leaf.any()


@pytest.fixture
def torch_and_peft():
  return pytest.importorskip('torch'), pytest.importorskip('peft')


@pytest.mark.parametrize('family', ['qwen3', 'qwen2'])
def test_peft_gives_the_same_logits(torch_and_peft, tmp_path, family):
  torch, peft = torch_and_peft
  import transformers

  config, base, trained = adapted_decoder.make(family)
  plain = dataclasses.replace(config, lora=None)
  hf_weights.save_pretrained(tmp_path / 'base', plain, base)
  params = lora.join(trained, base)
  lora.save_peft(tmp_path / 'ours', config, params, str(tmp_path / 'base'))
  load = transformers.AutoModelForCausalLM.from_pretrained

  def logits(model):
    with torch.no_grad():
      return model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()

  theirs = peft.PeftModel.from_pretrained(
    load(tmp_path / 'base', dtype=torch.float32), tmp_path / 'ours'
  )
  want = adapted_decoder.apply(config, params, TOKENS)
  alone = adapted_decoder.apply(plain, base, TOKENS)
  assert np.abs(want - alone).max() > 0.3 * np.std(alone)
  np.testing.assert_allclose(logits(theirs), want, atol=1e-4 * want.std())
  # And back: what PEFT saves is read to the last bit.
  theirs.save_pretrained(tmp_path / 'theirs')
  read, got = lora.load_peft(tmp_path / 'theirs', plain, base)
  assert read == config
  _assert_equal(got, params)
