"""The page of a grid, and of episodes of several turns, in a real browser."""

import unicodedata

import pytest

from awpo_jax.analysis.ablations import grid as grid_lib
from tests.helpers import browser, tiny_dataset, tiny_turns, whole_runs

pytestmark = browser.needed
GRPO = '--flagfile=experiments/algorithms/grpo.flags'
CELLS = {
  # With trust, which is 0 here, it would draw the lines of GRPO.
  'awpo': grid_lib.Cell('awpo', ('--trust=none',), 2),
  'grpo': grid_lib.Cell('grpo', (GRPO,), 1),
}
LAST = tiny_dataset.SFT_STEPS + tiny_dataset.RL_STEPS


@pytest.fixture(scope='module')
def grid(tmp_path_factory, cache):
  """name on the page -> folder, and the page, of the runs of two cells."""
  folder = tmp_path_factory.mktemp('grid')
  base = tiny_dataset.flags(folder / 'unused', cache)
  base = tuple(x for x in base if not x.startswith('--output_dir'))
  made = grid_lib.Grid(folder, base, tuple(CELLS.values()), (3, 4))
  runs = {}
  for run in grid_lib.runs(made)[1]:
    result = whole_runs.forked(run.flags, folder)
    assert result.returncode == 0, result.stderr
    runs[f'{run.name}, seed {run.seed}'] = run.folder
  done = browser.view(f'--runs={folder}')
  assert done.returncode == 0, done.stderr
  return dict(sorted(runs.items())), folder / 'run.html'


def _strokes(metric):
  return (
    f'[...document.querySelectorAll(\'[data-metric="{metric}"] polyline\')]'
    ".map(x => x.getAttribute('stroke'))"
  )


def test_cells_of_a_grid_lie_side_by_side(quiet, grid):
  runs, path = grid
  quiet.open(path)
  assert list(runs) == ['awpo, seed 3', 'awpo, seed 4', 'grpo, seed 3']
  assert quiet.run(browser.texts('.legend span')) == list(CELLS)
  # One row of last values for each run.
  head, *rows = quiet.run(
    "[...document.querySelectorAll('.overview tr')].map(row => "
    '[...row.children].map(x => x.textContent))'
  )
  assert [row[0] for row in rows] == list(runs)
  for row, folder in zip(rows, runs.values(), strict=True):
    last = whole_runs.rows(folder)[-1]
    for name in ('eval/held_out/outcome', 'gate/mean', 'reward/reasoning'):
      shown = float(row[head.index(name)])
      assert shown == pytest.approx(last[name], abs=6e-4)
  # Seeds of a cell have its colour.
  first, second, grpo = quiet.run(_strokes('reward/outcome'))
  assert first == second != grpo


def test_a_click_opens_the_run_whose_line_it_hits(quiet, grid):
  runs, path = grid
  quiet.open(path)
  for number in range(len(runs)):
    quiet.run("location.hash = ''")
    quiet.wait("document.querySelector('.chart')")
    quiet.run(f"""(() => {{
      const svg = document.querySelector('[data-metric="grad_norm"] svg');
      const line = svg.querySelectorAll('polyline')[{number}];
      const [x, y] = line.getAttribute('points').split(' ').at(-1).split(',');
      const box = svg.getBoundingClientRect();
      svg.dispatchEvent(new MouseEvent('click', {{bubbles: true,
        clientX: box.left + Number(x), clientY: box.top + Number(y)}}));
    }})()""")
    quiet.wait("document.querySelector('table.groups')")
    run = f'run={number}&' if number else ''
    assert quiet.run('location.hash') == f'#{run}step={LAST}'


def _marked(text):
  """As the page shows it: what is not to be seen is named."""
  strange = ('Cc', 'Cf', 'Cs', 'Co', 'Zl', 'Zp')
  return ''.join(
    f'U+{ord(x):04X}'
    if unicodedata.category(x) in strange and x not in '\n\t'
    else x
    for x in text
  )


