"""What the programs of a KL term are given, and those without one are not."""

from unittest import mock

import jax
import numpy as np
import pytest

from awpo_jax.checkpointing import model_files
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora
from awpo_jax.training.programs import compile as compile_lib
from awpo_jax.training.update import optimizer, train_step
from tests.helpers import tiny_run


def _lowered(*flags, **options):
  """Programs of one bucket that are not compiled, and the state before."""
  config = config_lib.parse(
    [
      *tiny_run.FLAGS,
      '--model=model',
      '--output_dir=run',
      '--prompt_buckets=20',
      '--response_buckets=8',
      '--sft_steps=0',
      *flags,
    ]
  )
  model = model_files.with_adapters(
    tiny_run.experiment().decoder.config, config_lib.to_dict(config)
  )
  optimizers = optimizer.make_optimizers(config)
  state = jax.eval_shape(
    lambda key: train_step.init_state(
      decoder_lib.init_params(model, key), optimizers['rl']
    ),
    jax.random.key(0),
  )
  with mock.patch.object(jax.stages.Lowered, 'compile', lambda self: self):
    made = compile_lib.compile_programs(
      config,
      decoder_lib.Decoder(model),
      tiny_run.mesh(),
      state,
      optimizers,
      **options,
    )
  return made, state


def test_without_evaluation_there_is_no_greedy_sampler():
  made, _ = _lowered(evaluation=False)
  assert not made.evaluate and list(made.sample) == [20]


def _sizes(tree):
  return sorted((x.shape, x.dtype.name) for x in jax.tree.leaves(tree))


def test_without_a_kl_term_no_program_knows_a_reference():
  made, state = _lowered()
  assert made.reference is None
  (params, rollout), _ = made.prepare[20, 8].args_info
  assert _sizes(params) == _sizes(state.params)
  assert len(_sizes(rollout)) == 19
  (_, batch), _ = made.update['rl'][20, 8].args_info
  assert len(_sizes(batch)) == 9


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
  assert len(_sizes(batch)) == 10


def test_the_reference_is_a_copy():
  params = {'a': np.arange(3.0), 'b': {'lora_a': np.arange(2.0)}}
  placed = sharding.place_replicated(params, tiny_run.mesh())
  got = compile_lib.make_reference(tiny_run.mesh())(placed)
  jax.tree.map(lambda x: x.delete(), placed)
  np.testing.assert_array_equal(got['b']['lora_a'], np.arange(2.0))
  assert got.keys() == {'b'}
