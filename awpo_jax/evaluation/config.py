"""Flags of an evaluation on benchmarks, and which do not go together."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import flags as absl_flags

from awpo_jax.config import checks, sections
from awpo_jax.config import flags as flags_lib
from awpo_jax.config.flags import flag
from awpo_jax.evaluation import benchmarks as benchmarks_lib
from awpo_jax.rollout.text import chat_template

POLICIES = ('model', 'oracle', 'silent')


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """An evaluation: what answers what, and how it is reported."""

  benchmarks: tuple[str, ...] = flag(
    tuple(benchmarks_lib.BENCHMARKS),
    'Benchmarks to measure, separated by commas.',
    may_change=True,
  )
  model: str = flag(
    '',
    'Run, checkpoint of a run, path or name of a Hugging Face model, a GGUF '
    'file, or smollm2. It has to be set with --policy=model.',
  )
  policy: str = flag(
    'model',
    'What answers: the model, the ground truth (oracle), or nothing (silent). '
    'The last two check the whole path and need no model.',
    POLICIES,
  )
  data: str = flag(
    '',
    'Folder of the rows, a folder that holds one for each benchmark, or the '
    'owner/name of a data set of the Hugging Face hub. It has to be set.',
  )
  output_dir: str = flag(
    '',
    'Folder of the results. It has to be set; an evaluation that stopped there '
    'is continued.',
    may_change=True,
  )
  categories: tuple[str, ...] = flag(
    (),
    'Categories of BFCL to measure, separated by commas. Empty takes all that '
    'have rows.',
    may_change=True,
  )
  limit: int = flag(
    0,
    'Rows of each category, picked by a hash of their ids, for a quick look. 0 '
    'takes all rows.',
    minimum=0,
    may_change=True,
  )
  bad_rows: str = flag(
    'error',
    'What happens to a row that cannot be read: error refuses it, skip leaves '
    'it out and reports it.',
    ('error', 'skip'),
    may_change=True,
  )
  examples: str = flag(
    '',
    'File of worked MMLU-Pro examples, of which up to five of the category are '
    'shown with each question. Empty shows none.',
  )
  prompt_style: str = flag(
    'auto',
    "How the tools are given: in RLLA's prompts (rlla), in short ones (short), "
    "to the model's own chat template (template), or to that template within "
    "RLLA's prompts (rlla_template). auto does as the model was trained, or as "
    'rlla where the chat template of a model from elsewhere knows no tools.',
    ('auto', 'rlla', 'short', 'template', 'rlla_template'),
  )
  enable_thinking: str = flag(
    'default',
    'Value of enable_thinking for a chat template that reads it. default '
    'leaves the choice to the template.',
    tuple(chat_template.THINKING),
  )
  template_date: str = flag(
    '',
    'Date, as YYYY-MM-DD, that is given to a chat template which writes the '
    'current day into the prompt. Empty does as the model was trained.',
  )
  samples: int = flag(
    1,
    'Answers of each row, k of pass@k and mean@k. More than one needs a '
    '--temperature above 0.',
    minimum=1,
    may_change=True,
  )
  temperature: float = flag(
    0.0, 'Sampling temperature; 0 is greedy.', minimum=0
  )
  seed: int = flag(
    0, 'Seed of every random draw.', minimum=0, maximum=sections.MAX_SEED
  )
  max_tokens: int = flag(
    1024, 'Largest number of tokens in an answer.', minimum=1
  )
  prompt_buckets: tuple[int, ...] = flag(
    (512, 1024, 2048, 4096),
    'Prompt lengths in tokens, in rising order, for which programs are '
    'compiled. Multi-turn rows need larger ones.',
    minimum=2,
    may_change=True,
  )
  overlong: str = flag(
    'error',
    'What happens to a prompt longer than the last of --prompt_buckets or than '
    'the model reads: error refuses it, wrong counts it as answered by '
    'nothing, which is wrong wherever an answer is wanted. A row that grows '
    'too long in a later turn is always wrong.',
    ('error', 'wrong'),
  )
  batch: int = flag(
    32,
    'Prompts answered at once. Lower it if sampling runs out of memory.',
    minimum=1,
    may_change=True,
  )
  dtype: str = flag(
    '',
    'Number format of activations and of the key-value cache. Empty takes that '
    'of the parameters.',
    ('', *sections.DTYPES),
  )
  aggregation: str = flag(
    'v4',
    "Columns of BFCL's table: those of v4, or the older ones of v3.",
    ('v4', 'v3'),
    may_change=True,
  )
  resamples: int = flag(
    1000,
    'Draws of the bootstrap that gives the 95% intervals. 0 gives none.',
    minimum=0,
    may_change=True,
  )
  beside: str = flag(
    '',
    'Folder of an earlier evaluation of the same rows, such as that of the '
    'model before training: the tables then have the differences to it, paired '
    'by row. Empty compares with nothing.',
    may_change=True,
  )
  result_name: str = flag(
    '',
    "Name of the model in the leaderboard's files. Empty makes one of --model; "
    '`bfcl evaluate` needs one that it knows, such as Qwen/Qwen3-8B-FC.',
    may_change=True,
  )
  compilation_cache: str = flag(
    '~/.cache/awpo_jax/xla',
    'Folder in which compiled programs are kept, so that the next evaluation '
    'starts sooner. Empty keeps none.',
    may_change=True,
  )


def parse(arguments: list[str]) -> EvaluationConfig:
  """The checked configuration of a command line, without the global flags.

  Raises:
    absl.flags.Error: an unknown flag or a value of the wrong type.
    config.ConfigError: a value or combination that makes no sense.
  """
  return from_flags(flags_lib.parse(arguments, [EvaluationConfig]))


def from_flags(values: absl_flags.FlagValues) -> EvaluationConfig:
  """The checked configuration of parsed flags; errors as `parse`."""
  config = flags_lib.read_section(EvaluationConfig, values)
  flags_lib.refuse(_rules(config))
  return config


def _rules(config: Any) -> Iterator[flags_lib.Rule]:
  yield from flags_lib.range_rules(config)
  unknown = [x for x in config.benchmarks if x not in benchmarks_lib.BENCHMARKS]
  known = ', '.join(benchmarks_lib.BENCHMARKS)
  yield (
    bool(unknown) or not config.benchmarks,
    f'--benchmarks={",".join(config.benchmarks)}: choose among {known}.',
  )
  if config.template_date:
    yield checks.date_rule(config.template_date)
  yield not config.output_dir, '--output_dir is not set: name a folder.'
  yield (
    bool(config.beside)
    and pathlib.Path(config.beside).resolve()
    == pathlib.Path(config.output_dir).resolve(),
    f'--beside={config.beside} is the --output_dir itself: name the folder of '
    'another evaluation.',
  )
  yield not config.data, '--data is not set: name the folder of the rows.'
  yield (
    config.policy == 'model' and not config.model,
    '--model is not set: name a run or a Hugging Face model.',
  )
  yield (
    config.samples > 1 and config.temperature == 0,
    f'--samples={config.samples} gives equal answers with --temperature=0: set '
    'a temperature.',
  )
  yield checks.buckets_rule('prompt_buckets', config.prompt_buckets)
