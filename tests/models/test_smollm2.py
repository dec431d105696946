"""A real model out of a GGUF file, against what transformers and torch say."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from awpo_jax.checkpointing import policies
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import gguf_files
from tests.golden import make_smollm2

pytest.importorskip('gguf', reason='pip install gguf')
try:
  gguf_files.find('smollm2')
except FileNotFoundError as error:
  pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope='module')
def policy():
  return policies.load('smollm2')


@pytest.fixture(scope='module')
def golden():
  return np.load(make_smollm2.FILE)


def _logits(policy, ids):
  decoder = decoder_lib.Decoder(policy.config)
  # Op by op: compiling 30 blocks would take longer than computing them.
  with jax.disable_jit():
    logits = decoder.apply({'params': policy.params}, jnp.asarray(ids)[None])
  return np.asarray(logits)[0]


def test_logits(policy, golden):
  got = _logits(policy, golden['ids'])
  step = got.shape[1] // make_smollm2.LOGITS
  np.testing.assert_allclose(
    got[:, ::step], golden['logits'], atol=1e-4 * golden['spread']
  )
  np.testing.assert_array_equal(got.argmax(-1), golden['argmax'])


def test_every_number_of_a_greedy_answer(policy, golden):
  chat, answer = golden['chat'], golden['answer']
  got = _logits(policy, np.concatenate([chat, answer]))
  np.testing.assert_array_equal(got.argmax(-1)[len(chat) - 1 : -1], answer)


def test_tokens(policy, golden):
  ids = policy.tokenizer.encode(make_smollm2.TEXT, add_special_tokens=False)
  np.testing.assert_array_equal(ids, golden['ids'])
  assert policy.tokenizer.decode(ids) == make_smollm2.TEXT
  assert policy.tokenizer.convert_ids_to_tokens(policy.stop_ids) == [
    '<|im_end|>'
  ]


def test_export_is_readable_by_others(policy, tmp_path):
  policies.save_hf(policy, tmp_path / 'out')
  files = list(pathlib.Path(tmp_path / 'out').iterdir())
  assert {oct(x.stat().st_mode & 0o777) for x in files} == {'0o644'}
