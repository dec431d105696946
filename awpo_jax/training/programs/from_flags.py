"""Flags bound to the functions that they are flags of."""

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
  clipping,
  kl,
  off_policy,
  policy_losses,
  selection,
  shaping,
)
from awpo_jax.training.update import objectives, prepare


def bound_prepare(
  config: config_lib.Config, decoder: decoder_lib.Decoder, *, parts: int = 1
) -> functools.partial[prepare.Prepared]:
  """`prepare.prepare_rollout` with its flags bound; `parts`: of `Scores`."""
  return functools.partial(
    prepare.prepare_rollout,
    algorithm=make_algorithm(config),
    scores=_scores(config, decoder, parts),
  )


def _scores(
  config: config_lib.Config, decoder: decoder_lib.Decoder, parts: int
) -> prepare.Scores:
  model = _model(config, decoder)
  prompt = None
  if config.shaping.shaper == 'arm':
    prompt = functools.partial(objectives.prompt_logprob, **model)
  return prepare.Scores(
    old=off_policy.OLD_LOGPROBS[config.rl.old_logprobs],
    logprobs=functools.partial(objectives.completion_logprobs, **model),
    prompt=prompt,
    reference=algorithm_lib.has_reference(config),
    micro=config.rl.micro,
    parts=parts,
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
  """The functions of a rollout batch's constants, their flags bound."""
  advantage, loss = dataclasses.asdict(config.advantage), config.loss
  correct = advantage.pop('correct')
  selected = dataclasses.asdict(config.selection)
  del selected['sampling_rounds']  # The host's.
  return prepare.Algorithm(
    samples=functools.partial(
      advantages.make_samples,
      advantage=config.advantage.advantage,
      gate=config.advantage.gate,
      correct=correct,
    ),
    advantages=functools.partial(
      advantages.rollout_advantages,
      max_length=config.data.response_buckets[-1],
      **advantage,
    ),
    shape=functools.partial(
      shaping.shape, **dataclasses.asdict(config.shaping)
    ),
    clip_radius=functools.partial(
      clipping.clip_radius,
      clip=loss.clip,
      clip_min=loss.clip_min,
      clip_max=loss.clip_max,
    ),
    select=functools.partial(selection.selected, **selected),
    clip_high=_clip_high(loss),
    correction=_correction(loss),
    penalty=_penalty(loss),
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
    return selection.drop_empty(made.advantages)

  return useful


def _clip_high(loss) -> Callable[..., types.Array] | None:
  if loss.clip_high == 'factor':
    return None
  return functools.partial(
    clipping.upper_radius,
    clip_high=loss.clip_high,
    clip_high_factor=loss.clip_high_factor,
    clip_high_delta=loss.clip_high_delta,
  )


def _correction(loss) -> Callable[..., types.Array] | None:
  if loss.mismatch == 'none':
    return None
  return functools.partial(
    off_policy.mismatch_weights,
    mismatch=loss.mismatch,
    mismatch_level=loss.mismatch_level,
    mismatch_low=loss.mismatch_low,
    mismatch_high=loss.mismatch_high,
  )


def _penalty(loss) -> Callable[..., types.Array] | None:
  if loss.kl_placement == 'loss' or not loss.kl_coef:
    return None

  def penalty(logprobs, ref_logprobs, mask):
    return loss.kl_coef * kl.kl_estimate(
      logprobs, ref_logprobs, mask, kind=loss.kl_estimator
    )

  return penalty


def make_objective(
  config: config_lib.Config, decoder: decoder_lib.Decoder, phase: str
) -> dict[str, Any]:
  """`weigh`, `terms` and perhaps `before` of a phase, its flags bound."""
  if phase == 'sft':
    return {
      'weigh': functools.partial(objectives.weigh, aggregation='token-mean'),
      'terms': functools.partial(
        objectives.sft_terms,
        decoder=decoder,
        chunk=config.model.logprob_chunk,
      ),
    }
  loss, numbers = config.loss, config.numbers
  model = _model(config, decoder)
  objective: dict[str, Any] = {
    'weigh': functools.partial(
      objectives.weigh,
      aggregation=loss.aggregation,
      max_length=config.data.response_buckets[-1],
    ),
    'terms': functools.partial(
      objectives.rl_terms,
      loss=loss.loss,
      clip_high_factor=loss.clip_high_factor,
      entropy_coef=loss.entropy_coef,
      kl_coef=loss.kl_coef if loss.kl_placement == 'loss' else 0.0,
      kl_estimator=loss.kl_estimator,
      prompts=config.rl.prompts_per_step // config.rl.minibatches,
      **model,
      **dataclasses.asdict(numbers),
    ),
  }
  if loss.loss in policy_losses.GROUP_LOSSES:
    objective['before'] = functools.partial(
      objectives.find_pull,
      disco_beta=numbers.disco_beta,
      disco_delta=numbers.disco_delta,
      **model,
    )
  return objective
