"""What XLA reports of buffers, and the process that is asked for it."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.distributed import sharding
from awpo_jax.training.dry_run import memory, targets, xla_buffers
from tests.helpers import tiny_run

GPU = any(
  importlib.util.find_spec(f'jax_cuda{number}_plugin') for number in (12, 13)
)


@pytest.fixture
def config(tmp_path):
  model = tmp_path / 'config.json'
  model.write_text(json.dumps(tiny_run.MODEL))
  return config_lib.parse(
    [
      *tiny_run.FLAGS,
      f'--model={model}',
      '--output_dir=run',
      '--dry_run=h100',
      '--sft_steps=0',
    ]
  )


def test_all_memory_spaces_of_a_report_count(tmp_path):
  assert xla_buffers.read(tmp_path) is None
  name = 'module_0001.jit_f.sm_9.0a_gpu_after_optimizations'
  file = tmp_path / f'{name}-memory-usage-report.txt'
  file.write_text('Memory Space: default (color=0)\n')
  assert xla_buffers.read(tmp_path) is None  # Not all of it is written.
  file.write_text(
    'Memory Space: default (color=0)\nTotal bytes: 1000 (1000B)\n'
    '  cumulative_size;       size\n\n'
    'Memory Space: collective (color=1)\nTotal bytes: 24 (24B)\n'
  )
  (tmp_path / f'{name}-buffer-assignment.txt').write_text(
    'Total bytes: 5 (5B)\n'
  )
  assert xla_buffers.read(tmp_path) == 1024


def test_every_program_is_found_by_its_key(config):
  # The devices of this process: keys hang on the flags alone.
  config = dataclasses.replace(
    config, run=dataclasses.replace(config.run, dry_run='here')
  )
  plan = memory.make_plan(config)
  mesh = sharding.data_mesh(jax.devices()[:1])
  made = memory.lowerings(plan, mesh)
  assert {key[0] for key in made} == {
    'evaluate',
    'init',
    'prepare',
    'sample',
    'update',
  }
  # Nothing was lowered yet; what is lowered is a program of its own.
  text = made['init', 'rl']().as_text()
  assert 'module @jit_init' in text


@pytest.mark.skipif(GPU, reason="JAX's plugin for CUDA is here")
def test_what_the_compiler_said_of_a_failure_is_told(config):
  with pytest.raises(
    flags_lib.ConfigError, match='(?s)was not compiled.*cuda12'
  ):
    xla_buffers.of_absent(config, ('init', 'rl'))


@pytest.mark.skipif(not GPU, reason="needs JAX's plugin for CUDA")
def test_the_report_is_what_the_whole_compilation_says(config):
  target = targets.find('h100')
  plan = memory.make_plan(config)
  mesh = sharding.data_mesh(target.devices)
  key = ('update', 'rl', 20, 8)
  compiled = memory.lowerings(plan, mesh)[key]().compile(
    compiler_options=target.options
  )
  # Constants and alignment apart.
  assert xla_buffers.of_absent(config, key) == pytest.approx(
    memory.needed(compiled), rel=0.01
  )


@pytest.mark.skipif(not GPU, reason="needs JAX's plugin for CUDA")
def test_a_process_of_its_own_chooses_the_kernel_of_the_target(config):
  key, found = ('prepare', 20, 8), {}
  for kernel in ('auto', 'cudnn', 'parts'):
    model = dataclasses.replace(
      config.model, attention=kernel, dtype='bfloat16'
    )
    found[kernel] = xla_buffers.of_absent(
      dataclasses.replace(config, model=model), key
    )
  assert found['auto'] == found['cudnn'] != found['parts']
