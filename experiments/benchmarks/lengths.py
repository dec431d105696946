"""Measures sampling where answers are as long as those of real rows.

python experiments/benchmarks/lengths.py \\
  --flagfile=experiments/benchmarks/lengths.flags --data=PATH/rlla

A step's prompts are rows of the data set, and a sample ends after as many
tokens as a reference answer has, its stop token included (the model is random,
the lengths are data of the compiled program). `own`: all answers to a prompt
are as long as its own reference; `shuffled`: any as long as any row's. Policies
lie between. Sampled are all answers at once; as many prompts at once as fill
--slots; and in --slots that are refilled.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

import counts
import iteration
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from awpo_jax import types
from awpo_jax.checkpointing import initial_params
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import device_checks, sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.rollout.sampling import sampler as sampler_lib
from awpo_jax.rollout.text import prompts as prompts_lib
from awpo_jax.training import setup as setup_lib
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.programs import options
from awpo_jax.training.programs import shapes as shapes_lib


def lengths_of(
  experiment: setup_lib.Experiment,
) -> tuple[list[np.ndarray], np.ndarray]:
  """Encoded prompts, and tokens of their reference answers with the stop."""
  tasks, codec = list(experiment.data.dataset.train), experiment.codec
  encode = codec.tokenizer.encode
  return [codec.encode(task) for task in tasks], np.asarray(
    [
      len(encode(task.ground_truth, add_special_tokens=False)) + 1
      for task in tasks
    ],
    np.int32,
  )


def draw_step(config, encoded, lengths, pad_id: int):
  """Prompts of a step, and by name i32[P, G] lengths of its answers."""
  rl, data = config.rl, config.data
  rng = np.random.default_rng(config.run.seed)
  shape = rl.prompts_per_step, rl.samples
  rows = rng.choice(len(lengths), shape[0], replace=shape[0] > len(lengths))
  lengths = np.minimum(lengths, data.response_buckets[-1])
  prompts = prompts_lib.prompt_batch(
    [encoded[row] for row in rows],
    rows,
    buckets=data.prompt_buckets[-1:],
    pad_id=pad_id,
  )
  return prompts, {
    'own': np.repeat(lengths[rows][:, None], shape[1], axis=1),
    'shuffled': rng.choice(lengths, shape),
  }


class Sampler:
  """One way to sample a step; `micro` prompts of a device at a time."""

  def __init__(
    self, config, decoder, mesh, params, *, micro: int, refill: bool
  ) -> None:
    rl, data = config.rl, config.data
    self._mesh, self._params, self._refill = mesh, params, refill
    self._rl, self._size = rl, micro * sharding.parts(mesh)
    rows = rl.slots if refill else micro * rl.samples
    self.rows = rows * sharding.parts(mesh)  # Of a step, on all devices.
    shapes = shapes_lib.Shapes(config, mesh)
    arguments = shapes.sampler(micro, data.prompt_buckets[-1], rl.samples)
    self._program = (
      compile_lib.make_sampler(
        config,
        decoder,
        mesh,
        temperature=rl.temperature,
        sample=options.rollout_sampler(config, mesh)
        if refill
        else sampler_lib.sample,
        limited=True,
      )
      .lower(shapes.like(params), *arguments, arguments[1])
      .compile()
    )

  def __call__(self, prompts: types.Prompts, limits: np.ndarray) -> None:
    """Samples, and checks that every answer has its length."""
    ids = np.arange(limits.size, dtype=np.int32).reshape(limits.shape)
    facts = sharding.place_replicated(
      sampler_lib.facts(0, 'train', 0, 0), self._mesh
    )
    for start_at in range(0, len(ids), self._size):
      chosen = slice(start_at, start_at + self._size)
      inputs = jax.tree.map(lambda x, at=chosen: x[at], (prompts, ids, limits))
      placed = sharding.place_split(
        sharding.split(inputs, sharding.parts(self._mesh)), self._mesh
      )
      got = self._program(self._params, *placed[:2], facts, placed[2])
      got = sharding.merge(sharding.fetch_split(got))
      np.testing.assert_array_equal(got.policy_mask.sum(-1), inputs[2])

  def steps(self, limits: np.ndarray) -> int:
    """Decoding steps, of the slowest device where they do not wait."""
    parts = sharding.parts(self._mesh)
    by_device = limits.reshape(-1, parts, self._size // parts, limits.shape[1])
    if not self._refill:
      return int(by_device.max(axis=(1, 2, 3)).sum())
    rl = self._rl
    return max(
      counts.steps_in_slots(x, slots=rl.slots, shared=rl.slots_shared)
      for x in by_device[0]
    )


def make_samplers(config, decoder, mesh, params) -> dict[str, Sampler]:
  """The three ways, by name."""
  rl, devices = config.rl, sharding.parts(mesh)
  problems = list(device_checks.check_devices(config, devices))
  if problems:
    raise flags_lib.ConfigError('\n'.join(problems))
  share = rl.prompts_per_step // devices
  few = max(min(rl.slots // rl.samples, share), 1)
  # Without stop tokens: only its length ends an answer.
  make = functools.partial(Sampler, config, decoder, mesh, params)
  return {
    'all at once': make(micro=share, refill=False),
    f'{few} prompts at once': make(micro=few, refill=False),
    f'{rl.slots} slots': make(micro=share, refill=True),
  }


def measure(config: config_lib.Config, repeats: int) -> dict[str, Any]:
  """All figures, by lengths and way to sample."""
  with tempfile.TemporaryDirectory() as folder:
    run = dataclasses.replace(config.run, output_dir=folder)
    experiment = setup_lib.make_experiment(dataclasses.replace(config, run=run))
  decoder, pad_id = experiment.decoder, experiment.codec.pad_id
  mesh = sharding.make_mesh(config.devices)
  params = decoder_lib.init_params(decoder.config, jax.random.key(0))
  placed = sharding.place_state(params, mesh)
  samplers = make_samplers(config, decoder, mesh, placed)
  encoded, lengths = lengths_of(experiment)
  prompts, limits_of = draw_step(config, encoded, lengths, pad_id)
  peak = iteration.matmul_flops(jnp.dtype(config.model.dtype))
  rl, read = config.rl, prompts.mask.sum(-1).mean()
  result: dict[str, Any] = {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'prompts': rl.prompts_per_step,
    'prompt_tokens': float(read),
    'samples': rl.samples,
    'slots_shared': rl.slots_shared,
    'rows': len(lengths),
    'length_mean': float(lengths.mean()),
    'length_percentiles_10_50_90_100': np.percentile(
      lengths, (10, 50, 90, 100)
    ).tolist(),
    'matmul_gflops': peak / 1e9,
  }
  for kind, limits in limits_of.items():
    work = counts.forward(
      decoder.config,
      prompts=rl.prompts_per_step,
      samples=rl.samples,
      prompt=int(read),
      response=int(limits.mean()),
      causal=True,
    )
    times: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(repeats):  # In turns: what else runs slows all of them.
      for name, sampler in samplers.items():
        call = functools.partial(sampler, prompts, limits)
        times[name] += iteration.seconds(call, 1)
    result[kind] = {
      name: figures(sampler, limits, times[name])
      | {'share_of_matmul': work / (statistics.median(times[name]) * peak)}
      for name, sampler in samplers.items()
    }
  return result


def figures(sampler: Sampler, limits: np.ndarray, times: list[float]):
  """Of one way to sample answers of these lengths."""
  tokens, steps = int(limits.sum()), sampler.steps(limits)
  return {
    'seconds': statistics.median(times),
    'spread': [min(times), max(times)],
    'tokens_per_second': tokens / statistics.median(times),
    'tokens': tokens,
    'steps': steps,
    'rows_a_token': steps * sampler.rows / tokens,
  }


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  values = flags.FLAGS
  try:
    config = config_lib.from_flags(values)
    if not config.rl.slots:
      raise flags_lib.ConfigError('--slots=0: nothing to compare; set it.')
    if config.devices.cpu_devices > 1:
      jax.config.update('jax_num_cpu_devices', config.devices.cpu_devices)
    initial_params.use_compilation_cache(config.run.compilation_cache)
    with initial_params.refusing(ValueError, FileNotFoundError):
      result = measure(config, values.repeats)
  except flags_lib.ConfigError as error:
    sys.exit(f'ConfigError: {error}')
  text = json.dumps(result, indent=2)
  if values.json:
    pathlib.Path(values.json).write_text(text + '\n')
  print(text)


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
