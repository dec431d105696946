"""The compiled programs of a run: every bucket, before the first step."""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from awpo_jax import types
from awpo_jax.config import algorithm
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import device_map, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.ops import collectives
from awpo_jax.rollout.environments import registry
from awpo_jax.rollout.sampling import (
  continuous_batching as continuous_batching_lib,
)
from awpo_jax.rollout.sampling import sampler as sampler_lib
from awpo_jax.training.programs import from_flags, multi_turn
from awpo_jax.training.programs import shapes as shapes_lib
from awpo_jax.training.update import prepare as prepare_lib
from awpo_jax.training.update import train_step

_COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'
_compiles = 0


def _count_compile(event: str, duration_secs: float, **kwargs: Any) -> None:
  del duration_secs, kwargs  # Named as JAX wants them; only counted here.
  global _compiles
  _compiles += event == _COMPILE_EVENT


@functools.cache
def _listen() -> None:
  jax.monitoring.register_event_duration_secs_listener(_count_compile)


def compile_count() -> int:
  """Programs compiled by this process since the first call of this."""
  _listen()
  return _compiles


@dataclasses.dataclass(frozen=True)
class Programs:
  """Compiled functions by the shapes they were compiled for.

  Attributes:
    sample: prompt length -> sampler of training rollouts.
    evaluate: prompt length -> sampler of evaluations, one answer a prompt.
    prepare: (prompt, response length) -> `prepare_rollout`.
    cut: (prompt, response length) -> `sharding.cut` of a prepared batch, where
      it lies; empty where mini-batches are packed, which the host does.
    update: phase -> (prompt, response length) -> `train_step`.
    useful: (prompt, response length) -> `from_flags.make_useful`, of NumPy
      arrays to one; empty with one round of sampling, which asks for none.
    init: phase -> parameters to the state before its first update.
    reference: parameters to what the KL term keeps of them; None without one.
  """

  sample: Mapping[int, Callable[..., Any]]
  evaluate: Mapping[int, Callable[..., Any]]
  prepare: Mapping[tuple[int, int], Callable[..., Any]]
  cut: Mapping[tuple[int, int], Callable[..., Any]]
  update: Mapping[str, Mapping[tuple[int, int], Callable[..., Any]]]
  useful: Mapping[tuple[int, int], Callable[..., Any]]
  init: Mapping[str, Callable[..., Any]]
  reference: Callable[..., Any] | None


def compile_programs(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  mesh: jax.sharding.Mesh,
  state: train_step.TrainState,
  optimizers: Mapping[str, optax.GradientTransformation],
  *,
  stop_ids: tuple[int, ...] = (),
  pad_id: int = 0,
  evaluation: bool = True,
) -> Programs:
  """Compiles what the run will call, for every bucket, on all cores.

  Args:
    config: of the run.
    decoder: the model.
    mesh: see `sharding`.
    state: only its shapes are used.
    optimizers: phase -> optimizer, for the phases the run has.
    stop_ids: tokens that end an answer; without any it has full length.
    pad_id: fills the columns after the end.
    evaluation: False leaves out the samplers of evaluations.
  """
  # More at once than cores would only take more memory.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

    def lower(program, *arguments):
      # The next one is traced while this one compiles.
      return pool.submit(program.lower(*arguments).compile)

    started = lower_programs(
      config,
      decoder,
      mesh,
      state,
      optimizers,
      lower,
      stop_ids=stop_ids,
      pad_id=pad_id,
      evaluation=evaluation,
    )
    if 'rl' in optimizers:
      started |= _lower_useful(config, mesh, lower)
      started |= _lower_cut(config, mesh, lower)
    compiled = {key: program.result() for key, program in started.items()}
  return Programs(
    sample=_samplers(compiled, 'sample'),
    evaluate=_samplers(compiled, 'evaluate'),
    prepare=_under(compiled, 'prepare'),
    cut=_under(compiled, 'cut'),
    update={phase: _under(compiled, 'update', phase) for phase in optimizers},
    useful={
      shape: functools.partial(_on_one_device, program)
      for shape, program in _under(compiled, 'useful').items()
    },
    init=_under(compiled, 'init'),
    reference=compiled.get(('reference',)),
  )


def _lower(program: Any, *arguments: Any) -> jax.stages.Lowered:
  return program.lower(*arguments)


