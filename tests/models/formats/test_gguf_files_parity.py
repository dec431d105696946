"""Logits and greedy answers of GGUF files are those of transformers and torch.

Transformers reads such a file by code of its own: names, turned heads, keys.
"""

import numpy as np
import pytest

from tests.golden import hf_cases
from tests.helpers import gguf_writing as made
from tests.models.formats import test_hf_weights_parity as parity

CASES = {
  'llama': ('llama', {}),
  # Transformers takes the width of a Llama's head from the rotary key.
  'llama, heads of their own': (
    'llama',
    {'head': 32, 'numbers': {'rope.dimension_count': 32}},
  ),
  'qwen2': ('qwen2', {}),
  # It takes every Qwen3's head to be 128 wide, as those of all released ones.
  'qwen3': ('qwen3', {'head': 128}),
}


@pytest.mark.parametrize('name', CASES)
def test_live(name, tmp_path):
  for package in ('torch', 'accelerate'):  # Transformers asks for both.
    pytest.importorskip(package)
  from tests.golden import hf_torch

  family, changes = CASES[name]
  made.write(tmp_path / 'x.gguf', family, **{'kind': 'Q8_0', **changes})
  rng = np.random.RandomState(0)
  tokens, mask, long = hf_cases.inputs(rng)
  theirs = hf_torch.load(tmp_path, gguf_file='x.gguf')
  want = hf_torch.answers(theirs, tokens, mask, long)
  got = parity.answers(*parity.load(tmp_path / 'x.gguf'), tokens, mask, long)
  parity.check(got, want, mask, far=5e-3)
