"""Decoder configs written as config.json, and read again."""

import dataclasses
import json

import pytest
import transformers

from awpo_jax.models import config, rope
from tests.golden import hf_cases


@pytest.mark.parametrize('name', hf_cases.CASES)
def test_there_and_back(name):
  hf = hf_cases.CASES[name]
  want = config.from_hf_dict(hf)
  written = json.loads(json.dumps(config.to_hf_dict(want)))
  got = config.from_hf_dict(written)
  assert got == want
  assert got.family == want.family == hf['model_type']
  # What transformers makes of it, and of the file it came from.
  ours = transformers.AutoConfig.for_model(**written)
  theirs = transformers.AutoConfig.for_model(**hf)
  assert type(ours) is type(theirs)
  assert written['architectures'] == [
    type(theirs).__name__.replace('Config', 'ForCausalLM')
  ]
  ours, theirs = ours.to_dict(), theirs.to_dict()
  rotary = theirs.pop('rope_parameters')
  rotary.pop('type', None)
  # Ours also tells what transformers takes for granted.
  assert rotary.items() <= ours['rope_parameters'].items()
  for key, value in theirs.items():
    if key not in {'architectures', 'dtype', 'max_window_layers'}:
      assert ours[key] == value, key
  assert config.from_hf_dict(ours) == want


BLOCK = {
  'vocab_size': 300,
  'width': 32,
  'layers': 2,
  'heads': 4,
  'kv_heads': 2,
  'head_width': 8,
  'mlp_width': 48,
}


@pytest.mark.parametrize(
  ('fields', 'family'),
  [
    ({}, 'llama'),
    ({'qkv_bias': True, 'out_bias': True, 'mlp_bias': True}, 'llama'),
    ({'heads': 3, 'kv_heads': 3}, 'mistral'),
    ({'window': 4, 'local_layers': (True, True)}, 'mistral'),
    ({'window': 4, 'local_layers': (False, False)}, 'llama'),
    ({'qkv_bias': True, 'head_width': 6}, 'qwen2'),
    (
      {'qkv_bias': True, 'window': 4, 'local_layers': (True, False)},
      'qwen2',
    ),
    ({'qk_norm': True, 'init_range': 0.1, 'max_positions': 9}, 'qwen3'),
    ({'qk_norm': True, 'qkv_bias': True, 'out_bias': True}, 'qwen3'),
    ({'rope_theta': 3.0, 'rope_scaling': rope.Scaling('linear', 2.0)}, 'llama'),
  ],
)
def test_the_family_follows_from_the_fields(fields, family):
  want = config.DecoderConfig(**BLOCK | fields)
  hf = config.to_hf_dict(want)
  assert hf['model_type'] == family
  assert config.from_hf_dict(hf) == want
  assert hash(config.from_hf_dict(hf)) == hash(want)
  transformers.AutoConfig.for_model(**hf)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'qk_norm': True, 'mlp_bias': True},
      'llama: qk_norm=True; .*qwen3: mlp_bias=True',
    ),
    ({'family': 'mistral', 'qkv_bias': True}, 'mistral: qkv_bias=True'),
    ({'family': 'qwen2'}, 'qwen2: qkv_bias=False'),
    (
      {'window': 4, 'local_layers': (True, False)},
      r'mistral: local_layers=\(True, False\)',
    ),
  ],
)
def test_what_no_family_has_cannot_be_written(fields, message):
  block = config.DecoderConfig(**BLOCK | fields)
  with pytest.raises(ValueError, match=message):
    config.to_hf_dict(block)


def test_keys_for_tools_that_do_not_know_the_newer_ones():
  block = config.DecoderConfig(
    **BLOCK | {'layers': 3},
    qk_norm=True,
    window=4,
    local_layers=(False, True, True),
    rope_theta=3.0,
    param_dtype='bfloat16',
  )
  hf = config.to_hf_dict(block)
  assert (hf['max_window_layers'], hf['rope_theta']) == (1, 3.0)
  assert hf['dtype'] == 'bfloat16'
  plain = dataclasses.replace(block, window=None, local_layers=())
  assert config.to_hf_dict(plain)['max_window_layers'] == 3


def test_the_family_is_kept_and_compares_equal():
  mistral = hf_cases.CASES['mistral_head_dim']
  got = config.from_hf_dict(mistral)
  assert config.to_hf_dict(got)['model_type'] == 'mistral'
  assert got == dataclasses.replace(got, family='llama')
