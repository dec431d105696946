"""This project's side of `beside_torch.py`, which starts it."""

import dataclasses
import functools
import logging
import os
import pathlib
from typing import Any

os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

import beside_cases  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from awpo_jax import types  # noqa: E402
from awpo_jax.checkpointing import initial_params  # noqa: E402
from awpo_jax.config import experiment as config_lib  # noqa: E402
from awpo_jax.distributed import sharding  # noqa: E402
from awpo_jax.rollout.sampling import sampler  # noqa: E402
from awpo_jax.training.dry_run import memory  # noqa: E402
from awpo_jax.training.programs import compile as compile_lib  # noqa: E402
from awpo_jax.training.programs import options  # noqa: E402
from awpo_jax.training.update import (  # noqa: E402
  minibatches,
  objectives,
  optimizer,
  packed_forward,
  packing,
)

_BASE = pathlib.Path(__file__).parents[1] / 'base.flags'
_SIZE = 2048


def make_config(case: beside_cases.Case, model: str) -> config_lib.Config:
  """The flags of a run of these sizes."""
  samples = case.samples if case.part == 'rl' else 2
  return config_lib.parse(
    [
      f'--flagfile={_BASE}',
      f'--model={model}',
      '--output_dir=unused',
      '--cpu_devices=1',
      '--dtype=float32',
      f'--prompt_buckets={case.prompt}',
      # Flags allow no fewer; reading writes none.
      f'--response_buckets={max(case.response, 2)}',
      f'--sft_batch={case.prompts}',
      f'--sft_micro={case.micro}',
      '--sft_steps=1',
      '--rl_steps=1',
      f'--prompts_per_step={case.prompts}',
      f'--samples={samples}',
      '--minibatches=1',
      f'--micro={case.micro}',
      f'--learning_rate={beside_cases.LEARNING_RATE}',
      f'--sft_learning_rate={beside_cases.LEARNING_RATE}',
      f'--max_grad_norm={beside_cases.MAX_GRAD_NORM}',
      '--sft_schedule=constant',
      *(case.ours or ()),
    ]
  )


