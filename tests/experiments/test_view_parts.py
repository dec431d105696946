"""Filters, order, search and differences of a page, with values by hand."""

import json

import pytest

from awpo_jax.analysis.page import reading, writing
from tests.helpers import browser

pytestmark = browser.needed


def _sample(outcome, reasoning, **further):
  return {'outcome': outcome, 'reasoning': reasoning} | further


# task -> what its group has, and its samples.
GROUPS = {
  'wrong': (
    {'gate': 0.9},
    [
      _sample(0.0, 0.1, solved=False, mix_advantage=1, outcome_advantage=0.5),
      _sample(0.0, 0.3, solved=False, mix_advantage=-1, outcome_advantage=-1),
    ],
  ),
  'right': (
    {'gate': 0.5},
    [
      _sample(1.0, 0.5, solved=True, mix_advantage=9, outcome_advantage=-9),
      _sample(1.0, 0.5, solved=True),
    ],
  ),
  'opposed': (
    {'gate': 0.6},
    [
      _sample(1.0, 0.2, solved=True, mix_advantage=0, outcome_advantage=0.75),
      _sample(0.0, 0.4, solved=False, finished=False),
    ],
  ),
  'broken': (
    {'gate': 0.1},
    [
      _sample(0.25, None, solved=False),
      _sample(0.75, 0.4, solved=True, response='a Needle in it'),
    ],
  ),
}
FILTERS = {
  'all groups': ['wrong', 'right', 'opposed', 'broken'],
  'all wrong': ['wrong'],
  'all right': ['right'],
  'judge and outcome disagree': ['opposed'],
  'some cut off': ['opposed'],
  'some invalid': ['broken'],
  'gate leans on the reasoning': ['wrong', 'opposed'],
}


def _folder(path, steps):
  """A run with transcripts: step -> task -> (of the group, samples)."""
  path.mkdir(parents=True)
  rows = [
    {
      'step': step,
      'prompt': prompt,
      'sample': index,
      'task_id': task,
      'kind': 'k',
      'user': f'question {task}',
      'tools': [],
      'ground_truth': '',
      'response': 'answer',
      **group,
      **sample,
    }
    for step, groups in steps.items()
    for prompt, (task, (group, samples)) in enumerate(groups.items())
    for index, sample in enumerate(samples)
  ]
  lines = [{'step': step, 'phase': 'rl', 'loss': 1.0} for step in steps]
  for name, written in (('metrics', lines), ('transcripts', rows)):
    text = ''.join(json.dumps(x) + '\n' for x in written)
    (path / f'{name}.jsonl').write_text(text)
  return path


def _written(*folders, output):
  writing.write_page([reading.read_run(x) for x in folders], output)
  return output


@pytest.fixture(scope='module')
def groups(tmp_path_factory):
  base = tmp_path_factory.mktemp('groups')
  folder = _folder(base / 'x', {7: GROUPS})
  flags = {'advantage': 'awpo', 'gate': 'adaptive'}
  (folder / 'flags.json').write_text(json.dumps(flags))
  return _written(folder, output=base / 'x.html')


TASKS = browser.texts('tr.row td:nth-child(2)')


def test_each_filter_shows_its_groups(quiet, groups):
  quiet.open(groups, '#step=7')
  quiet.wait("document.querySelector('tr.row')")
  choices = quiet.run(browser.texts('select[name=filter] option'))
  assert choices == list(FILTERS)
  for name, wanted in FILTERS.items():
    quiet.run(browser.chosen('filter', name))
    assert quiet.run(TASKS) == wanted


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(quiet, groups):
  quiet.open(groups, '#step=7')
  quiet.wait("document.querySelector('tr.row')")
  click = "document.querySelectorAll('table.groups th')[7].click()"
  for wanted in (
    ['wrong', 'opposed', 'right', 'broken'],
    ['broken', 'right', 'opposed', 'wrong'],
  ):
    quiet.run(click)
    assert quiet.run(TASKS) == wanted
  # A row still opens its own group.
  quiet.run("document.querySelector('tr.row').click()")
  quiet.wait("document.querySelector('.sample')")
  assert quiet.run('location.hash') == '#step=7&prompt=3'


def test_search_finds_a_text_of_any_case(quiet, groups):
  quiet.open(groups, '#step=7')
  quiet.wait("document.querySelector('tr.row')")
  quiet.run("""(() => { const x = document.querySelector('input');
    x.value = 'nEEDLE'; x.dispatchEvent(new Event('input')); })()""")
  assert quiet.run(TASKS) == ['broken']


def test_the_button_leads_to_where_the_reasoning_changed_most(quiet, groups):
  # |A_mix - A_out| is 0.5 in `wrong`, 0.75 in `opposed`, and 18 in `right`,
  # whose gate is not above 1/2.
  quiet.open(groups)
  quiet.wait("document.querySelector('.chart')")
  quiet.run("document.querySelector('#main button').click()")
  quiet.wait("document.querySelector('.sample')")
  assert quiet.run('location.hash') == '#step=7&prompt=2'


