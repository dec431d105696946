"""A difficulty weight that is the same everywhere is a learning rate.

With --base=1.5 --priority=1.5 every gradient is 1.5 times that of
--difficulty=none. Plain gradient descent at a rate 1.5 times lower makes the
same updates of it. Adam divides by the size of the gradients: with an epsilon
1.5 times as large the updates are the same, and with any other the same up to
what that epsilon was there for. Gradients that are clipped to a norm are the
same where both are longer than it.
"""

import functools
import math

import jax
import numpy as np
import optax
import pytest

from awpo_jax.config import phases
from awpo_jax.distributed import sharding
from awpo_jax.training.update import objectives, optimizer, train_step
from tests.helpers import tiny_training

SAME = {'base': 1.5, 'priority': 1.5}
NONE = {'difficulty': 'none'}


@functools.cache
def _batch(**flags):
  return tiny_training.prepared(tiny_training.rollout(3), **flags).batch


def _run(tx, flags, count=4):
  """Parameters after some updates, and the norm of each gradient."""
  step = tiny_training.jit(
    functools.partial(
      train_step.train_step,
      weigh=functools.partial(objectives.weigh, aggregation='token-mean'),
      terms=tiny_training.RL_TERMS,
      tx=tx,
    )
  )
  state = train_step.init_state(tiny_training.params(), tx)
  norms = []
  for part in tiny_training.minibatches(_batch(**flags))[:count]:
    (cut,) = sharding.cut(
      sharding.split(part, 1), minibatches=1, micro=tiny_training.MINIBATCH
    )
    state, metrics = step(state, jax.tree.map(lambda x: x[0], cut))
    norms.append(float(metrics.grad_norm))
  return jax.device_get(state.params), norms


def _assert_same(got, want, rtol=1e-4):
  moved = jax.tree.map(np.subtract, want, tiny_training.params())
  tiny_training.assert_close(got, want, scale=moved, rtol=rtol)


def _adam(eps, norm=math.inf):
  flags = phases.OptimizerConfig(adam_eps=eps, max_grad_norm=norm)
  return optimizer.make_optimizer(lambda _: 1e-2, flags)


def test_every_gradient_is_longer_by_the_weight():
  (one, norms), (more, longer) = (
    _run(optax.sgd(1e-2), flags, count=1) for flags in (NONE, SAME)
  )
  np.testing.assert_allclose(longer[0], 1.5 * norms[0], rtol=1e-5)
  start = tiny_training.params()
  moved, further = (jax.tree.map(np.subtract, x, start) for x in (one, more))
  scaled = jax.tree.map(lambda x: 1.5 * x, moved)
  tiny_training.assert_close(further, scaled, scale=scaled, rtol=1e-4)


def test_gradient_descent_at_a_lower_rate():
  want, _ = _run(optax.sgd(0.3), NONE)
  got, _ = _run(optax.sgd(0.2), SAME)
  _assert_same(got, want)
  # At the same rate it is another run.
  other, _ = _run(optax.sgd(0.3), SAME)
  gap = tiny_training.distance(other, want)
  moved = jax.tree.map(np.subtract, want, tiny_training.params())
  assert gap > 0.2 * tiny_training.norm(moved)


@pytest.mark.parametrize('eps', [1e-8, 1e-3])
def test_adam_with_an_epsilon_that_is_larger_by_the_weight(eps):
  want, norms = _run(_adam(eps), NONE)
  got, longer = _run(_adam(1.5 * eps), SAME)
  _assert_same(got, want, rtol=2e-3)
  np.testing.assert_allclose(longer, 1.5 * np.array(norms), rtol=1e-3)
  # And with the epsilon of a run, 1e-8, the same is as good as the same.
  if eps == 1e-8:
    got, _ = _run(_adam(eps), SAME)
    _assert_same(got, want, rtol=2e-3)


def test_gradients_that_are_clipped_are_the_same():
  want, norms = _run(_adam(1e-3, norm=0.05), NONE)
  assert min(norms) > 0.05
  got, _ = _run(_adam(1e-3, norm=0.05), SAME)
  _assert_same(got, want)
