"""One update on a mini-batch: pure, the same under jit and under pmap."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from awpo_jax import types
from awpo_jax.models import lora
from awpo_jax.ops import collectives
from awpo_jax.training.update import microbatches, objectives

Constrain = Callable[[types.ArrayTree], types.ArrayTree]
Weigh = Callable[[types.Batch, types.AllSum], types.Batch]
Before = Callable[[types.ArrayTree, types.Batch, types.AllSum], types.Batch]
TermsFn = Callable[
  [types.ArrayTree, types.Batch], tuple[types.Array, objectives.Terms]
]


@types.record
class TrainState:
  """What an update changes.

  Attributes:
    step: i32 scalar, updates applied so far.
    params: of the model, all of them.
    opt_state: of the optimizer, for what is trained of them (`lora.split`).
  """

  step: types.Array
  params: types.ArrayTree
  opt_state: optax.OptState


@types.record
class StepMetrics:
  """What an update reports; every number is the same on all devices.

  Attributes:
    sums: `Terms.sums` over the mini-batch.
    maxima: `Terms.maxima` over the mini-batch.
    updates: i32, updates attempted so far, this one included.
    grad_norm: f32, before clipping.
    finite: bool, False where nothing was updated.
    replica_spread: f32, largest difference between devices of the sum of all
      parameters; 0 unless replicas have drifted apart.
    rounded_away: f32, share of the numbers with an update that it left as they
      were; None where all that is trained is float32.
  """

  sums: dict[str, types.Array]
  maxima: dict[str, types.Array]
  updates: types.Array
  grad_norm: types.Array
  finite: types.Array
  replica_spread: types.Array
  rounded_away: types.Array | None = None


def init_state(
  params: types.ArrayTree, tx: optax.GradientTransformation
) -> TrainState:
  """The state before the first update."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(lora.split(params)[0]),
  )


def train_step(
  state: TrainState,
  batch: types.Batch,
  *,
  weigh: Weigh,
  terms: TermsFn,
  tx: optax.GradientTransformation,
  before: Before | None = None,
  constrain: Constrain = collectives.identity,
  axis_name: str | None = None,
) -> tuple[TrainState, StepMetrics]:
  """One update.

  The loss is a sum under weights made beforehand over the whole mini-batch,
  so gradients of microbatches and devices add. The sum over devices is taken
  once, outside the differentiated function. Where there are adapters they alone
  are differentiated and updated.

  Args:
    state: donated by the wrappers.
    batch: `types.Batch`, [M, P, ...] of this device.
    weigh: adds the weights, e.g. `objectives.weigh`.
    terms: loss and metrics of a microbatch, e.g. `objectives.rl_terms`.
    tx: the optimizer.
    before: adds what the terms need to know of the whole mini-batch under the
      present parameters, e.g. `objectives.find_pull`; None for nothing.
    constrain: says of a tree like the parameters how it lies on the devices,
      for gradients; nothing to say where it is whole on each.
    axis_name: of the data axis; None on one device.

  Returns:
    The new state, or the old one where loss or gradient is not finite, and
    the metrics.
  """
  all_sum = collectives.make_all_sum(axis_name)
  all_max = collectives.make_all_max(axis_name)
  trained, frozen = lora.split(state.params)
  batch = weigh(batch, all_sum)
  if before is not None:
    batch = before(state.params, batch, all_sum)
  grads, local = accumulate(
    lambda trained, micro: terms(lora.join(trained, frozen), micro),
    trained,
    batch,
    constrain=constrain,
  )
  grads, sums = all_sum((grads, local.sums))
  grad_norm = optax.tree.norm(grads)
  new, rounded_away = _apply(state, grads, tx)
  finite = jnp.isfinite(sums['loss']) & jnp.isfinite(grad_norm)
  # An optimizer can overflow where the gradient did not.
  finite &= jnp.isfinite(_checksum(new.params))
  state = jax.tree.map(
    lambda n, o: o if n is o else jnp.where(finite, n, o), new, state
  )
  checksum = _checksum(state.params)
  return state, StepMetrics(
    sums=sums,
    maxima=all_max(local.maxima),
    updates=new.step,
    grad_norm=grad_norm,
    finite=finite,
    replica_spread=all_max(checksum) + all_max(-checksum),
    rounded_away=rounded_away,
  )


