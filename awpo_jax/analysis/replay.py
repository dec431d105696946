"""Archived rollouts under other flags: which advantages they would have had."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from awpo_jax import types
from awpo_jax.analysis import diagnostics
from awpo_jax.checkpointing import run_folder
from awpo_jax.config import experiment as config_lib
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.ops import awpo as awpo_lib
from awpo_jax.reporting import rollout_archive as rollout_archive_lib
from awpo_jax.training.programs import from_flags
from awpo_jax.training.update import objectives


def variant(run: str | os.PathLike[str], *flags: str) -> config_lib.Config:
  """The configuration of a run with other flags.

  Flags of the run that there are no more are left out: an old archive can be
  looked at with the algorithms of today. A run that is older than a flag whose
  default would change it has `experiment.BEFORE`.

  Args:
    run: its folder.
    *flags: `--gate=binary` and the like.
  """
  known = config_lib.to_dict(config_lib.Config())
  lines = (pathlib.Path(run) / run_folder.FLAGFILE).read_text().split('\n')
  kept = [x for x in lines if x.removeprefix('--').partition('=')[0] in known]
  before = [f'--{name}={value}' for name, value in config_lib.BEFORE.items()]
  return config_lib.parse([*before, *kept, *flags])


def advantages(
  config: config_lib.Config, rollout: types.Rollout
) -> awpo_lib.Advantages:
  """What the flags would have made of a rollout, before any shaping."""
  algorithm = from_flags.make_algorithm(config)
  old = rollout.trainer_logprobs
  if old is None:
    old = rollout.completions.logprobs
  samples = algorithm.samples(rollout, old)
  return jax.device_get(algorithm.advantages(rollout.rewards, samples))


def replay(
  archive: rollout_archive_lib.Archive,
  variants: Mapping[str, config_lib.Config],
) -> dict[str, awpo_lib.Advantages]:
  """Advantages of all steps under each variant, [steps, P, ...]."""
  rollouts = [_with_parts(archive, step) for step in archive.steps]
  return {
    name: jax.tree.map(
      lambda *x: np.stack(x), *(advantages(config, x) for x in rollouts)
    )
    for name, config in variants.items()
  }


def _with_parts(
  archive: rollout_archive_lib.Archive, step: int
) -> types.Rollout:
  """A rollout with all parts of its outcome, whatever the run asked for."""
  rollout, parts = archive.rollout(step), archive.parts(step)
  rewards = dataclasses.replace(rollout.rewards, parts=parts)
  return dataclasses.replace(rollout, rewards=rewards)


def steps(
  made: awpo_lib.Advantages,
) -> list[awpo_lib.Advantages]:
  """The advantages of each step of `replay`."""
  return [
    jax.tree.map(lambda x, i=i: x[i], made) for i in range(len(made.counted))
  ]


def solved_cosine(run: str | os.PathLike[str], *flags: str) -> float | None:
  """`diagnostics.solved_cosine` of a run's first archived rollout.

  Cells of a grid that share a start, prompts and keys share that rollout: what
  differs is the algorithm alone. Where tokens differ, a sample's advantage is
  the mean over those that the policy chose.

  Args:
    run: its folder.
    *flags: of the run, changed, as in `variant`.

  Returns:
    None where there is no archive with `solved`, or nothing to compare.
  """
  try:
    archive = rollout_archive_lib.open_archive(run)
  except FileNotFoundError:
    return None
  step = next(iter(archive.steps), None)
  if step is None or 'solved' not in (parts := archive.parts(step)):
    return None
  rollout = _with_parts(archive, step)
  made = np.asarray(advantages(variant(run, *flags), rollout).advantages)
  if made.ndim == 3:
    chosen = rollout.completions.policy_mask
    made = (made * chosen).sum(-1) / np.maximum(chosen.sum(-1), 1)
  return diagnostics.solved_cosine(made, parts['solved'])


def radii(config: config_lib.Config, made: awpo_lib.Advantages) -> np.ndarray:
  """f32[steps], the clip radius of each step of `replay`; f32[steps, P] where
  groups have their own."""
  radius = from_flags.make_algorithm(config).clip_radius
  return np.array([radius(x.gate, x.counted) for x in steps(made)])


def score_vectors(
  decoder: decoder_lib.Decoder,
  params: types.ArrayTree,
  rollout: types.Rollout,
  *,
  directions: int,
  seed: int = 0,
  chunk: int = 128,
) -> np.ndarray:
  """Z = grad log pi of each answer, projected on random directions.

  A projection is the derivative of all log-probabilities along one direction of
  the parameters: no gradient of any row is formed.

  Args:
    decoder: of the policy.
    params: at the time of the rollout, or near it.
    rollout: P * G answers.
    directions: K, well below P * G.
    seed: fixes the directions.
    chunk: positions whose logits exist at once.

  Returns:
    f32[P * G, K].
  """
  batch = types.Batch.of(rollout.prompts, rollout.completions)
  keys = jax.random.split(jax.random.key(seed), directions)
  return np.stack(
    [np.asarray(_along(params, batch, key, decoder, chunk)) for key in keys],
    axis=1,
  )


@functools.partial(jax.jit, static_argnames=('decoder', 'chunk'))
def _along(
  params: types.ArrayTree,
  batch: types.Batch,
  key: types.Array,
  decoder: decoder_lib.Decoder,
  chunk: int,
) -> types.Array:
  """f32[P * G], the derivative of log pi along the direction of a key."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  direction = [
    jax.random.normal(k, x.shape, x.dtype)
    for k, x in zip(keys, leaves, strict=True)
  ]

  def total(params: types.ArrayTree) -> types.Array:
    logprobs, _ = objectives.completion_logprobs(
      params, batch, decoder=decoder, temperature=1.0, chunk=chunk
    )
    kept = jnp.where(batch.policy_mask, logprobs, 0.0)
    return jnp.sum(kept, axis=-1).reshape(-1)

  # The gradient is linear in what it is the gradient of: its transpose is the
  # derivative along a direction. (`models.layers` has no forward mode.)
  values, gradient = jax.vjp(total, params)
  forward = jax.linear_transpose(lambda g: gradient(g)[0], values)
  return forward(jax.tree.unflatten(tree, direction))[0]
