"""Benchmarks from their rows to their tables, with a policy in between."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from awpo_jax.checkpointing import (
  checkpoints,
  initial_params,
  policies,
  run_folder,
)
from awpo_jax.config import flags as flags_lib
from awpo_jax.evaluation import answers as answers_lib
from awpo_jax.evaluation import (
  benchmarks,
  beside,
  policy_answers,
  results,
  tables,
)
from awpo_jax.evaluation import config as config_lib
from awpo_jax.evaluation import items as items_lib
from awpo_jax.evaluation.bfcl import ground_truth
from awpo_jax.models import decoder as decoder_lib
from awpo_jax.reporting import json_text, progress, stopwatch
from awpo_jax.rollout.text import chat_template, conversations, templates

SCORES_FILE = 'scores.json'
TABLE_FILE = 'table.md'
_WEIGHTS = '*.safetensors'


class _Policy(NamedTuple):
  """What answers: prompts into tokens, tokens into replies.

  Attributes:
    encode: tokens of a conversation, whatever their number.
    opened: what they hold of the answer, of `templates.opened`.
    generate: replies to a batch.
    longest: the longest prompt that it can answer.
    compile_seconds: what compiling has taken.
  """

  encode: Callable[[conversations.Conversation], np.ndarray]
  opened: Callable[[conversations.Conversation], str]
  generate: answers_lib.Generate
  longest: int
  compile_seconds: Callable[[], float] = lambda: 0.0


def evaluate(config: config_lib.EvaluationConfig) -> dict[str, Any]:
  """Answers the rows without an answer, scores all, writes the results.

  Killed and started again it goes on; started again when all is answered it
  only scores, and loads no model.

  Args:
    config: checked.

  Returns:
    What `scores.json` holds: by benchmark, of `tables.summarize`, with errors,
    rows that cannot pass, skipped rows, and rates.

  Raises:
    ConfigError: the folder holds an evaluation with other settings.
    ValueError, FileNotFoundError: rows or model are not there or do not fit.
  """
  clock = stopwatch.Clock(prefix='')
  initial_params.use_compilation_cache(config.compilation_cache)
  folder = pathlib.Path(config.output_dir)
  loaded: list[policies.Policy] = []

  def load() -> policies.Policy:
    if not loaded:
      dtype = config.dtype or None
      loaded.append(policies.load(config.model, dtype=dtype))
      clock.lap('load_model')
    return loaded[0]

  settings = _claim(folder, config)
  style = chat_template.Style(*settings['style'])
  skips = config.bad_rows == 'skip'
  skipped: dict[str, list[str]] = {name: [] for name in config.benchmarks}
  items, earlier = {}, {}
  # All of them before anything is asked: a bad row, or an evaluation that has
  # other rows, should not be found out hours later.
  for name in config.benchmarks:
    found = skipped[name] if skips else None
    items[name] = _items(name, config, style, found)
    if config.beside:

      def styled(other: chat_template.Style, name=name):
        return _items(name, config, other, [] if skips else None)

      earlier[name] = beside.read(
        config.beside, name, styled, items[name], settings
      )
  clock.lap('read_rows')
  scores: dict[str, Any] = {}
  for name in config.benchmarks:
    answers = answers_lib.Answers(folder / name / results.ANSWERS_FILE)
    try:
      _answer(name, items[name], answers, config, load, style, clock)
      scored = results.score(items[name], answers.texts, config.samples)
    finally:
      answers.close()
    scores[name] = {
      **_summary(name, scored, earlier.get(name), config),
      'skipped_rows': skipped[name],
      'too_long': results.too_long(scored, answers.texts),
      'answers_per_second': _rate(len(answers.texts), answers.seconds),
      'tokens_per_second': _rate(answers.tokens, answers.seconds),
    }
    _write(folder / name, name, scored, config)
    clock.lap('score_and_write')
  file = folder / SCORES_FILE
  # Other benchmarks of the same policy may be there from earlier starts.
  others = {}
  if file.is_file():
    others = json.loads(file.read_text(encoding='utf-8'))['benchmarks']
  scores = {
    'benchmarks': others | scores,
    'seconds_of_last_start': dict(clock.laps),
  }
  results.write_text(file, json_text.dumps(scores, indent=2))
  results.write_text(folder / TABLE_FILE, table(scores))
  return scores


def table(scores: Mapping[str, Any]) -> str:
  """The Markdown table of all benchmarks."""
  return '\n'.join(
    tables.markdown(name, summary, summary['samples'])
    for name, summary in scores['benchmarks'].items()
  )


def _rate(count: float, seconds: float) -> float | None:
  return count / seconds if seconds else None


def _claim(
  folder: pathlib.Path, config: config_lib.EvaluationConfig
) -> dict[str, Any]:
  """The settings, stored, with the style of the prompts; refuses others."""
  settings = dataclasses.asdict(config)
  settings['model_state'] = model_state(config)
  settings = json.loads(json.dumps(settings))
  file = folder / results.SETTINGS_FILE
  answered = any(x.stat().st_size for x in folder.glob('*/answers.jsonl'))
  if file.is_file() and answered:
    old = json.loads(file.read_text(encoding='utf-8'))
    # A model that is gone can no longer be asked, but what it said be scored.
    settings['model_state'] = settings['model_state'] or old['model_state']
    changed = flags_lib.differences(old, settings, [type(config)])
    if changed:
      raise flags_lib.ConfigError(
        f'--output_dir={folder} holds an evaluation with other settings; name '
        'another folder, or set these back:\n' + '\n'.join(changed)
      )
    settings['style'] = old['style']
  else:
    # A mistaken flag must not bar the corrected one.
    if folder.exists() and any(folder.iterdir()) and not file.is_file():
      raise flags_lib.ConfigError(
        f'--output_dir={folder} holds files but no evaluation: name a new '
        'folder.'
      )
    settings['style'] = list(_style(config))
  results.write_text(file, json.dumps(settings, indent=2))
  return settings


def _style(config) -> chat_template.Style:
  """How prompts are written, checked before any weights are read."""
  own, tokenizer = chat_template.DEFAULT_STYLE, None
  prompt_style, thinking = config.prompt_style, config.enable_thinking
  if config.policy == 'model':
    auto = prompt_style == 'auto'
    tokenizer, own = policies.text_side(config.model, tools=auto)
    run = policies.run_folder(pathlib.Path(config.model))
    trained = run is not None and (run / run_folder.FLAGS_FILE).is_file()
    if trained and own.prompt_style == 'template':
      own = own._replace(prompt_style='rlla_template')
  style = chat_template.Style(
    own.prompt_style if prompt_style == 'auto' else prompt_style,
    own.enable_thinking
    if thinking == 'default'
    else chat_template.THINKING[thinking],
    config.template_date or own.date,
  )
  if tokenizer is not None:
    _check_style(tokenizer, style)
  return style


def _check_style(tokenizer, style: chat_template.Style) -> None:
  tools = 'template' if 'template' in style.prompt_style else 'rlla'
  chat_template.check_style(tokenizer, style._replace(prompt_style=tools))


def model_state(config: config_lib.EvaluationConfig) -> str:
  """Identifies the state of the model: a run may be trained further."""
  path = pathlib.Path(config.model)
  if config.policy != 'model' or not path.exists():
    return ''
  run = policies.run_folder(path)
  if run is None:
    return ' '.join(
      f'{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}'
      for file in ([path] if path.is_file() else sorted(path.glob(_WEIGHTS)))
    )
  return f'step {checkpoints.checkpoint_folder(path.absolute()).name}'


def _items(name, config, style, skipped) -> list[items_lib.Item]:
  items = benchmarks.BENCHMARKS[name].load(
    benchmarks.Source(
      data=benchmarks.place(config.data, name),
      style=style,
      categories=config.categories,
      examples=config.examples,
      skipped=skipped,
    )
  )
  return items_lib.pick(items, config.limit)


def _answer(name, items, answers, config, load, style, clock) -> None:
  """Answers every row that has no answer."""
  missing = {
    key: item
    for item in items
    for key in (answers_lib.Key(item.row_id, g) for g in range(config.samples))
    if key not in answers.texts
  }
  wanted = list({item.row_id: item for item in missing.values()}.values())
  if not wanted:
    return
  if config.policy == 'model':
    policy = _model(load(), style, config)
  else:
    policy = _fixed(wanted, config)
  longest = min(policy.longest, config.prompt_buckets[-1])
  if config.overlong == 'error':
    _refuse_overlong(name, wanted, policy.encode, longest)
  clock.lap('check_prompts')

  def fitting(talk: conversations.Conversation) -> np.ndarray | None:
    tokens = policy.encode(talk)
    return tokens if len(tokens) <= longest else None

  compiling = policy.compile_seconds()
  with _advancing(name, len(items) * config.samples, len(missing)) as advance:
    answers_lib.ask(
      wanted,
      answers,
      samples=config.samples,
      encode=fitting,
      opened=policy.opened,
      generate=policy.generate,
      bucket=lambda n: min(b for b in config.prompt_buckets if b >= n),
      batch=config.batch,
      advance=advance,
    )
  clock.lap('answer')
  compiling = policy.compile_seconds() - compiling
  clock.laps['compile'] += compiling
  clock.laps['answer'] -= compiling


@contextlib.contextmanager
def _advancing(
  name: str, total: int, missing: int
) -> Iterator[Callable[[int], None]]:
  """A progress bar that is told how many more answers are there."""
  done = total - missing
  bar = progress.Progress(total, done, unit='answer')

  def advance(count: int) -> None:
    nonlocal done
    done += count
    bar.update(done, name)

  try:
    yield advance
  finally:
    bar.close()


def _refuse_overlong(name, items, encode, longest: int) -> None:
  lengths = {item.row_id: len(encode(item.talk)) for item in items}
  wrong = {row: n for row, n in lengths.items() if n > longest}
  if wrong:
    names = ', '.join(list(wrong)[:3])
    raise ValueError(
      f'{name}: {len(wrong)} of {len(items)} prompts are longer than {longest} '
      f'tokens, up to {max(wrong.values())} ({names}, ...): add larger '
      '--prompt_buckets where the model has the positions (prompt and '
      '--max_tokens must fit), or set --overlong=wrong to count them so.'
    )


def _model(policy: policies.Policy, style, config) -> _Policy:
  _check_style(policy.tokenizer, style)
  answerer = policy_answers.Answerer(
    policy.params,
    decoder_lib.Decoder(policy.config),
    policy.tokenizer,
    policy.stop_ids,
    buckets=config.prompt_buckets,
    batch=config.batch,
    max_tokens=config.max_tokens,
    temperature=config.temperature,
    seed=config.seed,
  )

  def prompted(function, talk: conversations.Conversation):
    return function(
      policy.tokenizer, talk.messages, tools=talk.tools, **style.options()
    )

  def generate(encoded, ids) -> list[list[answers_lib.Reply]]:
    sampled = answerer.answer(encoded, ids)
    return [[answers_lib.Reply(*reply) for reply in group] for group in sampled]

  return _Policy(
    functools.partial(prompted, chat_template.encode),
    functools.partial(prompted, templates.opened),
    generate,
    longest=policy.config.max_positions - config.max_tokens,
    compile_seconds=lambda: answerer.compile_seconds,
  )


def _fixed(items: Sequence[items_lib.Item], config) -> _Policy:
  """A policy that gives the ground truth, or nothing."""
  replies = {
    answers_lib.sample_id(item.row_id, sample, turn): text
    for item in items
    for sample in range(config.samples)
    for turn, text in enumerate(item.gold)
    if config.policy == 'oracle'
  }

  def generate(encoded, ids) -> list[list[answers_lib.Reply]]:
    del encoded
    return [
      [answers_lib.Reply(replies.get(int(i), ''), 0) for i in row]
      for row in ids
    ]

  # Whole answers: there is no prompt that might have begun them.
  return _Policy(
    lambda talk: np.zeros(1, np.int32), lambda talk: '', generate, longest=1
  )


def _summary(name, scored, earlier, config) -> dict[str, Any]:
  columns = benchmarks.BENCHMARKS[name].columns[config.aggregation]
  summary = tables.summarize(
    results.by_category(scored), columns, resamples=config.resamples
  )
  if earlier is not None:
    summary['beside'] = beside.summary(
      scored, earlier, columns, resamples=config.resamples
    )
  known = [x.item.row_id for x in scored]
  return {
    'samples': config.samples,
    'aggregation': config.aggregation,
    **summary,
    'errors': results.errors(scored),
    'cannot_pass': [row for row in ground_truth.UNPASSABLE if row in known],
  }


def _write(folder: pathlib.Path, name: str, scored, config) -> None:
  model = config.result_name or _model_name(config)
  if name == 'bfcl':
    results.write_leaderboard(folder, model, scored)
  results.write_text(
    folder / 'failures.html',
    results.failures_page(f'{name}: wrong answers of {model}', scored),
  )


def _model_name(config) -> str:
  if config.policy != 'model':
    return config.policy
  return pathlib.Path(config.model).name or 'model'
