"""A rollout batch scored: rewards, and rows for whoever reads along."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from awpo_jax import types
from awpo_jax.config import algorithm
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import processes
from awpo_jax.rollout.rewards import scorer as scorer_lib
from awpo_jax.rollout.text import codec as codec_lib
from awpo_jax.rollout.text import thinking
from awpo_jax.training.collection import sample
from awpo_jax.training.collection import transcripts as transcripts_lib

# What ends a run in good order, the more special before the more general.
_ENDS: Mapping[str, type[Exception]] = {
  kind.__name__: kind
  for kind in (types.BadReturn, types.JudgeRefused, types.JudgeUnavailable)
}


def score(
  sampled: sample.Sampled,
  config: config_lib.Config,
  scorer: scorer_lib.Scorer,
  codec: codec_lib.Codec,
) -> tuple[types.Scored, list[dict[str, Any]]]:
  """Rewards of a rollout batch, cut to the response bucket it needs.

  Args:
    sampled: the answers or episodes.
    config: of the run.
    scorer: of the outcome and the reasoning.
    codec: of the answers.

  Returns:
    The batch, and transcripts.

  Raises:
    types.BadReturn, types.JudgeUnavailable: in all processes where in one.
  """
  tasks, prompts, texts = sampled.tasks, sampled.prompts, sampled.texts
  rewards, parts, lost = ask(config, scorer, texts, tasks)
  # Of every process: they run the same program, and one writes.
  told = processes.gather(
    {
      'longest': int(sampled.completions.mask.sum(axis=-1).max()),
      'transcripts': transcripts_lib.rows(
        config, sampled, rewards, parts, scorer.reasons
      ),
    }
  )
  longest = max(x['longest'] for x in told)
  width = min(x for x in config.data.response_buckets if x >= longest)
  completions = jax.tree.map(
    lambda x: x[:, :, :width] if x.ndim == 3 else x, sampled.completions
  )
  shown = [x for process in told for x in process['transcripts']]
  transcripts = [row for _, row in sorted(shown, key=lambda x: x[0])]
  rollout = types.Rollout(
    prompts=prompts,
    completions=completions,
    rewards=rewards,
    sample_ids=sampled.samples,
    thinking=thinking_of(config, codec, tasks, completions),
  )
  return types.Scored(tasks, rollout, parts, lost), transcripts


def ask(
  config: config_lib.Config,
  scorer: scorer_lib.Scorer,
  texts: Sequence[Sequence[Any]],
  tasks: Sequence[types.Task],
) -> tuple[types.Rewards, dict[str, np.ndarray], str]:
  """`scoring.score`, and why the last missing outcome is missing.

  Where one process cannot go on, none does.
  """
  scored, lost = None, ['']
  with ending_together():
    rewards, parts = scorer.score(texts, tasks, lost.append)
    wanted = _wanted_parts(config, rewards, parts)
    scored = dataclasses.replace(rewards, parts=wanted), parts
  assert scored is not None
  return *scored, lost[-1]


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """Raises in every process what one of them raises; all must call it.

  Raises:
    types.BadReturn, types.JudgeUnavailable: of the first process that has one.
  """
  told = None
  try:
    yield
  except tuple(_ENDS.values()) as error:
    kind = next(n for n, kind in _ENDS.items() if isinstance(error, kind))
    told = [kind, str(error)]
  for each in processes.gather(told):
    if each:
      raise _ENDS[each[0]](each[1])


def _wanted_parts(
  config: config_lib.Config,
  rewards: types.Rewards,
  parts: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray] | None:
  """Those of the outcome's parts that the algorithm takes apart.

  Raises:
    types.BadReturn: the reward does not report one of them.
  """
  names = algorithm.reward_parts(config)
  if names is None:
    return None
  missing = [name for name in names if name not in parts]
  if missing and np.any(rewards.outcome_valid):
    raise types.BadReturn(
      f'--reward_parts={",".join(names)}: the reward --reward='
      f'{config.data.reward} reports no {", ".join(missing)}, but '
      f'{", ".join(sorted(parts))}. Name these.'
    )
  nothing = np.full(rewards.outcome.shape, np.nan, np.float32)
  return {name: parts.get(name, nothing) for name in names}


def sum_and_count(values: np.ndarray) -> tuple[float, int]:
  """Sum and count of the finite numbers."""
  had = values[np.isfinite(values)]
  return float(had.sum(dtype=np.float64)), had.size


def mean(total: float, count: float) -> float | None:
  """The mean, or None where nothing was counted."""
  return float(total) / float(count) if count else None


def thinking_of(
  config: config_lib.Config,
  codec: codec_lib.Codec,
  tasks: Sequence[types.Task],
  completions: types.Completions,
) -> np.ndarray | None:
  """Tokens of the chain of thought, where the algorithm asks for them."""
  if not algorithm.needs_thinking(config):
    return None
  # What a tool returned or the user says comes before each further turn.
  later = '' if codec.reader is None else codec.reader.opened([('obs', '')])
  return thinking.thinking_mask(
    codec.tokenizer, completions, codec.opened(tasks), later
  )


def reasoning_std(rewards: types.Rewards) -> dict[str, float | None]:
  """Mean standard deviation (ddof 1) of the judge's scores within groups.

  Of the groups with two scores or more; None where there is none.
  """
  had = np.asarray(rewards.reasoning_valid)
  found = [
    np.std(scores[valid].astype(np.float64), ddof=1)
    for scores, valid in zip(np.asarray(rewards.reasoning), had, strict=True)
    if valid.sum() > 1
  ]
  told = processes.gather(sum_and_count(np.array(found, np.float64)))
  return {'reward/reasoning_std': mean(*np.sum(told, axis=0))}


def part_means(parts: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Mean of each part of the outcome that is there, as `reward/<part>`."""
  told = processes.gather({name: sum_and_count(x) for name, x in parts.items()})
  names = dict.fromkeys(name for some in told for name in some)
  return {
    f'reward/{name}': mean(
      *np.sum([some.get(name, (0, 0)) for some in told], axis=0)
    )
    for name in names
  }
