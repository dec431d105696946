"""A real model out of a GGUF file, against what transformers and torch say."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regex

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


def _by_hand(data, text):
  """Ids by plain BPE, split as llama.cpp splits for `smollm`."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  shifted = iter(range(256, 512))
  letter = [chr(b if b in printable else next(shifted)) for b in range(256)]
  ranks = {x: i for i, x in enumerate(data['tokenizer.ggml.merges'])}
  ids = {x: i for i, x in enumerate(data['tokenizer.ggml.tokens'])}
  words = r' ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+'
  found = []
  for piece in regex.findall(r'\p{N}|\P{N}+', text):
    for word in regex.findall(rf"'(?:[stmd]|re|ve|ll)|{words}", piece):
      parts = [letter[b] for b in word.encode()]
      while pairs := [
        (ranks[pair], i)
        for i, pair in enumerate(map(' '.join, itertools.pairwise(parts)))
        if pair in ranks
      ]:
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
      found += [ids[x] for x in parts]
  return found


def test_tokens(policy):
  # transformers ignores how the file wants text split, and so joins the spaces
  # before numbers with these: no reference for this page.
  file = gguf_files.find('smollm2')
  ids = policy.tokenizer.encode(make_smollm2.TEXT, add_special_tokens=False)
  assert ids == _by_hand(gguf_files.metadata(file), make_smollm2.TEXT)
  assert policy.tokenizer.decode(ids) == make_smollm2.TEXT
  assert policy.tokenizer.convert_ids_to_tokens(policy.stop_ids) == [
    '<|im_end|>'
  ]


def test_export_is_readable_by_others(policy, tmp_path):
  policies.save_hf(policy, tmp_path / 'out')
  files = list(pathlib.Path(tmp_path / 'out').iterdir())
  assert {oct(x.stat().st_mode & 0o777) for x in files} == {'0o644'}