def test_prompts_of_an_archive_show_what_they_do_not_share(quiet, groups):
  quiet.open(groups)
  prompts = ['tools\nWarm tea?\n<end>\nanswer:', 'tools\nCold?\n<end>\nanswer:']
  every = json.dumps([{'rendered': x} for x in prompts])
  shown = quiet.run(f'{every}.map(x => preview(x, ending({every})))')
  assert shown == ['Warm tea', 'Cold']
  # Of one alone, and of two that are the same, the last line.
  for same in (prompts[:1], prompts[:1] * 2):
    every = json.dumps([{'rendered': x} for x in same])
    shown = quiet.run(f'preview({every}[0], ending({every}))')
    assert shown == 'answer:'


def test_a_prompt_at_an_earlier_step_as_a_difference(quiet, tmp_path):
  def answers(*texts):
    return {}, [_sample(0.5, 0.5, response=text) for text in texts]

  steps = {
    1: {'p': answers('call the old tool now', 'same \u202e')},
    2: {'p': answers('call a new tool now', 'same \u202e')},
    3: {'q': answers('another')},
  }
  folder = _folder(tmp_path / 'x', steps)
  path = _written(folder, output=tmp_path / 'x.html')
  # A link to the group.
  quiet.open(path, '#step=2&prompt=0')
  quiet.wait("document.querySelector('.sample')")
  quiet.run(browser.chosen('compare', '0 1'))
  shown = quiet.run(browser.texts('.difference pre'))
  assert shown == ['call thea oldnew tool now', 'same U+202E']
  assert quiet.run(browser.texts('.difference del')) == ['the', 'old']
  assert quiet.run(browser.texts('.difference ins')) == ['a', 'new']
  quiet.run(browser.chosen('compare', '0 3'))
  said = quiet.run(browser.texts('.note'))
  assert 'The prompt is not among the answers there.' in said


def test_what_a_model_made_up_is_told_from_what_a_tool_said(quiet, tmp_path):
  turn = {
    'text': '<obs> 7 </obs><think> so </think>',
    'calls': [],
    'observations': [['obs', '9'], ['user', 'thanks']],
  }
  answer = _sample(0.5, 0.5, episode={'turns': [turn]})
  folder = _folder(tmp_path / 'x', {1: {'p': ({}, [answer])}})
  path = _written(folder, output=tmp_path / 'x.html')
  quiet.open(path, '#step=1&prompt=0')
  quiet.wait("document.querySelector('.sample')")
  shown = quiet.run(browser.texts('.sample h3, .sample pre'))
  assert shown == [
    *('turn 1', 'observation, written by the model', '7', 'thought', 'so'),
    *('observation', '9', 'user', 'thanks'),
  ]
  assert quiet.run(browser.texts('.sample pre.obs')) == ['9', 'thanks']


def test_of_an_answer_that_is_no_episode_nothing_was_observed(quiet, tmp_path):
  made_up = {'response': '<obs> 7 </obs>'}
  own = {'pieces': ['7'], 'policy': [1], 'trained': [1]}
  answers = [
    _sample(0.5, 0.5, **made_up),
    _sample(0.5, 0.5, **made_up, tokens=own),
    # Of an episode that the archive alone has, which is one text.
    _sample(0.5, 0.5, **made_up, tokens={**own, 'policy': [0]}),
  ]
  folder = _folder(tmp_path / 'x', {1: {'p': ({}, answers)}})
  path = _written(folder, output=tmp_path / 'x.html')
  quiet.open(path, '#step=1&prompt=0')
  quiet.wait("document.querySelector('.sample')")
  assert quiet.run(browser.texts('.sample h3')) == [
    'observation, written by the model',
    'observation, written by the model',
    'observation',
  ]


def test_trust_is_in_the_table_and_the_curves(quiet, tmp_path):
  folder = _folder(tmp_path / 'x', {1: {}, 2: {}})
  lines = [{'step': x, 'phase': 'rl', 'trust/mean': x / 8} for x in (1, 2)]
  text = ''.join(json.dumps(x) + '\n' for x in lines)
  (folder / 'metrics.jsonl').write_text(text)
  quiet.open(_written(folder, output=tmp_path / 'x.html'))
  assert quiet.run(browser.texts('.overview th')) == [
    'last value',
    'trust/mean',
  ]
  assert quiet.run(browser.texts('.overview td')) == ['x', '0.250']
  charts = "[...document.querySelectorAll('.chart')].map(x => x.dataset.metric)"
  assert quiet.run(charts) == ['trust/mean']


