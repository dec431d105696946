"""What a microbatch adds to the loss and its metrics, per objective.

Every number here is a sum under the batch's weights, so microbatches, devices
and hosts simply add; the caller divides by the sum of the weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from awpo_jax import types
from awpo_jax.models import cache as cache_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.ops import logprobs as logprobs_lib
from awpo_jax.ops import losses


@types.record
class Terms:
  """Metrics of a microbatch.

  Attributes:
    sums: name -> f32 scalar; added over microbatches and devices.
    maxima: name -> f32 scalar; their maximum is taken instead.
  """

  sums: Mapping[str, types.Array]
  maxima: Mapping[str, types.Array]


def completion_logprobs(
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  decoder: decoder_lib.Decoder,
  temperature: float,
  chunk: int,
) -> tuple[types.Array, types.Array]:
  """Log-probabilities of completions; the prompt is read once per group.

  The hidden state that predicts the first token of a completion is the last
  one of its prompt; its keys and values reach every row of the group.

  Args:
    params: of `decoder`.
    batch: one microbatch, [P, ...].
    decoder: the model.
    temperature: divides the logits, as in the sampler.
    chunk: positions whose logits exist at once.

  Returns:
    f32[P, G, Sc] log-probabilities and entropies (nats); junk where
    `batch.mask` is False.
  """
  chex.assert_rank([batch.prompt_tokens, batch.tokens], [2, 3])
  shape = batch.tokens.shape
  tokens, mask, positions = (
    x.reshape(-1, shape[-1])
    for x in (batch.tokens, batch.mask, batch.positions)
  )
  bound: Callable[..., Any] = functools.partial(
    decoder.apply, {'params': params}
  )
  last, layers = bound(
    batch.prompt_tokens,
    decoder_lib.token_positions(batch.prompt_mask),
    batch.prompt_mask,
    tail=1,
    method='hidden',
  )
  hidden, _ = bound(
    tokens[:, :-1],
    positions[:, :-1],
    mask[:, :-1],
    prefix=cache_lib.Prefix(layers=layers, mask=batch.prompt_mask),
    method='hidden',
  )
  first = jnp.repeat(last, shape[1], axis=0)
  head = bound(method='head')
  scores = logprobs_lib.token_logprobs(
    jnp.concatenate([first, hidden], axis=1),
    head,
    tokens,
    temperature=temperature,
    chunk=chunk,
  )
  return scores.logprobs.reshape(shape), scores.entropy.reshape(shape)


def weigh(
  batch: types.Batch,
  all_sum: types.AllSum,
  *,
  aggregation: str,
  max_length: int | None = None,
) -> types.Batch:
  """Adds the weights of a mini-batch, over its microbatches and devices."""
  mask = batch.policy_mask & batch.valid[..., None]
  weights = losses.token_weights(
    mask, aggregation=aggregation, all_sum=all_sum, max_length=max_length
  )
  return dataclasses.replace(batch, weights=weights)


def sft_terms(
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  decoder: decoder_lib.Decoder,
  chunk: int = 128,
) -> tuple[types.Array, Terms]:
  """Cross-entropy on response tokens: -sum(weights * log-probability)."""
  logprobs, entropy = completion_logprobs(
    params, batch, decoder=decoder, temperature=1.0, chunk=chunk
  )
  assert batch.weights is not None
  used = batch.weights > 0
  logprobs = jnp.where(used, logprobs, 0.0)
  loss = -jnp.sum(batch.weights * logprobs)
  sums = {
    'weight': jnp.sum(batch.weights),
    'loss': loss,
    'entropy': jnp.sum(batch.weights * jnp.where(used, entropy, 0.0)),
  }
  return loss, Terms(sums=jax.lax.stop_gradient(sums), maxima={})


def rl_terms(
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  decoder: decoder_lib.Decoder,
  temperature: float = 1.0,
  clip_high_factor: float = 1.0,
  dual_clip: float | None = None,
  entropy_coef: float = 0.0,
  kl_coef: float = 0.0,
  kl_estimator: str = 'k3+',
  chunk: int = 128,
) -> tuple[types.Array, Terms]:
  """Clipped surrogate on policy tokens, with entropy bonus and KL term.

  Args:
    params: of `decoder`.
    batch: one weighed microbatch, [P, ...].
    decoder: the model.
    temperature: of the sampler.
    clip_high_factor: upper clip radius over the lower one; 1 is symmetric.
    dual_clip: bound on -ratio where the advantage is negative; None is off.
    entropy_coef: weight of the entropy bonus.
    kl_coef: weight of the KL to the reference, under the same token weights; 0
      needs no `batch.ref_logprobs`.
    kl_estimator: a key of `losses.KL_ESTIMATORS`.
    chunk: positions whose logits exist at once.

  Returns:
    The microbatch's share of the loss and its metrics.
  """
  logprobs, entropy = completion_logprobs(
    params, batch, decoder=decoder, temperature=temperature, chunk=chunk
  )
  rows = batch.tokens.shape[-1]
  assert batch.weights is not None
  weights = batch.weights.reshape(-1, rows)
  used = weights > 0
  log_ratio = losses.log_ratio(
    logprobs.reshape(-1, rows), batch.old_logprobs.reshape(-1, rows), used
  )
  radius = jnp.broadcast_to(
    batch.clip_radius[:, None], batch.advantages.shape
  ).reshape(-1)
  advantages = batch.advantages.reshape(-1)
  per_token = losses.clipped_surrogate(
    log_ratio,
    advantages,
    clip_low=radius,
    clip_high=radius * clip_high_factor,
    dual_clip=dual_clip,
  )
  entropy = jnp.where(used, entropy.reshape(-1, rows), 0.0)
  surrogate = jnp.sum(weights * per_token)
  entropy = jnp.sum(weights * entropy)
  loss = surrogate - entropy_coef * entropy
  further = {}
  if kl_coef:
    further['kl'] = _kl(logprobs, batch, kind=kl_estimator)
    loss += kl_coef * further['kl']
  clipped = losses.is_clipped(
    log_ratio,
    advantages,
    clip_low=radius,
    clip_high=radius * clip_high_factor,
  )
  size = jnp.abs(log_ratio)
  sums = {
    'weight': jnp.sum(weights),
    'loss': loss,
    'surrogate': surrogate,
    'entropy': entropy,
    'clip_fraction': jnp.sum(weights * clipped),
    'ratio_abs_log': jnp.sum(weights * size),
    **further,
  }
  maxima = {'ratio_abs_log_max': jnp.max(jnp.where(used, size, 0.0))}
  return loss, jax.lax.stop_gradient(Terms(sums=sums, maxima=maxima))


def _kl(logprobs: types.Array, batch: types.Batch, *, kind: str) -> types.Array:
  """Weighted sum of the estimates of KL(policy || reference)."""
  assert batch.ref_logprobs is not None and batch.weights is not None
  rows = (-1, logprobs.shape[-1])
  weights = batch.weights.reshape(rows)
  per_token = losses.kl_estimate(
    logprobs.reshape(rows),
    batch.ref_logprobs.reshape(rows),
    weights > 0,
    kind=kind,
  )
  return jnp.sum(weights * per_token)
