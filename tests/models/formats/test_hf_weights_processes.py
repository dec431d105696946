"""A save that is killed, and the memory that a load takes."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest

from awpo_jax.models.formats import hf_weights
from tests.golden import hf_cases
from tests.helpers import hf_folders

KILLED = """
  import os, signal, sys
  from awpo_jax.models.formats import hf_files, hf_weights
  source, target, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
  loaded = hf_weights.load_pretrained(
    source, dtype='float32', param_dtype='float32')
  count = 0
  def counted(function):
    def wrapped(*args, **kwargs):
      global count
      count += 1
      if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
      return function(*args, **kwargs)
    return wrapped
  save = hf_files.safetensors.numpy.save_file
  hf_files.safetensors.numpy.save_file = counted(save)
  hf_files.write_json = counted(hf_files.write_json)
  hf_weights.save_pretrained(target, *loaded, shard_bytes=40_000)
"""


def test_a_killed_save_leaves_nothing_that_looks_whole(tmp_path):
  tensors = hf_folders.write(tmp_path / 'a')
  target = tmp_path / 'b'
  # The second file of weights, and config.json with all weights written: two
  # shards of 40,000 bytes, the index, the config.
  size = sum(x.nbytes for x in tensors.values())
  assert 40_000 < size < 80_000
  for at in (2, 4):
    done = subprocess.run(
      [
        *(sys.executable, '-c', textwrap.dedent(KILLED)),
        *(str(tmp_path / 'a'), str(target), str(at)),
      ],
      check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(FileNotFoundError, match='no folder'):
      hf_folders.load(target)
    [partial] = [x for x in tmp_path.iterdir() if x.name != 'a']
    assert not (partial / 'config.json').exists()
  hf_weights.save_pretrained(target, *hf_folders.load(tmp_path / 'a'))
  hf_folders.assert_same_bits(hf_folders.stored(target), tensors)
  assert sorted(os.listdir(tmp_path)) == ['a', 'b']


PEAK = """
  import json, sys
  from awpo_jax.models.formats import hf_weights
  def peak():
    # Not ru_maxrss, which starts with what the parent process held.
    with open('/proc/self/status') as status:
      [line] = [x for x in status if x.startswith('VmHWM')]
    return 1024 * int(line.split()[1])
  small, big, dtype = sys.argv[1:]
  settings = {'dtype': dtype, 'param_dtype': dtype}
  hf_weights.load_pretrained(small, **settings)  # What JAX itself takes.
  before = peak()
  loaded = hf_weights.load_pretrained(big, **settings)
  print(json.dumps([before, peak()]))
"""


def _peaks(small, big, dtype, *, size, largest):
  """Bytes at most before loading the big one, and with it."""
  done = subprocess.run(
    [
      *(sys.executable, '-c', textwrap.dedent(PEAK)),
      *(str(small), str(big), dtype),
    ],
    check=True,
    capture_output=True,
    text=True,
  )
  before, after = json.loads(done.stdout)
  print(
    f'model {size / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB; '
    f'before {before / 1e6:.0f} MB, peak {after / 1e6:.0f} MB: '
    f'{(after - before) / size:.3f} of the model'
  )
  return before, after


@pytest.mark.skipif(
  not os.path.exists('/proc/self/status'), reason='reads Linux /proc'
)
@pytest.mark.slow
def test_peak_memory_of_loading_a_gigabyte(tmp_path):
  """One copy of the model and little more than one tensor."""
  hf = hf_folders.TIED | {
    'vocab_size': 32_768,
    'hidden_size': 2048,
    'intermediate_size': 6144,
    'num_hidden_layers': 10,
    'num_attention_heads': 16,
    'num_key_value_heads': 8,
    'head_dim': 128,
  }
  hf_folders.write(tmp_path / 'small', hf_folders.TIED, ml_dtypes.bfloat16)
  rng = np.random.default_rng(0)
  tensors = {
    name: np.frombuffer(
      rng.bytes(2 * math.prod(shape)), ml_dtypes.bfloat16
    ).reshape(shape)
    for name, shape in hf_cases.shapes_of(hf).items()
  }
  hf_cases.write(tmp_path / 'big', hf, tensors)
  size = sum(x.nbytes for x in tensors.values())
  largest = max(x.nbytes for x in tensors.values())
  assert size > 1e9
  del tensors
  before, after = _peaks(
    tmp_path / 'small', tmp_path / 'big', 'bfloat16', size=size, largest=largest
  )
  shutil.rmtree(tmp_path / 'big')
  # A tensor as read and as transposed for the device.
  assert after - before < size + 2 * largest + 50e6


@pytest.mark.skipif(
  not os.path.exists('/proc/self/status'), reason='reads Linux /proc'
)
@pytest.mark.slow
def test_peak_memory_of_loading_a_gguf(tmp_path):
  """Likewise, though the file holds a seventh of what comes out of it."""
  from tests.helpers import gguf_writing  # Skips where gguf is not installed.

  small, big = tmp_path / 'small.gguf', tmp_path / 'big.gguf'
  gguf_writing.write(small, 'qwen3', 'Q4_K')
  values = gguf_writing.write(
    big, 'qwen3', 'Q4_K', head=512, sizes=(5, 2048, 6144)
  )
  size = sum(x.nbytes for x in values.values())
  largest = max(x.nbytes for x in values.values())
  assert size > 1e9 > 6 * big.stat().st_size
  del values
  before, after = _peaks(small, big, 'float32', size=size, largest=largest)
  assert after - before < size + 2 * largest + 50e6
