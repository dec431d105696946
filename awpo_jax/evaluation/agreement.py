"""How far a judge agrees with labels: transcripts in, figures out."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from awpo_jax import types
from awpo_jax.rollout.datasets import files


class Transcript(NamedTuple):
  """An answer to be judged, and what people think of its reasoning.

  Attributes:
    request: what the judge sees.
    label: a number on any scale, the more the better; None: not labelled.
  """

  request: types.JudgeRequest
  label: float | None


def read_transcripts(path: str | os.PathLike[str]) -> list[Transcript]:
  """Reads JSON lines of `user`, `tools`, `response` and perhaps `label`.

  Tools are objects of `name`, `description` and `parameters`, none if the field
  is missing; further fields are left alone, so that the transcripts of a run
  can be read.

  Args:
    path: of the file.

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
      rows.append(_transcript(files.Row(row, f'line {number}')))
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f'{path}, line {number} is no transcript ({type(error).__name__}: '
        f'{error}): a JSON object of "user", "tools" (a list of "name", '
        '"description", "parameters"), "response", and perhaps a number '
        '"label".'
      ) from error
  if not rows:
    raise ValueError(f'{path} holds no transcripts.')
  return rows


def _transcript(row: Any) -> Transcript:
  user, response, label = row['user'], row['response'], row.get('label')
  if not (isinstance(user, str) and isinstance(response, str)):
    raise TypeError('"user" and "response" are texts')
  if label is not None:
    label = float(label)
    if not math.isfinite(label):
      raise ValueError('"label" is not finite')
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
