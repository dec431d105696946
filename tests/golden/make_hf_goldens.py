"""Writes tests/golden/hf/*.npz, what Hugging Face's PyTorch models answer.

  python -m tests.golden.make_hf_goldens

needs torch beside the packages of the test extra. Weights and tokens are made
anew from seeds by `hf_cases`, so that only answers are stored.
"""

import pathlib
import tempfile

import numpy as np
import torch
import transformers

from tests.golden import hf_cases, hf_torch

FOLDER = pathlib.Path(__file__).parent / 'hf'


def ropes():
  """Frequencies and attention factors of `ROPE_INIT_FUNCTIONS`."""
  result = {}
  for name, hf in hf_cases.ROPES.items():
    rotary = hf_torch.rotary(hf)
    result[name] = rotary.inv_freq.numpy()
    result[f'{name}.factor'] = np.float64(rotary.attention_scaling)
  return result


def main():
  print(f'torch {torch.__version__}, transformers {transformers.__version__}')
  FOLDER.mkdir(exist_ok=True)
  np.savez_compressed(FOLDER / 'rope.npz', **ropes())
  for name, hf in hf_cases.CASES.items():
    tensors, tokens, mask, long = hf_cases.make(name)
    with tempfile.TemporaryDirectory() as folder:
      hf_cases.write(folder, hf, tensors)
      model = hf_torch.load(folder)
    got = hf_torch.answers(model, tokens, mask, long)
    # Logits at padding are nobody's business, and zeros compress.
    got['padded'] *= mask[..., None]
    variety = len(np.unique(got['greedy']))
    assert variety >= 8, f'{name} repeats itself: take another seed'
    np.savez_compressed(FOLDER / f'{name}.npz', **got)
    size = (FOLDER / f'{name}.npz').stat().st_size
    spread = got['long'].std()
    print(f'{name}: {size} bytes, spread {spread:.2f}, {variety} tokens')


if __name__ == '__main__':
  main()