def test_more_cells_than_colours_have_broken_lines(quiet, tmp_path):
  folders = [
    _folder(tmp_path / f'r{number}', {1: {}, 2: {}}) for number in range(12)
  ]
  path = _written(*folders, output=tmp_path / 'x.html')
  quiet.open(path)
  lines = quiet.run(
    "[...document.querySelectorAll('[data-metric=loss] polyline')].map(x => "
    "x.getAttribute('stroke') + ' ' + x.getAttribute('stroke-dasharray'))"
  )
  assert len(set(lines)) == 12
  assert lines[10] == lines[0].replace('none', '5 2')


def _chart(script):
  """An expression of the chart of the metric `loss`, which `svg` is."""
  return (
    "(() => { const svg = document.querySelector('[data-metric=loss] svg'); "
    f'const box = svg.getBoundingClientRect(); {script} }})()'
  )


MOVE = """const x = box.left + Number(
  svg.querySelector('polyline').getAttribute('points').split(' ')[{place}]
    .split(',')[0]);
svg.dispatchEvent(new MouseEvent('mousemove', {{clientX: x}}));"""


def test_hover_shows_the_numbers_of_all_runs_at_a_step(quiet, tmp_path):
  folders = [_folder(tmp_path / name, {}) for name in ('ours', 'theirs')]
  for folder, values in zip(folders, ((3, 0.5), (7, 0.25)), strict=True):
    lines = [
      {'step': 10 * x, 'phase': 'rl', 'loss': value}
      for x, value in enumerate(values, 1)
    ]
    text = ''.join(json.dumps(x) + '\n' for x in lines)
    (folder / 'metrics.jsonl').write_text(text)
  quiet.open(_written(*folders, output=tmp_path / 'x.html'))
  shown = "document.getElementById('tip')"
  assert quiet.run(f'{shown}.hidden')
  for place, wanted in (
    (0, ['step 10', 'ours: 3', 'theirs: 7']),
    (1, ['step 20', 'ours: 0.500', 'theirs: 0.250']),
  ):
    quiet.run(_chart(MOVE.format(place=place)))
    assert not quiet.run(f'{shown}.hidden')
    got = quiet.run(f'[...{shown}.childNodes].map(x => x.textContent)')
    assert got == wanted
  quiet.run(_chart("svg.dispatchEvent(new MouseEvent('mouseleave'));"))
  assert quiet.run(f'{shown}.hidden')


def test_a_run_without_an_archive_says_so(quiet, tmp_path):
  answer = {}, [_sample(0.5, 0.5)]
  held_out = {'set': 'own'}, [_sample(0.5, None)]
  folder = _folder(tmp_path / 'x', {1: {'p': answer, 'q': held_out}})
  path = _written(folder, output=tmp_path / 'x.html')
  for prompt, wanted in (
    (
      0,
      'No tokens: the run kept no archive of this group (train.py --archive)',
    ),
    (1, 'No tokens: held-out answers are not in the archive'),
  ):
    # As a link to tokens that are not there.
    quiet.open(path, f'#step=1&prompt={prompt}&tokens=entropy')
    quiet.wait("document.querySelector('.sample')")
    assert f'{wanted}.' in quiet.run(browser.texts('.note'))
    assert not quiet.run("document.querySelector('.token')")
    shown = quiet.run(browser.texts('.sample pre'))
    assert shown == ['answer']


# Of six tokens the last is a tool's, and the fourth is not trained on.
TOKENS = {
  'pieces': list('abcdef'),
  'policy': [1, 1, 1, 1, 1, 0],
  'trained': [1, 1, 1, 0, 1, 1],
  'advantage': [-2.0, -2.0, -2.0, -2.0, -2.0, None],
  'entropy': [0.5, 1.0, 0.0, 0.25, 0.5, None],
  'log_ratio': [0.1, -0.4, -0.1, 0.2, 0.2, None],
  'clipped': [0, 1, 0, 0, 0, 0],
}
BLUE, RED = 'rgba(31, 119, 180, {})', 'rgba(214, 39, 40, {})'
# Shades by hand: 0.7 times the value over the largest, which is 0.4, 1 and 2.
SHADES = {
  'log_ratio': [
    BLUE.format(0.175),
    RED.format(0.7),
    RED.format(0.175),
    '',
    BLUE.format(0.35),
    '',
  ],
  'entropy': [
    BLUE.format(0.35),
    BLUE.format(0.7),
    BLUE.format(0),
    '',
    BLUE.format(0.35),
    '',
  ],
  'advantage': [*[RED.format(0.7)] * 3, '', RED.format(0.7), ''],
  'clipped': [''] * 6,
  'trained': [''] * 6,
}


