"""Flags of an evaluation on benchmarks, and what they may not say."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from absl import flags as absl_flags

from awpo_jax.config import checks
from awpo_jax.config import flags as flags_lib
from awpo_jax.config.flags import flag
from awpo_jax.evaluation import benchmarks as benchmarks_lib
from awpo_jax.rollout.text import chat_template

POLICIES = ('model', 'oracle', 'silent')


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """An evaluation: what answers what, and how it is reported."""

  benchmarks: tuple[str, ...] = flag(
    tuple(benchmarks_lib.BENCHMARKS), 'Names joined by commas.'
  )
  model: str = flag('', 'Run, checkpoint, or Hugging Face model.')
  policy: str = flag(
    'model',
    'What answers: the model; the ground truth (oracle); nothing (silent). '
    'The last two check the whole path and need no model.',
    POLICIES,
  )
  data: str = flag(
    '',
    'Folder of the rows, or one that holds a folder for each benchmark; or a '
    'data set owner/name of the hub.',
  )
  output_dir: str = flag(
    '', 'Folder of the results; an unfinished one goes on.'
  )
  categories: tuple[str, ...] = flag(
    (), 'Categories of BFCL; empty: all that are there.'
  )
  limit: int = flag(
    0, 'Rows of each category, picked by a hash of their ids; 0: all.'
  )
  bad_rows: str = flag(
    'error',
    'A bad row is refused, or left out and reported.',
    ('error', 'skip'),
  )
  examples: str = flag(
    '', 'File of worked MMLU-Pro examples, up to five a category are shown.'
  )
  prompt_style: str = flag(
    'auto',
    "RLLA's prompts; the model's own chat template with the tools given to it "
    "(template), or RLLA's prompts with the tools given to it (rlla_template); "
    'auto: as the model was trained.',
    ('auto', 'rlla', 'template', 'rlla_template'),
  )
  enable_thinking: str = flag(
    'default',
    'Given to a chat template that knows it.',
    tuple(chat_template.THINKING),
  )
  template_date: str = flag(
    '',
    "What a chat template that writes today's date is told, as 2024-07-26; "
    'empty: as the model was trained.',
  )
  samples: int = flag(1, 'Answers of each row, k of pass@k and mean@k.')
  temperature: float = flag(0.0, 'Of the sampler; 0 is greedy.')
  seed: int = flag(0, 'Fixes every draw.')
  max_tokens: int = flag(1024, 'Tokens of an answer at most.')
  prompt_buckets: tuple[int, ...] = flag(
    (512, 1024, 2048, 4096), 'Prompt lengths that programs are compiled for.'
  )
  overlong: str = flag(
    'error',
    'A prompt longer than the last bucket or the model: refuse it, or count it '
    'as answered by nothing. One that grows too long in a later turn always '
    'ends its row, which is wrong.',
    ('error', 'wrong'),
  )
  batch: int = flag(32, 'Prompts answered at once.')
  dtype: str = flag(
    '', 'Of activations and cache; empty: that of the parameters.'
  )
  aggregation: str = flag(
    'v4', "BFCL's columns: of v4, or as they were before.", ('v4', 'v3')
  )
  resamples: int = flag(1000, 'Draws of the bootstrap; 0: no intervals.')
  result_name: str = flag(
    '',
    "Name of the model in the leaderboard's files; empty: made of --model. For "
    '`bfcl evaluate` one that it knows, e.g. Qwen/Qwen3-8B-FC.',
  )
  compilation_cache: str = flag(
    '~/.cache/awpo_jax/xla', 'Folder of compiled programs; empty for none.'
  )


# Flags that change no answer: an evaluation may go on with others.
MAY_CHANGE = frozenset(
  {
    'benchmarks',
    'output_dir',
    'categories',
    'limit',
    'bad_rows',
    'samples',
    'prompt_buckets',
    'batch',
    'aggregation',
    'resamples',
    'result_name',
    'compilation_cache',
  }
)


def parse(arguments: list[str]) -> EvaluationConfig:
  """The checked configuration of a command line, without the global flags.

  Raises:
    absl.flags.Error: an unknown flag or a value of the wrong type.
    config.ConfigError: a value or combination that makes no sense.
  """
  values = absl_flags.FlagValues()
  flags_lib.define_section(EvaluationConfig, values)
  rest = values(['parse', *arguments])[1:]
  if rest:
    raise flags_lib.ConfigError(f'not a flag: {" ".join(rest)}')
  return from_flags(values)


def from_flags(values: absl_flags.FlagValues) -> EvaluationConfig:
  """The checked configuration of parsed flags; errors as `parse`."""
  config = flags_lib.read_section(EvaluationConfig, values)
  problems = [text for wrong, text in _rules(config) if wrong]
  if problems:
    raise flags_lib.ConfigError('\n'.join(problems))
  return config


def _rules(config: Any) -> Iterator[tuple[bool, str]]:
  unknown = [x for x in config.benchmarks if x not in benchmarks_lib.BENCHMARKS]
  known = ', '.join(benchmarks_lib.BENCHMARKS)
  yield (
    bool(unknown) or not config.benchmarks,
    f'--benchmarks={",".join(config.benchmarks)}: choose among {known}.',
  )
  if config.template_date:
    yield checks.date_rule(config.template_date)
  yield not config.output_dir, '--output_dir is not set: name a folder.'
  yield not config.data, '--data is not set: name the folder of the rows.'
  yield (
    config.policy == 'model' and not config.model,
    '--model is not set: name a run or a Hugging Face model.',
  )
  for name in ('samples', 'max_tokens', 'batch'):
    value = getattr(config, name)
    yield value < 1, f'--{name}={value}: at least 1.'
  for name in ('limit', 'resamples', 'seed'):
    value = getattr(config, name)
    yield not 0 <= value < 2**31, f'--{name}={value}: from 0 to {2**31 - 1}.'
  yield (
    not 0 <= config.temperature < float('inf'),
    f'--temperature={config.temperature}: 0 or above.',
  )
  yield (
    config.samples > 1 and config.temperature == 0,
    f'--samples={config.samples} with --temperature=0 are the same answer each '
    'time: set a temperature.',
  )
  buckets = list(config.prompt_buckets)
  yield (
    not buckets or min(buckets) < 2 or buckets != sorted(set(buckets)),
    f'--prompt_buckets={buckets}: lengths of at least 2 in rising order.',
  )
  yield (
    config.dtype not in ('', 'float32', 'bfloat16', 'float16'),
    f'--dtype={config.dtype}: float32, bfloat16, float16.',
  )
