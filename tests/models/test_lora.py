"""Adapters found, merged, and written for PEFT."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import induction_init, lora, lora_layers
from awpo_jax.models.formats import hf_weights
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


def test_nothing_is_written_without_adapters(tmp_path):
  config, base, _ = adapted_decoder.make()
  plain = dataclasses.replace(config, lora=None)
  with pytest.raises(ValueError, match='config.lora is None'):
    lora.save_peft(tmp_path, plain, base, 'base')


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
