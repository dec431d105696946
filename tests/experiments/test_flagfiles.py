"""Every flags file parses, and says what it is."""

import pathlib
import shlex

import pytest

from awpo_jax import config as config_lib
from awpo_jax.training import grid

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = 'experiments/base.flags'
FILES = sorted(
  str(file.relative_to(ROOT)) for file in ROOT.glob('experiments/**/*.flags')
)


# Lines on top of any experiment: given after its own flags file.
ALGORITHMS = [file for file in FILES if '/algorithms/' in file]
# Grids, of flags of `ablate.py`.
GRIDS = [file for file in FILES if '/ablations/' in file]
FILES = [file for file in FILES if file not in (*ALGORITHMS, *GRIDS)]
QUICKSTART = '--flagfile=experiments/quickstart.flags'


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def test_there_is_a_base():
  assert BASE in FILES


@pytest.mark.parametrize('file', [file for file in FILES if file != BASE])
def test_parses(file):
  config = config_lib.parse([f'--flagfile={file}', '--output_dir=x'])
  assert config.run.output_dir == 'x'
  model = config.model.model
  # In the repository, or the name of a folder outside of it.
  assert not model.startswith('experiments/') or (ROOT / model).is_file()


def test_the_base_parses_with_what_it_leaves_open():
  config = config_lib.parse(
    [f'--flagfile={BASE}', '--output_dir=x', '--model=y', '--rl_steps=1']
  )
  # Eight updates on 512 prompts of four answers each.
  assert (config.rl.prompts_per_step, config.rl.samples) == (512, 4)
  assert (config.rl.minibatches, config.rl.learning_rate) == (8, 1e-6)


@pytest.mark.parametrize('file', FILES)
def test_opens_with_a_comment_and_builds_on_the_base(file):
  lines = (ROOT / file).read_text().splitlines()
  assert lines[0].startswith('#')
  included = [x for x in lines if x.startswith('--flagfile=')]
  if file != BASE:
    assert included, f'{file} does not build on another flags file'
    assert _reaches_base(file), file


def _reaches_base(file):
  if file == BASE:
    return True
  lines = (ROOT / file).read_text().splitlines()
  prefix = '--flagfile='
  return any(
    _reaches_base(x.removeprefix(prefix)) for x in lines if x.startswith(prefix)
  )


@pytest.mark.parametrize('name', ['quickstart_grpo', 'quickstart_sft'])
def test_starts_where_the_warm_start_of_the_quickstart_ends(name):
  parsed = [
    config_lib.parse([f'--flagfile=experiments/{file}.flags'])
    for file in ('quickstart', name)
  ]
  whole, rest = (config.run for config in parsed)
  assert rest.init_from == f'{whole.output_dir}/checkpoints/{whole.sft_steps}'


@pytest.mark.parametrize('file', ALGORITHMS)
def test_an_algorithm_goes_on_top_of_an_experiment(file):
  text = pathlib.Path(file).read_text()
  assert text.startswith('#')
  config = config_lib.parse([QUICKSTART, f'--flagfile={file}'])
  # It says nothing of data, model or length of the run.
  plain = config_lib.parse([QUICKSTART])
  for section in ('run', 'data', 'model', 'sft', 'optimizer'):
    assert getattr(config, section) == getattr(plain, section)


def test_no_two_algorithms_are_the_same():
  assert len(ALGORITHMS) > 20
  parsed = [
    config_lib.to_flagfile(config_lib.parse([QUICKSTART, f'--flagfile={x}']))
    for x in ALGORITHMS
  ]
  assert len(set(parsed)) == len(parsed)


@pytest.mark.parametrize('file', GRIDS)
def test_every_cell_of_a_grid_parses(file):
  lines = pathlib.Path(file).read_text().splitlines()
  assert lines[0].startswith('#')
  values = {}
  for line in lines:
    if line.startswith('--'):
      name, _, value = line.removeprefix('--').partition('=')
      values.setdefault(name, []).append(value)
  seeds = values['seeds'][0].split(',')
  cells = [grid.parse_cell(text, len(seeds)) for text in values['cell']]
  assert values['baseline'][0] in [cell.name for cell in cells]
  base = shlex.split(values['base'][0])
  for flags in (
    shlex.split(values['warm_start'][0]),
    *(['--init_from=x', *cell.flags] for cell in cells),
  ):
    config_lib.parse([*base, *flags, '--output_dir=x', '--seed=1'])
