"""The tokens of archived rollouts, and what the algorithm made of them."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.analysis import replay
from awpo_jax.checkpointing import model_files
from awpo_jax.config import experiment as config_lib
from awpo_jax.reporting import rollout_archive
from awpo_jax.rollout.rewards import scoring
from awpo_jax.rollout.text import tokenizers
from awpo_jax.training.collection import transcripts
from awpo_jax.training.programs import from_flags
from awpo_jax.training.update import prepare

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Rollouts of a run with its flags and tokenizer.

  Attributes:
    archive: of the run.
    config: of the run.
    tokenizer: None where its folder has none: tokens are then numbers.
  """

  archive: rollout_archive.Archive
  config: config_lib.Config
  tokenizer: tokenizers.Tokenizer | None

  @property
  def steps(self) -> list[int]:
    """Those that are there."""
    return self.archive.steps

  def joined(self, step: int, groups: Sequence[Json]) -> list[Json]:
    """All groups of a rollout, with what the transcripts say of some.

    Args:
      step: of the archive.
      groups: of its transcripts, held-out answers among them.
    """
    kept = self._groups(step)
    told = {}
    for group in groups:
      if 'set' not in group:
        told[group.get('prompt', group.get('task_id'))] = group
    rollout = []
    for group in kept:
      own = told.pop(group['prompt'], None) or told.pop(group['task_id'], None)
      rollout.append(_merged(group, own) if own else group)
    # What another round of sampling had is not in the archive.
    return [*rollout, *told.values(), *(x for x in groups if 'set' in x)]

  def _groups(self, step: int) -> list[Json]:
    rollout = self.archive.rollout(step)
    found = _numbers(self.config, rollout)
    parts = self.archive.parts(step)
    names = self.archive.tasks(step)
    made = []
    for p, name in enumerate(names):
      prompt = rollout.prompts.tokens[p][rollout.prompts.mask[p]]
      rewards = rollout.rewards
      made.append(
        {
          'prompt': int(rollout.prompts.ids[p]),
          'task_id': name,
          'rendered': ''.join(self._pieces(prompt)),
          'outcome_bounds': transcripts.bounds(rewards, p),
          **{key: float(x[p]) for key, x in found.items() if x.ndim == 1},
          'samples': [
            self._sample(rollout, parts, found, p, g)
            for g in range(rewards.outcome.shape[1])
          ],
        }
      )
    return made

  def _sample(self, rollout: types.Rollout, parts, found, p, g) -> Json:
    completions, rewards = rollout.completions, rollout.rewards
    at = p, g
    mask = completions.mask[at]
    pieces = self._pieces(completions.tokens[at][mask])
    own = completions.policy_mask[at][mask]

    def numbers(values: types.Array) -> list[float | None]:
      return [
        float(f'{x:.3g}') if chosen and np.isfinite(x) else None
        for x, chosen in zip(values[mask], own, strict=True)
      ]

    per_token = np.broadcast_to(
      found['tokens'][at] if 'tokens' in found else found['advantage'][at],
      mask.shape,
    )
    told: Json = {
      'pieces': pieces,
      'policy': own.astype(int).tolist(),
      'trained': found['trained'][at][mask].astype(int).tolist(),
      'entropy': numbers(completions.entropy[at]),
      'advantage': numbers(per_token),
    }
    if rollout.trainer_logprobs is not None:
      gap = rollout.trainer_logprobs[at] - completions.logprobs[at]
      told['log_ratio'] = numbers(gap)
      told['clipped'] = found['clipped'][at][mask].astype(int).tolist()
    names = ('outcome_advantage', 'mix_advantage', 'advantage')
    return {
      'response': ''.join(pieces),
      'finished': bool(completions.finished[at]),
      **scoring.of_answer(rewards, parts, p, g),
      **{name: float(found[name][at]) for name in names if name in found},
      'tokens': told,
    }

  def _pieces(self, ids: types.Array) -> list[str]:
    """The text of each token; a letter cut in two is U+FFFD in both."""
    if self.tokenizer is None:
      return [f'[{x}]' for x in ids]
    return [str(self.tokenizer.decode([int(x)])) for x in ids]


def read(folder: pathlib.Path) -> Tokens | None:
  """The archive of a run; None where there is none.

  Raises:
    FileNotFoundError: there is one, but not the flags of its run.
  """
  try:
    archive = rollout_archive.open_archive(folder)
  except FileNotFoundError:
    return None
  config = replay.variant(folder)
  path = folder / model_files.TOKENIZER_FOLDER
  tokenizer = tokenizers.load_tokenizer(path) if path.is_dir() else None
  return Tokens(archive, config, tokenizer)


def _numbers(
  config: config_lib.Config, rollout: types.Rollout
) -> dict[str, np.ndarray]:
  """What the algorithm makes of a rollout: [P], [P, G] and [P, G, Sc]."""
  algorithm = from_flags.make_algorithm(config)
  completions = rollout.completions
  old = rollout.trainer_logprobs
  old = completions.logprobs if old is None else old
  samples = algorithm.samples(rollout, old)
  made = algorithm.advantages(rollout.rewards, samples)
  final = algorithm.shape(made.advantages, samples)
  # Of the batch, or of each group.
  radius = algorithm.clip_radius(made.gate, made.counted)
  low = np.reshape(radius, (-1, 1, 1))
  high: types.Array = low * config.loss.clip_high_factor
  if algorithm.clip_high is not None:  # Of each sample.
    high = algorithm.clip_high(
      final, radius, samples, all_sum=lambda tree: tree
    )[..., None]
  trained = algorithm.select(
    completions.policy_mask & np.asarray(samples.valid)[..., None],
    final,
    completions.finished,
    completions.entropy,
    all_sum=lambda tree: tree,
  )
  final = np.asarray(final)
  sign = final if final.ndim == 3 else final[..., None]
  ratio = np.exp(old - completions.logprobs)
  found: dict[str, Any] = {
    **prepare.told(made, final, completions.policy_mask),
    'trained': trained,
    'clipped': np.where(sign > 0, ratio > 1 + high, ratio < 1 - low)
    & (sign != 0)
    & completions.policy_mask,
  }
  if final.ndim == 3:
    found['tokens'] = final
  return jax.tree.map(np.asarray, found)


def _merged(kept: Json, told: Json) -> Json:
  """A group of the archive, with the texts that the transcripts have."""
  pairs = zip(kept['samples'], told['samples'], strict=False)
  samples = [{**ours, **theirs} for ours, theirs in pairs]
  samples += kept['samples'][len(samples) :]
  del kept['rendered']
  return {**kept, **told, 'samples': samples}