@pytest.mark.parametrize('tone', SHADES)
def test_tokens_have_the_colour_of_their_value(quiet, tmp_path, tone):
  answer = {}, [_sample(0.5, 0.5, tokens=TOKENS)]
  folder = _folder(tmp_path / 'x', {1: {'p': answer}})
  path = _written(folder, output=tmp_path / 'x.html')
  quiet.open(path, f'#step=1&prompt=0&tokens={tone}')
  quiet.wait("document.querySelector('.token')")
  assert quiet.run(browser.texts('.token')) == TOKENS['pieces']
  style = "[...document.querySelectorAll('.token')].map(x => {})".format
  shades = quiet.run(style('x.style.backgroundColor'))
  for shade, wanted in zip(shades, SHADES[tone], strict=True):
    *colour, share = shade.rstrip(')').split(', ') if shade else ['']
    *wanted_colour, most = wanted.rstrip(')').split(', ') if wanted else ['']
    assert colour == wanted_colour
    if wanted:
      assert float(share) == pytest.approx(float(most), abs=5e-3)
  marked = [i for i in range(6) if i == 1 and tone == 'clipped']
  for name, places in (
    ('masked', [3, 5]),
    ('untrained', [3]),
    ('clipped', marked),
  ):
    had = quiet.run(style(f"x.classList.contains('{name}')"))
    assert [i for i, x in enumerate(had) if x] == places
  titles = quiet.run(style('x.title'))
  assert titles[1] == ('advantage -2, entropy 1, log_ratio -0.400, clipped 1')
  assert titles[3].endswith(', not trained on')
  said = ' '.join(quiet.run(browser.texts('#main p')))
  assert ('before the first update' in said) == (
    tone in ('clipped', 'log_ratio')
  )


def test_a_tone_that_the_archive_lacks_is_named(quiet, tmp_path):
  told = {k: x for k, x in TOKENS.items() if k not in ('log_ratio', 'clipped')}
  answer = {}, [_sample(0.5, 0.5, tokens=told)]
  folder = _folder(tmp_path / 'x', {1: {'p': answer}})
  path = _written(folder, output=tmp_path / 'x.html')
  quiet.open(path, '#step=1&prompt=0&tokens=log_ratio')
  quiet.wait("document.querySelector('.sample')")
  (said,) = quiet.run(browser.texts('.sample .note'))
  assert said.startswith('The archive has no log_ratio: with --old_logprobs')


@pytest.mark.parametrize(
  ('flags', 'invalid'),
  [
    ({'advantage': 'awpo', 'gate': 'adaptive'}, ['none', 'one']),
    # Its advantages read no score.
    ({'advantage': 'awpo', 'gate': 'none'}, []),
    # Nothing is known, and no score was ever given.
    ({}, []),
  ],
)
def test_a_sample_without_a_score_is_invalid_where_one_is_read(
  quiet, tmp_path, flags, invalid
):
  groups = {
    'none': ({}, [_sample(0.5, None), _sample(0.5, None)]),
    'one': ({}, [_sample(0.5, 0.5), _sample(0.5, None)]),
    'all': ({}, [_sample(0.5, 0.5), _sample(0.5, 0.5)]),
    'held out': ({'set': 'own'}, [_sample(0.5, None)]),
  }
  folder = _folder(tmp_path / 'x', {7: groups})
  (folder / 'flags.json').write_text(json.dumps(flags))
  quiet.open(_written(folder, output=tmp_path / 'x.html'), '#step=7')
  quiet.wait("document.querySelector('tr.row')")
  quiet.run(browser.chosen('filter', 'some invalid'))
  assert quiet.run(TASKS) == invalid


def test_a_metric_of_no_section_is_drawn_too(quiet, tmp_path):
  folder = _folder(tmp_path / 'x', {1: {}})
  line = {'step': 1, 'phase': 'rl', 'compile/count': 3, 'loss': 2.0}
  line |= {'eval/own/exact_calls': 0.5, 'eval/own/accuracy/odd': 0.5}
  (folder / 'metrics.jsonl').write_text(json.dumps(line) + '\n')
  quiet.open(_written(folder, output=tmp_path / 'x.html'))
  shown = quiet.run(
    "[...document.querySelectorAll('h2, .chart')].map("
    'x => x.dataset.metric ?? x.textContent)'
  )
  assert shown == [
    *('Held-out rewards', 'eval/own/exact_calls'),
    *('Loss and optimizer', 'loss'),
    *('Held-out accuracy by kind', 'eval/own/accuracy/odd'),
    *('Other metrics', 'compile/count'),
  ]


def test_deep_json_is_not_indented(quiet, groups):
  quiet.open(groups)
  assert quiet.run("""pretty('{"a": [1, {}]}')""") == (
    '{\n  "a": [\n    1,\n    {}\n  ]\n}'
  )
  # Indented it would have hundreds of millions of characters.
  assert quiet.run("pretty('['.repeat(9000) + ']'.repeat(9000)) === null")
  assert quiet.run("pretty('no JSON')") is None
