"""The programs that `gpu.py` times, and what it says of them."""

import concurrent.futures
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import counts
import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.checkpointing import initial_params
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import attention_kernels, lora
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import sampler
from awpo_jax.training.dry_run import memory
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import shapes as shapes_lib
from awpo_jax.training.update import optimizer

_GIB = 2**30


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
  """Of each of `repeats` calls, waiting for what they return."""
  times = []
  for _ in range(repeats):
    begun = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - begun)
  return times


def peaks(config: config_lib.Config) -> dict[str, Any]:
  """The best rates of a product in --dtype and of reading and writing."""
  accelerated = jax.devices()[0].platform != 'cpu'
  size, count = (8192, 2**28) if accelerated else (512, 2**20)
  x = jax.random.normal(jax.random.key(0), (size, size), config.model.dtype)
  product, add = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)
  y = jnp.zeros(count, jnp.float32)
  jax.block_until_ready((product(x), add(y)))
  return {
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
    'matmul_tflops': 2e-12 * size**3 / min(seconds(lambda: product(x), 20)),
    'bandwidth_gb_per_second': 2e-9
    * y.nbytes
    / min(seconds(lambda: add(y), 20)),
  }


class Bench:
  """Sampler, preparation and update of one size on one device."""

  def __init__(self, config: config_lib.Config, peaks: dict[str, Any]) -> None:
    initial_params.use_compilation_cache(config.run.compilation_cache)
    self.config = config
    self.mesh = sharding.data_mesh(jax.devices()[:1])
    # No token ends an answer.
    self.plan = memory.make_plan(config)
    self.model = self.plan.decoder.config
    kernel, platform = self.model.attention, jax.devices()[0].platform
    problems = list(attention_kernels.misfits(kernel, self.model, platform))
    if problems:
      raise flags_lib.ConfigError('\n'.join(problems))
    self.peaks = peaks
    self.tx = optimizer.make_optimizers(config)['rl']
    begun = time.perf_counter()
    self.programs = self._compile(self.plan, ('sample', 'prepare', 'update'))
    self.compile_seconds = time.perf_counter() - begun
    params = decoder_lib.init_params(self.model, jax.random.key(0))
    self.state = compile_lib.make_init(self.mesh, self.tx)(
      sharding.place_state(params, self.mesh)
    )
    self.seconds: dict[str, float] = {}
    self.index = 0
    self.batches: list[types.Batch] = []

  def _compile(self, plan, names) -> dict[str, jax.stages.Compiled]:
    rl, shapes = self.config.rl, shapes_lib.Shapes(self.config, self.mesh)
    prompt, response = self.lengths()
    state = shapes.like(memory.state_shapes(plan, 'rl'))
    wave = rl.rollout_micro or rl.prompts_per_step
    lowered = {
      'sample': lambda: compile_lib.make_sampler(
        plan.config, plan.decoder, self.mesh, temperature=rl.temperature
      ).lower(state.params, *shapes.sampler(wave, prompt, rl.samples)),
      'prepare': lambda: compile_lib.make_preparer(
        plan.config, plan.decoder, self.mesh
      ).lower(
        state.params,
        shapes.rollout(rl.prompts_per_step, prompt, rl.samples, response),
      ),
      'update': lambda: compile_lib.make_update(
        plan.config, plan.decoder, self.mesh, 'rl', self.tx
      ).lower(state, shapes.batch('rl', prompt, response)),
    }
    made = {name: lowered[name]() for name in names}
    with concurrent.futures.ThreadPoolExecutor() as pool:
      return dict(
        zip(made, pool.map(lambda x: x.compile(), made.values()), strict=True)
      )

  def lengths(self) -> tuple[int, int]:
    data = self.config.data
    return data.prompt_buckets[-1], data.response_buckets[-1]

  def compiled(self) -> dict[str, Any]:
    """Seconds, kernel, dtypes, and what each program needs of the memory."""
    trained, _ = lora.split(self.state.params)
    sizes = {
      name: program.memory_analysis() for name, program in self.programs.items()
    }
    return {
      'compile_seconds': self.compile_seconds,
      'attention': self.model.attention,
      'dtype': self.config.model.dtype,
      'param_dtype': self.config.model.param_dtype,
      'trained_parameters': sum(x.size for x in jax.tree.leaves(trained)),
      'temporary_gib': {
        k: x.temp_size_in_bytes / _GIB for k, x in sizes.items()
      },
      # The update writes the new state where the old one was.
      'update_donated_gib': sizes['update'].alias_size_in_bytes / _GIB,
      'update_argument_gib': sizes['update'].argument_size_in_bytes / _GIB,
    }

  def _prompts(self, count: int) -> types.Prompts:
    shape = count, self.lengths()[0]
    rng = np.random.default_rng(self.index)
    return types.Prompts(
      tokens=rng.integers(0, self.model.vocab_size, shape, np.int32),
      mask=np.ones(shape, bool),
      ids=np.arange(count, dtype=np.int32),
    )

  def sample(self) -> types.Completions:
    """One wave, fetched to the host as its scoring needs it."""
    rl = self.config.rl
    wave = rl.rollout_micro or rl.prompts_per_step
    self.index += 1
    ids = np.arange(wave * rl.samples, dtype=np.int32).reshape(wave, -1)
    facts = sampler.facts(0, 'train', self.index, 0)
    completions = self.programs['sample'](
      self.state.params,
      *sharding.place_split(
        sharding.split((self._prompts(wave), ids), 1), self.mesh
      ),
      sharding.place_replicated(facts, self.mesh),
    )
    return sharding.merge(sharding.fetch_split(completions))

  def sampled(self, repeats: int) -> dict[str, Any]:
    """A wave's tokens a second, and the share of the bandwidth's bound.

    The bound reads weights in the compute dtype and the cache in use once a
    token; reading the prompts is in the time.
    """
    self.sample()
    times = seconds(self.sample, repeats)
    self.seconds['sample'] = statistics.median(times)
    prompt, response = self.lengths()
    rl = self.config.rl
    wave = rl.rollout_micro or rl.prompts_per_step
    read = response * counts.decode_bytes(
      dataclasses.replace(self.model, param_dtype=self.model.dtype),
      rows=wave * rl.samples,
      prompts=wave,
      prompt=prompt,
      own=response / 2,
    )
    band = 1e9 * self.peaks['bandwidth_gb_per_second']
    took = self.seconds['sample']
    return {
      'seconds': times,
      'rows': wave * rl.samples,
      'tokens_per_second': wave * rl.samples * response / took,
      'bound_seconds': read / band,
      'share_of_bandwidth': read / band / took,
    }

  def _rollout(self, waves: list[types.Completions]) -> types.Rollout:
    """Scored at random; a wave may stand for several."""
    rl = self.config.rl
    group = rl.prompts_per_step, rl.samples
    copies = rl.prompts_per_step // sum(x.tokens.shape[0] for x in waves)
    rng = np.random.default_rng(self.index)
    return types.Rollout(
      prompts=self._prompts(rl.prompts_per_step),
      completions=jax.tree.map(
        lambda *x: np.concatenate(x * copies, axis=0), *waves
      ),
      rewards=types.Rewards(
        outcome=rng.integers(-3, 5, group).astype(np.float32),
        outcome_valid=np.ones(group, bool),
        reasoning=rng.random(group, np.float32),
        reasoning_valid=np.ones(group, bool),
        outcome_min=np.full(group[0], -3, np.float32),
        outcome_max=np.full(group[0], 4, np.float32),
        wants_call=np.ones(group[0], bool),
      ),
      sample_ids=np.arange(np.prod(group), dtype=np.int32).reshape(group),
    )

  def prepare(self, rollout: types.Rollout) -> list[types.Batch]:
    """Mini-batches of the rollout, on the device."""
    rl = self.config.rl
    prepared = self.programs['prepare'](
      self.state.params,
      sharding.place_split(sharding.split(rollout, 1), self.mesh),
    )
    batch = sharding.fetch_split(prepared.batch)
    return [
      sharding.place_split(part, self.mesh)
      for part in sharding.cut(
        batch, minibatches=rl.minibatches, micro=rl.micro
      )
    ]

  def prepared(self) -> dict[str, Any]:
    """Reads a rollout batch of random answers, twice."""
    rl, (_, response) = self.config.rl, self.lengths()
    shape = rl.prompts_per_step, rl.samples, response
    rng = np.random.default_rng(0)
    positions = self.lengths()[0] + np.arange(response, dtype=np.int32)
    rollout = self._rollout(
      [
        types.Completions(
          tokens=rng.integers(0, self.model.vocab_size, shape, np.int32),
          mask=np.ones(shape, bool),
          policy_mask=np.ones(shape, bool),
          positions=np.broadcast_to(positions, shape).copy(),
          turn=np.zeros(shape, np.int32),
          logprobs=np.zeros(shape, np.float32),
          entropy=np.zeros(shape, np.float32),
          finished=np.ones(shape[:2], bool),
        )
      ]
    )

    def call() -> list[types.Batch]:
      self.batches = self.prepare(rollout)
      return self.batches

    first, again = seconds(call, 2)
    self.seconds['prepare'] = again
    return {'seconds': [first, again], **self._share(again, 1, rl.minibatches)}

  def update(self, batches: list[types.Batch], program: Any = None) -> None:
    """An update on each mini-batch; waits for the last."""
    program = program or self.programs['update']
    for batch in batches:
      self.state, metrics = program(self.state, batch)
    assert bool(jax.block_until_ready(metrics.finite))

  def updated(self, repeats: int, program: Any = None) -> dict[str, Any]:
    """An update on one mini-batch: seconds and share of the matmul peak."""

    def call() -> None:
      self.update(self.batches[:1], program)

    call()
    times = seconds(call, repeats)
    took = statistics.median(times)
    if program is None:
      self.seconds['update'] = took
    backward = 2 if self.model.lora is None else 1
    return {'seconds': times, **self._share(took, 1 + backward, 1)}

  def _share(self, took, passes, minibatches) -> dict[str, Any]:
    """Of the peak: products once, causal ones at half, nothing twice."""
    rl, (prompt, response) = self.config.rl, self.lengths()
    work = passes * counts.forward(
      self.model,
      prompts=minibatches * rl.prompts_per_step // rl.minibatches,
      samples=rl.samples,
      prompt=prompt,
      response=response,
      causal=True,
    )
    rate = 1e12 * self.peaks['matmul_tflops']
    return {'tflop': work / 1e12, 'share_of_matmul': work / rate / took}

  def expected(self) -> float:
    """Seconds of an iteration by those of its parts."""
    rl, took = self.config.rl, self.seconds
    waves = rl.prompts_per_step // (rl.rollout_micro or rl.prompts_per_step)
    return (
      waves * took['sample'] + took['prepare'] + rl.minibatches * took['update']
    )

  def iterated(self) -> dict[str, Any]:
    """A rollout in waves, what is prepared of it, and its updates."""
    rl, (_, response) = self.config.rl, self.lengths()
    waves = rl.prompts_per_step // (rl.rollout_micro or rl.prompts_per_step)
    begun = time.perf_counter()
    rollout = self._rollout([self.sample() for _ in range(waves)])
    sampled = time.perf_counter()
    batches = self.prepare(rollout)
    prepared = time.perf_counter()
    self.update(batches)
    ended = time.perf_counter()
    stats = jax.devices()[0].memory_stats() or {}
    return {
      'seconds': ended - begun,
      'sample_seconds': sampled - begun,
      'prepare_seconds': prepared - sampled,
      'update_seconds': ended - prepared,
      'tokens': rl.prompts_per_step * rl.samples * response,
      'peak_gib': stats.get('peak_bytes_in_use', 0) / _GIB,
    }

  def with_attention(self, kernel: str, repeats: int) -> dict[str, Any]:
    """The update again with another kernel."""
    model = dataclasses.replace(self.model, attention=kernel)
    plan = dataclasses.replace(self.plan, decoder=decoder_lib.Decoder(model))
    program = self._compile(plan, ('update',))['update']
    return {'attention': kernel, **self.updated(repeats, program)}
