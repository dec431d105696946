"""What is said to be wrong with a run, from lines the real log wrote."""

import json
import re

import pytest

from awpo_jax.analysis import checks, doctor, records
from awpo_jax.reporting import metrics
from tests.helpers import documents

FLAGS = {'judge': 'rubric', 'minibatches': 4, 'max_grad_norm': 1.0}
STEPS = 30


def _healthy(step):
  """A step of RL as a sound run has it; both rewards rise."""
  wave = (-1) ** step / 100
  return {
    'phase': 'rl',
    'reward/outcome': 1 + step / 30 + wave,
    'reward/reasoning': 0.4 + step / 100 + wave,
    'reward/reasoning_std': 0.2,
    'reward/valid': 1.0,
    'reward/solved': 0.5,
    'reward/format': 0.9,
    'length/finished': 0.97,
    'advantage/groups': 0.8,
    'entropy': 0.11,
    'ratio/first_abs_log_mean': 1e-9,
    'ratio/abs_log_mean': 2e-3,
    'ratio/abs_log_max': 0.4,
    'clip/fraction': 0.002,
    'update/rounded_away': 0.1,
    'grad_norm': 1.2,
    'gate/amplified': 0.1,
    'trust/mean': 0.6,
    'compile/count': 20,
  }


def _written(folder, change, flags=FLAGS):
  """The folder of a run whose lines were changed before they were logged."""
  start = {
    'phase': 'sft',
    'data/left_out/train': 0,
    'time/setup': 1.0,
    'compile/count': 20,
    'update/rounded_away': 0.1,
    'eval/values/accuracy': 0.4,
  }
  rows = [start, *(_healthy(step) for step in range(STEPS))]
  rows[-1]['eval/values/accuracy'] = 0.7
  change(rows)
  with metrics.MetricsLog(folder, resume_step=0) as log:
    for step, row in enumerate(rows, start=1):
      log.write(step, row)
  (folder / 'flags.json').write_text(json.dumps(flags))
  return folder


def _diagnosis(folder, change=lambda rows: None, flags=FLAGS):
  return doctor.diagnose(records.read(_written(folder, change, flags)))


def _all(name, value):
  """Gives a metric one value at all steps of RL."""

  def change(rows):
    for row in rows[1:]:
      row[name] = value

  return change


def _last(name, value, count):
  """Gives a metric another value at the last steps only."""

  def change(rows):
    for row in rows[-count:]:
      row[name] = value

  return change


def _one(name, value, at=5):
  return lambda rows: rows[at].update({name: value})


def _hacked(rows):
  for step, row in enumerate(rows[1:]):
    row['reward/outcome'] = 1 - step / 100


# By hand: title, how the run is changed, the figure that it then has.
ILL = [
  ('Prompts were left out', _one('data/left_out/values', 3, at=0), 3),
  ('Sampler and trainer disagree', _one('ratio/first_abs_log_mean', 0.2), 0.2),
  ('Programs are compiled again', _last('compile/count', 21, 7), 1),
  # 12 of the last 20 steps at 1, and 8 at 0.5.
  ('Samples are invalid', _last('reward/valid', 0.5, 8), 0.8),
  ('The judge gives no score', _last('reward/reasoning', None, 5), 0.25),
  ('The judge is constant', _last('reward/reasoning_std', 0.0, 20), 0),
  ('Answers are cut off', _last('length/finished', 0.5, 20), 0.5),
  ('The layout is not known', _all('reward/format', 0.05), 0.05),
  ('Groups have no spread', _last('advantage/groups', 0.0, 20), 0),
  ('The entropy has collapsed', _last('entropy', 1e-4, 20), 1e-4),
  ('The clip is never active', _all('ratio/abs_log_max', 1e-5), 1e-5),
  ('Updates are rounded away', _last('update/rounded_away', 0.9, 20), 0.9),
  ('Every gradient is clipped', _last('grad_norm', 30.0, 20), 30),
  ('The clip is always active', _all('clip/fraction', 0.6), 0.6),
  ('The judge is not trusted', _all('trust/mean', 0.0), 0),
  ('Only the judge is satisfied', _hacked, None),
  ('Tiny differences decide', _all('gate/amplified', 0.9), 0.9),
  (
    'Held-out tasks do not follow',
    _one('eval/values/accuracy', 0.4, at=-1),
    None,
  ),
]


def test_every_check_has_an_ill_run():
  assert [title for title, _, _ in ILL] == [x.title for x in checks.CHECKS]


def test_a_healthy_run_has_no_finding(tmp_path):
  found = _diagnosis(tmp_path)
  assert not found.findings and not found.unknown
  assert len(found.sound) == len(checks.CHECKS)
  assert found.text().startswith(
    f'Nothing found by {len(checks.CHECKS)} checks.'
  )


