"""Steps of which no answer could be trained on end a run, with the reasons."""

import types as python_types

import numpy as np
import pytest

from awpo_jax.config import experiment as config_lib
from awpo_jax.training import idle

FLAGS = ('--output_dir=run', '--model=m.json', '--rl_steps=9')
GATELESS = ('--gate=none', '--difficulty=none', '--clip=fixed')


class Judge:
  def name(self):
    return 'the judge at http://here/v1 (last: TimeoutError)'


def _watch(*flags):
  return idle.Watch(config_lib.parse([*FLAGS, *flags]), Judge)


def _report(valid=0.0, outcome=0, reasoning=0, lost=''):
  """Of a step with so many valid ones of four answers."""
  rewards = python_types.SimpleNamespace(
    outcome_valid=np.arange(4).reshape(2, 2) < outcome,
    reasoning_valid=np.arange(4).reshape(2, 2) < reasoning,
  )
  rollout = python_types.SimpleNamespace(rewards=rewards)
  scored = python_types.SimpleNamespace(rollout=rollout, lost=lost)
  return python_types.SimpleNamespace(
    metrics={'reward/valid': valid}, scored=scored
  )


def test_three_in_a_row():
  watch = _watch()
  got = [watch.after(_report(v)) for v in (0, 0, 0.25, 0, 0)]
  assert got == [''] * 5
  assert 'No answer of the last 3 steps' in watch.after(_report())


def test_other_phases_are_none_of_them():
  watch, other = _watch(), _report()
  other.metrics = {'loss': 0.0}
  assert [watch.after(x) for x in [other] * 5] == [''] * 5


@pytest.mark.parametrize(
  ('flags', 'report', 'said'),
  [
    (
      (),
      {'reasoning': 4, 'lost': 'RewardUnavailable: down'},
      'one 4 of 4 answers had no outcome (RewardUnavailable: down).',
    ),
    (
      (),
      {'outcome': 4},
      'one 4 of 4 answers had no score (the judge at http://here/v1 (last: '
      'TimeoutError)).',
    ),
    (
      (*GATELESS, '--advantage=gdpo'),
      {'outcome': 1, 'reasoning': 3, 'lost': 'x'},
      'one 3 of 4 answers had no outcome (x) and 1 of 4 answers had no score '
      '(the judge at http://here/v1 (last: TimeoutError)).',
    ),
    # Without a gate nothing hangs on the judge.
    (GATELESS, {'lost': 'x'}, 'one 4 of 4 answers had no outcome (x).'),
  ],
)
def test_the_reasons(flags, report, said):
  watch = _watch(*flags)
  got = [watch.after(_report(**report)) for _ in range(3)]
  assert got[:2] == ['', ''] and got[2].endswith(said), got[2]
