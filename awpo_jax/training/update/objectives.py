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
from awpo_jax.ops import aggregation as aggregation_lib
from awpo_jax.ops import logprobs as logprobs_lib
from awpo_jax.ops import masked, policy_losses
from awpo_jax.ops import surrogate as surrogate_lib
from awpo_jax.training.update import microbatches


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
  if batch.layout is not None:
    return batch.layout.completion_logprobs(
      params, batch, decoder=decoder, temperature=temperature, chunk=chunk
    )
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


def prompt_logprob(
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  decoder: decoder_lib.Decoder,
  temperature: float,
  chunk: int,
) -> types.Array:
  """f32[P], mean log-probability of a prompt's tokens but for its first.

  Arguments as of `completion_logprobs`.
  """
  bound: Callable[..., Any] = functools.partial(
    decoder.apply, {'params': params}
  )
  mask = batch.prompt_mask
  hidden, _ = bound(
    batch.prompt_tokens,
    decoder_lib.token_positions(mask),
    mask,
    method='hidden',
  )
  scores = logprobs_lib.token_logprobs(
    hidden[:, :-1],
    bound(method='head'),
    batch.prompt_tokens[:, 1:],
    temperature=temperature,
    chunk=chunk,
  )
  # Padding stands on the left: a token that has one before it is predicted.
  return masked.mean(scores.logprobs, mask[:, 1:] & mask[:, :-1], axis=-1)


def weigh(
  batch: types.Batch,
  all_sum: types.AllSum,
  *,
  aggregation: str,
  max_length: int | None = None,
) -> types.Batch:
  """Adds the weights of a mini-batch, over its microbatches and devices."""
  weights = aggregation_lib.token_weights(
    batch.policy_mask,
    aggregation=aggregation,
    all_sum=all_sum,
    max_length=max_length,
  )
  return dataclasses.replace(batch, weights=weights)


def sft_terms(
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  decoder: decoder_lib.Decoder,
  chunk: int,
) -> tuple[types.Array, Terms]:
  """Cross-entropy on response tokens: -sum(weights * log-probability)."""
  logprobs, entropy = completion_logprobs(
    params, batch, decoder=decoder, temperature=1.0, chunk=chunk
  )
  weights, mask = batch.weights, batch.policy_mask
  assert weights is not None
  loss = -jnp.sum(weights * jnp.where(mask, logprobs, 0.0))
  sums = {
    'weight': jnp.sum(weights),
    'loss': loss,
    'entropy': jnp.sum(weights * jnp.where(mask, entropy, 0.0)),
  }
  return loss, Terms(sums=jax.lax.stop_gradient(sums), maxima={})


def rl_terms(
  params: types.ArrayTree,
  batch: types.Batch,
  *,
  decoder: decoder_lib.Decoder,
  temperature: float,
  chunk: int,
  prompts: int,
  loss: str,
  clip_high_factor: float,
  entropy_coef: float,
  kl_coef: float,
  kl_estimator: str,
  **numbers: Any,
) -> tuple[types.Array, Terms]:
  """Loss of the policy's tokens, with entropy bonus and KL term.

  Args:
    params: of `decoder`.
    batch: one weighed microbatch, [P, ...].
    decoder: the model.
    temperature: of the sampler.
    chunk: positions whose logits exist at once.
    prompts: of the whole mini-batch, for group losses.
    loss: a key of `policy_losses.LOSSES`.
    clip_high_factor: upper clip radius over the lower one; 1 is symmetric.
    entropy_coef: weight of the entropy bonus.
    kl_coef: weight of the KL to the reference, under the same token weights; 0
      needs no `batch.ref_logprobs`.
    kl_estimator: a key of `surrogate.KL_ESTIMATORS`.
    **numbers: flags that the loss may take.

  Returns:
    The microbatch's share of the loss and its metrics.
  """
  logprobs, entropy = completion_logprobs(
    params, batch, decoder=decoder, temperature=temperature, chunk=chunk
  )
  tokens = _tokens(batch, logprobs, clip_high_factor)
  weights = _rows(batch.weights)
  entropy = jnp.sum(weights * jnp.where(tokens.mask, _rows(entropy), 0.0))
  surrogate = policy_losses.weighted_loss(
    tokens,
    weights,
    loss=loss,
    samples=batch.tokens.shape[1],
    prompts=prompts,
    correction=_rows(batch.correction),
    **numbers,
  )
  total = surrogate - entropy_coef * entropy
  sums = {'surrogate': surrogate, 'entropy': entropy}
  if kl_coef:
    sums['kl'] = _kl(tokens, weights, kind=kl_estimator)
    total += kl_coef * sums['kl']
  if batch.pull is not None:
    sums['trust_region'] = _pulled(tokens, weights, batch.pull, **numbers)
    total += sums['trust_region']
  sums |= {'loss': total, **_ratios(tokens, weights, loss)}
  largest = jnp.max(jnp.abs(tokens.log_ratio))
  return total, jax.lax.stop_gradient(
    Terms(sums=sums, maxima={'ratio_abs_log_max': largest})
  )


