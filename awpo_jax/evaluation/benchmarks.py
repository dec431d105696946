"""The benchmarks by name: rows read, asked, scored; and as sets of a run."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from awpo_jax import types
from awpo_jax.config import experiment as config_lib
from awpo_jax.evaluation import api_bank, call_parsing, mmlu_pro, tables
from awpo_jax.evaluation import items as items_lib
from awpo_jax.evaluation.bfcl import checker, ground_truth, multi_turn, prompts
from awpo_jax.reporting import json_text
from awpo_jax.rollout.datasets import api_bank as api_bank_rows
from awpo_jax.rollout.datasets import mmlu_pro as mmlu_pro_rows
from awpo_jax.rollout.datasets.bfcl import rows as rows_lib
from awpo_jax.rollout.environments import bfcl as environments
from awpo_jax.rollout.text import chat_template, tool_calls


@dataclasses.dataclass(frozen=True)
class Source:
  """Where rows come from and how they are asked.

  Attributes:
    data: folder, file, or data set of the hub.
    style: of the prompts: `rlla`; `template`, the row's own messages with tools
      for the chat template; `rlla_template`, RLLA's text and layout of answers
      with tools for the chat template, as `--prompt_style=template` trains.
    categories: of BFCL; none: those that are there.
    examples: file of worked MMLU-Pro examples; empty: none are shown.
    skipped: collects bad rows; None: the first one raises.
  """

  data: str | None
  style: chat_template.Style = chat_template.DEFAULT_STYLE
  categories: tuple[str, ...] = ()
  examples: str = ''
  skipped: list[str] | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A benchmark.

  Attributes:
    load: a source -> its items; raises `ValueError` as the readers do.
    columns: by aggregation, of the main table.
  """

  load: Callable[[Source], list[items_lib.Item]]
  columns: Mapping[str, tables.Columns]


def load_bfcl(source: Source) -> list[items_lib.Item]:
  """BFCL's rows; those of several turns need the package `bfcl-eval`.

  Raises:
    bfcl.MissingPackage: it is not installed, and there are such rows.
  """
  rows = rows_lib.read(source.data, source.categories, source.skipped)
  environment = None
  if any(row.category in rows_lib.MULTI_TURN for row in rows):
    environment = _environment()
  items = []
  for row in rows:
    try:
      items.append(
        multi_turn.item(row, source.style, environment)
        if environment and row.category in rows_lib.MULTI_TURN
        else _bfcl_item(row, source.style)
      )
    except ValueError as error:
      if source.skipped is None:
        raise
      source.skipped.append(str(error))
  return items


def _environment() -> environments.BfclEnvironment:
  try:
    return environments.BfclEnvironment(multi_turn.LIMITS, only_offered=False)
  except environments.MissingPackage as error:
    raise environments.MissingPackage(
      f'{error}; or leave the rows of several turns out: --categories='
      f'{",".join((*rows_lib.NON_LIVE, *rows_lib.LIVE))}'
    ) from error


def _bfcl_item(row: rows_lib.Row, style: chat_template.Style) -> items_lib.Item:
  try:
    checker.check_types(row.functions, row.category)
  except ValueError as error:
    raise ValueError(f'{row.row_id}: {error}') from error
  gold = ground_truth.answer(row)
  task = prompts.task(row, gold)
  if style.prompt_style == 'template':
    talk: Any = prompts.talk(row)
    decode: Callable[[str], Any] = call_parsing.decode_template
  else:
    talk = items_lib.task_talk(task, style.prompt_style)
    decode = call_parsing.decode_rlla
  return items_lib.Item(
    row_id=row.row_id,
    category=row.category,
    task=task,
    talk=talk,
    score=functools.partial(_score_bfcl, row, decode),
    gold=(gold,),
    expected=list(row.ground_truth) or 'no call'
    if 'live_relevance' not in row.category
    else 'any call',
  )


def _score_bfcl(row, decode, texts: Sequence[str], sample: int):
  del sample
  calls = decode(texts[0])
  verdict = checker.check_calls(
    calls, row.functions, row.ground_truth, row.category
  )
  return items_lib.Result(verdict.valid, verdict.error_type, calls)


def load_api_bank(source: Source) -> list[items_lib.Item]:
  """API-Bank in ToolRL's form; its prompts are ready, whatever the style."""
  return [
    items_lib.Item(
      row_id=row.row_id,
      category=row.level,
      task=task,
      talk=items_lib.task_talk(task),
      score=functools.partial(_score_api_bank, row.answer),
      gold=(task.ground_truth,),
      expected=row.answer._asdict(),
    )
    for row in api_bank_rows.read(source.data, source.skipped)
    for task in [_api_bank_task(row)]
  ]


def _api_bank_task(row: api_bank_rows.Row) -> types.Task:
  gold = tool_calls.render_answer('The ground truth.', [row.answer])
  return types.Task(row.row_id, row.system, row.user, (), gold, row.level)


def _score_api_bank(answer, texts: Sequence[str], sample: int):
  del sample
  error = api_bank.error_type(texts[0], answer)
  calls = api_bank.predicted_calls(texts[0], answer.name)
  return items_lib.Result(error is None, error, list(calls))


