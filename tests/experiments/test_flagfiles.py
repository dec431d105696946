"""Every flags file parses, and says what it is."""

import pathlib
import re
import shlex

import jax
import pytest
from absl import flags

from awpo_jax.analysis import tabular
from awpo_jax.analysis.ablations import grid
from awpo_jax.config import experiment as config_lib
from awpo_jax.distributed import device_checks
from awpo_jax.evaluation import config as evaluation_config
from awpo_jax.ops import (
  advantages,
  aggregation,
  clipping,
  estimators,
  policy_losses,
  surrogate,
)
from awpo_jax.training.dry_run import memory

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = 'experiments/base.flags'
RLLA = 'experiments/rlla/common.flags'
# The model is named by gpu.py's --size; two grids share the cells.
GPU = 'experiments/benchmarks/gpu.flags'
CELLS = 'experiments/ablations/links_cells.flags'
NOT_BY_THEMSELVES = (BASE, RLLA, GPU)
GRPO = {'gate': 'none', 'difficulty': 'none', 'clip': 'fixed'}
ALL_FILES = sorted(
  str(file.relative_to(ROOT)) for file in ROOT.glob('experiments/**/*.flags')
)
# Those of evaluate.py, which has flags of its own.
EVALUATIONS = [file for file in ALL_FILES if '/eval_' in file]
FILES = [file for file in ALL_FILES if file not in EVALUATIONS]


# Lines on top of any experiment: given after its own flags file.
ALGORITHMS = [file for file in FILES if '/algorithms/' in file]
# Maps, of flags of `tabular.py`, and grids, of those of `ablate.py`.
MAPS = [file for file in FILES if '/ablations/tabular' in file]
GRIDS = [
  file for file in FILES if '/ablations/' in file and file not in (*MAPS, CELLS)
]
FILES = [
  file for file in FILES if file not in (*ALGORITHMS, *GRIDS, *MAPS, CELLS)
]
QUICKSTART = '--flagfile=experiments/quickstart.flags'


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


TWINS = [(file.replace('_grpo', ''), file) for file in FILES if '_grpo' in file]
REAL = [
  file
  for file in FILES
  if file.startswith('experiments/rlla/') and file != RLLA
]


def test_there_is_what_others_build_on():
  assert set(NOT_BY_THEMSELVES) < set(FILES)


@pytest.mark.parametrize('file', sorted({*FILES} - {*NOT_BY_THEMSELVES}))
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


def test_evaluations_parse_and_name_their_benchmark():
  named = {}
  for file in EVALUATIONS:
    assert (ROOT / file).read_text().startswith('#')
    config = evaluation_config.parse(
      [f'--flagfile={file}', '--model=m', '--data=d', '--output_dir=x']
    )
    named[pathlib.Path(file).stem] = config.benchmarks, config.max_tokens
  assert named == {
    'eval_all': (('bfcl', 'apibank', 'mmlu_pro'), 1024),
    'eval_bfcl': (('bfcl',), 1024),
    'eval_apibank': (('apibank',), 4096),
    'eval_mmlu_pro': (('mmlu_pro',), 2048),
    'eval_smollm2': (('bfcl', 'apibank', 'mmlu_pro'), 256),
  }


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


@pytest.mark.parametrize('name', ['quickstart', 'smollm2'])
@pytest.mark.parametrize('twin', ['grpo', 'sft'])
def test_a_twin_starts_where_the_warm_start_ends(name, twin):
  parsed = [
    config_lib.parse([f'--flagfile=experiments/{file}.flags'])
    for file in (name, f'{name}_{twin}')
  ]
  whole, rest = (config.run for config in parsed)
  assert rest.init_from == f'{whole.output_dir}/checkpoints/{whole.sft_steps}'


@pytest.mark.parametrize(('file', 'twin'), TWINS)
def test_a_twin_is_grpo_and_nothing_else(file, twin):
  awpo, grpo = (
    config_lib.to_dict(config_lib.parse([f'--flagfile={x}']))
    for x in (file, twin)
  )
  changed = {name: grpo[name] for name in awpo if awpo[name] != grpo[name]}
  del changed['output_dir']
  if 'rlla/' not in file:  # It starts where the warm start ended.
    del changed['init_from'], changed['sft_steps']
  assert changed == GRPO


