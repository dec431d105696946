"""`view.py` on a real run, and its page in a real browser."""

import json

import numpy as np
import pytest

from awpo_jax.analysis import doctor, records
from tests.helpers import browser, whole_runs

pytestmark = browser.needed
_texts = browser.texts


@pytest.fixture(scope='module')
def written(reference, tmp_path_factory):
  path = tmp_path_factory.mktemp('page') / 'run.html'
  done = browser.view(f'--run={reference.folder}', f'--output={path}')
  assert done.returncode == 0, done.stderr
  assert done.stdout.endswith(f'{path.as_uri()}\n')
  return path


def test_the_last_line_of_a_run_is_the_command(reference):
  last = reference.result.stdout.rstrip('\n').split('\n')[-1]
  assert last.endswith(f'experiments/view.py --run={reference.folder}')


def test_from_the_curves_to_the_tokens(quiet, written, reference):
  rows = whole_runs.rows(reference.folder, 'transcripts.jsonl')
  step = 5  # The first of RL.
  ours = [x for x in rows if x['step'] == step and 'set' not in x]
  quiet.open(written)
  charts = quiet.run(
    "[...document.querySelectorAll('.chart')].map(x => x.dataset.metric)"
  )
  assert {'reward/outcome', 'gate/mean', 'eval/held_out/accuracy'} <= {*charts}
  # Hover, and click at the left end of the curve of the gate.
  quiet.run("""(() => {
    const svg = document.querySelector('[data-metric="gate/mean"] svg');
    const x = svg.getBoundingClientRect().left + 43;
    for (const type of ['mousemove', 'click'])
      svg.dispatchEvent(new MouseEvent(type, {clientX: x, bubbles: true}));
  })()""")
  quiet.wait("document.querySelector('table.groups')")
  assert quiet.run('location.hash') == f'#step={step}'
  shown = quiet.run(
    "[...document.querySelectorAll('tr.row')].map(row => "
    '[...row.children].map(x => x.textContent))'
  )
  names = [ours[i]['task_id'] for i in range(0, len(ours), 4)]
  assert [x[1] for x in shown] == names
  for cells, p in zip(shown, range(0, len(ours), 4), strict=True):
    outcome = np.float64([x['outcome'] for x in ours[p : p + 4]])
    assert float(cells[3]) == pytest.approx(outcome.mean(), abs=6e-4)
    assert float(cells[4]) == pytest.approx(outcome.std(ddof=1), abs=6e-4)
    assert float(cells[7]) == pytest.approx(ours[p]['gate'], abs=6e-4)
  # The group in which the reasoning changes the advantages most.
  differ = [abs(x['mix_advantage'] - x['outcome_advantage']) for x in ours]
  prompt = int(np.argmax(differ)) // 4
  assert max(differ) > 0.01
  here = ours[4 * prompt : 4 * prompt + 4]
  quiet.run(f"document.querySelectorAll('tr.row')[{prompt}].click()")
  quiet.wait("document.querySelectorAll('.sample').length === 4")
  for name, key in (('advantage', 'advantage'), ('A_mix', 'mix_advantage')):
    got = quiet.run(_texts(f'[data-name={name}]'))
    wanted = [x[key] for x in here]
    np.testing.assert_allclose(np.float64(got), wanted, atol=6e-4)
  quiet.run("""(() => {
    const choice = document.querySelector('select[name=tokens]');
    choice.value = 'advantage';
    choice.dispatchEvent(new Event('change'));
  })()""")
  quiet.wait("document.querySelector('.token')")
  assert quiet.run('location.hash') == (
    f'#step={step}&prompt={prompt}&tokens=advantage'
  )
  colours = quiet.run(
    "[...document.querySelectorAll('.sample')].map(x => "
    "x.querySelector('.token').style.backgroundColor)"
  )
  for colour, row in zip(colours, here, strict=True):
    if abs(row['advantage']) > 1e-3:
      assert colour.startswith(
        'rgba(31, 119, 180' if row['advantage'] > 0 else 'rgba(214, 39, 40'
      )


def test_what_the_doctor_says_stands_above_the_curves(
  quiet, written, reference
):
  wanted = doctor.diagnose(records.read(reference.folder))
  quiet.open(written)
  (head,) = quiet.run(_texts('details.diagnosis summary'))
  assert head == f'run: {wanted.heading()}'
  titles = [x.check.title for x in wanted.findings]
  assert 'Samples are invalid' in titles  # Its judge leaves some out.
  assert quiet.run(_texts('details.diagnosis[open] h3')) == titles
  text = ' '.join(quiet.run(_texts('details.diagnosis p')))
  assert all(x.check.remedy in text for x in wanted.findings)