def load_mmlu_pro(source: Source) -> list[items_lib.Item]:
  """MMLU-Pro, asked in one user message."""
  examples = (
    mmlu_pro_rows.read_examples(source.examples) if source.examples else []
  )
  return [
    _mmlu_pro_item(row, mmlu_pro.prompt(row, examples))
    for row in mmlu_pro_rows.read(source.data, source.skipped)
  ]


def _mmlu_pro_item(row: mmlu_pro_rows.Row, prompt: str) -> items_lib.Item:
  gold = f'The answer is ({row.answer}).'
  task = types.Task(row.row_id, '', prompt, (), gold, row.category)
  return items_lib.Item(
    row_id=row.row_id,
    category=row.category,
    task=task,
    talk=items_lib.task_talk(task),
    score=functools.partial(_score_mmlu_pro, row),
    gold=(gold,),
    expected=row.answer,
    has_layout=lambda text: mmlu_pro.extract(text) is not None,
  )


def _score_mmlu_pro(row, texts: Sequence[str], sample: int):
  letter = mmlu_pro.extract(texts[0])
  chosen = letter or mmlu_pro.drawn_option(row, sample)
  error = None
  if chosen != row.answer:
    error = 'no_choice' if letter is None else 'wrong_choice'
  return items_lib.Result(error is None, error, letter)


BENCHMARKS: Mapping[str, Benchmark] = {
  'bfcl': Benchmark(load_bfcl, tables.BFCL),
  'apibank': Benchmark(load_api_bank, tables.API_BANK),
  'mmlu_pro': Benchmark(load_mmlu_pro, tables.MMLU_PRO),
}
"""Choices of `--benchmarks`."""


def place(data: str, name: str) -> str:
  """Where a benchmark's rows are: in its own folder within `data`, if any."""
  inner = pathlib.Path(data).expanduser() / name
  return str(inner) if inner.is_dir() else data


def written_calls(calls: Any, text: str) -> str:
  """An answer as Qwen's tool template writes it, for the result files.

  It holds the calls that were read, each in a section of its own, and so reads
  the same to a handler of upstream's; without calls the text, less its tags.
  """
  if not calls:
    rest = tool_calls.strip_thought(text)
    return rest.replace('<tool_call>', '').replace('</tool_call>', '').strip()
  return '\n'.join(
    '<tool_call>\n'
    + json_text.dumps({'name': name, 'arguments': values})
    + '\n</tool_call>'
    for call in calls
    for name, values in call.items()
  )


def with_benchmarks(
  config: config_lib.Config,
  dataset: types.Dataset,
  skipped: list[str] | None = None,
) -> tuple[types.Dataset, Mapping[str, types.Reward]]:
  """The data set with those of `--eval_benchmarks` among its evaluation sets.

  Of each benchmark `--eval_tasks` rows, those whose hashed ids are smallest, so
  that all categories are there in proportion. Nothing is trained on them. The
  prompts are in RLLA's layout, or as `--prompt_style` has it.

  Args:
    config: of the run.
    dataset: what it trains on.
    skipped: collects what is wrong with bad rows; None: the first one raises.

  Returns:
    The data set, and the reward of each benchmark: 1 where the answer is right.

  Raises:
    ValueError: an unknown benchmark, no rows, or a bad one.
  """
  if not config.run.eval_benchmarks:
    return dataset, {}
  if config.environment.environment != 'none':
    raise ValueError(
      f'--environment={config.environment.environment} has episodes, '
      '--eval_benchmarks single answers: leave out one of them.'
    )
  evals, rewards = dict(dataset.evals), {}
  for name in config.run.eval_benchmarks:
    if name not in BENCHMARKS:
      raise ValueError(
        f'--eval_benchmarks={name}: choose among {", ".join(BENCHMARKS)}.'
      )
    if not config.run.eval_data:
      raise ValueError(
        f'--eval_benchmarks={name} needs --eval_data: the folder of its rows.'
      )
    if name in evals:
      raise ValueError(
        f'--eval_benchmarks={name}: the data set has an evaluation set of that '
        'name.'
      )
    source = Source(place(config.run.eval_data, name), skipped=skipped)
    items = BENCHMARKS[name].load(source)
    items.sort(key=lambda item: items_lib.hashed(item.row_id))
    items = items[: config.run.eval_tasks]
    evals[name] = [item.task for item in items]
    rewards[name] = Reward(items)
  return types.Dataset(dataset.demonstrations, dataset.train, evals), rewards


class Reward:
  """A reward of 1 for a right answer to a single-turn row, 0 for others.

  Its part `format` is 1 where the answer has the layout that the row asks for:
  RLLA's, or in MMLU-Pro a letter that can be read.
  """

  def __init__(self, items: Sequence[items_lib.Item]) -> None:
    self._items = {item.row_id: item for item in items}

  def __call__(self, response: str, task: types.Task) -> types.Score:
    item = self._items[task.task_id]
    correct = item.score([response], 0).correct
    parts = {'format': float(item.has_layout(response))}
    return types.Score(float(correct), 0.0, 1.0, parts, correct)
