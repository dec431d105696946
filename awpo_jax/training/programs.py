"""The compiled programs of a run: every bucket, before the first step."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from awpo_jax import config_objective, types
from awpo_jax.models import lora
from awpo_jax.rollout import sampling
from awpo_jax.training import bind, prepare, sharding, train_step
from awpo_jax.training import experiment as experiment_lib
from awpo_jax.training import shapes as shapes_lib

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
    evaluate: prompt length -> greedy sampler, one answer a prompt.
    prepare: (prompt, response length) -> `prepare_rollout`.
    update: phase -> (prompt, response length) -> `train_step`.
    init: phase -> parameters to the state before its first update.
    reference: parameters to what the KL term keeps of them; None without one.
  """

  sample: Mapping[int, Callable[..., Any]]
  evaluate: Mapping[int, Callable[..., Any]]
  prepare: Mapping[tuple[int, int], Callable[..., Any]]
  update: Mapping[str, Mapping[tuple[int, int], Callable[..., Any]]]
  init: Mapping[str, Callable[..., Any]]
  reference: Callable[..., Any] | None


def compile_programs(
  experiment: experiment_lib.Experiment,
  mesh: jax.sharding.Mesh,
  state: train_step.TrainState,
  optimizers: Mapping[str, optax.GradientTransformation],
) -> Programs:
  """Compiles what the run will call, for every bucket, on all cores.

  Args:
    experiment: the run.
    mesh: of `sharding.data_mesh`.
    state: placed; only its shapes are used.
    optimizers: phase -> optimizer, for the phases the run has.
  """
  config, devices = experiment.config, mesh.devices.size
  shapes = shapes_lib.Shapes(config, mesh)
  state, params = shapes.like(state), shapes.like(state.params)
  prompts, responses = config.data.prompt_buckets, config.data.response_buckets
  pairs = [(s, r) for s in prompts for r in responses]
  lowered: dict[Any, jax.stages.Lowered] = {}
  greedy = make_sampler(experiment, mesh, temperature=0.0)
  for s in prompts:
    rows = config.run.eval_batch // devices
    lowered['evaluate', s] = greedy.lower(params, *shapes.sampler(rows, s, 1))
  if 'rl' in optimizers:
    sampler = make_sampler(experiment, mesh, temperature=config.rl.temperature)
    preparer = make_preparer(experiment, mesh)
    rows, samples = config.rl.prompts_per_step // devices, config.rl.samples
    referred = config_objective.has_reference(config)
    references = (lora.split(params)[0],) if referred else ()
    if references:
      lowered['reference',] = make_reference(mesh).lower(params)
    for s in prompts:
      arguments = shapes.sampler(rows, s, samples)
      lowered['sample', s] = sampler.lower(params, *arguments)
    for s, r in pairs:
      rollout = shapes.rollout(rows, s, samples, r)
      lowered['prepare', s, r] = preparer.lower(params, rollout, *references)
  for phase, tx in optimizers.items():
    update = make_update(experiment, mesh, phase, tx)
    lowered['init', phase] = make_init(mesh, tx).lower(params)
    for s, r in pairs:
      batch = shapes.batch(phase, s, r)
      lowered['update', phase, s, r] = update.lower(state, batch)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    compiled = dict(
      zip(
        lowered,
        pool.map(jax.stages.Lowered.compile, lowered.values()),
        strict=True,
      )
    )
  return Programs(
    sample=_under(compiled, 'sample'),
    evaluate=_under(compiled, 'evaluate'),
    prepare=_under(compiled, 'prepare'),
    update={phase: _under(compiled, 'update', phase) for phase in optimizers},
    init=_under(compiled, 'init'),
    reference=compiled.get(('reference',)),
  )


