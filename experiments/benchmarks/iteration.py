"""Measures sampler, update and iteration of the programs that a run compiles.

python experiments/benchmarks/iteration.py \\
  --flagfile=experiments/benchmarks/iteration.flags
python experiments/benchmarks/iteration.py --compare=old.json,new.json

The shapes are those of the flags: one prompt bucket, one response bucket, a
rollout batch and one update on all of it. Prompts are random tokens, every
answer has full length, or is cut to one of --answer_lengths when it is trained
on: with --pack_tokens=2048 that shows what packing saves. --json=FILE keeps the
result. Times are medians.
"""

import dataclasses
import json
import logging
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

_STARTED = time.perf_counter()  # The imports below take seconds.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

import counts  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from awpo_jax import types  # noqa: E402
from awpo_jax.checkpointing import initial_params  # noqa: E402
from awpo_jax.config import experiment as config_lib  # noqa: E402
from awpo_jax.config import flags as flags_lib  # noqa: E402
from awpo_jax.distributed import sharding  # noqa: E402
from awpo_jax.models import decoder as decoder_lib  # noqa: E402
from awpo_jax.rollout.sampling import sampler  # noqa: E402
from awpo_jax.training.dry_run import memory  # noqa: E402
from awpo_jax.training.programs import compile as compile_lib  # noqa: E402
from awpo_jax.training.programs import options  # noqa: E402
from awpo_jax.training.update import minibatches, optimizer  # noqa: E402

config_lib.define_flags()
flags.DEFINE_string('json', None, 'File to which the result is written.')
flags.DEFINE_list(
  'compare',
  None,
  'Two files of results, separated by commas: prints the second divided by '
  'the first.',
)
flags.DEFINE_integer('repeats', 5, 'Number of timed calls of each program.')
flags.DEFINE_bool(
  'cold', True, 'Whether new processes are started to time a cold start.'
)
flags.DEFINE_list(
  'prompt_lengths',
  [],
  'Lengths in tokens to which prompts are cut; one is drawn for each prompt.',
)
flags.DEFINE_list(
  'answer_lengths', [], 'The same for answers, before an update.'
)
flags.DEFINE_bool(
  'once', False, 'Only compiles, runs one iteration, and prints the seconds.'
)
flags.DEFINE_list(
  'depths',
  [],
  'Numbers of layers, for example 4,12,28. Only a cold and a cached start of '
  '--model with each of them are measured.',
)
_TIMED = 'sample', 'prepare', 'update', 'iteration'
_COMPARED = (
  'sampled_tokens_per_second',
  'update_seconds',
  'iteration_seconds',
  'cold_start_seconds',
  'cached_start_seconds',
  'peak_gib',
)


class Bench:
  """The compiled programs of one size and their inputs."""

  def __init__(self, config: config_lib.Config) -> None:
    self.config, self.mesh = config, sharding.make_mesh(config.devices)
    self.parts = sharding.parts(self.mesh)
    self.dealer = minibatches.Dealer(
      config, self.mesh, options.make_layout(config)
    )
    # No token ends an answer.
    plan = memory.make_plan(config)
    self.model = plan.decoder.config
    self.programs = compile_lib.compile_programs(
      config,
      plan.decoder,
      self.mesh,
      memory.state_shapes(plan, 'rl'),
      {'rl': optimizer.make_optimizers(config)['rl']},
      evaluation=False,
    )
    params = decoder_lib.init_params(self.model, jax.random.key(0))
    self.state = self.programs.init['rl'](
      sharding.place_state(params, self.mesh)
    )
    self.index, self.tokens = 0, np.zeros(2)

  def inputs(self):
    rl, length = self.config.rl, self.config.data.prompt_buckets[0]
    rng = np.random.default_rng(self.index)
    shape = rl.prompts_per_step, length
    prompts = types.Prompts(
      tokens=rng.integers(0, self.model.vocab_size, shape, np.int32),
      mask=np.ones(shape, bool),
      ids=np.arange(rl.prompts_per_step, dtype=np.int32),
    )
    ids = np.arange(rl.prompts_per_step * rl.samples, dtype=np.int32)
    return prompts, ids.reshape(-1, rl.samples)

  def sample(self) -> types.Rollout:
    """Answers, fetched to the host as their scoring needs them."""
    self.index += 1
    prompts, ids = self.inputs()
    facts = sampler.facts(0, 'train', self.index, 0)
    program = self.programs.sample[prompts.tokens.shape[-1]]
    completions = program(
      self.state.params,
      *sharding.place_split(
        sharding.split((prompts, ids), self.parts), self.mesh
      ),
      sharding.place_replicated(facts, self.mesh),
    )
    completions = sharding.merge(sharding.fetch_split(completions))
    rng, group = np.random.default_rng(self.index), ids.shape
    return types.Rollout(
      prompts=prompts,
      completions=completions,
      rewards=types.Rewards(
        outcome=rng.integers(-3, 5, group).astype(np.float32),
        outcome_valid=np.ones(group, bool),
        reasoning=rng.random(group, np.float32),
        reasoning_valid=np.ones(group, bool),
        outcome_min=np.full(group[0], -3, np.float32),
        outcome_max=np.full(group[0], 4, np.float32),
        wants_call=np.ones(group[0], bool),
      ),
      sample_ids=ids,
    )

  def prepare(self, rollout: types.Rollout) -> list[types.Batch]:
    """Mini-batches of the rollout, on the devices."""
    shape = self.shape()
    placed = self.dealer.place(shortened(rollout, self.index))
    prepared = self.programs.prepare[shape](self.state.params, placed)
    program = self.programs.cut.get(shape)
    batches = list(self.dealer.cut(prepared.batch, program))
    parts = sharding.fetch_split(batches)
    self.tokens = np.sum([counts.tokens_and_columns(x) for x in parts], axis=0)
    return batches

  def update(self, batches: list[types.Batch]) -> None:
    """An update on each mini-batch; waits for the last."""
    for batch in batches:
      self.state, metrics = self.programs.update['rl'][self.shape()](
        self.state, batch
      )
    assert bool(jax.block_until_ready(metrics.finite))

  def shape(self) -> tuple[int, int]:
    data = self.config.data
    return data.prompt_buckets[0], data.response_buckets[0]

  def iteration(self) -> None:
    """A rollout, what is prepared of it, and its updates."""
    self.update(self.prepare(self.sample()))