def lower_programs(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  mesh: jax.sharding.Mesh,
  state: train_step.TrainState,
  optimizers: Mapping[str, optax.GradientTransformation],
  lower: Callable[..., Any] = _lower,
  *,
  stop_ids: tuple[int, ...] = (),
  pad_id: int = 0,
  evaluation: bool = True,
) -> dict[tuple[Any, ...], Any]:
  """What `compile_programs` compiles, by field of `Programs` and key in it.

  `lower` makes a value of a program and its arguments.
  """
  devices, shapes = sharding.parts(mesh), shapes_lib.Shapes(config, mesh)
  state, params = shapes.like(state), shapes.like(state.params)
  prompts, responses = config.data.prompt_buckets, config.data.response_buckets
  pairs = [(s, r) for s in prompts for r in responses]
  lowered: dict[tuple[Any, ...], Any] = {}
  lower_sampler = functools.partial(
    _lower_sampler, config, decoder, lower, stop_ids=stop_ids, pad_id=pad_id
  )
  for s in prompts if evaluation else ():
    rows = config.run.eval_batch // devices
    arguments = shapes.sampler(rows, s, 1)
    lowered |= lower_sampler(
      ('evaluate', s),
      mesh,
      params,
      arguments,
      temperature=config.run.eval_temperature,
    )
  if 'rl' in optimizers:
    preparer = make_preparer(config, decoder, mesh)
    rows, samples = config.rl.prompts_per_step // devices, config.rl.samples
    referred = algorithm.has_reference(config)
    references = (lora.split(params)[0],) if referred else ()
    if references:
      lowered['reference',] = lower(make_reference(mesh), params)
    there = sharding.rollout_mesh(config.devices) or mesh
    their = shapes_lib.Shapes(config, there)
    share = config.rl.prompts_per_step // sharding.parts(there)
    for s in prompts:
      lowered |= lower_sampler(
        ('sample', s),
        there,
        their.like(params),
        their.sampler(config.rl.rollout_micro or share, s, samples),
        temperature=config.rl.temperature,
        refill=config.rl.slots > 0,
      )
    for s, r in pairs:
      rollout = shapes.rollout(rows, s, samples, r)
      lowered['prepare', s, r] = lower(preparer, params, rollout, *references)
  for phase, tx in optimizers.items():
    update = make_update(config, decoder, mesh, phase, tx)
    lowered['init', phase] = lower(make_init(mesh, tx), params)
    for s, r in pairs:
      batch = shapes.batch(phase, s, r)
      lowered['update', phase, s, r] = lower(update, state, batch)
  return lowered


def _lower_useful(
  config: config_lib.Config, mesh: jax.sharding.Mesh, lower: Callable[..., Any]
) -> dict[tuple[Any, ...], Any]:
  """What finds useful groups, of one device; none for one round of sampling."""
  if config.selection.sampling_rounds == 1:
    return {}
  shapes, rl = shapes_lib.Shapes(config, mesh), config.rl
  program = jax.jit(from_flags.make_useful(config))
  rows = rl.prompts_per_step // sharding.parts(mesh)
  return {
    ('useful', s, r): lower(
      program, shapes.on_host(shapes.rollout(rows, s, rl.samples, r))
    )
    for s in config.data.prompt_buckets
    for r in config.data.response_buckets
  }


def _lower_cut(
  config: config_lib.Config, mesh: jax.sharding.Mesh, lower: Callable[..., Any]
) -> dict[tuple[Any, ...], Any]:
  """What cuts prepared batches into mini-batches; none where these are packed.

  Each device cuts what it holds, so that nothing moves.
  """
  if config.model.pack_tokens:
    return {}
  shapes, rl = shapes_lib.Shapes(config, mesh), config.rl
  program = jax.jit(
    functools.partial(sharding.cut, minibatches=rl.minibatches, micro=rl.micro),
    out_shardings=shapes.where_split,
  )
  return {
    ('cut', s, r): lower(program, shapes.prepared(s, r))
    for s in config.data.prompt_buckets
    for r in config.data.response_buckets
  }


def _lower_sampler(
  config, decoder, lower, key, mesh, params, arguments, *, refill=False, **bound
) -> dict[Any, Any]:
  """By key the sampler, or by (key, number) the programs of several turns."""
  if config.environment.environment == registry.NONE:
    sampler = make_sampler(config, decoder, mesh, refill=refill, **bound)
    return {key: lower(sampler, params, *arguments)}
  parts: Iterable[Any] = multi_turn.lower(
    config, decoder, mesh, params, lower, arguments, **bound
  )
  return {(*key, number): part for number, part in enumerate(parts)}