def test_filters_and_search(quiet, written):
  quiet.open(written, '#step=5')
  quiet.wait("document.querySelector('table.groups')")
  set_to = """(() => {{ const x = document.querySelector('{}');
    x.value = '{}'; x.dispatchEvent(new Event('{}')); }})()"""
  every = quiet.run("document.querySelectorAll('tr.row').length")
  quiet.run(set_to.format('select[name=kind]', 'odd', 'change'))
  odd = quiet.run(_texts('tr.row td:nth-child(3)'))
  assert odd and set(odd) == {'odd'} and len(odd) < every
  quiet.run(set_to.format('input', 'no such text', 'input'))
  assert quiet.run(_texts('output')) == [f'0 of {every} groups']


def test_held_out_answers_are_compared_with_earlier_ones(quiet, written):
  quiet.open(written, '#step=7')
  quiet.wait("document.querySelector('table.groups')")
  sets = quiet.run(_texts('tr.row td:first-child'))
  assert sets[-4:] == ['held_out'] * 4
  quiet.run("[...document.querySelectorAll('tr.row')].at(-1).click()")
  quiet.wait("document.querySelector('select[name=compare]')")
  quiet.run("""(() => {
    const x = document.querySelector('select[name=compare]');
    x.value = '0 4'; x.dispatchEvent(new Event('change')); })()""")
  assert quiet.run("document.querySelectorAll('.difference pre').length") == 1


HOSTILE = (
  '<script>window.hit = 1</script><img src="http://x.test/a" '
  'onerror="window.hit = 1"></pre><style>*{display:none}</style>'
  '<svg onload="window.hit=1"><iframe src="javascript:parent.hit=1">'
  '\u202egnp.exe\u2066\x00\x1b[31m\ud800</script><!--<script>'
)


def test_a_hostile_transcript_changes_nothing(quiet, tmp_path):
  folder = tmp_path / 'x'
  folder.mkdir()
  row = {
    'step': 1,
    'task_id': HOSTILE,
    'kind': '__proto__',
    'user': HOSTILE,
    'tools': [{'name': HOSTILE, 'description': HOSTILE, 'parameters': {}}],
    'ground_truth': HOSTILE,
    'outcome': 0.0,
    'outcome_bounds': [0.0, 1.0],
    'reasoning': None,
    'solved': False,
    'said': HOSTILE,
    'parts': {HOSTILE: 1.0},
  }
  answers = [
    f'<think>{HOSTILE}</think><tool_call>\n{{"a": 12345678901234567890}}\n',
    HOSTILE + 'x' * 1_000_000,
    '<obs>' * 10_000,
  ]
  lines = [json.dumps({**row, 'response': text}) for text in answers]
  (folder / 'transcripts.jsonl').write_text('\n'.join([*lines, '']))
  metrics = {'step': 1, 'phase': HOSTILE, f'reward/{HOSTILE}': 1.0}
  (folder / 'metrics.jsonl').write_text(json.dumps(metrics) + '\n')
  path = tmp_path / 'x.html'
  done = browser.view(f'--run={folder}', f'--output={path}')
  assert done.returncode == 0, done.stderr
  quiet.open(path, '#step=1')
  quiet.wait("document.querySelector('tr.row')")
  quiet.run("document.querySelector('tr.row').click()")
  quiet.wait("document.querySelectorAll('.sample').length === 3")
  assert quiet.run('window.hit === undefined')
  tags = "document.querySelectorAll('img, iframe, #main svg, #main script, "
  assert quiet.run(tags + "#main style').length") == 0
  text = quiet.run("document.querySelector('.sample .thought').textContent")
  # What would be obeyed is named instead; all else stands as it is.
  wanted = HOSTILE
  for letter in '\u202e\u2066\x00\x1b\ud800':
    wanted = wanted.replace(letter, f'U+{ord(letter):04X}')
  assert text == wanted
  marks = quiet.run(_texts('.sample .thought .mark'))
  assert marks == ['U+202E', 'U+2066', 'U+0000', 'U+001B', 'U+D800']
  # Numbers stay as they were written.
  calls = quiet.run(_texts('.sample pre.tool_call'))
  assert '"a": 12345678901234567890' in calls[0]
  # The long answer is there in pieces.
  shown = "document.querySelectorAll('.sample')[1].textContent.length"
  assert quiet.run(shown) < 30_000
  quiet.run(
    "document.querySelectorAll('.sample')[1].querySelector('button').click()"
  )
  assert 100_000 < quiet.run(shown) < 140_000


def test_a_folder_that_is_no_run_is_named(tmp_path):
  done = browser.view(f'--run={tmp_path}')
  assert done.returncode == 1
  assert f'{tmp_path} is not the folder of a run' in done.stderr