def shortened(rollout: types.Rollout, seed: int) -> types.Rollout:
  """The rollout with prompts and answers of the lengths of the flags."""
  rng, completions = np.random.default_rng(seed), rollout.completions

  def draw(name: str, like: np.ndarray) -> np.ndarray:
    lengths = [int(x) for x in flags.FLAGS[name].value] or [like.shape[-1]]
    return rng.choice(lengths, like.shape[:-1])[..., None]

  prompt = rollout.prompts.mask
  kept = np.arange(prompt.shape[-1])[::-1] < draw('prompt_lengths', prompt)
  mask = completions.mask
  cut = mask & (np.arange(mask.shape[-1]) < draw('answer_lengths', mask))
  first = kept.sum(axis=-1, dtype=np.int32)[:, None, None]
  at = first + np.arange(mask.shape[-1], dtype=np.int32)
  completions = dataclasses.replace(
    completions,
    mask=cut,
    policy_mask=completions.policy_mask & cut,
    positions=np.where(cut, at, 0),
  )
  prompts = dataclasses.replace(rollout.prompts, mask=kept)
  return dataclasses.replace(rollout, prompts=prompts, completions=completions)


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
  """Of each of `repeats` calls."""
  times = []
  for _ in range(repeats):
    begun = time.perf_counter()
    call()
    times.append(time.perf_counter() - begun)
  return times


def matmul_flops(dtype: jnp.dtype) -> float:
  """The best rate of square products on all devices, operations a second."""
  size = 1024 if jax.devices()[0].platform == 'cpu' else 8192
  x = jax.random.normal(jax.random.key(0), (size, size), dtype)
  return 2 * size**3 / _fastest(jax.jit(lambda a: a @ a), x, 20)


def _fastest(program: Callable[..., Any], x: jax.Array, repeats: int) -> float:
  """Seconds of all devices at once, over their number."""
  copies = [jax.device_put(x, device) for device in jax.devices()]

  def run():
    jax.block_until_ready([program(copy) for copy in copies])

  run()
  return min(seconds(run, repeats)) / len(copies)


def bandwidth() -> float:
  """Bytes a second that all devices read and write, adding to arrays."""
  x = jnp.zeros(2**26, jnp.float32)
  return 2 * x.nbytes / _fastest(jax.jit(lambda a: a + 1), x, 10)


def measure(config: config_lib.Config, repeats: int) -> dict[str, Any]:
  """All figures of this process."""
  peak, band = matmul_flops(jnp.dtype(config.model.dtype)), bandwidth()
  compile_lib.compile_count()
  begun = time.perf_counter()
  bench = Bench(config)
  compiled = time.perf_counter() - begun
  bench.iteration()
  count = compile_lib.compile_count()
  times, cpu = _timed(bench, repeats)
  median = _by_name(np.median(times, axis=0))
  ranges = np.stack([times.min(axis=0), times.max(axis=0)], axis=1)
  rl, (prompt, response) = config.rl, bench.shape()
  sizes = {
    'prompts': rl.prompts_per_step,
    'samples': rl.samples,
    'prompt': prompt,
    'response': response,
  }
  rows = rl.prompts_per_step * rl.samples
  read = response * counts.decode_bytes(
    bench.model,
    rows=rows,
    prompts=rl.prompts_per_step,
    prompt=prompt,
    own=response / 2,
  )
  devices = jax.device_count()
  return {
    'device': f'{devices} x {jax.devices()[0].device_kind}',
    'cores': os.cpu_count(),
    'machine': platform.processor() or platform.machine(),
    'jax': jax.__version__,
    **sizes,
    'dtype': config.model.dtype,
    'sampled_tokens_per_second': rows * response / median['sample'],
    'prepare_seconds': median['prepare'],
    'update_seconds': median['update'],
    'iteration_seconds': median['iteration'],
    'spread': _by_name(ranges),
    'cpu_seconds': _by_name(np.median(cpu, axis=0)),
    'update_tokens': int(bench.tokens[0]),
    'update_columns': int(bench.tokens[1]),
    'compile_seconds': compiled,
    'compiled_while_timed': compile_lib.compile_count() - count,
    'matmul_gflops': peak / 1e9,
    'bandwidth_gb_per_second': band / 1e9,
    'update_share_of_matmul': counts.update(bench.model, **sizes)
    / (median['update'] * peak),
    'sample_share_of_matmul': counts.forward(bench.model, **sizes, causal=True)
    / (median['sample'] * peak),
    'sample_share_of_bandwidth': read / (median['sample'] * band),
    'peak_gib': _peak_bytes() / 2**30,
  }