def _under(compiled: Mapping[Any, Any], *prefix: str) -> dict[Any, Any]:
  """Entries whose key starts with `prefix`, by the rest of the key."""
  rest = {
    key[len(prefix) :]: value
    for key, value in compiled.items()
    if key[: len(prefix)] == prefix
  }
  return {key[0] if len(key) == 1 else key: v for key, v in rest.items()}


def make_init(
  mesh: jax.sharding.Mesh, tx: optax.GradientTransformation
) -> jax.stages.Wrapped:
  """(params) -> `train_step.TrainState`, on all devices."""
  return jax.jit(
    functools.partial(train_step.init_state, tx=tx),
    out_shardings=sharding.replicated(mesh),
  )


def make_reference(mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
  """(params) -> a copy of what is trained of them, on all devices.

  With adapters the reference shares the base with the policy. Where they are
  new, they are the base: their product is 0.
  """

  def copy(params: types.ArrayTree) -> types.ArrayTree:
    return jax.tree.map(jnp.copy, lora.split(params)[0])

  return jax.jit(copy, out_shardings=sharding.replicated(mesh))


def make_sampler(
  experiment: experiment_lib.Experiment,
  mesh: jax.sharding.Mesh,
  *,
  temperature: float,
) -> jax.stages.Wrapped:
  """(params, prompts, sample ids, facts) -> completions, over all devices."""
  config = experiment.config

  def run(params, prompts, sample_ids, facts, *, axis_name):
    del axis_name  # Rows of different devices have nothing to say to another.
    return sampling.sample(
      params,
      prompts,
      sample_ids,
      sampling.fact_key(facts),
      decoder=experiment.decoder,
      max_tokens=config.data.response_buckets[-1],
      stop_ids=experiment.stop_ids,
      pad_id=experiment.pad_id,
      temperature=temperature,
    )

  return sharding.pmapped(run, mesh, in_axes=(None, 0, 0, None), out_axes=0)


def make_preparer(
  experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh
) -> jax.stages.Wrapped:
  """(params, rollout) -> `prepare.Prepared`, over all devices.

  With a KL term a third argument is what the reference does not share with the
  parameters.
  """
  axes: dict[str, Any] = {'batch': 0, 'trainer_logprobs': 0, 'metrics': None}
  referred = config_objective.has_reference(experiment.config)
  return sharding.pmapped(
    bind.bound_prepare(experiment.config, experiment.decoder),
    mesh,
    in_axes=(None, 0, None) if referred else (None, 0),
    out_axes=prepare.Prepared(**axes),
  )


def make_update(
  experiment: experiment_lib.Experiment,
  mesh: jax.sharding.Mesh,
  phase: str,
  tx: optax.GradientTransformation,
) -> jax.stages.Wrapped:
  """(state, mini-batch) -> (state, metrics), over all devices."""
  objective: dict[str, Any] = bind.make_objective(
    experiment.config, experiment.decoder, phase
  )
  run = functools.partial(train_step.train_step, **objective, tx=tx)
  return sharding.pmapped(
    run, mesh, in_axes=(None, 0), out_axes=None, donate=(0,)
  )


def check_devices(config: Any, devices: int) -> Iterable[str]:
  """What does not divide over the devices, as text with the remedy."""
  unit = devices * config.rl.micro * config.rl.minibatches
  if config.run.rl_steps and config.rl.prompts_per_step % unit:
    yield (
      f'--prompts_per_step={config.rl.prompts_per_step} does not divide over '
      f'{devices} devices x --minibatches={config.rl.minibatches} x '
      f'--micro={config.rl.micro}.'
    )
  unit = devices * config.sft.sft_micro
  if config.run.sft_steps and config.sft.sft_batch % unit:
    yield (
      f'--sft_batch={config.sft.sft_batch} does not divide over {devices} '
      f'devices x --sft_micro={config.sft.sft_micro}.'
    )
  if config.run.eval_batch % devices:
    yield (
      f'--eval_batch={config.run.eval_batch} does not divide over {devices} '
      'devices.'
    )
