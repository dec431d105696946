"""The optimizer: global-norm clipping, AdamW, a warm-up and decay schedule."""

import jax
import jax.numpy as jnp
import optax

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import phases
from awpo_jax.ops import choices


def make_schedule(
  *, peak: float, schedule: str, warmup: int, total: int
) -> optax.Schedule:
  """Learning rate of each update.

  Args:
    peak: after the warm-up.
    schedule: a key of `phases.SCHEDULES`, from the end of the warm-up.
    warmup: updates of linear rise from 0.
    total: updates in all; after them `linear` and `cosine` are 0.

  Returns:
    update number (from 0) -> learning rate.
  """
  rest = max(total - warmup, 1)
  make = choices.pick('schedule', phases.SCHEDULES, schedule)
  decay = make(peak, rest)
  # The first update moves too: the rise starts at 1 / (warmup + 1).
  rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
  return optax.join_schedules([rise, decay], [warmup]) if warmup else decay


def make_optimizer(
  learning_rate: optax.Schedule, flags: phases.OptimizerConfig
) -> optax.GradientTransformation:
  """AdamW (arXiv:1711.05101) on gradients clipped to a global norm.

  All arithmetic is float32, whatever the dtype of the parameters; the update
  is float32 too, and rounded when it is added to them.

  Args:
    learning_rate: of each update.
    flags: its numbers. To `first_moment_dtype` the first moment is rounded
      between updates; the second stays float32: it moves by 1 - b2, a
      thousandth, of the difference to the squared gradient, and bfloat16 rounds
      away what is below 1/512.
  """
  return _in_float32(
    optax.chain(
      optax.clip_by_global_norm(flags.max_grad_norm),
      optax.adamw(
        learning_rate,
        b1=flags.adam_b1,
        b2=flags.adam_b2,
        eps=flags.adam_eps,
        weight_decay=flags.weight_decay,
        mu_dtype=flags.first_moment_dtype,
      ),
    )
  )


def _in_float32(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """`tx` on float32 copies; without it optax takes the dtypes it is given.

  In bfloat16 a parameter's second moment would not move, and a first moment
  would decay by 0.8984 for 0.9.
  """

  def cast(tree):
    return jax.tree.map(
      lambda x: (
        x.astype(jnp.float32) if jnp.isdtype(x.dtype, 'real floating') else x
      ),
      jax.tree.map(jnp.asarray, tree),
    )

  return optax.GradientTransformation(
    lambda params: tx.init(cast(params)),
    lambda grads, state, params: tx.update(
      cast(grads), cast(state), cast(params)
    ),
  )


def make_optimizers(
  config: config_lib.Config,
) -> dict[str, optax.GradientTransformation]:
  """Phase -> optimizer, for the phases the run has; and their schedules."""
  return {
    phase: make_optimizer(schedule, config.optimizer)
    for phase, schedule in make_schedules(config).items()
  }


def make_schedules(config: config_lib.Config) -> dict[str, optax.Schedule]:
  """Phase -> learning rate by update."""
  run, sft, rl = config.run, config.sft, config.rl
  made = {}
  if run.sft_steps:
    made['sft'] = make_schedule(
      peak=sft.sft_learning_rate,
      schedule=sft.sft_schedule,
      warmup=sft.sft_warmup,
      total=run.sft_steps,
    )
  if run.rl_steps:
    made['rl'] = make_schedule(
      peak=rl.learning_rate,
      schedule=rl.schedule,
      warmup=rl.warmup,
      total=run.rl_steps * rl.minibatches,
    )
  return made
