"""How far a judge agrees with labels: transcripts in, figures out."""

import json
import math
import os
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from awpo_jax import types
from awpo_jax.rollout.datasets import files

RESAMPLES = 1000
"""Draws of the bootstrap."""


class Transcript(NamedTuple):
  """An answer to be judged, and what people think of its reasoning.

  Attributes:
    request: what the judge sees.
    label: a number on any scale, the more the better; None: not labelled.
  """

  request: types.JudgeRequest
  label: float | None


def read_transcripts(
  path: str | os.PathLike[str], label: str = 'label'
) -> list[Transcript]:
  """Reads JSON lines of `user`, `tools`, `response` and perhaps a label.

  Tools are objects of `name`, `description` and `parameters`, none if the field
  is missing; further fields are left alone, so that the transcripts of a run
  can be read.

  Args:
    path: of the file.
    label: name of the field that holds it: a number, true (1) or false (0).

  Raises:
    OSError: it cannot be read.
    ValueError: a line is not of this kind; names it.
  """
  rows = []
  text = pathlib.Path(path).read_text('utf-8')
  # Not `splitlines`: what a model wrote may hold other separators of lines.
  for number, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line.removeprefix('\ufeff'))
      rows.append(_transcript(files.Row(row, f'line {number}'), label))
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f'{path}, line {number} is no transcript ({type(error).__name__}: '
        f'{error}): a JSON object of "user", "tools" (a list of "name", '
        '"description", "parameters"), "response", and perhaps a number '
        f'"{label}".'
      ) from error
  if not rows:
    raise ValueError(f'{path} holds no transcripts.')
  return rows


def _transcript(row: Any, field: str) -> Transcript:
  user, response, label = row['user'], row['response'], row.get(field)
  if not (isinstance(user, str) and isinstance(response, str)):
    raise TypeError('"user" and "response" are texts')
  if label is not None:
    label = float(label)
    if not math.isfinite(label):
      raise ValueError(f'"{field}" is not finite')
  tools = tuple(
    types.Tool(tool['name'], tool['description'], dict(tool['parameters']))
    for tool in row.get('tools') or ()
  )
  return Transcript(types.JudgeRequest(user, tools, response), label)


def agreement(
  scores: Sequence[float | None],
  labels: Sequence[float | None],
  *,
  threshold: float,
  label_threshold: float,
) -> Mapping[str, float | None]:
  """Figures of a judge on labelled answers.

  Args:
    scores: of the judge, None where it gave none.
    labels: of the same answers, None where there is none.
    threshold: score from which on the judge calls a thought good.
    label_threshold: label from which on it is.

  Returns:
    `answers`, `judged`, `mean` of the scores; `compared`, those with score and
    label, and over these: `spearman`, the correlation of ranks (equal values
    share theirs), `accuracy` of score >= threshold as a guess at label >=
    label_threshold, and `majority`, the accuracy of always guessing the more
    frequent. None where it is not defined: nothing judged or compared; all
    scores or all labels equal.
  """
  had = [score for score in scores if score is not None]
  pairs = np.array(
    [
      (score, label)
      for score, label in zip(scores, labels, strict=True)
      if score is not None and label is not None
    ],
    np.float64,
  ).reshape(-1, 2)
  figures: dict[str, float | None] = {
    'answers': len(scores),
    'judged': len(had),
    'mean': float(np.mean(had)) if had else None,
    'compared': len(pairs),
    'spearman': None,
    'accuracy': None,
    'majority': None,
  }
  if len(pairs):
    guessed = pairs[:, 0] >= threshold
    good = pairs[:, 1] >= label_threshold
    figures['accuracy'] = float(np.mean(guessed == good))
    figures['majority'] = float(max(np.mean(good), np.mean(~good)))
  if len(pairs) > 1 and np.all(np.ptp(pairs, axis=0) > 0):
    figures['spearman'] = float(scipy.stats.spearmanr(*pairs.T).statistic)
  return figures


def separation(
  scores: Sequence[float | None],
  labels: Sequence[float | None],
  prompts: Sequence[Hashable],
  *,
  label_threshold: float,
) -> Mapping[str, float | None]:
  """How often a judge puts a good answer before a bad one (AUC).

  Args:
    scores: of the judge, None where it gave none.
    labels: of the same answers, None where there is none.
    prompts: what each of them answers; equal where it is the same.
    label_threshold: label from which on an answer is good.

  Returns:
    `prompts`: their number, of answers with score and label. `auc`: the share
    of pairs of a good and a bad answer in which the good one has the higher
    score, an equal one counting half; chance has 0.5. `auc_within`: the same
    over pairs of answers to one prompt, `pairs_within` of them, which is what
    an advantage relative to the group sees. `.._low` and `.._high`: the middle
    95% over `RESAMPLES` draws of as many prompts, always the same ones. None
    where there is no pair; `.._low` and `.._high` also where all draws come out
    alike, as with one prompt, or with a share of 1: they then say nothing of
    other prompts.
  """
  groups: dict[Hashable, list[tuple[float, bool]]] = {}
  for score, label, prompt in zip(scores, labels, prompts, strict=True):
    if score is not None and label is not None:
      pair = (score, label >= label_threshold)
      groups.setdefault(prompt, []).append(pair)
  answers = [np.array(pairs, np.float64) for pairs in groups.values()]
  counts = np.array([_won(each) for each in answers]).reshape(-1, 2)

  def shares(picked: Sequence[int] | np.ndarray) -> tuple[float, float]:
    together = np.concatenate([np.zeros((0, 2)), *(answers[i] for i in picked)])
    return _share(*_won(together)), _share(*counts[list(picked)].sum(axis=0))

  rng, count = np.random.default_rng(0), len(answers)
  drawn = [
    shares(rng.integers(count, size=count))
    for _ in range(RESAMPLES if count else 0)
  ]
  overall, within = shares(range(count))
  overalls, withins = np.array(drawn).reshape(-1, 2).T
  return {
    'prompts': count,
    **_figures('auc', overall, overalls),
    'pairs_within': int(counts[:, 1].sum()),
    **_figures('auc_within', within, withins),
  }


def _figures(
  name: str, value: float, drawn: np.ndarray
) -> dict[str, float | None]:
  """A share, None for NaN, and its interval over the draws that have one."""
  keys = (name, f'{name}_low', f'{name}_high')
  had = drawn[~np.isnan(drawn)]
  if math.isnan(value) or not len(had):
    return dict.fromkeys(keys)
  low, high = np.quantile(had, [0.025, 0.975])
  if high - low < 1e-9:  # Alike but for rounding.
    return {**dict.fromkeys(keys), name: value}
  return dict(zip(keys, (value, float(low), float(high)), strict=True))


def _won(answers: np.ndarray) -> tuple[float, float]:
  """Pairs of good and bad that the good one wins, and all; f64[n, 2] in."""
  good = answers[:, 1] > 0
  count = int(good.sum())
  # The statistic of Mann and Whitney; equal scores share their ranks.
  ranks = scipy.stats.rankdata(answers[:, 0])
  won = float(ranks[good].sum()) - count * (count + 1) / 2
  return won, float(count * (len(answers) - count))


def _share(won: float, pairs: float) -> float:
  """NaN of no pairs."""
  return float(won / pairs) if pairs else math.nan
