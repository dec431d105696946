"""Where parameters, adapters and the reference of a run come from."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from awpo_jax.checkpointing import checkpoints, initial_params
from awpo_jax.config import algorithm
from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib
from awpo_jax.config import sections as sections_lib
from awpo_jax.distributed import sharding
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora, lora_layers
from awpo_jax.rollout.sampling import sampler
from tests.helpers import tiny_training

PLAIN = dataclasses.replace(
  tiny_training.CONFIG, layers=1, width=8, mlp_width=8
)
ADAPTED = dataclasses.replace(
  PLAIN, lora=lora_layers.LoraConfig(rank=2, alpha=4.0, targets=('q_proj',))
)


def _config(init_from='', rank=2, alpha=4.0, **model):
  return config_lib.Config(
    run=sections_lib.RunConfig(seed=5, init_from=str(init_from)),
    model=sections_lib.ModelConfig(
      init_weights='normal', lora_rank=rank, lora_alpha=alpha, **model
    ),
  )


def _new(config, model):
  return initial_params.new_params(config, model, sharding.data_mesh())


def _assert_equal(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(np.testing.assert_array_equal, left, right)


def _drawn(model, seed):
  """Parameters that no seed of a run gives, no adapter 0."""
  shapes = initial_params.param_shapes(model)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes
  )


def _save(folder, params, step=3, **flags):
  with contextlib.closing(
    checkpoints.make_manager(folder / checkpoints.RUN_SUBFOLDER, keep=1)
  ) as manager:
    checkpoints.save_checkpoint(
      manager, step, {'params': params}, position={}, flags=flags
    )


def test_from_the_seed():
  got = _new(_config(), ADAPTED)
  trained, base = lora.split(got)
  _assert_equal(base, _new(_config(rank=0), PLAIN))
  assert (
    lora.split(initial_params.param_shapes(ADAPTED))[0].keys() == trained.keys()
  )
  assert trained['layers_0']['self_attn']['q_proj']['lora_a'].any()
  key = sampler.fact_key(sampler.facts(5, 'init'))
  again = decoder_lib.init_params(ADAPTED, key)
  _assert_equal(got, again)


def test_new_adapters_beside_the_parameters_of_an_old_run(tmp_path):
  old = _drawn(PLAIN, 0)
  _save(tmp_path, old, lora_alpha=32.0)
  trained, base = lora.split(_new(_config(tmp_path), ADAPTED))
  _assert_equal(base, old)
  _assert_equal(trained, lora.split(_new(_config(), ADAPTED))[0])


def test_the_adapters_of_an_old_run_are_trained_on(tmp_path):
  old = _drawn(ADAPTED, 1)
  _save(tmp_path, old, lora_alpha=4.0)
  _assert_equal(_new(_config(tmp_path), ADAPTED), old)
  with pytest.raises(flags_lib.ConfigError, match='alpha=4.0; with .*=8.0'):
    _new(_config(tmp_path, alpha=8.0), ADAPTED)
  # Nor are they dropped without a word.
  with pytest.raises(checkpoints.CheckpointError, match='lora_a is .* absent'):
    _new(_config(tmp_path, rank=0), PLAIN)
  more = dataclasses.replace(
    ADAPTED, lora=dataclasses.replace(ADAPTED.lora, rank=3)
  )
  with pytest.raises(checkpoints.CheckpointError, match='adapters, dtype'):
    _new(_config(tmp_path), more)


def test_a_new_run_with_bfloat16_parameters_warns(capsys):
  _new(_config(rank=0, param_dtype='bfloat16'), PLAIN)
  assert 'Warning: --param_dtype=bfloat16' in capsys.readouterr().err
  _new(_config(), ADAPTED)
  assert not capsys.readouterr().err


def _kl_config(sft_steps, kl_coef=0.1):
  return config_lib.Config(
    run=sections_lib.RunConfig(sft_steps=sft_steps, rl_steps=9),
    loss=algorithm.LossConfig(kl_coef=kl_coef),
  )


def test_the_reference_is_read_from_the_last_step_before_rl(tmp_path):
  params = _drawn(ADAPTED, 2)
  with contextlib.closing(
    checkpoints.make_manager(tmp_path, keep=1, keep_steps=(1,))
  ) as manager:
    for step in range(4):
      checkpoints.save_checkpoint(
        manager,
        step,
        {'params': jax.tree.map(lambda x, s=step: x + s, params)},
        position={},
        flags={},
      )
    manager.wait_until_finished()
    shapes = initial_params.param_shapes(ADAPTED)

    def restore(config, step):
      return initial_params.restore_reference(manager, config, step, shapes)

    then = jax.tree.map(lambda x: x + 1, lora.split(params)[0])
    _assert_equal(restore(_kl_config(1), 3), then)
    assert restore(_kl_config(1), 1) is None
    assert restore(_kl_config(1, kl_coef=0.0), 3) is None
    with pytest.raises(
      checkpoints.CheckpointError, match='--kl_coef needs .* step 0'
    ):
      restore(_kl_config(0), 3)
