"""Checkpoint folders for tests, and what they hold.

They are written by `tests.golden.hf_cases`, with names and shapes of its own.
"""

import json

import numpy as np
import safetensors.numpy

from awpo_jax.models.formats import hf_weights
from tests.golden import hf_cases

UNTIED = hf_cases.CASES['llama_linear_biases']
TIED = hf_cases.CASES['qwen3_tied']


def tensors_of(hf, dtype=np.float32):
  tensors = hf_cases.weights(hf, np.random.RandomState(0))
  return {name: x.astype(dtype) for name, x in tensors.items()}


def write(folder, hf=UNTIED, dtype=np.float32, **changes):
  """A checkpoint; a change of None takes the tensor away."""
  tensors = tensors_of(hf, dtype) | {
    name.replace('__', '.'): x for name, x in changes.items()
  }
  tensors = {name: x for name, x in tensors.items() if x is not None}
  hf_cases.write(folder, hf, tensors)
  return tensors


def write_shards(folder, hf=UNTIED):
  """The checkpoint in two shards with an index."""
  tensors = write(folder, hf)
  (folder / 'model.safetensors').unlink()
  names = sorted(tensors)
  shards = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
  for file, kept in shards.items():
    safetensors.numpy.save_file(
      {name: tensors[name] for name in kept}, folder / file
    )
  index = {name: file for file, kept in shards.items() for name in kept}
  write_index(folder, index)
  return tensors, index


def write_index(folder, index):
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps({'metadata': {}, 'weight_map': index})
  )


def load(folder, dtype='float32', **settings):
  return hf_weights.load_pretrained(
    folder, dtype=dtype, param_dtype=dtype, **settings
  )


def stored(folder):
  """Every tensor of a folder, read by the library alone."""
  result = {}
  for path in folder.glob('*.safetensors'):
    part = safetensors.numpy.load_file(path)
    assert not set(part) & set(result)
    result |= part
  return result


def assert_same_bits(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert got[name].dtype == x.dtype, name
    assert got[name].shape == x.shape, name
    assert got[name].tobytes() == np.ascontiguousarray(x).tobytes(), name
