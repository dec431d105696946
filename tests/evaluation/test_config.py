"""Flags of an evaluation: parsed, checked, all problems at once."""

import pytest

from awpo_jax.config import flags as flags_lib
from awpo_jax.evaluation import config as config_lib

GOOD = ('--model=m', '--data=d', '--output_dir=o')


def test_defaults():
  config = config_lib.parse(GOOD)
  assert config.benchmarks == ('bfcl', 'apibank', 'mmlu_pro')
  assert (config.samples, config.temperature) == (1, 0.0)
  assert config.prompt_buckets == (512, 1024, 2048, 4096)


@pytest.mark.parametrize(
  ('flag', 'problem'),
  [
    ('--output_dir=', '--output_dir is not set'),
    ('--data=', '--data is not set'),
    ('--model=', '--model is not set'),
    ('--benchmarks=', '--benchmarks=: choose among'),
    ('--samples=0', '--samples=0: must be at least 1'),
    ('--batch=0', '--batch=0: must be at least 1'),
    ('--limit=-1', '--limit=-1: must be at least 0'),
    ('--temperature=nan', '--temperature=nan: must be at least 0'),
    ('--samples=3', '--samples=3 gives equal answers with --temperature=0'),
    ('--prompt_buckets=8,4', 'rising order'),
    ('--seed=2147483648', '--seed=2147483648: must be at least 0 and at most'),
    ('--template_date=2025-2-1', '--template_date=2025-2-1: expected a day'),
    ('words', 'not a flag: words'),
  ],
)
def test_problems(flag, problem):
  with pytest.raises(flags_lib.ConfigError, match=problem):
    config_lib.parse([*GOOD, flag])


def test_no_model_is_needed_where_none_answers():
  assert config_lib.parse([*GOOD, '--model=', '--policy=silent'])
