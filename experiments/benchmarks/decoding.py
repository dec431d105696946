"""Kernels and bytes of one token of the sampler, as compiled for an H100.

pip install -e '.[cuda12]'   # No GPU is needed.
python experiments/benchmarks/decoding.py --of=0.6b

The shapes are those of gpu.flags; flags after the command win. Kernels and
bytes are the mean over the lengths of the cache that the sampler is compiled
for, beside the bound: weights in --dtype and the cache in use read once. Models
of few layers are compiled, and what one layer adds is taken for each other.

A kernel of --decode_attention is handed the whole cache, and told how much of
it is in use. It is counted as if it read all, and as if it read that much.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

import counts
import gpu_sizes
import hlo_traffic
import jax
from absl import app, flags

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.training.dry_run import memory, targets
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import options
from awpo_jax.training.programs import shapes as shapes_lib

config_lib.define_flags()
_HERE = pathlib.Path(__file__).resolve().parent
_SIZES = flags.DEFINE_list(
  'of', ['0.6b', '1.7b', '4b'], 'Sizes, of gpu_sizes.SIZES.'
)
_LAYERS = flags.DEFINE_list(
  'layers', ['1', '2'], 'Layers of the two models that are compiled.'
)
_COUNTS = flags.DEFINE_string('counts', None, 'File for the result, as JSON.')
_TOP = flags.DEFINE_integer('top', 0, 'Prints so many groups of kernels too.')
_HLO = flags.DEFINE_string('hlo', None, 'Folder for the programs as text.')
_GB = 1e9


def parse_config(size: str, arguments: list[str]) -> config_lib.Config:
  """The shapes of gpu.flags at a size; `arguments` win."""
  return config_lib.parse(
    [
      f'--flagfile={_HERE}/gpu.flags',
      *gpu_sizes.SIZES[size],
      *arguments,
    ]
  )


def shallow(config: config_lib.Config, layers: int) -> memory.Plan:
  """What the flags describe, but of so many layers."""
  plan = memory.make_plan(config)
  model = dataclasses.replace(
    plan.decoder.config, layers=layers, local_layers=()
  )
  return dataclasses.replace(plan, decoder=decoder_lib.Decoder(model))


def compile_sampler(
  config: config_lib.Config, layers: int
) -> jax.stages.Compiled:
  """The sampler of the flags' model, but of so many layers, for an H100."""
  target = targets.find('h100')
  mesh = sharding.data_mesh(target.devices)
  plan = shallow(config, layers)
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


def total(made: list[hlo_traffic.Kernel]) -> int:
  """Bytes that kernels read and write."""
  return sum(map(hlo_traffic.moved, made))


def print_groups(made: list[hlo_traffic.Kernel]) -> None:
  """The first --top of `groups`."""
  for moved, count, name in groups(made)[: _TOP.value]:
    print(f'{moved / _GB:8.3f} GB {count:5d} x {name[:120]}')


def keep(text: str, name: str) -> None:
  """Writes a program to --hlo."""
  if _HLO.value:
    folder = pathlib.Path(_HLO.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.hlo').write_text(text)


def measure(size: str, arguments: list[str]) -> dict[str, Any]:
  """Kernels and bytes of a token at all layers of a size, and the bound."""
  config = parse_config(size, arguments)
  model = memory.make_plan(config).decoder.config
  few = [int(x) for x in _LAYERS.value]
  found = [_measure(config, size, layers) for layers in few]
  more = (model.layers - few[0]) / (few[1] - few[0])
  result: dict[str, Any] = {
    name: first + more * (found[1][name] - first)
    for name, first in found[0].items()
  }
  response = config.data.response_buckets[-1]
  bound = functools.partial(
    counts.decode_bytes,
    dataclasses.replace(model, param_dtype=model.dtype),
    rows=_prompts(config) * config.rl.samples,
    prompts=_prompts(config),
    prompt=config.data.prompt_buckets[-1],
  )
  result['bound'] = bound(own=response / 2)
  if model.decode_attention != 'parts':
    unused = bound(own=response) - result['bound']
    result['bytes_in_use'] = result['bytes'] - unused
  return result | {'layers': dict(zip(few, found, strict=True))}


def _measure(config, size: str, layers: int) -> dict[str, float]:
  compiled = compile_sampler(config, layers)
  text = compiled.as_text()
  keep(text, f'{size}_{layers}')
  stages = steps(text)
  print_groups(max(stages, key=total))
  stats: Any = compiled.memory_analysis()
  return {
    'kernels': statistics.fmean(map(len, stages)),
    'bytes': statistics.fmean(map(total, stages)),
    'temporary': stats.temp_size_in_bytes,
  }


def run(
  arguments: list[str],
  of_size: Callable[[str, list[str]], dict[str, Any]],
  told: Callable[[dict[str, Any]], str],
) -> None:
  """Measures each size of --of, prints what is told of it, writes --counts."""
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  own = {'of', 'layers', 'counts', 'top', 'hlo'}
  given = [x for x in sys.argv[1:] if x.strip('-').split('=')[0] not in own]
  result: dict[str, Any] = {'command': sys.argv, 'sizes': {}}
  for size in _SIZES.value:
    try:
      result['sizes'][size] = found = of_size(size, given)
    except flags_lib.ConfigError as error:
      sys.exit(f'ConfigError: {error}')
    print(f'{size}: {told(found)}', flush=True)
  if _COUNTS.value:
    text = json.dumps(result, indent=2)
    pathlib.Path(_COUNTS.value).write_text(text + '\n')


def _told(found: dict[str, Any]) -> str:
  in_use = ''
  if 'bytes_in_use' in found:
    in_use = f' ({found["bytes_in_use"] / _GB:.2f} of columns in use)'
  return (
    f'{found["kernels"]:.0f} kernels and {found["bytes"] / _GB:.2f} GB{in_use} '
    f'a token, bound {found["bound"] / _GB:.2f} GB; temporary memory '
    f'{found["temporary"] / _GB:.2f} GB'
  )


if __name__ == '__main__':
  app.run(
    functools.partial(run, of_size=measure, told=_told),
    flags_parser=flags_lib.parse_command,
  )