def _checksum(params: types.ArrayTree) -> types.Array:
  sums = [jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(params)]
  return jnp.sum(jnp.stack(sums))


def accumulate(
  terms: TermsFn,
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  constrain: Constrain = collectives.identity,
) -> tuple[types.ArrayTree, objectives.Terms]:
  """Gradients and metrics summed over the microbatches, one at a time.

  Gradients are summed as float32. Those of bfloat16 parameters are bfloat16
  within a microbatch; further ones would be lost in a sum of that dtype.
  """
  gradient = jax.grad(terms, has_aux=True)

  def grad(params, micro):
    grads, metrics = gradient(params, micro)
    grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
    return constrain(grads), metrics

  first = microbatches.first(batch)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad, params, first)
  )

  def add(total, micro):
    grads, new = grad(params, micro)
    old_grads, old = total
    return (
      jax.tree.map(jnp.add, old_grads, grads),
      objectives.Terms(
        sums=jax.tree.map(jnp.add, old.sums, new.sums),
        maxima=jax.tree.map(jnp.maximum, old.maxima, new.maxima),
      ),
    )

  return microbatches.fold(add, zeros, batch)


def _apply(
  state: TrainState, grads: types.ArrayTree, tx: optax.GradientTransformation
) -> tuple[TrainState, types.Array | None]:
  trained, frozen = lora.split(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, trained)
  step = state.step + 1
  new = optax.apply_updates(trained, updates)
  state = TrainState(
    step=step, params=lora.join(new, frozen), opt_state=opt_state
  )
  return state, _rounded_away(trained, new, updates)


def _rounded_away(
  old: types.ArrayTree, new: types.ArrayTree, updates: types.ArrayTree
) -> types.Array | None:
  """Share of the updates that vanished when they were added."""
  leaves = jax.tree.leaves(old)
  if all(x.dtype == jnp.float32 for x in leaves):
    return None
  wanted = [x != 0 for x in jax.tree.leaves(updates)]
  lost = [
    w & (o == n)
    for w, o, n in zip(wanted, leaves, jax.tree.leaves(new), strict=True)
  ]
  count = [
    sum(jnp.sum(x, dtype=jnp.float32) for x in y) for y in (lost, wanted)
  ]
  return count[0] / jnp.maximum(count[1], 1.0)


def update_metrics(
  updates: Sequence[StepMetrics],
) -> dict[str, float]:
  """Means over the updates of a step, each under its own weights."""

  def mean(name: str, chosen=updates) -> float:
    return float(
      np.mean([u.sums[name] / max(u.sums['weight'], 1e-30) for u in chosen])
    )

  metrics = {
    'loss': float(np.mean([u.sums['loss'] for u in updates])),
    'grad_norm': float(np.mean([u.grad_norm for u in updates])),
    'policy_entropy': mean('entropy'),
  }
  lost = [u.rounded_away for u in updates if u.rounded_away is not None]
  if lost:
    metrics['update/rounded_away'] = float(np.mean(lost))
  if 'kl' in updates[0].sums:
    metrics['kl'] = mean('kl')
  if 'clip_fraction' in updates[0].sums:
    metrics['clip/fraction'] = mean('clip_fraction')
  if 'ratio_abs_log' in updates[0].sums:
    largest = max(float(u.maxima['ratio_abs_log_max']) for u in updates)
    metrics |= {
      'ratio/abs_log_mean': mean('ratio_abs_log'),
      'ratio/first_abs_log_mean': mean('ratio_abs_log', updates[:1]),
      'ratio/abs_log_max': largest,
    }
  assert all(math.isfinite(value) for value in metrics.values())
  return metrics
