"""The programs that `gpu.py` measures, and what it says of them."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import counts
import jax
import jax.numpy as jnp
import numpy as np

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

Figures = dict[str, Any]
_GIB = 2**30
_ROUNDS = 3
# Products whose peak is measured: dtype and precision by the figure's name.
# `DEFAULT` of float32 is what a run computes: TF32 on Nvidia's GPUs since
# Ampere, float32 on a CPU. `HIGHEST` is float32 everywhere.
_PRODUCTS = {
  'bfloat16': (jnp.bfloat16, jax.lax.Precision.DEFAULT),
  'float32_default_precision': (jnp.float32, jax.lax.Precision.DEFAULT),
  'float32_highest_precision': (jnp.float32, jax.lax.Precision.HIGHEST),
}
_CACHE_HIT = '/jax/compilation_cache/cache_hits'


def seconds(
  call: Callable[[], Any], *, queued: int = 1, rounds: int = _ROUNDS
) -> list[float]:
  """Seconds of a call in each round: the mean of `queued` calls.

  The host asks for all calls of a round and waits once, for the last of them.
  """
  times = []
  for _ in range(rounds):
    begun = time.perf_counter()
    for _ in range(queued):
      result = call()
    jax.block_until_ready(result)
    times.append((time.perf_counter() - begun) / queued)
  return times


def peaks(*, size: int, elements: int, queued: int) -> Iterator[Figures]:
  """The best rates of the device, each in its own figure.

  Args:
    size: rows and columns of the matrices that are multiplied.
    elements: float32 numbers that are read and written.
    queued: calls that are asked for at once.

  Yields:
    TFLOP/s of the products, then GB/s of an addition, which reads and writes.
  """
  for name, (dtype, precision) in _PRODUCTS.items():
    # Random: a product of zeros takes less power, and is faster.
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    product = jax.jit(functools.partial(jnp.matmul, precision=precision))
    jax.block_until_ready(product(a, b))
    best = min(seconds(functools.partial(product, a, b), queued=queued))
    yield {f'{name}_tflops': 2e-12 * size**3 / best}
  # In place, as many calls are under way.
  add = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = add(jnp.zeros(elements, jnp.float32))

  def call() -> jax.Array:
    nonlocal x
    x = add(x)
    return x

  call()
  best = min(seconds(call, queued=queued))
  yield {'bandwidth_gb_per_second': 2e-9 * x.nbytes / best}


class Bench:
  """Sampler, preparation and update of one size on one device.

  Attributes:
    platform: of the device.
  """

  def __init__(self, config: config_lib.Config) -> None:
    """Works out the model.

    Raises:
      ConfigError: the model is not there, or the device has no such kernel.
    """
    initial_params.use_compilation_cache(config.run.compilation_cache)
    self._config, self._peaks = config, dict[str, float]()
    self._device = jax.devices()[0]
    self.platform = self._device.platform
    self._mesh = sharding.data_mesh([self._device])
    self._shapes = shapes_lib.Shapes(config, self._mesh)
    try:
      self._plan = memory.make_plan(config)
    except (OSError, ValueError) as error:
      raise flags_lib.ConfigError(str(error)) from error
    self._model = self._plan.decoder.config
    problems = attention_kernels.model_misfits(self._model, self.platform)
    if text := '\n'.join(problems):
      raise flags_lib.ConfigError(text)
    self._tx = optimizer.make_optimizers(config)['rl']
    self._hits, self._state = 0, None
    jax.monitoring.register_event_listener(self._count_hit)

  def _count_hit(self, event: str, **_: Any) -> None:
    self._hits += event == _CACHE_HIT

  def setting(self) -> Iterator[Figures]:
    """What is measured, where, and in which precision."""
    precision = jax.config.jax_default_matmul_precision
    yield {
      'device': self._device.device_kind,
      'platform': self._device.client.platform_version,
      'jax': jax.__version__,
      'attention': self._model.attention,
      'decode_attention': self._model.decode_attention,
      'dtype': self._config.model.dtype,
      'param_dtype': self._config.model.param_dtype,
      'matmul_precision': precision or 'default (float32: TF32 on Nvidia GPUs)',
    }

  def measure_peaks(self) -> Iterator[Figures]:
    """See `peaks`; a CPU is given less to do."""
    small = {'size': 512, 'elements': 2**25, 'queued': 20}
    large = {'size': 8192, 'elements': 2**28, 'queued': 50}
    for figures in peaks(**(small if self.platform == 'cpu' else large)):
      self._peaks |= figures
      yield figures

  def make_state(self) -> Iterator[Figures]:
    """Random parameters, and the optimizer's state, which lies beside them."""
    begun = time.perf_counter()
    init = compile_lib.make_init(self._mesh, self._tx)
    params = decoder_lib.init_params(self._model, jax.random.key(0))
    self._state = init(sharding.place_state(params, self._mesh))
    jax.block_until_ready(self._state)
    trained, _ = lora.split(self._state.params)
    yield {
      'seconds': time.perf_counter() - begun,
      'parameters': sum(x.size for x in jax.tree.leaves(self._state.params)),
      'trained_parameters': sum(x.size for x in jax.tree.leaves(trained)),
      **self._used(),
    }

  def sampled(self) -> Iterator[Figures]:
    """A wave of answers, fetched to the host as their scoring needs them.

    The bound reads the weights in the compute dtype and the part of the cache
    that is in use once a token; reading the prompts is in the time.
    """
    return self._sampled(self._plan.decoder)

  def sampled_by_kernel(self) -> Iterator[Figures]:
    """The same, a library's kernel reading the cache: cuDNN's on its GPUs.

    Raises:
      ValueError: the model is none for it.
    """
    kernel = 'cudnn' if self.platform in ('gpu', 'cuda') else 'xla'
    yield {'decode_attention': kernel}
    model = dataclasses.replace(self._model, decode_attention=kernel)
    problems = attention_kernels.model_misfits(model, self.platform)
    if text := '\n'.join(problems):
      raise ValueError(text)
    yield from self._sampled(decoder_lib.Decoder(model))

  def _sampled(self, decoder: decoder_lib.Decoder) -> Iterator[Figures]:
    rl, (prompt, response) = self._config.rl, self._lengths()
    prompts = rl.rollout_micro or rl.prompts_per_step
    rows = prompts * rl.samples
    like = self._shapes.sampler(prompts, prompt, rl.samples)
    make = compile_lib.make_sampler(
      self._config, decoder, self._mesh, temperature=rl.temperature
    )
    program = yield from self._compiled(make, self._like().params, *like)
    inputs = self._filled(like[:2])
    steps = iter(range(1 + _ROUNDS))

    def call() -> Any:
      facts = sampler.facts(0, 'train', next(steps), 0)
      facts = sharding.place_replicated(facts, self._mesh)
      made = program(self._state.params, *inputs, facts)
      return sharding.fetch_split(made)

    call()
    times = seconds(call)
    took = statistics.median(times)
    read = response * counts.decode_bytes(
      dataclasses.replace(self._model, param_dtype=self._model.dtype),
      rows=rows,
      prompts=prompts,
      prompt=prompt,
      own=response / 2,
    )
    yield {
      'seconds': times,
      'rows': rows,
      'tokens_per_second': rows * response / took,
      'gb_per_token': 1e-9 * read / response,
      **self._share('bandwidth', 'gb_per_second', 1e-9 * read, took),
      **self._used(),
    }

  def prepared(self) -> Iterator[Figures]:
    """The trainer's log-probabilities and the advantages of a rollout batch."""
    rl, lengths = self._config.rl, self._lengths()
    like = self._shapes.rollout(
      rl.prompts_per_step, lengths[0], rl.samples, lengths[1]
    )
    make = compile_lib.make_preparer(
      self._config, self._plan.decoder, self._mesh
    )
    program = yield from self._compiled(make, self._like().params, like)
    rollout = self._rollout(like)

    def call() -> Any:
      return program(self._state.params, rollout)

    jax.block_until_ready(call())
    times = seconds(call)
    yield {'seconds': times, **self._work(times, 1, rl.prompts_per_step)}

  def updated(self) -> Iterator[Figures]:
    """Updates on one mini-batch, two queued.

    Raises:
      ArithmeticError: one of them was not finite.
    """
    rl, like = self._config.rl, self._shapes.batch('rl', *self._lengths())
    make = compile_lib.make_update(
      self._config, self._plan.decoder, self._mesh, 'rl', self._tx
    )
    program = yield from self._compiled(make, self._like(), like)
    batch, finite = self._batch(like), []

    def call() -> Any:
      self._state, metrics = program(self._state, batch)
      finite.append(metrics.finite)
      return metrics

    jax.block_until_ready(call())
    times = seconds(call, queued=2)
    if not all(map(bool, finite)):
      raise ArithmeticError('An update was not finite.')
    # A base that is held has no gradient of its own.
    passes = 3 if self._model.lora is None else 2
    prompts = rl.prompts_per_step // rl.minibatches
    yield {'seconds': times, **self._work(times, passes, prompts)}

  def _compiled(
    self, program: jax.stages.Wrapped, *arguments: Any
  ) -> Generator[Figures, None, Any]:
    """Yields seconds and memory of a compilation; returns what is compiled."""
    begun, hits = time.perf_counter(), self._hits
    lowered = program.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    size: Any = compiled.memory_analysis()
    yield {
      'trace_seconds': traced - begun,
      'compile_seconds': ended - traced,
      'from_compilation_cache': self._hits > hits,
      'argument_gib': size.argument_size_in_bytes / _GIB,
      'temporary_gib': size.temp_size_in_bytes / _GIB,
      # The update writes the new state where the old one was.
      'donated_gib': size.alias_size_in_bytes / _GIB,
    }
    return compiled

  def _like(self) -> Any:
    return self._shapes.like(memory.state_shapes(self._plan, 'rl'))

  def _lengths(self) -> tuple[int, int]:
    data = self._config.data
    return data.prompt_buckets[-1], data.response_buckets[-1]

  def _work(self, times: list[float], passes: int, prompts: int) -> Figures:
    """Operations of all groups, and the share of the peak of products.

    Products once, causal ones at half, nothing that is computed a second time.
    """
    samples, (prompt, response) = self._config.rl.samples, self._lengths()
    work = passes * counts.forward(
      self._model,
      prompts=prompts,
      samples=samples,
      prompt=prompt,
      response=response,
      causal=True,
    )
    took = statistics.median(times)
    return {
      'tflop': 1e-12 * work,
      'tokens_per_second': prompts * (prompt + samples * response) / took,
      **self._share('bfloat16', 'tflops', 1e-12 * work, took),
      **self._used(),
    }

  def _share(self, peak: str, unit: str, work: float, took: float) -> Figures:
    """The bound by a measured peak; nothing where that was not measured."""
    rate = self._peaks.get(f'{peak}_{unit}')
    if rate is None:
      return {}
    return {
      'bound_seconds': work / rate,
      f'share_of_{peak}_peak': work / rate / took,
    }

  def _used(self) -> Figures:
    """The most memory in use so far; nothing where the device does not say."""
    used = (self._device.memory_stats() or {}).get('peak_bytes_in_use')
    return {} if used is None else {'peak_gib_until_now': used / _GIB}

  def _filled(self, like: Any) -> Any:
    """Random tokens, all of them real; zeros in place of other numbers."""
    rng = np.random.default_rng(0)

    def fill(x: Any) -> jax.Array:
      if np.issubdtype(x.dtype, np.integer):
        made = rng.integers(0, self._model.vocab_size, x.shape, x.dtype)
      else:
        made = np.full(x.shape, x.dtype == bool, x.dtype)
      return jax.device_put(made, x.sharding)

    return jax.tree.map(fill, like)

  def _positions(self, like: Any) -> jax.Array:
    """Those of answers, behind the prompts."""
    prompt, response = self._lengths()
    where = prompt + np.arange(response, dtype=np.int32)
    made = np.broadcast_to(where, like.shape)
    return jax.device_put(made, like.sharding)

  def _rollout(self, like: Any) -> Any:
    """A rollout batch whose answers have rewards from -3 to 4."""
    rollout, rng = self._filled(like), np.random.default_rng(1)
    outcome = rng.integers(-3, 5, like.rewards.outcome.shape)
    put = jax.device_put
    return dataclasses.replace(
      rollout,
      completions=dataclasses.replace(
        rollout.completions,
        positions=self._positions(like.completions.positions),
        turn=jnp.zeros_like(rollout.completions.turn),
      ),
      rewards=dataclasses.replace(
        rollout.rewards,
        outcome=put(outcome.astype(np.float32), like.rewards.outcome.sharding),
        outcome_min=rollout.rewards.outcome_min - 3,
        outcome_max=rollout.rewards.outcome_max + 4,
      ),
    )

  def _batch(self, like: Any) -> Any:
    """A mini-batch whose old policy gave every token the same probability."""
    batch, rng = self._filled(like), np.random.default_rng(1)
    advantages = rng.normal(size=like.advantages.shape).astype(np.float32)
    return dataclasses.replace(
      batch,
      positions=self._positions(like.positions),
      old_logprobs=batch.old_logprobs - np.log(self._model.vocab_size),
      advantages=jax.device_put(advantages, like.advantages.sharding),
      clip_radius=batch.clip_radius + 0.2,
    )
