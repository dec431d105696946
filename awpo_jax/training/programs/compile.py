"""The compiled programs of a run: every bucket, before the first step."""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from awpo_jax import types
from awpo_jax.config import algorithm
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import device_map, processes, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.ops import collectives
from awpo_jax.rollout.environments import registry
from awpo_jax.rollout.sampling import decode_loop
from awpo_jax.rollout.sampling import sampler as sampler_lib
from awpo_jax.training.programs import from_flags, multi_turn, options
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


@types.record
class Programs:
  """Compiled functions by the shapes they were compiled for; a tree of them.

  Attributes:
    sample: prompt length -> sampler of training rollouts.
    evaluate: prompt length -> sampler of evaluations, one answer a prompt.
    prepare: (prompt, response length) -> `prepare_rollout`.
    cut: (prompt, response length) -> `sharding.cut` of a prepared batch, where
      it lies; empty with a layout, of which the host makes mini-batches.
    update: phase -> (prompt, response length) -> `train_step`.
    useful: (prompt, response length) -> `from_flags.make_useful`, of one
      device; empty with one round of sampling, which asks for none.
    init: phase -> parameters to the state before its first update.
    reference: parameters to what the KL term keeps of them; None without one.
  """

  sample: Mapping[int, Callable[..., Any]]
  evaluate: Mapping[int, Callable[..., Any]]
  prepare: Mapping[tuple[int, int], Callable[..., Any]]
  cut: Mapping[tuple[int, int], Callable[..., Any]]
  update: Mapping[str, Mapping[tuple[int, int], Callable[..., Any]]]
  init: Mapping[str, Callable[..., Any]]
  reference: Callable[..., Any] | None
  useful: Mapping[tuple[int, int], Callable[..., Any]]


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
  wanted = lower_programs(
    config,
    decoder,
    mesh,
    state,
    optimizers,
    lambda program, *arguments: functools.partial(program.lower, *arguments),
    stop_ids=stop_ids,
    pad_id=pad_id,
    evaluation=evaluation,
  )
  tree = jax.tree.structure(wanted)
  return jax.tree.unflatten(tree, _compiled(by_name(wanted)).values())


def by_name(programs: Programs) -> dict[tuple[Any, ...], Any]:
  """The leaves by their names: `('update', 'rl', 192, 40)`, in tree order."""

  def parts(step: Any) -> tuple[Any, ...]:
    key = step.key if hasattr(step, 'key') else step.name
    return key if isinstance(key, tuple) else (key,)

  return {
    tuple(itertools.chain(*map(parts, path))): program
    for path, program in jax.tree.leaves_with_path(programs)
  }


