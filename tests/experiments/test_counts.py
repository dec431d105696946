"""Operations and bytes, against counts made elsewhere and by hand."""

import pytest

from awpo_jax.models import config as model_config
from experiments.benchmarks import counts

# The size that others were measured at: 236 GFLOP an update, 76 a rollout.
REFERENCE = model_config.DecoderConfig(
  vocab_size=4096,
  width=256,
  layers=4,
  heads=8,
  kv_heads=4,
  head_width=32,
  mlp_width=768,
  qk_norm=True,
)
SIZES = {'prompts': 8, 'samples': 8, 'prompt': 64, 'response': 128}


def test_the_reference_size():
  assert counts.update(REFERENCE, **SIZES) == pytest.approx(236e9, rel=0.01)
  rollout = counts.forward(REFERENCE, **SIZES, causal=True)
  assert rollout == pytest.approx(76e9, rel=0.01)
  longer = SIZES | {'prompt': 512}
  assert counts.update(REFERENCE, **longer) == pytest.approx(374e9, rel=0.03)


def test_one_token_by_hand():
  model = model_config.DecoderConfig(
    vocab_size=11,
    width=2,
    layers=1,
    heads=2,
    kv_heads=1,
    head_width=4,
    mlp_width=5,
  )
  # q and o: 2 x 8 each; k and v: 2 x 4 each; MLP: 3 x 2 x 5; head: 2 x 11.
  weights = 32 + 16 + 30
  # The prompt's token sees itself, the response's both: scores and values.
  scores = 2 * 8 * (1 + 2)
  want = 2 * (2 * weights + scores + 22)
  got = counts.forward(model, prompts=1, samples=1, prompt=1, response=1)
  assert got == want
  # Two rows with four tokens each of their own, beside one prompt of seven.
  got = counts.decode_bytes(model, rows=2, prompts=1, prompt=7, own=4)
  assert got == 4 * (weights + 22 + 2 * 4 * (8 + 7))