def _samplers(compiled: Mapping[Any, Any], kind: str) -> dict[int, Any]:
  """By prompt length: the program, or the two of several turns."""
  found = _under(compiled, kind)
  single = {key: x for key, x in found.items() if isinstance(key, int)}
  turns = {
    key[0]: multi_turn.TurnPrograms(begin, found[key[0], 1])
    for key, begin in found.items()
    if key not in single and key[1] == 0
  }
  return single | turns


def _under(compiled: Mapping[Any, Any], *prefix: str) -> dict[Any, Any]:
  """Entries whose key starts with `prefix`, by the rest of the key."""
  rest = {
    key[len(prefix) :]: value
    for key, value in compiled.items()
    if key[: len(prefix)] == prefix
  }
  return {key[0] if len(key) == 1 else key: v for key, v in rest.items()}


def _on_one_device(program: Callable[..., Any], tree: Any) -> Any:
  """Calls a program of one device with NumPy arrays; gives NumPy arrays."""
  return jax.device_get(program(jax.device_put(tree)))


def make_init(
  mesh: jax.sharding.Mesh, tx: optax.GradientTransformation
) -> jax.stages.Wrapped:
  """(params) -> `train_step.TrainState`, on all devices.

  The parameters are donated: there is no time at which they are held twice.
  """

  def init(params: types.ArrayTree) -> train_step.TrainState:
    return sharding.constrain_state(train_step.init_state(params, tx), mesh)

  return jax.jit(init, donate_argnums=0)


def make_reference(mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
  """(params) -> a copy of what is trained of them, on all devices.

  With adapters the reference shares the base with the policy. Where they are
  new, they are the base: their product is 0.
  """

  def copy(params: types.ArrayTree) -> types.ArrayTree:
    trained, _ = lora.split(params)
    return sharding.constrain_state(jax.tree.map(jnp.copy, trained), mesh)

  return jax.jit(copy)


def make_sampler(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  mesh: jax.sharding.Mesh,
  *,
  temperature: float,
  stop_ids: tuple[int, ...] = (),
  pad_id: int = 0,
  refill: bool = False,
  limited: bool = False,
) -> jax.stages.Wrapped:
  """(params, prompts, sample ids, facts) -> completions, over all devices.

  With `refill` in `--slots` that take one answer after another; where it is
  `limited` a last argument says how many tokens each answer may have.
  """
  sample: Callable[..., types.Completions] = sampler_lib.sample
  if refill:
    sample = functools.partial(
      continuous_batching_lib.sample,
      slots=config.rl.slots,
      shared=config.rl.slots_shared,
      # Under `pmap` each device sees its own part alone.
      parts=sharding.parts(mesh) if sharding.is_sharded(mesh) else 1,
    )

  decoding = sampler_lib.Decoding(
    decoder, config.data.response_buckets[-1], stop_ids, pad_id, temperature
  )

  def run(params, prompts, sample_ids, facts, limits=None, *, axis_name):
    del axis_name  # Rows of different devices have nothing to say to another.
    key = sampler_lib.fact_key(facts)
    return sample(params, prompts, sample_ids, key, decoding, limits=limits)

  in_axes = (None, 0, 0, None, 0)[: 5 if limited else 4]
  return device_map.mapped(run, mesh, in_axes=in_axes, out_axes=0)


def make_preparer(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  mesh: jax.sharding.Mesh,
) -> jax.stages.Wrapped:
  """(params, rollout) -> `prepare.Prepared`, over all devices.

  With a KL term a third argument is what the reference does not share with the
  parameters.
  """
  axes: dict[str, Any] = {'batch': 0, 'trainer_logprobs': 0, 'groups': 0}
  axes['metrics'] = None
  referred = algorithm.has_reference(config)
  return device_map.mapped(
    from_flags.bound_prepare(
      config,
      decoder,
      # Under `pmap` each device sees its own part alone.
      parts=sharding.parts(mesh) if sharding.is_sharded(mesh) else 1,
    ),
    mesh,
    in_axes=(None, 0, None) if referred else (None, 0),
    out_axes=prepare_lib.Prepared(**axes),
  )


def make_update(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  mesh: jax.sharding.Mesh,
  phase: str,
  tx: optax.GradientTransformation,
) -> jax.stages.Wrapped:
  """(state, mini-batch) -> (state, metrics), over all devices."""
  objective = from_flags.make_objective(config, decoder, phase)
  run = functools.partial(
    train_step.train_step,
    **objective,
    tx=tx,
    constrain=functools.partial(sharding.constrain_state, mesh=mesh)
    if sharding.is_sharded(mesh)
    else collectives.identity,
  )
  return device_map.mapped(
    run, mesh, in_axes=(None, 0), out_axes=None, donate=(0,), rows_axis=1
  )