class Bench:
  """A case with its model."""

  def __init__(
    self, case: beside_cases.Case, stream: np.ndarray, job: dict[str, Any]
  ) -> None:
    self.case, self.job = case, job
    self.config = make_config(case, job['model'])
    # One CPU device, which has all cores.
    self.mesh = sharding.data_mesh(jax.devices()[:1])
    self.plan = memory.make_plan(self.config)
    self.decoder = self.plan.decoder
    params = initial_params.new_params(
      self.config, self.decoder.config, self.mesh
    )
    self.params = sharding.place_state(params, self.mesh)
    made = beside_cases.batch(case, stream)
    self.advantages = made['advantages']
    self.prompts = types.Prompts(
      tokens=made['prompts'],
      mask=made['prompt_mask'],
      ids=np.arange(case.prompts, dtype=np.int32),
    )
    first = made['prompt_mask'].sum(-1, dtype=np.int32)[:, None, None]
    at = first + np.arange(case.response, dtype=np.int32)
    mask = made['mask']
    # An old policy that gave every token the same probability.
    old = -np.log(np.float32(self.decoder.config.vocab_size))
    self.completions = types.Completions(
      tokens=made['answers'],
      mask=mask,
      policy_mask=mask,
      positions=np.where(mask, at, 0),
      turn=np.zeros(mask.shape, np.int32),
      logprobs=np.where(mask, old, np.float32(0)),
      entropy=np.zeros(mask.shape, np.float32),
      finished=np.ones(mask.shape[:2], bool),
    )

  def figures(self, call) -> beside_cases.Figures:
    a = jax.random.normal(jax.random.key(0), (_SIZE, _SIZE))
    product = jax.jit(jnp.matmul)

    def matmul() -> None:
      product(a, a).block_until_ready()

    made = beside_cases.figures(call, matmul, _SIZE, self.job)
    return made | {'version': f'jax {jax.__version__}'}

  def read(self) -> beside_cases.Figures:
    """Prompts as the sampler reads them, and the logits after each."""

    @jax.jit
    def program(params, prompts):
      hidden, prefix = sampler.read_prompts(params, prompts, self.decoder)
      apply: Any = self.decoder.apply
      return apply({'params': params}, hidden, method='unembed'), prefix

    def call() -> None:
      jax.block_until_ready(program(self.params, self.prompts))

    return self.figures(call)

  def decode(self) -> beside_cases.Figures:
    """Greedy answers as an evaluation samples them, or several at random."""
    made = self.figures(self._sampler(self.case.response))
    shorter = self._sampler(beside_cases.SHORT)
    shorter()
    short = beside_cases.repeated(shorter, self.job['repeats'])
    return made | {'short_seconds': short}

  def _sampler(self, response: int):
    case = dataclasses.replace(self.case, response=response)
    # No token ends an answer.
    program = compile_lib.make_sampler(
      make_config(case, self.job['model']),
      self.decoder,
      self.mesh,
      temperature=float(case.samples > 1),
    )
    ids = np.arange(case.prompts * case.samples, dtype=np.int32)
    inputs = self.prompts, ids.reshape(case.prompts, case.samples)
    inputs = sharding.place_split(sharding.split(inputs, 1), self.mesh)
    facts = sampler.facts(0, 'train', 1, 0)
    facts = sharding.place_replicated(facts, self.mesh)

    def call() -> None:
      made = sharding.fetch_split(program(self.params, *inputs, facts))
      assert made.mask.shape[-1] == response and made.mask.all()

    return call

  def update(self) -> beside_cases.Figures:
    """The update of a run, its mini-batch lying on the device.

    Raises:
      ArithmeticError: it was not finite.
    """
    config, mesh, phase = self.config, self.mesh, self.case.part
    tx = optimizer.make_optimizers(config)[phase]
    layout = options.make_layout(config)
    batch = sharding.split(self.batch(), 1)
    (batch,) = minibatches.cut(batch, config, phase, layout)
    batch = sharding.place_split(batch, mesh)
    program = compile_lib.make_update(config, self.decoder, mesh, phase, tx)
    state = compile_lib.make_init(mesh, tx)(self.params)
    del self.params  # They were donated.
    losses = []

    def call() -> None:
      nonlocal state
      state, metrics = program(state, batch)
      if not bool(metrics.finite):
        raise ArithmeticError('An update was not finite.')
      losses.append(float(metrics.sums['loss'] / metrics.sums['weight']))

    made = self.figures(call)
    return made | {'loss': losses[0]}

  def batch(self) -> types.Batch:
    """All groups, [P, ...]."""
    made = types.Batch.of(self.prompts, self.completions)
    radius = np.full(made.clip_radius.shape, 0.2, np.float32)
    return dataclasses.replace(
      made, advantages=self.advantages, clip_radius=radius
    )

  def long(self) -> beside_cases.Figures:
    """Log-probabilities of the first row, padded and packed, in a file."""
    score = functools.partial(
      objectives.completion_logprobs,
      decoder=self.decoder,
      temperature=1.0,
      chunk=self.config.model.logprob_chunk,
    )
    program = jax.jit(lambda params, batch: score(params, batch)[0])
    every, mask = self.batch(), self.completions.mask[0, 0]
    packed, place = _packed(every)
    kept = {}

    def call(name: str, batch: types.Batch, place: int) -> None:
      values = jax.device_get(program(self.params, batch))
      kept[name] = values[place, 0][mask]

    padded = functools.partial(
      call, 'padded', jax.tree.map(lambda x: x[:1], every), 0
    )
    made = self.figures(padded)
    again = functools.partial(call, 'packed', packed, place)
    again()
    made['packed_seconds'] = beside_cases.repeated(again, self.job['repeats'])
    np.savez(self.job['logprobs'], **kept)
    return made


def _packed(batch: types.Batch) -> tuple[types.Batch, int]:
  """All groups in one packed row, and where the first of them stands in it."""
  tokens = batch.prompt_mask.sum(-1) + batch.mask.sum((-1, -2))
  block = beside_cases.PACK_BLOCK
  columns = int((-(-tokens // block) * block).sum())
  packed = packing.pack(
    jax.tree.map(lambda x: x[None, None], batch), columns=columns, block=block
  )
  packed = jax.tree.map(lambda x: x[0], packed)  # Of the only device.
  row = packed_forward.row(packed, 0)
  (places,) = np.nonzero(packed.layout.groups[0, 0] == 0)
  return row, int(places[0])


def measure(
  case: beside_cases.Case, stream: np.ndarray, job: dict[str, Any]
) -> beside_cases.Figures:
  """The figures of a case."""
  bench = Bench(case, stream, job)
  parts = {
    'read': bench.read,
    'decode': bench.decode,
    'sft': bench.update,
    'rl': bench.update,
    'long': bench.long,
  }
  return parts[case.part]()


if __name__ == '__main__':
  for name in ('absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)
  beside_cases.run(measure)