def test_a_held_out_answer_is_compared_with_that_of_another_run(quiet, grid):
  runs, path = grid
  ours, theirs = (
    [
      row['response']
      for row in whole_runs.rows(folder, 'transcripts.jsonl')
      if row['step'] == LAST and 'set' in row
    ]
    for folder in list(runs.values())[:2]
  )
  number = next(i for i in range(4) if ours[i] != theirs[i])
  # Before the held-out answers stand the four groups of the rollout.
  quiet.open(path, f'#step={LAST}&prompt={4 + number}')
  quiet.wait("document.querySelector('select[name=compare]')")
  quiet.run(browser.chosen('compare', f'1 {LAST}'))
  before, after = (
    quiet.run(
      "[...document.querySelector('.difference pre').childNodes]"
      f".filter(x => x.tagName !== '{other}').map(x => x.textContent).join('')"
    )
    for other in ('INS', 'DEL')
  )
  assert before == _marked(theirs[number])
  assert after == _marked(ours[number])


@pytest.fixture(scope='module')
def turns(tmp_path_factory, cache):
  """Transcripts of the first rollout of episodes, and the page."""
  base = tmp_path_factory.mktemp('turns')
  flags = tiny_dataset.flags(
    base / 'run', *tiny_turns.FLAGS, cache, '--archive', '--rl_steps=1'
  )
  result = whole_runs.forked(flags, base)
  assert result.returncode == 0, result.stderr
  done = browser.view(f'--run={base / "run"}')
  assert done.returncode == 0, done.stderr
  rows = whole_runs.rows(base / 'run', 'transcripts.jsonl')
  step = tiny_turns.SFT_STEPS + 1
  ours = [x for x in rows if x['step'] == step and 'set' not in x]
  # A group in which some episode has several turns.
  prompt = next(
    x['prompt'] for x in ours if len(x['episode']['turns']) == tiny_turns.TURNS
  )
  group = [x for x in ours if x['prompt'] == prompt]
  place = f'#step={step}&prompt={ours.index(group[0]) // 4}'
  return group, base / 'run/run.html', place


def test_the_observations_of_each_turn_are_shown(quiet, turns):
  group, path, place = turns
  quiet.open(path, place)
  quiet.wait("document.querySelectorAll('.sample').length === 4")
  shown = quiet.run(
    "[...document.querySelectorAll('.sample')].map(sample => "
    "[...sample.querySelectorAll('h3, pre.obs')].map(x => [x.tagName, "
    'x.textContent]))'
  )
  for parts, row in zip(shown, group, strict=True):
    wanted = []
    for number, turn in enumerate(row['episode']['turns'], start=1):
      wanted.append(['H3', f'turn {number}'])
      for role, text in turn['observations']:
        assert role == 'user'
        wanted += [['H3', 'user'], ['PRE', text]]
    # The model's own text stands under headings of its own.
    got = [
      x
      for x in parts
      if x[0] == 'PRE' or x[1] == 'user' or x[1].startswith('turn ')
    ]
    assert got == wanted


def test_tokens_that_the_policy_did_not_choose_are_grey(quiet, turns):
  group, path, place = turns
  quiet.open(path, place + '&tokens=entropy')
  quiet.wait("document.querySelector('.token')")
  tokens = quiet.run(
    "[...document.querySelectorAll('.sample')].map(sample => "
    "[...sample.querySelectorAll('.token')].map(x => [x.textContent, "
    "x.classList.contains('masked'), getComputedStyle(x).color, "
    'x.style.backgroundColor, x.title]))'
  )
  grey = 'rgb(170, 170, 170)'
  several = 0
  for sample, row in zip(tokens, group, strict=True):
    observed = [x for x in sample if x[1]]
    own = [x for x in sample if not x[1]]
    assert own and all(x[2] != grey and x[3] for x in own)
    assert all(x[2] == grey and not x[3] for x in observed)
    assert all(x[4].endswith(', not trained on') for x in observed)
    text = ''.join(x[0] for x in observed)
    words = [
      text
      for turn in row['episode']['turns']
      for _, text in turn['observations']
    ]
    # The template of a further turn is not the policy's either.
    assert bool(observed) == bool(words)
    at = 0
    for word in words:
      at = text.index(word, at) + len(word)
    several += len(words) > 1
  assert several
