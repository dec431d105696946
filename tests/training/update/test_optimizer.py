"""Learning rates and AdamW, worked out by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from awpo_jax.config import checks, phases, sections
from awpo_jax.config import experiment as config_lib
from awpo_jax.training.update import optimizer


def _rates(count, **options):
  schedule = optimizer.make_schedule(**options)
  return [float(schedule(i)) for i in range(count)]


def test_constant():
  assert (
    _rates(4, peak=0.5, schedule='constant', warmup=0, total=3) == [0.5] * 4
  )


def test_warm_up_rises_from_the_first_update():
  # peak / 4 at first, the peak after three updates.
  got = _rates(6, peak=0.8, schedule='constant', warmup=3, total=6)
  np.testing.assert_allclose(got, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6)


def test_linear():
  # Two updates of warm-up, then from 0.6 to 0 in four.
  got = _rates(8, peak=0.6, schedule='linear', warmup=2, total=6)
  want = [0.2, 0.4, 0.6, 0.45, 0.3, 0.15, 0, 0]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_cosine():
  # 0.4 (1 + cos(pi i / 4)) / 2 after the warm-up.
  got = _rates(6, peak=0.4, schedule='cosine', warmup=1, total=5)
  half = math.sqrt(0.5)
  want = [0.2, 0.4, 0.2 * (1 + half), 0.2, 0.2 * (1 - half), 0]
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_a_schedule_shorter_than_its_warm_up_stays_finite():
  got = _rates(3, peak=1.0, schedule='linear', warmup=5, total=2)
  np.testing.assert_allclose(got, [1 / 6, 1 / 3, 1 / 2], rtol=1e-6)


@pytest.mark.parametrize(
  ('section', 'name'),
  [
    (phases.SftConfig, 'sft_schedule'),
    (phases.RlConfig, 'schedule'),
  ],
)
def test_every_choice_of_the_flags_is_a_schedule(section, name):
  choices = {x.name: x.metadata['choices'] for x in dataclasses.fields(section)}
  assert choices[name]
  for schedule in choices[name]:
    got = _rates(2, peak=0.5, schedule=schedule, warmup=0, total=9)
    assert got[0] == 0.5 and got[1] <= 0.5


def _adamw(weights, grads, *, rates, b1, b2, eps, decay, norm):
  """Parameters after each step, in float64 and plain NumPy."""
  first = second = np.zeros_like(weights)
  for step, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
    size = np.sqrt(np.sum(grad**2))
    clipped = grad * min(1.0, norm / size)
    first = b1 * first + (1 - b1) * clipped
    second = b2 * second + (1 - b2) * clipped**2
    change = (first / (1 - b1**step)) / (np.sqrt(second / (1 - b2**step)) + eps)
    weights = weights - rate * (change + decay * weights)
    yield weights


@pytest.mark.parametrize('scale', [0.1, 30.0])
def test_adamw_with_clipping(scale):
  rng = np.random.default_rng(0)
  weights = rng.normal(size=5)
  grads = scale * rng.normal(size=(3, 5)) / np.sqrt(5)
  rates = [0.1, 0.2, 0.3]
  tx = optimizer.make_optimizer(
    optimizer.make_schedule(peak=0.3, schedule='constant', warmup=2, total=3),
    phases.OptimizerConfig(
      adam_b1=0.8,
      adam_b2=0.9,
      adam_eps=0.01,
      weight_decay=0.05,
      max_grad_norm=2.0,
    ),
  )
  want = _adamw(
    weights, grads, rates=rates, b1=0.8, b2=0.9, eps=0.01, decay=0.05, norm=2.0
  )
  # The gradient is a tree: its norm is that of all leaves together.
  params = {'a': np.float32(weights[:2]), 'b': np.float32(weights[2:])}
  state = tx.init(params)
  for grad, expected in zip(grads, want, strict=True):
    tree = {'a': np.float32(grad[:2]), 'b': np.float32(grad[2:])}
    updates, state = tx.update(tree, state, params)
    params = optax.apply_updates(params, updates)
    got = np.concatenate(jax.tree.leaves(params))
    np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_moments_move_whatever_the_dtypes(dtype):
  # A gradient of 1, then zeros: the first moment is .1 .9^n, the second
  # .001 .999^n, which bfloat16 could not tell from .001 at all.
  tx = optimizer.make_optimizer(
    lambda _: 1e-3,
    phases.OptimizerConfig(max_grad_norm=9.0, first_moment_dtype=dtype),
  )
  params = {'x': jnp.ones((1,), jnp.bfloat16)}
  state = tx.init(params)
  kinds = jax.tree.map(lambda x: x.dtype, state)
  for step in range(21):
    grads = {'x': jnp.full((1,), float(step == 0), jnp.bfloat16)}
    updates, state = tx.update(grads, state, params)
    assert updates['x'].dtype == jnp.float32
  assert jax.tree.map(lambda x: x.dtype, state) == kinds
  adam = next(
    x
    for x in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, 'nu'))
    if hasattr(x, 'nu')
  )
  assert adam.mu['x'].dtype == jnp.dtype(dtype)
  assert adam.nu['x'].dtype == jnp.float32
  np.testing.assert_allclose(adam.nu['x'], 1e-3 * 0.999**20, rtol=1e-5)
  # Twenty-one roundings of half a unit each, which partly cancel.
  rtol = 1e-5 if dtype == 'float32' else 5 * 2**-8
  np.testing.assert_allclose(np.float32(adam.mu['x']), 0.1 * 0.9**20, rtol=rtol)


def test_the_flag_of_the_first_moment(monkeypatch):
  seen = []
  monkeypatch.setattr(
    optimizer,
    'make_optimizer',
    lambda schedule, flags: seen.append(flags.first_moment_dtype),
  )
  for dtype in ('float32', 'bfloat16'):
    config = config_lib.Config(
      run=sections.RunConfig(rl_steps=1),
      optimizer=phases.OptimizerConfig(first_moment_dtype=dtype),
    )
    optimizer.make_optimizers(config)
  assert seen == ['float32', 'bfloat16']


@pytest.mark.parametrize(
  ('param_dtype', 'rank', 'warned'),
  [('float32', 0, False), ('bfloat16', 0, True), ('bfloat16', 4, False)],
)
def test_who_trains_bfloat16_parameters_is_warned(param_dtype, rank, warned):
  config = config_lib.Config(
    model=sections.ModelConfig(param_dtype=param_dtype, lora_rank=rank)
  )
  text = checks.rounding_warning(config)
  assert bool(text) == warned
  if warned:
    assert '--param_dtype=bfloat16' in text and '--param_dtype=float32' in text
    assert 'update/rounded_away' in text and '--lora_rank' in text
