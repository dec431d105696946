"""What a run needs of each device's memory, worked out without weights."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from awpo_jax.checkpointing import initial_params, model_files
from awpo_jax.config import algorithm
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import device_checks, sharding
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import config as model_config
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.training.dry_run import targets, xla_buffers
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import options
from awpo_jax.training.update import optimizer as optimizer_lib
from awpo_jax.training.update import train_step

# What XLA is not given: the context of the driver and its own reserve.
_USABLE = 0.95
_GIB = 2**30
Lower: TypeAlias = Callable[[], jax.stages.Lowered]


@dataclasses.dataclass(frozen=True)
class Plan:
  """Flags and model of a run, made without its data and tokenizer."""

  config: config_lib.Config
  decoder: decoder_lib.Decoder


def make_plan(
  config: config_lib.Config, *, platform: str | None = None
) -> Plan:
  """The model of the flags, its vocabulary that of its `config.json`.

  Args:
    config: of the run.
    platform: see `model_files.of_flags`; a dry run gives that of its target.

  Raises:
    FileNotFoundError, ConnectionError, PermissionError, ValueError: `--model`
      is not there or not implemented.
  """
  model = model_config.from_hf_dict(
    initial_params.read_hf_config(config.model.model),
    dtype=config.model.dtype,
    param_dtype=config.model.param_dtype,
  )
  model = model_files.of_flags(model, config, platform=platform)
  return Plan(config, decoder_lib.Decoder(model))


def state_shapes(plan: Plan, phase: str) -> train_step.TrainState:
  """`jax.ShapeDtypeStruct`s of the state in a phase."""
  tx = optimizer_lib.make_optimizers(plan.config)[phase]
  return jax.eval_shape(
    lambda params: train_step.init_state(params, tx),
    initial_params.param_shapes(plan.decoder.config),
  )


def parts(plan: Plan, mesh: sharding.AnyMesh) -> dict[str, int]:
  """Bytes on each device of the named parts, without those of the compiler.

  `pmap` replicates parameters, gradients and optimizer: only the rows that are
  sampled at once become fewer with more devices, down to `--rollout_micro`.

  Args:
    plan: of `make_plan`, with an RL phase.
    mesh: see `sharding`.

  Returns:
    `parameters`; `gradients`, the float32 sums of what is trained; `optimizer`;
    `reference`, the copy that `--kl_coef` keeps; `cache`, keys and values of
    prompts and answers while sampling; `logits` of a chunk of positions.
  """
  config, model = plan.config, plan.decoder.config
  state = state_shapes(plan, 'rl')
  trained, _ = lora.split(state.params)
  held = functools.partial(sharding.bytes_of_each, mesh=mesh)
  gradients = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), trained
  )
  share = config.rl.prompts_per_step // sharding.parts(mesh)
  prompts = config.rl.rollout_micro or share
  answers = prompts * config.rl.samples
  prompts, answers = options.cached(config, prompts, answers)
  cache = jax.eval_shape(
    lambda: (
      cache_lib.init_cache(model, prompts, config.data.prompt_buckets[-1]),
      cache_lib.init_cache(model, answers, config.data.response_buckets[-1]),
    )
  )
  rows = config.rl.micro * config.rl.samples
  chunk = min(config.model.logprob_chunk, config.data.response_buckets[-1])
  # Heads and the vocabulary are cut over the axis `model`.
  cut = mesh.shape.get(sharding.MODEL_AXIS, 1)
  return {
    'parameters': held(state.params),
    'gradients': held(gradients),
    'optimizer': held(state.opt_state),
    'reference': held(trained) if algorithm.has_reference(config) else 0,
    'cache': sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
    // cut,
    'logits': 4 * rows * chunk * model.vocab_size // cut,
  }


def needed(compiled: jax.stages.Compiled) -> int:
  """Bytes on each device while a program runs, by XLA's own analysis.

  Raises:
    ConfigError: the platform does not say.
  """
  stats: Any = compiled.memory_analysis()
  if stats is None:
    raise flags_lib.ConfigError(
      '--dry_run: this platform has no analysis of memory; set --dry_run=h100.'
    )
  return (
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
    + stats.temp_size_in_bytes
  )


def peaks(plan: Plan, target: targets.Target) -> Iterator[tuple[str, int]]:
  """Each program of the run and the bytes on a device while it runs.

  What lies there besides is counted: the optimizer's state while sampling, the
  reference during an update.

  Args:
    plan: of `make_plan`.
    target: compiled for.

  Yields:
    E.g. `('update rl 2048 2048', bytes)`.

  Raises:
    ConfigError: a program does not compile, with what the compiler said.
  """
  mesh = sharding.make_mesh(plan.config.devices, target.devices)
  states = {phase: state_shapes(plan, phase) for phase in _phases(plan)}
  named = parts(plan, mesh) if 'rl' in states else {}
  first = next(iter(states.values()))

  def size(item: tuple[tuple[Any, ...], Lower]) -> int:
    key, lower = item
    phase = next((x for x in key if x in states), 'rl')
    optimizer = sharding.bytes_of_each(
      states.get(phase, first).opt_state, mesh=mesh
    )
    reference = named.get('reference', 0) if phase == 'rl' else 0
    besides = {
      'sample': optimizer + reference,
      'evaluate': optimizer + reference,
      'prepare': optimizer,  # The reference is an argument.
      'reference': optimizer,
      'update': reference,
    }.get(key[0], 0)
    if target.absent:
      return besides + xla_buffers.of_absent(plan.config, key)
    try:
      compiled = lower().compile(compiler_options=target.options)
    except jax.errors.JaxRuntimeError as error:
      # A TPU's compiler refuses what it has no room for.
      raise flags_lib.ConfigError(
        f'--dry_run: {" ".join(map(str, key))} was not compiled: '
        f'{str(error)[:2000]}'
      ) from error
    return besides + needed(compiled)

  made = lowerings(plan, mesh)
  # A large program takes minutes, and some GiB of this machine.
  with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
    for key, found in zip(made, pool.map(size, made.items()), strict=True):
      yield ' '.join(map(str, key)), found


def _phases(plan: Plan) -> Mapping[str, optax.GradientTransformation]:
  return optimizer_lib.make_optimizers(plan.config)


def lowerings(
  plan: Plan, mesh: jax.sharding.Mesh
) -> dict[tuple[Any, ...], Lower]:
  """Each program of the run by its key, lowered when it is called.

  `cut` and `useful` are left out: they need less memory than the others.
  """
  tx = _phases(plan)
  state = state_shapes(plan, next(iter(tx)))
  programs = compile_lib.lower_programs(
    plan.config,
    plan.decoder,
    mesh,
    state,
    tx,
    lower=lambda program, *args: functools.partial(program.lower, *args),
  )
  return compile_lib.by_name(dataclasses.replace(programs, cut={}, useful={}))


def dry_run(config: config_lib.Config) -> Iterator[str]:
  """Compiles all programs of a run and says what they need of a device.

  Yields:
    Lines of text, each as soon as it is known: a large model compiles for long.

  Raises:
    ConfigError: as `targets.find` and `make_plan`; the flags do not divide over
      the devices; the platform does not say what a program needs.
  """
  if config.devices.cpu_devices > 1:
    jax.config.update('jax_num_cpu_devices', config.devices.cpu_devices)
  target = targets.find(config.run.dry_run)
  mesh = sharding.make_mesh(config.devices, target.devices)
  problems = list(device_checks.check_devices(config, sharding.parts(mesh)))
  try:
    plan = make_plan(config, platform=target.platform)
  except (OSError, ValueError) as error:
    raise flags_lib.ConfigError(str(error)) from error
  model = plan.decoder.config
  problems += device_checks.check_model(
    model, initial_params.param_shapes(model), mesh
  )
  if problems:
    raise flags_lib.ConfigError('\n'.join(problems))
  rows = parts(plan, mesh) if config.run.rl_steps else {}
  count, kind = len(target.devices), target.devices[0].device_kind
  axes = ', '.join(f'{name}:{size}' for name, size in mesh.shape.items())
  yield f'{count} x {kind} ({axes}), GiB of each:'
  for name, size in rows.items():
    yield f'  {name:<24}{_gib(size):>8}'
  yield 'while a program runs:'
  compiled = {}
  for name, size in peaks(plan, target):
    compiled[name] = size
    yield f'  {name:<24}{_gib(size):>8}'
  yield verdict(compiled, target.memory)


def verdict(peaks_of: Mapping[str, int], memory: int | None) -> str:
  """Whether the largest of the programs fits."""
  name, size = max(peaks_of.items(), key=lambda item: item[1])
  text = f'the largest is `{name}` with {_gib(size)} GiB'
  if memory is None:
    return f'This device does not say what it has; {text}.'
  usable = int(_USABLE * memory)
  verb = 'Fits' if size <= usable else 'Does not fit'
  return f'{verb} into the {_gib(usable)} GiB that XLA can be given; {text}.'


def _gib(size: int) -> str:
  return f'{size / _GIB:.1f}'