def test_every_real_model_has_its_twin():
  assert len(REAL) == 12
  assert {file for pair in TWINS for file in pair} >= set(REAL)


@pytest.mark.parametrize('file', REAL)
def test_a_real_model_follows_the_recipe(file):
  config = config_lib.parse([f'--flagfile={file}'])
  rl, loss, data = config.rl, config.loss, config.data
  assert (rl.prompts_per_step, rl.samples, rl.minibatches) == (512, 4, 8)
  assert config.run.rl_steps == 105 and config.run.sft_steps == 0
  assert data.prompt_buckets == data.response_buckets == (2048,)
  assert (rl.temperature, loss.kl_coef, loss.entropy_coef) == (1, 0, 0)
  assert (loss.clip_max, config.numbers.dual_clip) == (0.2, 3)
  assert loss.aggregation == 'token-mean' and not config.run.init_from
  # Adapters are new and small: the rate of all weights would not move them.
  assert (rl.learning_rate == 1e-6) == (config.model.lora_rank == 0)
  # The recipe has eight; the headers say up to sixteen.
  for devices in (1, 2, 4, 8, 16):
    assert not list(device_checks.check_devices(config, devices))


@pytest.mark.parametrize('file', [x for x in REAL if '_grpo' not in x])
def test_the_table_of_memory_in_a_header_is_what_is_computed(file):
  rows = re.findall(r'^#   (\w+) +([\d.]+)', (ROOT / file).read_text(), re.M)
  name = pathlib.Path(file).stem
  config = config_lib.parse(
    [f'--flagfile={file}', f'--model=experiments/models/{name}.json']
  )
  mesh = jax.sharding.AbstractMesh((8,), ('data',))
  parts = memory.parts(memory.make_plan(config), mesh)
  found = {part: size for part, size in rows if part in parts}
  assert found == {
    part: f'{size / 2**30:.1f}' for part, size in parts.items() if size
  }


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


# Flags whose every value is an algorithm of its own, or a part of one.
NAMED = {
  'advantage': advantages.ADVANTAGES,
  'condition': advantages.CONDITIONS,
  'estimator': estimators.ESTIMATORS,
  'shaper': advantages.SHAPERS,
  'empty_groups': aggregation.EMPTY_GROUPS,
  'unfinished': aggregation.UNFINISHED,
  'loss': policy_losses.LOSSES,
  'clip_high': clipping.CLIP_HIGHS,
  'mismatch': surrogate.MISMATCHES,
}


@pytest.mark.parametrize('flag', NAMED)
def test_every_algorithm_that_flags_name_has_a_file(flag):
  found = {
    config_lib.to_dict(config_lib.parse([QUICKSTART, f'--flagfile={x}']))[flag]
    for x in ALGORITHMS
  }
  assert found == {*NAMED[flag]}


def _values(file):
  """Flag -> the values that a file and those that it names give it.

  Of what is given twice the last counts. The file opens with a comment.
  """
  assert pathlib.Path(file).read_text().startswith('#')
  values = {}
  for line in flags.FlagValues().read_flags_from_files([f'--flagfile={file}']):
    name, _, value = line.removeprefix('--').partition('=')
    values.setdefault(name, []).append(value)
  return values


@pytest.mark.parametrize('file', GRIDS)
def test_every_cell_of_a_grid_parses(file):
  values = _values(file)
  seeds = values['seeds'][-1].split(',')
  cells = [grid.parse_cell(text, len(seeds)) for text in values['cell']]
  assert values['baseline'][-1] in [cell.name for cell in cells]
  base = shlex.split(values['base'][-1])
  for own in (
    shlex.split(values['warm_start'][-1]),
    *(['--init_from=x', *cell.flags] for cell in cells),
  ):
    config_lib.parse([*base, *own, '--output_dir=x', '--seed=1'])


@pytest.mark.parametrize('file', MAPS)
def test_every_algorithm_of_a_map_can_be_trained_in_a_table(file):
  values = _values(file)
  algorithms = [grid.parse_cell(text, 1) for text in values['algorithm']]
  names = [x.name for x in algorithms]
  assert len({*names}) == len(names)
  assert {*values['baselines'][-1].split(',')} <= {*names}
  base = shlex.split(values['base'][-1])
  for x in algorithms:
    tabular.check(config_lib.parse([*base, *x.flags]))
