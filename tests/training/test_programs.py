"""Every bucket is compiled at the start, and nothing afterwards."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from awpo_jax import config as config_lib
from awpo_jax.training import phases, programs
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
