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