def _compiled(
  wanted: Mapping[tuple[Any, ...], Callable[[], jax.stages.Lowered]],
) -> dict[tuple[Any, ...], jax.stages.Compiled]:
  """Programs compiled by several threads; says which are ready."""
  names = [' '.join(map(str, name)) for name in wanted]
  started: list[concurrent.futures.Future[jax.stages.Compiled]] = []

  def say() -> str:
    done = [program.done() for program in started]
    text = f'Compiling: {sum(done)} of {len(names)} programs are ready'
    for name, ready in itertools.zip_longest(names, done, fillvalue=False):
      if not ready:
        return f'{text}, now {name}'
    return text

  # More at once than cores would only take more memory.
  with (
    processes.working(say),
    concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    for lower in wanted.values():
      # The next one is traced while this one compiles.
      started.append(pool.submit(lower().compile))
    results = [program.result() for program in started]
  return dict(zip(wanted, results, strict=True))


def lower_programs(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  mesh: jax.sharding.Mesh,
  state: train_step.TrainState,
  optimizers: Mapping[str, optax.GradientTransformation],
  lower: Callable[..., Any],
  *,
  stop_ids: tuple[int, ...] = (),
  pad_id: int = 0,
  evaluation: bool = True,
) -> Programs:
  """The programs that `compile_programs` compiles, lowered but not compiled.

  `lower` is given a program and its arguments.
  """
  devices, shapes = sharding.parts(mesh), shapes_lib.Shapes(config, mesh)
  state, params = shapes.like(state), shapes.like(state.params)
  prompts, pairs = config.data.prompt_buckets, _pairs(config)

  def lower_sampler(arguments, **bound):
    bound |= {'stop_ids': stop_ids, 'pad_id': pad_id}
    return _lower_sampler(
      config, decoder, mesh, params, lower, arguments, **bound
    )

  evaluate, sample, prepare, reference = {}, {}, {}, None
  for s in prompts if evaluation else ():
    arguments = shapes.sampler(config.run.eval_batch // devices, s, 1)
    evaluate[s] = lower_sampler(
      arguments, temperature=config.run.eval_temperature
    )
  if 'rl' in optimizers:
    rows = config.rl.rollout_micro or config.rl.prompts_per_step // devices
    for s in prompts:
      sample[s] = lower_sampler(
        shapes.sampler(rows, s, config.rl.samples),
        temperature=config.rl.temperature,
        sample=options.rollout_sampler(config, mesh),
      )
    prepare = _lower_prepare(config, decoder, mesh, params, lower)
    if algorithm.has_reference(config):
      reference = lower(make_reference(mesh), params)
  update: dict[str, dict[Any, Any]] = {}
  init = {}
  for phase, tx in optimizers.items():
    init[phase] = lower(make_init(mesh, tx), params)
    step = make_update(config, decoder, mesh, phase, tx)
    update[phase] = {
      pair: lower(step, state, shapes.batch(phase, *pair)) for pair in pairs
    }
  return Programs(
    sample=sample,
    evaluate=evaluate,
    prepare=prepare,
    cut=_lower_cut(config, mesh, lower) if sample else {},
    update=update,
    init=init,
    reference=reference,
    useful=_lower_useful(config, mesh, lower) if sample else {},
  )


def _pairs(config: config_lib.Config) -> list[tuple[int, int]]:
  """Lengths of prompts with lengths of responses."""
  data = config.data
  return [(s, r) for s in data.prompt_buckets for r in data.response_buckets]


def _lower_prepare(
  config, decoder, mesh, params, lower
) -> dict[tuple[int, int], Any]:
  shapes, rl = shapes_lib.Shapes(config, mesh), config.rl
  program = make_preparer(config, decoder, mesh)
  rows = rl.prompts_per_step // sharding.parts(mesh)
  referred = algorithm.has_reference(config)
  references = (lora.split(params)[0],) if referred else ()
  return {
    (s, r): lower(
      program, params, shapes.rollout(rows, s, rl.samples, r), *references
    )
    for s, r in _pairs(config)
  }


def _lower_useful(config, mesh, lower) -> dict[tuple[int, int], Any]:
  """Programs that find useful groups; none with a single round of sampling."""
  if config.selection.sampling_rounds == 1:
    return {}
  shapes, rl = shapes_lib.Shapes(config, mesh), config.rl
  program = jax.jit(from_flags.make_useful(config))
  rows = rl.prompts_per_step // sharding.parts(mesh)
  return {
    (s, r): lower(
      program, shapes.on_host(shapes.rollout(rows, s, rl.samples, r))
    )
    for s, r in _pairs(config)
  }


def _lower_cut(config, mesh, lower) -> dict[tuple[int, int], Any]:
  """Programs that cut prepared batches; none where tokens are packed.

  Each device cuts what it holds, so that nothing moves.
  """
  if options.make_layout(config):
    return {}
  shapes, rl = shapes_lib.Shapes(config, mesh), config.rl
  program = jax.jit(
    functools.partial(sharding.cut, minibatches=rl.minibatches, micro=rl.micro),
    out_shardings=shapes.where_split,
  )
  return {
    pair: lower(program, shapes.prepared(*pair)) for pair in _pairs(config)
  }


def _lower_sampler(
  config,
  decoder,
  mesh,
  params,
  lower,
  arguments,
  *,
  sample=sampler_lib.sample,
  **bound,
) -> Any:
  """The sampler, or the two programs of several turns."""
  if config.environment.environment == registry.NONE:
    sampler = make_sampler(config, decoder, mesh, sample=sample, **bound)
    return lower(sampler, params, *arguments)
  return multi_turn.lower(
    config, decoder, mesh, params, lower, arguments, **bound
  )


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
  sample: Callable[..., types.Completions] = sampler_lib.sample,
  limited: bool = False,
) -> jax.stages.Wrapped:
  """(params, prompts, sample ids, facts) -> completions, over all devices.

  `sample` takes the arguments of `sampler.sample`; where it is `limited` a last
  argument says how many tokens each answer may have.
  """

  columns = config.data.response_buckets[-1]
  in_place = decode_loop.reads_in_place(mesh.devices.flat[0])
  decoding = sampler_lib.Decoding(
    decoder, columns, stop_ids, pad_id, temperature, in_place
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
      platform=mesh.devices.flat[0].platform,
      # Pmapped, each device sees its own part alone.
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
  """(state, mini-batch) -> (state, metrics), pmapped or over global arrays."""
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
