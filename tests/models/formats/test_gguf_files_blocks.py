"""Quantised blocks of GGUF files, by hand from llama.cpp's C."""

import numpy as np
import pytest

from awpo_jax.models.formats import gguf_files
from tests.helpers import gguf_writing as made


def _half(two_bytes):
  """f32[blocks] of the two bytes of a float16."""
  return np.ascontiguousarray(two_bytes).view(np.float16)[:, 0].astype('f4')


def _scales(packed, j):
  """Scale and minimum of the part j of a block: `get_scale_min_k4`."""
  q = packed.astype(int).T
  if j < 4:
    return q[j] & 63, q[j + 4] & 63
  return (
    q[j + 4] & 15 | q[j - 4] >> 6 << 4,
    q[j + 4] >> 4 | q[j] >> 6 << 4,
  )


def _q4_or_q5(blocks, high, low):
  """A scale, a minimum and 12 bytes of more of them; then 4 bits a number.

  Of Q5_K the bytes `high` hold the fifth bits, of eight numbers each.
  """
  scale, least = _half(blocks[:, :2]), _half(blocks[:, 2:4])
  parts = []
  for j in range(8):
    # Two parts share 32 bytes.
    q = low[:, 32 * (j // 2) : 32 * (j // 2 + 1)] >> 4 * (j % 2) & 15
    q = q + 16 * (high >> j & 1)
    own = [np.float32(x) for x in _scales(blocks[:, 4:16], j)]
    d, m = scale * own[0], least * own[1]
    parts.append(d[:, None] * np.float32(q) - m[:, None])
  return np.concatenate(parts, axis=1)


def _q4_k(blocks):
  return _q4_or_q5(blocks, np.zeros((1, 32), np.uint8), blocks[:, 16:])


def _q5_k(blocks):
  return _q4_or_q5(blocks, blocks[:, 16:48], blocks[:, 48:])


def _q6_k(blocks):
  """4 low bits, 2 high ones, 16 scales with a sign, and one of them all."""
  result = np.empty((len(blocks), 256), np.float32)
  scale = _half(blocks[:, 208:])
  for i in range(256):
    half, part, place = i // 128, i % 128 // 32, i % 32
    low = blocks[:, 64 * half + 32 * (part % 2) + place] >> 4 * (part // 2)
    high = blocks[:, 128 + 32 * half + place] >> 2 * part
    q = ((low & 15) | (high & 3) << 4).astype(int) - 32
    own = blocks[:, 192 + 8 * half + 2 * part + place // 16].view(np.int8)
    result[:, i] = scale * np.float32(own) * np.float32(q)
  return result


@pytest.mark.parametrize(
  ('kind', 'by_hand'), [('Q4_K', _q4_k), ('Q5_K', _q5_k), ('Q6_K', _q6_k)]
)
def test_k_quants_by_hand(tmp_path, monkeypatch, kind, by_hand):
  monkeypatch.setattr(gguf_files, '_ROWS', 3)  # Seven rows are read in three.
  rows, width = 7, 512
  blocks = made.blocks(kind, (rows, width), np.random.default_rng(0))
  made.write(tmp_path / 'x.gguf', tensors={'x.weight': (kind, blocks)})
  tensor = gguf_files.tensors(tmp_path / 'x.gguf')['x.weight']
  assert tensor.shape == (rows, width)
  want = by_hand(blocks.reshape(rows * width // 256, -1))
  assert np.unique(want).size > 500
  np.testing.assert_array_equal(tensor.read(), want.reshape(rows, width))
