"""What stands at the field of a flag: its range, and whether it may change."""

import dataclasses
import math

import pytest
from absl import flags as absl_flags

from awpo_jax.config import flags as flags_lib
from awpo_jax.config.flags import flag


@dataclasses.dataclass(frozen=True)
class Oven:
  """Baking: at what temperature."""

  degrees: float = flag(180.0, 'Heat of the oven.', above=0, maximum=250)
  shares: tuple[float, ...] = flag((0.5, 0.5), 'Flour and oil.', minimum=0)
  loaves: int = flag(1, 'How many.', minimum=1, may_change=True)
  minutes: float | None = flag(None, 'How long; until it smells if not set.')
  fan: bool = flag(False, 'Whether it blows.')


def _problems(**values):
  return [x for wrong, x in flags_lib.range_rules(Oven(**values)) if wrong]


@pytest.mark.parametrize(
  ('values', 'problem'),
  [
    ({'degrees': 0.0}, '--degrees=0.0: must be above 0 and at most 250.'),
    ({'degrees': 250.1}, '--degrees=250.1: must be above 0 and at most 250.'),
    ({'degrees': math.nan}, '--degrees=nan: must be above 0 and at most 250.'),
    ({'loaves': 0}, '--loaves=0: must be at least 1.'),
    ({'minutes': math.inf}, '--minutes=inf: must be a finite number.'),
    (
      {'shares': (0.5, -0.1)},
      '--shares=0.5,-0.1: each number must be at least 0.',
    ),
  ],
)
def test_out_of_range(values, problem):
  assert _problems(**values) == [problem]


def test_the_ends_of_a_range_and_what_is_not_set_are_within():
  assert not _problems(degrees=250.0, loaves=1, shares=(0.0,), minutes=None)
  assert not _problems(loaves=10**400, minutes=-3.0, shares=())


def test_all_problems_are_told_at_once():
  rules = flags_lib.range_rules(Oven(degrees=-1.0, loaves=0))
  with pytest.raises(flags_lib.ConfigError, match='--degrees=-1.*\n--loaves=0'):
    flags_lib.refuse(rules)


def test_help_says_all_that_stands_at_the_field():
  values = absl_flags.FlagValues()
  flags_lib.define_section(Oven, values)
  assert values['degrees'].help == (
    'Heat of the oven. Allowed: above 0 and at most 250.'
  )
  assert values['shares'].help == (
    'Flour and oil. Allowed: each number at least 0.'
  )
  assert values['loaves'].help == (
    'How many. Allowed: at least 1. It may be changed when a run is continued.'
  )
  assert values['fan'].help == 'Whether it blows.'
  assert 'Baking: at what temperature:' in values.get_help()


def test_only_what_may_change_differs_unnoticed():
  old = {'degrees': 180.0, 'loaves': 1, 'shares': [0.5, 0.5]}
  new = {'degrees': 200.0, 'loaves': 2, 'shares': [0.5, 0.5], 'fan': True}
  got = flags_lib.differences(old, new, [Oven])
  assert got == ['--degrees: 180.0 then, 200.0 now']


def test_flags_files_name_others_from_any_folder(tmp_path, monkeypatch):
  folder = tmp_path / 'project' / 'experiments' / 'deep'
  folder.mkdir(parents=True)
  (folder / 'a.flags').write_text(
    '# A comment.\n--flagfile=experiments/base.flags\n\n  --samples=4  \n'
  )
  base = folder.parent / 'base.flags'
  base.write_text('// Another.\n--seed=3\n--samples=2\n--flagfile=gone.flags\n')
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  arguments = ['x', f'--flagfile={folder / "a.flags"}', '--seed=5', '--', '-y']
  # In the order in which they stand: the last one of a flag is the one that is
  # set. What is not found is left for absl to refuse.
  assert flags_lib.with_flagfiles(arguments) == [
    'x',
    '--seed=3',
    '--samples=2',
    '--flagfile=gone.flags',
    '--samples=4',
    '--seed=5',
    '--',
    '-y',
  ]
  # Where the command is given comes first.
  (tmp_path / 'elsewhere' / 'gone.flags').write_text('--seed=7')
  assert '--seed=7' in flags_lib.with_flagfiles(arguments)
  # A file that is typed is looked for there alone.
  assert flags_lib.with_flagfiles(['--flagfile=a.flags']) == [
    '--flagfile=a.flags'
  ]
  base.write_text('--flagfile=experiments/deep/a.flags\n--seed=3\n')
  assert flags_lib.with_flagfiles(arguments)[:3] == [
    'x',
    '--seed=3',
    '--samples=4',
  ]
