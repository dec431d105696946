"""Kernels and bytes of one token of the sampler, as compiled for an H100.

pip install -e '.[cuda12]'   # No GPU is needed.
python experiments/benchmarks/decoding.py --of=0.6b

The shapes are those of gpu.flags; flags after the command win. Kernels and
bytes are the mean over the lengths of the cache that the sampler is compiled
for, beside the bound: weights in --dtype and the cache in use read once. Models
of few layers are compiled, and what one layer adds is taken for each other.

A kernel of --decode_attention is handed the whole cache and how much of it is
in use. It is counted twice: as if it read all, and as if it read what is in use.
"""

import collections
import dataclasses
import json
import pathlib
import statistics
import sys
from typing import Any
from unittest import mock

import counts
import hlo_traffic
import jax
import sizes
from absl import app, flags
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.training.dry_run import memory, targets
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import options
from awpo_jax.training.programs import shapes as shapes_lib

FLAGS = flags.FLAGS
config_lib.define_flags()
_SIZES = flags.DEFINE_list(
  'of', ['0.6b', '1.7b', '4b'], 'Sizes, keys of sizes.FLAGS.'
)
_LAYERS = flags.DEFINE_list(
  'layers', ['1', '2'], 'Layers of the two models that are compiled.'
)
_COUNTS = flags.DEFINE_string('counts', None, 'File for the result, as JSON.')
_TOP = flags.DEFINE_integer('top', 0, 'Prints so many groups of kernels too.')
_HLO = flags.DEFINE_string('hlo', None, 'Folder for the programs as text.')
_GB = 1e9
# JAX asks the installed cuDNN for it before it traces a call. Nothing is called
# here, and XLA is told a version of its own (`targets`).
_CUDNN_VERSION = 90_800


def compile_sampler(
  config: config_lib.Config, layers: int
) -> jax.stages.Compiled:
  """The sampler of the flags' model, but of so many layers, for an H100."""
  target = targets.find('h100')
  mesh = sharding.data_mesh(target.devices)
  plan = memory.make_plan(config)
  model = dataclasses.replace(
    plan.decoder.config, layers=layers, local_layers=()
  )
  plan = dataclasses.replace(plan, decoder=decoder_lib.Decoder(model))
  rl, shapes = config.rl, shapes_lib.Shapes(config, mesh)
  program = compile_lib.make_sampler(
    config,
    plan.decoder,
    mesh,
    temperature=rl.temperature,
    sample=options.rollout_sampler(config, mesh),
  )
  arguments = shapes.sampler(
    _prompts(config), config.data.prompt_buckets[-1], rl.samples
  )
  state = shapes.like(memory.state_shapes(plan, 'rl'))
  with mock.patch.object(
    cudnn, 'check_cudnn_version', lambda: _CUDNN_VERSION
  ):
    lowered = program.lower(state.params, *arguments)
  return lowered.compile(compiler_options=target.options)


def _prompts(config: config_lib.Config) -> int:
  return config.rl.rollout_micro or config.rl.prompts_per_step


def steps(text: str) -> list[list[hlo_traffic.Kernel]]:
  """What a token launches, for each length of the cache."""
  program = hlo_traffic.parse(text)
  bodies = [
    list(hlo_traffic.kernels(program, name))
    for name in hlo_traffic.loops(program)
  ]
  # Other loops, if any, are short.
  most = max(map(len, bodies))
  return [made for made in bodies if 2 * len(made) > most]


def groups(made: list[hlo_traffic.Kernel]) -> list[tuple[int, int, str]]:
  """(bytes, count, what) of alike kernels, those that move most first."""
  found = collections.defaultdict(list)
  for each in made:
    name = each.instruction.name.rstrip('0123456789.')
    found[f'{name} {each.instruction.shape}'].append(hlo_traffic.moved(each))
  rows = [(sum(x), len(x), name) for name, x in found.items()]
  return sorted(rows, reverse=True)


def measure(size: str, arguments: list[str]) -> dict[str, Any]:
  """Kernels and bytes of a token at all layers of a size, and the bound."""
  config = config_lib.parse(
    [
      '--flagfile=experiments/benchmarks/gpu.flags',
      *sizes.FLAGS[size],
      *arguments,
    ]
  )
  model = memory.make_plan(config).decoder.config
  few = [int(x) for x in _LAYERS.value]
  found = [_measure(config, size, layers) for layers in few]
  more = (model.layers - few[0]) / (few[1] - few[0])
  result: dict[str, Any] = {
    name: first + more * (found[1][name] - first)
    for name, first in found[0].items()
  }
  response = config.data.response_buckets[-1]

  def bound(own: float) -> float:
    return counts.decode_bytes(
      dataclasses.replace(model, param_dtype=model.dtype),
      rows=_prompts(config) * config.rl.samples,
      prompts=_prompts(config),
      prompt=config.data.prompt_buckets[-1],
      own=own,
    )

  result['bound'] = bound(response / 2)
  if model.decode_attention != 'parts':
    unused = bound(response) - result['bound']
    result['bytes_in_use'] = result['bytes'] - unused
  return result | {'layers': dict(zip(few, found, strict=True))}


def _measure(config, size: str, layers: int) -> dict[str, float]:
  compiled = compile_sampler(config, layers)
  text = compiled.as_text()
  if _HLO.value:
    folder = pathlib.Path(_HLO.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{size}_{layers}.hlo').write_text(text)
  stages = steps(text)
  longest = max(stages, key=lambda made: sum(map(hlo_traffic.moved, made)))
  for moved, count, name in groups(longest)[: _TOP.value]:
    print(f'{moved / _GB:8.3f} GB {count:5d} x {name[:120]}')
  stats: Any = compiled.memory_analysis()
  return {
    'kernels': statistics.fmean(map(len, stages)),
    'bytes': statistics.fmean(
      sum(map(hlo_traffic.moved, made)) for made in stages
    ),
    'temporary': stats.temp_size_in_bytes,
  }


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  own = {'of', 'layers', 'counts', 'top', 'hlo'}
  given = [x for x in sys.argv[1:] if x.strip('-').split('=')[0] not in own]
  result: dict[str, Any] = {'command': sys.argv, 'sizes': {}}
  for size in _SIZES.value:
    result['sizes'][size] = found = measure(size, given)
    text = f'{size}: {found["kernels"]:.0f} kernels and '
    text += f'{found["bytes"] / _GB:.2f} GB a token, '
    if 'bytes_in_use' in found:
      text += f'{found["bytes_in_use"] / _GB:.2f} if only columns in use, '
    text += f'bound {found["bound"] / _GB:.2f} GB; temporary memory '
    print(f'{text}{found["temporary"] / _GB:.2f} GB', flush=True)
  if _COUNTS.value:
    text = json.dumps(result, indent=2)
    pathlib.Path(_COUNTS.value).write_text(text + '\n')


if __name__ == '__main__':
  app.run(main)
