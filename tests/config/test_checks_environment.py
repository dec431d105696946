"""Flags of tools that run: what is refused, and in which words."""

import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.config import flags as flags_lib

BASE = ('--output_dir=x', '--model=m', '--sft_steps=1')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--max_turns=0'], '--max_turns=0: must be at least 1'),
    (['--tool_workers=0'], '--tool_workers=0: must be at least 1'),
    (['--tool_seconds=0'], '--tool_seconds=0.0: must be above 0'),
    (['--tool_seconds=nan'], '--tool_seconds=nan'),
    (
      ['--environment=quickstart', '--observation_tokens=64'],
      '--observation_tokens=64 leaves no room',
    ),
  ],
)
def test_refused(flags, message):
  with pytest.raises(flags_lib.ConfigError) as caught:
    config_lib.parse([*BASE, '--response_buckets=64', *flags])
  assert message in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


def test_only_the_number_of_workers_may_change():
  old = config_lib.to_json(config_lib.parse(BASE))
  new = config_lib.parse([*BASE, '--tool_workers=5', '--max_turns=3'])
  assert config_lib.differences(old, new) == ['--max_turns: 8 then, 3 now']
