"""Whole runs, made to be ill, and what `doctor.py` says of them."""

import pytest

from awpo_jax.analysis import doctor, records
from tests.helpers import ill_runs, whole_runs

PROGRAM = 'experiments/doctor.py'
HELPER = ill_runs.__name__
SOUND = f'--judge={HELPER}:sound'
# What is changed, and what must be found of it. An answer ends by itself only
# after some supervised steps; without them all runs have that finding as well.
ILL = {
  'flat': (
    (f'--judge={HELPER}:constant', f'--reward={HELPER}:same'),
    {
      'The judge is constant',
      'Groups have no spread',
      'The clip is never active',
    },
  ),
  'silent': (
    (f'--judge={HELPER}:silent', '--rl_steps=2'),
    {
      'Samples are invalid',
      'The judge gives no score',
      'Groups have no spread',
      'The clip is never active',
    },
  ),
  'contrary': (
    (f'--judge={HELPER}:contrary', '--trust=agreement'),
    {'The judge is not trusted'},
  ),
  'small': (
    (SOUND, '--param_dtype=bfloat16', '--learning_rate=1e-7'),
    {'The clip is never active', 'Updates are rounded away'},
  ),
  'large': ((SOUND, '--learning_rate=0.3'), {'The clip is always active'}),
  'cold': (
    (
      SOUND,
      '--temperature=0.001',
      f'--dataset={HELPER}:load',
      '--overlong=drop',
      '--sft_steps=40',
    ),
    {
      'Prompts were left out',
      'Groups have no spread',
      'The entropy has collapsed',
      'The clip is never active',
    },
  ),
}
FEW = 'Answers are cut off'


def _found(folder):
  diagnosis = doctor.diagnose(records.read(folder))
  return {x.check.title: x.value for x in diagnosis.findings}


@pytest.mark.parametrize('name', ILL)
def test_what_a_run_was_made_to_have_is_found(start, tmp_path, name):
  flags, wanted = ILL[name]
  # Outcome and judge of these runs have little in common, which one illness is.
  result = start('--trust=none', *flags)
  assert result.returncode == 0, result.stderr
  found = _found(tmp_path / 'run')
  if '--sft_steps=40' not in flags:
    assert found.pop(FEW) < 0.8
  assert found.keys() == wanted
  if name == 'cold':
    assert found['Prompts were left out'] == 2


def test_a_healthy_run_is_told_so_by_the_program(start, tmp_path):
  result = start(SOUND, '--trust=none', '--sft_steps=40')
  assert result.returncode == 0, result.stderr
  told = whole_runs.forked(
    [f'--run={tmp_path / "run"}'], tmp_path, program=PROGRAM
  )
  assert told.returncode == 0, told.stderr
  assert told.stdout.startswith('Nothing found by 13 checks.\n')
  assert '- Groups have no spread? advantage/groups, mean' in told.stdout


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--run=no_run'], 'no_run is not the folder of a run'),
    ([], '--run is not set'),
    (['runs/x'], 'not a flag: runs/x'),
  ],
)
def test_a_run_that_cannot_be_read_is_named(tmp_path, flags, message):
  told = whole_runs.forked(flags, tmp_path, program=PROGRAM)
  assert told.returncode == 1
  assert message in told.stderr