def _timed(bench: Bench, repeats: int) -> tuple[np.ndarray, np.ndarray]:
  """Seconds of `_TIMED` [repeats, 4], and CPU seconds, which need no quiet."""
  spans = []
  for _ in range(repeats):
    marks = [_clocks()]
    rollout = bench.sample()
    marks.append(_clocks())
    batches = bench.prepare(rollout)
    marks.append(_clocks())
    bench.update(batches)
    marks.append(_clocks())
    parts = np.diff(marks, axis=0)
    spans.append([*parts, parts.sum(axis=0)])
  wall, cpu = np.moveaxis(np.array(spans), -1, 0)
  return wall, cpu


def _clocks() -> tuple[float, float]:
  return time.perf_counter(), time.process_time()


def _by_name(values: np.ndarray) -> dict[str, Any]:
  return dict(zip(_TIMED, values.tolist(), strict=True))


def _peak_bytes() -> int:
  """Of the device where it tells, else of this process."""
  stats = jax.devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cold_starts(*arguments: str) -> dict[str, float]:
  """Seconds to the end of a process's first iteration, with further flags."""
  with tempfile.TemporaryDirectory() as cache:
    command = [
      sys.executable,
      *sys.argv,
      '--once',
      f'--compilation_cache={cache}',
      *arguments,
    ]

    def run(name: str) -> dict[str, float]:
      begun, cpu = time.perf_counter(), _children_seconds()
      subprocess.run(command, check=True, capture_output=True)
      return {
        f'{name}_seconds': time.perf_counter() - begun,
        f'{name}_cpu_seconds': _children_seconds() - cpu,
      }

    return run('cold_start') | run('cached_start')


def _children_seconds() -> float:
  """CPU seconds of the processes that this one has waited for."""
  return sum(os.times()[2:4])


def deep_starts(model: str, depths: list[int]) -> dict[str, Any]:
  """`cold_starts` of a config.json with other numbers of layers."""
  hf, starts = json.loads(pathlib.Path(model).read_text()), {}
  with tempfile.TemporaryDirectory() as folder:
    for depth in depths:
      file = pathlib.Path(folder, f'{depth}.json')
      file.write_text(json.dumps(hf | {'num_hidden_layers': depth}))
      starts[f'{depth} layers'] = cold_starts(f'--model={file}', '--depths=')
  return starts


def compare(old: dict[str, Any], new: dict[str, Any]) -> str:
  """A table of both and their ratio."""
  lines = [f'{"":28}{"old":>12}{"new":>12}{"new/old":>10}']
  for name in _COMPARED:
    if name in old and name in new:
      ratio = new[name] / old[name]
      lines.append(f'{name:28}{old[name]:12.3f}{new[name]:12.3f}{ratio:10.3f}')
  return '\n'.join(lines)


def main(arguments: list[str]) -> None:
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  if len(arguments) > 1:
    raise app.UsageError(f'not a flag: {" ".join(arguments[1:])}')
  values = flags.FLAGS
  if values.compare:
    old, new = (json.loads(pathlib.Path(x).read_text()) for x in values.compare)
    print(compare(old, new))
    return
  try:
    config = config_lib.from_flags(values)
  except flags_lib.ConfigError as error:
    sys.exit(f'ConfigError: {error}')
  if config.devices.cpu_devices > 1:
    jax.config.update('jax_num_cpu_devices', config.devices.cpu_devices)
  initial_params.use_compilation_cache(config.run.compilation_cache)
  if values.once:
    Bench(config).iteration()
    print(f'{time.perf_counter() - _STARTED:.2f}')
    return
  if values.depths:
    result = deep_starts(config.model.model, [int(x) for x in values.depths])
  else:
    result = measure(config, values.repeats)
    if values.cold:
      result |= cold_starts()
  text = json.dumps(result, indent=2)
  if values.json:
    pathlib.Path(values.json).write_text(text + '\n')
  print(text)


if __name__ == '__main__':
  app.run(main, flags_parser=flags_lib.parse_command)
