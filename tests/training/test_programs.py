"""Every bucket is compiled at the start, and nothing afterwards."""

import dataclasses
import itertools
from unittest import mock

import jax
import numpy as np
import pytest

from awpo_jax import config as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.training import (
  experiment,
  optimizer,
  phases,
  programs,
  sharding,
  train_step,
)
from tests.training import tiny_run

PAIRS = set(
  itertools.product(tiny_run.PROMPT_BUCKETS, tiny_run.RESPONSE_BUCKETS)
)


class _Log(dict):
  """A dict that knows which entries were asked for."""

  def __init__(self, entries):
    super().__init__(entries)
    self.seen = set()

  def __getitem__(self, key):
    self.seen.add(key)
    return super().__getitem__(key)


def test_every_bucket_is_compiled():
  compiled = tiny_run.compiled()
  assert set(compiled.sample) == set(tiny_run.PROMPT_BUCKETS)
  assert set(compiled.evaluate) == set(tiny_run.PROMPT_BUCKETS)
  assert set(compiled.prepare) == PAIRS
  assert {k: set(v) for k, v in compiled.update.items()} == {
    'sft': PAIRS,
    'rl': PAIRS,
  }


@pytest.mark.parametrize(('phase', 'steps'), [('sft', 6), ('rl', 4)])
def test_nothing_compiles_after_the_start(phase, steps):
  compiled = tiny_run.compiled()
  log = _Log(compiled.update[phase])
  compiled = dataclasses.replace(compiled, update={phase: log})
  make_step = {'sft': phases.make_sft_step, 'rl': phases.make_rl_step}[phase]
  step = make_step(tiny_run.experiment(), compiled, tiny_run.mesh())
  state = tiny_run.new_state(phase)
  before = programs.compile_count()
  with jax.transfer_guard('disallow'):
    for index in range(steps):
      old = state
      state, report = step(state, index)
      assert report.phase == phase
      donated = jax.tree.leaves(old)
      assert all(leaf.is_deleted() for leaf in donated), 'not donated'
  assert programs.compile_count() == before
  # More than one bucket was in it, or it says nothing.
  assert len(log.seen) > 1, log.seen
  updates = steps * (2 if phase == 'rl' else 1)
  assert int(jax.device_get(state.step)) == updates


def test_a_compilation_is_counted():
  before = programs.compile_count()
  jax.jit(lambda x: x * 3 + 1)(np.arange(7))
  assert programs.compile_count() == before + 1


def _config(*flags):
  return config_lib.parse(
    [*tiny_run.FLAGS, '--model=model', '--output_dir=run', *flags]
  )


@pytest.mark.parametrize(
  ('flags', 'devices', 'named'),
  [
    ([], 2, []),
    ([], 4, ['--prompts_per_step=4']),
    (['--prompts_per_step=8'], 4, []),
    (['--sft_micro=2'], 4, ['--prompts_per_step=4', '--sft_batch=4']),
    (['--eval_batch=3'], 2, ['--eval_batch=3']),
    (['--rl_steps=0', '--prompts_per_step=3'], 2, []),
    (['--sft_steps=0', '--sft_batch=3'], 2, []),
  ],
)
def test_what_does_not_divide_is_named(flags, devices, named):
  problems = list(programs.check_devices(_config(*flags), devices))
  assert len(problems) == len(named)
  for problem, flag in zip(problems, named, strict=True):
    assert problem.startswith(flag) and f'{devices} devices' in problem


def _lowered(*flags):
  """Programs of one bucket that are not compiled, and the state before."""
  config = _config(
    '--prompt_buckets=20', '--response_buckets=8', '--sft_steps=0', *flags
  )
  base = tiny_run.experiment()
  model = experiment.with_lora(config, base.decoder.config)
  run = dataclasses.replace(
    base, config=config, decoder=decoder_lib.Decoder(model)
  )
  optimizers = optimizer.make_optimizers(config)
  state = jax.eval_shape(
    lambda key: train_step.init_state(
      decoder_lib.init_params(model, key), optimizers['rl']
    ),
    jax.random.key(0),
  )
  with mock.patch.object(jax.stages.Lowered, 'compile', lambda self: self):
    made = programs.compile_programs(run, tiny_run.mesh(), state, optimizers)
  return made, state


def _sizes(tree):
  return sorted((x.shape, x.dtype.name) for x in jax.tree.leaves(tree))


def test_without_a_kl_term_no_program_knows_a_reference():
  made, state = _lowered()
  assert made.reference is None
  (params, rollout), _ = made.prepare[20, 8].args_info
  assert _sizes(params) == _sizes(state.params)
  assert len(_sizes(rollout)) == 18
  (_, batch), _ = made.update['rl'][20, 8].args_info
  assert len(_sizes(batch)) == 10


@pytest.mark.parametrize('rank', [0, 2])
def test_the_reference_is_what_is_trained_and_nothing_else(rank):
  made, state = _lowered('--kl_coef=0.1', f'--lora_rank={rank}')
  trained, frozen = lora.split(state.params)
  assert bool(frozen) == bool(rank)
  (params, _, reference), _ = made.prepare[20, 8].args_info
  assert _sizes(params) == _sizes(state.params)
  assert _sizes(reference) == _sizes(trained)
  assert _sizes(made.reference.out_info) == _sizes(trained)
  (_, batch), _ = made.update['rl'][20, 8].args_info
  assert len(_sizes(batch)) == 11


def test_the_reference_is_a_copy():
  params = {'a': np.arange(3.0), 'b': {'lora_a': np.arange(2.0)}}
  placed = sharding.place_replicated(params, tiny_run.mesh())
  got = programs.make_reference(tiny_run.mesh())(placed)
  jax.tree.map(lambda x: x.delete(), placed)
  np.testing.assert_array_equal(got['b']['lora_a'], np.arange(2.0))
  assert got.keys() == {'b'}