@pytest.mark.parametrize(('title', 'change', 'value'), ILL)
def test_what_is_wrong_is_found_and_nothing_else(
  tmp_path, title, change, value
):
  found = _diagnosis(tmp_path, change)
  assert [x.check.title for x in found.findings] == [title]
  (finding,) = found.findings
  if value is not None:
    assert finding.value == pytest.approx(value)
  text = ' '.join(found.text().split())
  for words in (
    f'1. {title}',
    f'{finding.check.figure}: {finding.value:.3g}, which is '
    f'{finding.check.side} {finding.check.limit:g}.',
    f'What to do: {finding.check.remedy}',
    finding.link,
  ):
    assert words in text


def test_a_rise_is_counted_in_standard_errors():
  values = [0, 1, 2, 9, 9, 9, 10, 11, 12]
  rows = [{'phase': 'rl', 'x': x} for x in values]
  # Means 1 and 11; both thirds have variance 1: 10 / sqrt((1 + 1) / 3).
  assert records.Record(rows).rise('x') == pytest.approx(12.247449)
  assert records.Record(rows[:-1]).rise('x') is None


def test_an_outcome_that_is_at_its_end_need_not_rise(tmp_path):
  def change(rows):
    _hacked(rows)
    _all('reward/solved', 0.95)(rows)

  assert not _diagnosis(tmp_path, change).findings


def test_one_update_a_rollout_cannot_move_it(tmp_path):
  found = _diagnosis(
    tmp_path, _all('ratio/abs_log_max', 0.0), FLAGS | {'minibatches': 1}
  )
  assert not found.findings
  assert [x.title for x in found.unknown] == ['The clip is never active']


def test_no_judge_need_not_score(tmp_path):
  found = _diagnosis(
    tmp_path, _all('reward/reasoning', None), FLAGS | {'judge': 'none'}
  )
  assert not found.findings
  assert {'The judge gives no score', 'The judge is constant'} <= {
    x.title for x in found.unknown
  }


def test_answers_that_are_alike_say_nothing_of_the_judge(tmp_path):
  def change(rows):
    _all('entropy', 1e-4)(rows)
    _all('reward/reasoning_std', 0.0)(rows)

  found = _diagnosis(tmp_path, change)
  titles = [x.check.title for x in found.findings]
  assert titles == ['The entropy has collapsed']
  assert [x.title for x in found.unknown] == ['The judge is constant']


def test_a_restart_may_compile_more(tmp_path):
  def change(rows):
    _last('compile/count', 25, 7)(rows)
    rows[-7]['time/setup'] = 1.0

  assert not _diagnosis(tmp_path, change).findings


def test_accuracy_before_rl_is_that_of_its_warm_start(tmp_path):
  def change(rows):
    rows[0]['eval/values/accuracy'] = 0.8
    rows[5]['eval/values/accuracy'] = 0.1

  (finding,) = _diagnosis(tmp_path, change).findings
  assert finding.check.title == 'Held-out tasks do not follow'


@pytest.mark.parametrize('rows', [[], [{'step': 1, 'phase': 'sft'}]])
def test_a_run_that_has_hardly_begun(rows):
  found = doctor.diagnose(records.Record(rows))
  assert not found.findings and not found.sound
  assert 'Nothing found by 0 checks' in found.text()
  assert '- Groups have no spread? advantage/groups' in found.text()


def test_a_damaged_file_is_named(tmp_path):
  _written(tmp_path, lambda rows: None)
  for text in ('{', '[]'):
    (tmp_path / 'flags.json').write_text(text)
    with pytest.raises(ValueError, match=r'flags\.json is not'):
      records.read(tmp_path)
  (tmp_path / 'flags.json').unlink()
  unknown = doctor.diagnose(records.read(tmp_path)).unknown
  assert [x.title for x in unknown] == ['Every gradient is clipped']


def _sections():
  """Heading -> what stands below it in the docs, without its marks."""
  page = documents.PAGES[doctor.PAGE]
  text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', page.text)
  parts = text.replace('`', '').split('\n### ')[1:]
  split = [part.split('\n', 1) for part in parts]
  return {title: ' '.join(body.split()) for title, body in split}


def test_docs_say_the_same():
  sections = _sections()
  titles = [x.title for x in checks.CHECKS]
  assert [x for x in sections if x in titles] == titles
  anchors = documents.PAGES[doctor.PAGE].anchors
  for check in checks.CHECKS:
    link = doctor.Finding(check, 0.0).link
    assert link.partition('#')[2] in anchors
    assert sections[check.title] == (
      f'{check.rule}. {check.why} What to do: {check.remedy}'
    )


def test_what_is_measured_is_a_metric_of_the_docs():
  text = documents.PAGES[doctor.PAGE].text
  for check in checks.CHECKS:
    assert f'`{check.metric}`' in text.partition('## My reward')[0]
