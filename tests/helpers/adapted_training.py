"""The tiny model with adapters, trained with a KL term, and its plain twin."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from awpo_jax.models import decoder as decoder_lib
from awpo_jax.models import lora, lora_layers
from awpo_jax.training.update import objectives, train_step
from tests.helpers import row_by_row, tiny_training

SCALE = 2.0  # alpha / rank
KL_COEF = 0.5
CONFIG = dataclasses.replace(
  tiny_training.CONFIG,
  lora=lora_layers.LoraConfig(
    rank=3, alpha=6.0, targets=('q_proj', 'o_proj', 'up_proj')
  ),
)
DECODER = decoder_lib.Decoder(CONFIG)
TERMS = functools.partial(
  objectives.rl_terms,
  decoder=DECODER,
  **tiny_training.RL_FLAGS | {'kl_coef': KL_COEF, 'kl_estimator': 'k2'},
)


@functools.cache
def trained(seed=1):
  """Adapters on the host, none of them 0."""
  shapes = jax.eval_shape(
    lambda key: lora.new_adapters(CONFIG, key), jax.random.key(0)
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (0.3 * rng.normal(size=x.shape)).astype(x.dtype), shapes
  )


def params(seed=1):
  """All parameters, on the host."""
  return lora.join(trained(seed), tiny_training.params())


def initial_state() -> train_step.TrainState:
  """The state before the first update, on the host."""
  return jax.device_get(
    train_step.init_state(params(), tiny_training.make_tx())
  )


def merged(trained):
  """Parameters of `tiny.DECODER`: W + (alpha / r) A B."""
  flat = dict(traverse_util.flatten_dict(tiny_training.params()))
  pairs = traverse_util.flatten_dict(trained)
  for path in {path[:-1] for path in pairs}:
    product = pairs[*path, 'lora_a'] @ pairs[*path, 'lora_b']
    flat[*path, 'kernel'] = flat[*path, 'kernel'] + SCALE * product
  return traverse_util.unflatten_dict(flat)


@functools.cache
def batch():
  """Eight prompts with log-probabilities of a reference near the policy."""
  rng = np.random.default_rng(5)
  base = row_by_row.random_batch(0)
  whole = jax.tree.map(np.asarray, merged(trained()))
  own, _ = row_by_row.scores(whole, base)

  def near(spread):
    values = own + spread * rng.normal(size=own.shape)
    return np.where(base.policy_mask, values, 0).astype(np.float32)

  return base.replace(old_logprobs=near(0.5), ref_logprobs=near(0.3))


def plain(aggregation):
  """Gradient of the adapters and metrics, through kernels that are sums."""

  def loss(trained, ref, *inputs):
    whole = merged(trained)
    rows, weights, *_ = inputs
    value, sums = row_by_row._rl(whole, *inputs)
    logprobs, _ = row_by_row.logprobs_and_entropy(
      whole, *rows, width=weights.shape[-1]
    )
    # Half of the squared log ratio to the reference.
    squares = jnp.where(weights > 0, logprobs - ref, 0.0) ** 2
    kl = jnp.sum(weights * squares / 2)
    value += KL_COEF * kl
    return value, sums | {'kl': kl, 'loss': value}

  inputs = row_by_row._inputs(batch(), aggregation, tiny_training.MAX_LENGTH)
  ref = batch().ref_logprobs.reshape(-1, batch().tokens.shape[-1])
  return tiny_training.jit(jax.grad(loss, has_aux=True))(
    trained(), ref, *inputs
  )
