"""An earlier evaluation of the same rows, to compare a new one with."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax.config import flags as flags_lib
from awpo_jax.evaluation import answers as answers_lib
from awpo_jax.evaluation import config as config_lib
from awpo_jax.evaluation import items as items_lib
from awpo_jax.evaluation import results, tables
from awpo_jax.rollout.text import chat_template

# Which policy answered is what is compared; the style is compared as resolved.
_NOT_COMPARED = ('policy', 'model', 'model_state', 'style')


class Earlier(NamedTuple):
  """A benchmark of an earlier evaluation.

  Attributes:
    folder: of `--beside`.
    scored: the rows of now, as they were answered then, scored anew.
    other_settings: flags that may change answers or rows and were set
      otherwise, such as `--max_tokens: 256 then, 512 now`.
  """

  folder: str
  scored: list[results.Scored]
  other_settings: list[str]


def read(
  folder: str,
  name: str,
  load: Callable[[chat_template.Style], list[items_lib.Item]],
  items: Sequence[items_lib.Item],
  settings: Mapping[str, Any],
) -> Earlier:
  """Reads what another policy answered to the rows of a benchmark.

  Nothing is written there, and that evaluation may still be running.

  Args:
    folder: the `--output_dir` of the earlier evaluation.
    name: of the benchmark.
    load: the same rows for prompts of a style; what an answer is worth may
      depend on how the tools were given.
    items: the rows of now.
    settings: of now, as `evaluation.json` holds them.

  Raises:
    ValueError: it is no evaluation, has not answered all of the rows, or reads
      other rows.
    OSError: a file cannot be read.
  """
  place = pathlib.Path(folder)
  file = place / results.SETTINGS_FILE
  if not file.is_file():
    raise ValueError(
      f'--beside={folder} has no {results.SETTINGS_FILE}: name the '
      '--output_dir of an earlier evaluation.'
    )
  then = json.loads(file.read_text(encoding='utf-8'))
  path = place / name / results.ANSWERS_FILE
  if not path.is_file():
    raise ValueError(
      f'--beside={folder} has no answers to {name}: leave {name} out of '
      '--benchmarks, or evaluate it there first.'
    )
  theirs = load(chat_template.Style(*then['style']))
  if [x.row_id for x in theirs] != [x.row_id for x in items]:
    raise ValueError(
      f'--beside={folder}: with its prompts {len(theirs)} rows of {name} can '
      f'be read, with those of now {len(items)} or others. Mend the rows that '
      'are skipped, or set the same --prompt_style.'
    )
  texts = answers_lib.read(path)
  samples = [_samples(texts, item.row_id) for item in items]
  missing = [x.row_id for x, n in zip(items, samples, strict=True) if not n]
  if missing:
    raise ValueError(
      f'--beside={folder} has no answer to {len(missing)} of {len(items)} rows '
      f'of {name}, {missing[0]} among them: ask for those that it has with '
      '--limit or --categories, or let it answer the others first.'
    )
  return Earlier(
    folder,
    results.score(theirs, texts, min(samples)),
    flags_lib.differences(
      _compared(then), _compared(settings), [config_lib.EvaluationConfig]
    ),
  )


def _samples(texts: Mapping[answers_lib.Key, Any], row_id: str) -> int:
  """How many answers a row has, the first of them on."""
  count = 0
  while answers_lib.Key(row_id, count) in texts:
    count += 1
  return count


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
  style = chat_template.Style(*settings['style'])
  kept = {k: v for k, v in settings.items() if k not in _NOT_COMPARED}
  return kept | {
    'prompt_style': style.prompt_style,
    'enable_thinking': style.enable_thinking,
    'template_date': style.date,
  }


def summary(
  scored: Sequence[results.Scored],
  earlier: Earlier,
  columns: tables.Columns,
  *,
  resamples: int,
) -> dict[str, Any]:
  """What `scores.json` holds of the comparison.

  Args:
    scored: the rows of now.
    earlier: the same rows.
    columns, resamples: of `tables.differences`.

  Returns:
    `folder` and `other_settings` of `Earlier`, `columns` and `categories` of
    `tables.differences`.
  """
  return {
    'folder': earlier.folder,
    'other_settings': earlier.other_settings,
    **tables.differences(
      results.by_category(scored),
      results.by_category(earlier.scored),
      columns,
      resamples=resamples,
    ),
  }
