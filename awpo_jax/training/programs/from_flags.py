"""Chooses the functions that flags name, and gives them their numbers."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from awpo_jax import types
from awpo_jax.config import algorithm as algorithm_lib
from awpo_jax.config import experiment as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.ops import (
  advantages,
  aggregation,
  clipping,
  policy_losses,
  surrogate,
)
from awpo_jax.training.update import objectives, prepare


def bound_prepare(
  config: config_lib.Config,
  decoder: decoder_lib.Decoder,
  *,
  platform: str,
  parts: int = 1,
) -> functools.partial[prepare.Prepared]:
  """`prepare.prepare_rollout` with its flags bound.

  Args:
    config: of the run.
    decoder: the model.
    platform: of the devices, as `jax.Device.platform` has it.
    parts: of `Scores`.
  """
  bind, model = functools.partial, _model(config, decoder)
  asks = config.shaping.shaper == 'arm'
  scores = prepare.Scores(
    old=surrogate.OLD_LOGPROBS[algorithm_lib.old_logprobs(config, platform)],
    logprobs=bind(objectives.completion_logprobs, **model),
    prompt=bind(objectives.prompt_logprob, **model) if asks else None,
    reference=algorithm_lib.has_reference(config),
    micro=config.rl.micro,
    parts=parts,
  )
  return bind(
    prepare.prepare_rollout, algorithm=make_algorithm(config), scores=scores
  )


def _model(
  config: config_lib.Config, decoder: decoder_lib.Decoder
) -> dict[str, Any]:
  return {
    'decoder': decoder,
    'temperature': config.rl.temperature,
    'chunk': config.model.logprob_chunk,
  }


def make_algorithm(config: config_lib.Config) -> prepare.Algorithm:
  """The functions of a rollout batch's constants, their flags bound.

  Each is given all flags of its section and takes those it needs.
  """
  bind = functools.partial
  advantage = dataclasses.asdict(config.advantage)
  loss = dataclasses.asdict(config.loss)
  limit, clip_high, correction = config.data.response_buckets[-1], None, None
  if config.loss.clip_high != 'factor':
    clip_high = bind(clipping.upper_radius, **loss)
  if config.loss.mismatch != 'none':
    correction = bind(surrogate.mismatch_weights, **loss)
  return prepare.Algorithm(
    samples=bind(advantages.make_samples, **advantage),
    advantages=bind(
      advantages.rollout_advantages, max_length=limit, **advantage
    ),
    shape=bind(advantages.shape, **dataclasses.asdict(config.shaping)),
    clip_radius=bind(clipping.clip_radius, **loss),
    select=bind(aggregation.selected, **dataclasses.asdict(config.selection)),
    clip_high=clip_high,
    correction=correction,
    penalty=_penalty(config.loss),
  )


def make_useful(
  config: config_lib.Config,
) -> Callable[[types.Rollout], types.Array]:
  """(scored rollout) -> bool[P], groups in which a sample has an advantage.

  It is the algorithm's own of the rewards, saturation, weight and overlong
  penalty included, before any norm over the batch, which would move the groups
  that rewards do not rank, too. A KL in the reward and shaping come later.
  """
  plain = dataclasses.replace(config.advantage, batch_norm='none')
  algorithm = make_algorithm(dataclasses.replace(config, advantage=plain))

  def useful(rollout: types.Rollout) -> types.Array:
    samples = algorithm.samples(rollout, rollout.completions.logprobs)
    made = algorithm.advantages(rollout.rewards, samples)
    return aggregation.drop_empty(made.advantages)

  return useful


def _penalty(loss) -> Callable[..., types.Array] | None:
  if loss.kl_placement == 'loss' or not loss.kl_coef:
    return None

  def penalty(logprobs, ref_logprobs, mask):
    return loss.kl_coef * surrogate.kl_estimate(
      logprobs, ref_logprobs, mask, kind=loss.kl_estimator
    )

  return penalty


def make_objective(
  config: config_lib.Config, decoder: decoder_lib.Decoder, phase: str
) -> dict[str, Any]:
  """`weigh`, `terms` and perhaps `before` of a phase, its flags bound."""
  bind, model = functools.partial, _model(config, decoder)
  if phase == 'sft':
    chunk = config.model.logprob_chunk
    return {
      'weigh': bind(objectives.weigh, aggregation='token-mean'),
      'terms': bind(objectives.sft_terms, decoder=decoder, chunk=chunk),
    }
  loss = dataclasses.asdict(config.loss)
  numbers = dataclasses.asdict(config.numbers)
  if config.loss.kl_placement == 'reward':
    loss['kl_coef'] = 0.0
  prompts = config.rl.prompts_per_step // config.rl.minibatches
  objective = {
    'weigh': bind(
      objectives.weigh,
      aggregation=config.loss.aggregation,
      max_length=config.data.response_buckets[-1],
    ),
    'terms': bind(
      objectives.rl_terms, prompts=prompts, **model, **loss, **numbers
    ),
  }
  if config.loss.loss in policy_losses.GROUP_LOSSES:
    objective['before'] = bind(objectives.find_pull, **model, **numbers)
  return objective
