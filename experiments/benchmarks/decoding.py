"""Kernels and bytes of one token of the sampler, as compiled for an H100.

pip install -e '.[cuda12]'   # No GPU is needed.
python experiments/benchmarks/decoding.py --counts=decoding.json

For each size of Qwen3 with the shapes of gpu.flags, beside the bound: weights
in --dtype and the cache read once. Models of few layers are compiled, and what
a layer adds is taken for each of the others. Flags after the command win.
"""

import collections
import dataclasses
import json
import pathlib
import sys
from typing import Any

import counts
import gpu
import hlo_traffic
from absl import app, flags

from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import sampler
from awpo_jax.training.dry_run import memory, targets
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import options
from awpo_jax.training.programs import shapes as shapes_lib

FLAGS = flags.FLAGS
_SIZES = flags.DEFINE_list('of', list(gpu.SIZES), 'Sizes, keys of gpu.SIZES.')
_JSON = flags.DEFINE_string('counts', None, 'File for the result, as JSON.')
_LAYERS = flags.DEFINE_list(
  'layers', ['2', '3'], 'Layers of the two models that are compiled.'
)
_TOP = flags.DEFINE_integer('top', 0, 'Also print so many groups of kernels.')
_SAVE = flags.DEFINE_string('hlo', None, 'Folder for the programs as text.')
_GB = 1e9


def step_text(config: config_lib.Config, layers: int) -> str:
  """The sampler of a model of so many layers, compiled, as text."""
  target = targets.find('h100')
  mesh = sharding.data_mesh(target.devices)
  plan = memory.make_plan(config)
  model = dataclasses.replace(
    plan.decoder.config, layers=layers, local_layers=()
  )
  plan = dataclasses.replace(plan, decoder=decoder_lib.Decoder(model))
  rl, shapes = config.rl, shapes_lib.Shapes(config, mesh)
  state = shapes.like(memory.state_shapes(plan, 'rl'))
  lowered = compile_lib.make_sampler(
    config,
    plan.decoder,
    mesh,
    temperature=rl.temperature,
    sample=options.rollout_sampler(config, mesh),
  ).lower(
    state.params,
    *shapes.sampler(
      rl.rollout_micro or rl.prompts_per_step,
      config.data.prompt_buckets[-1],
      rl.samples,
    ),
  )
  return lowered.compile(compiler_options=target.options).as_text()


def step_kernels(text: str) -> list[hlo_traffic.Kernel]:
  """What a token launches: the loop that moves most, at the longest cache."""
  program = hlo_traffic.parse(text)
  bodies = [
    list(hlo_traffic.kernels(program, name))
    for name in hlo_traffic.loops(program)
  ]
  return max(bodies, key=lambda made: sum(map(hlo_traffic.moved, made)))


def summary(made: list[hlo_traffic.Kernel]) -> dict[str, float]:
  """Kernels and bytes, and of them those that only convert or copy."""
  return {
    'kernels': len(made),
    'bytes': sum(map(hlo_traffic.moved, made)),
  }


def groups(made: list[hlo_traffic.Kernel]) -> list[tuple[str, int, int]]:
  """(what, count, bytes) of alike kernels, those that move most first."""
  found = collections.defaultdict(list)
  for each in made:
    name = each.instruction.name.rstrip('0123456789.')
    found[name, each.instruction.shape].append(hlo_traffic.moved(each))
  rows = [(f'{n} {s}', len(x), sum(x)) for (n, s), x in found.items()]
  return sorted(rows, key=lambda row: -row[2])


def measure(size: str, arguments: list[str]) -> dict[str, Any]:
  """Counts of one size, for all of its layers."""
  config = config_lib.parse(
    [
      '--flagfile=experiments/benchmarks/gpu.flags',
      f'--model=experiments/models/{size}.json',
      *gpu.SIZES[size],
      *arguments,
    ]
  )
  few = [int(x) for x in _LAYERS.value]
  found = {}
  for layers in few:
    text = step_text(config, layers)
    if _SAVE.value:
      folder = pathlib.Path(_SAVE.value)
      folder.mkdir(parents=True, exist_ok=True)
      (folder / f'{size}_{layers}.hlo').write_text(text)
    made = step_kernels(text)
    found[layers] = summary(made)
    if layers == few[-1]:
      for row in groups(made)[: _TOP.value]:
        print(f'{row[2] / _GB:8.3f} GB {row[1]:5d} x {row[0][:110]}')
  model = memory.make_plan(config).decoder.config
  a, b = few
  whole = {
    name: found[a][name]
    + (model.layers - a) * (found[b][name] - found[a][name]) / (b - a)
    for name in found[a]
  }
  rl = config.rl
  prompts = rl.rollout_micro or rl.prompts_per_step
  bound = counts.decode_bytes(
    dataclasses.replace(model, param_dtype=model.dtype),
    rows=prompts * rl.samples,
    prompts=prompts,
    prompt=config.data.prompt_buckets[-1],
    own=config.data.response_buckets[-1],
  )
  return {**whole, 'bound': bound, 'of': found}


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  own = {flag.name for flag in FLAGS.get_key_flags_for_module(__name__)}
  given = [x for x in sys.argv[1:] if x[2:].split('=')[0] not in own]
  result: dict[str, Any] = {'command': sys.argv, 'sizes': {}}
  for size in _SIZES.value:
    result['sizes'][size] = found = measure(size, given)
    print(
      f'{size}: {found["kernels"]:.0f} kernels, {found["bytes"] / _GB:.2f} GB '
      f'a token, bound {found["bound"] / _GB:.2f} GB',
      flush=True,
    )
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  app.run(main)