def _rows(values: types.Array | None) -> Any:
  """[P, G, Sc] as [N, T]; None stays None."""
  return values if values is None else values.reshape(-1, values.shape[-1])


def _tokens(
  batch: types.Batch, logprobs: types.Array, clip_high_factor: float
) -> policy_losses.Tokens:
  """What a loss may read of a microbatch, one row after another."""
  mask = _rows(batch.policy_mask)
  samples = batch.tokens.shape[1]
  low = jnp.repeat(batch.clip_radius, samples)[:, None]
  high: types.Array = low * clip_high_factor
  if batch.clip_high is not None:
    high = batch.clip_high.reshape(-1, 1)
  advantages = batch.advantages
  if advantages.ndim == 2:
    advantages = advantages[..., None]
  reference = _rows(batch.ref_logprobs)
  return policy_losses.Tokens(
    logprobs=jnp.where(mask, _rows(logprobs), 0.0),
    log_ratio=surrogate_lib.log_ratio(
      _rows(logprobs), _rows(batch.old_logprobs), mask
    ),
    mask=mask,
    advantages=_rows(advantages),
    clip_low=low,
    clip_high=high,
    ref_logprobs=(
      None if reference is None else jnp.where(mask, reference, 0.0)
    ),
  )


def _ratios(
  tokens: policy_losses.Tokens, weights: types.Array, loss: str
) -> dict[str, types.Array]:
  """Metrics: how far the policy has moved, how often the clip held it."""
  size = jnp.sum(weights * jnp.abs(tokens.log_ratio))
  sums: dict[str, types.Array] = {
    'weight': jnp.sum(weights),
    'ratio_abs_log': size,
  }
  clipped = policy_losses.is_clipped(tokens, loss=loss)
  if clipped is not None:
    sums['clip_fraction'] = jnp.sum(weights * clipped)
  return sums


def _kl(
  tokens: policy_losses.Tokens, weights: types.Array, *, kind: str
) -> types.Array:
  """Weighted sum of the estimates of KL(policy || reference)."""
  assert tokens.ref_logprobs is not None
  per_token = surrogate_lib.kl_estimate(
    tokens.logprobs, tokens.ref_logprobs, tokens.mask, kind=kind
  )
  return jnp.sum(weights * per_token)


def find_pull(
  params: types.ArrayTree,
  batch: types.Batch,
  all_sum: types.AllSum,
  *,
  decoder: decoder_lib.Decoder,
  temperature: float,
  chunk: int,
  disco_beta: float,
  disco_delta: float,
  **_: Any,
) -> types.Batch:
  """Adds the factor of a trust region over the whole mini-batch (DisCO's).

  The gradient of (beta / 2) max(0, KL - delta)^2 is beta max(0, KL - delta)
  times that of the KL. The factor needs the KL of all microbatches and devices,
  so it is found beforehand; what is left to differentiate adds up.

  Args:
    params: before the update.
    batch: weighed, [M, P, ...] of this device.
    all_sum: over all devices.
    decoder, temperature, chunk: as of `completion_logprobs`.
    disco_beta, disco_delta: as of `policy_losses.kl_penalty`.
  """

  def add(kl: types.Array, micro: types.Batch) -> types.Array:
    logprobs, _ = completion_logprobs(
      params, micro, decoder=decoder, temperature=temperature, chunk=chunk
    )
    tokens = _tokens(micro, logprobs, 1.0)
    return kl - jnp.sum(_rows(micro.weights) * tokens.log_ratio)

  nothing: types.Array = jnp.zeros(())
  total = all_sum(microbatches.fold(add, nothing, batch))
  slope = jax.grad(
    lambda x: policy_losses.kl_penalty(x, beta=disco_beta, delta=disco_delta)
  )
  pull = jnp.broadcast_to(slope(total), batch.clip_radius.shape[:1])
  return dataclasses.replace(batch, pull=jax.lax.stop_gradient(pull))


def _pulled(
  tokens: policy_losses.Tokens,
  weights: types.Array,
  pull: types.Array,
  *,
  disco_beta: float,
  **_,
) -> types.Array:
  """This microbatch's share of the trust region: its value and gradient."""
  kl = -jnp.sum(weights * tokens.log_ratio)
  value = jnp.sum(weights) * jnp.square(pull) / (2.0 * disco_beta)
  return value + pull * (kl - jax.lax.stop_gradient(kl))
