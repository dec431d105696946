"""Kernels and bytes of one micro batch of the update, compiled for an H100.

pip install -e '.[cuda12]'   # No GPU is needed.
python experiments/benchmarks/updating.py --of=0.6b --top=10

Flags and shapes are those of decoding.py; flags after the command win. Models
of few layers are compiled: what one has more than the other is what its further
layers add, and the rest is the embedding, the logits and the optimizer. The
body of a loop counts once: one of the micro batches, one chunk of the logits.
"""

import functools
import re
from typing import Any

import decoding
import hlo_traffic
from absl import app, flags

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.training.dry_run import memory, targets

FLAGS = flags.FLAGS
_GB = 1e9


def compile_update(config: config_lib.Config, layers: int) -> str:
  """The update of the flags' model, but of so many layers: XLA's text."""
  target = targets.find('h100')
  plan = decoding.shallow(config, layers)
  made = memory.lowerings(plan, sharding.data_mesh(target.devices))
  (lower,) = (made[key] for key in made if key[0] == 'update')
  return lower().compile(compiler_options=target.options).as_text()


def launched(text: str) -> list[hlo_traffic.Kernel]:
  """What a program launches, the body of each loop once."""
  entry = re.search(r'^ENTRY %?([\w.\-]+)', text, re.MULTILINE)
  assert entry is not None
  return list(hlo_traffic.kernels(hlo_traffic.parse(text), entry[1]))


def measure(size: str, arguments: list[str]) -> dict[str, Any]:
  """Kernels and bytes of the rest, a layer, and all layers of a size."""
  config = decoding.parse_config(size, arguments)
  layers = memory.make_plan(config).decoder.config.layers
  few = [int(x) for x in FLAGS.layers]
  found = []
  for count in few:
    text = compile_update(config, count)
    decoding.keep(text, f'update_{size}_{count}')
    made = launched(text)
    found.append((len(made), decoding.total(made)))
  decoding.print_groups(made)
  result = {}
  for name, first, second in zip(('kernels', 'bytes'), *found, strict=True):
    layer = (second - first) / (few[1] - few[0])
    rest = first - few[0] * layer
    result[name] = {'layer': layer, 'rest': rest, 'all': rest + layers * layer}
  return result


def _told(found: dict[str, Any]) -> str:
  kernels, moved = found['kernels'], found['bytes']
  return (
    f'{kernels["layer"]:.0f} kernels and {moved["layer"] / _GB:.1f} GB a '
    f'layer, {kernels["rest"]:.0f} and {moved["rest"] / _GB:.1f} besides, '
    f'{kernels["all"]:.0f} and {moved["all"] / _GB:.0f} in all'
  )


if __name__ == '__main__':
  app.run(
    functools.partial(decoding.run, of_size=measure, told=_told),
    flags_parser=flags_lib.parse_command,
  )
