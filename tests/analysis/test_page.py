"""The page of a run as a file: what is in it, and how large it is."""

import base64
import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

from awpo_jax.analysis import examples, replay
from awpo_jax.analysis.page import reading, tokens, writing
from awpo_jax.reporting import rollout_archive
from awpo_jax.rollout.rewards.judges import rubric

_BLOCK = re.compile(
  r'<script type="application/json" id="(\w+)">(.*?)</script>', re.DOTALL
)


def _folder(path, rows, steps=(1, 2, 3)):
  path.mkdir()
  lines = [{'step': x, 'phase': 'rl', 'gate/mean': x / 8} for x in steps]
  for name, written in (('metrics', lines), ('transcripts', rows)):
    text = ''.join(json.dumps(x) + '\n' for x in written)
    (path / f'{name}.jsonl').write_text(text)
  return path


def _row(step, **further):
  return {
    'step': step,
    'task_id': 'a',
    'kind': 'k',
    'user': 'question',
    'tools': [],
    'ground_truth': '',
    'response': 'answer',
    'outcome': 1.0,
    'reasoning': 0.5,
    'solved': True,
  } | further


def _write(folder, path, **options):
  notes = writing.write_page([reading.read_run(folder)], path, **options)
  text = path.read_text(encoding='utf-8')
  blocks = {name: json.loads(x) for name, x in _BLOCK.findall(text)}
  return text, blocks, notes


def test_an_old_folder_is_shown_with_what_it_has(tmp_path):
  folder = _folder(tmp_path / 'x', [_row(2), _row(2, outcome=None)])
  _, blocks, notes = _write(folder, tmp_path / 'x.html')
  assert not notes
  (run,) = blocks['index']['runs']
  assert run['series'] == {'gate/mean': [[1, 2, 3], [0.125, 0.25, 0.375]]}
  assert run['steps'] == [2]
  (group,) = blocks['r0s2']
  assert [x['outcome'] for x in group['samples']] == [1.0, None]
  assert 'gate' not in group


def test_the_counts_of_the_rubric_are_told_of_its_own_score_alone(tmp_path):
  answer = '<think> I call none. </think> <response> Hi </response>'
  own = rubric.score_thought('question', (), answer).total
  folder = _folder(
    tmp_path / 'x',
    [_row(1, response=answer, reasoning=x) for x in (own, own + 0.01, None)],
  )
  _, blocks, _ = _write(folder, tmp_path / 'x.html')
  first, *others = blocks['r0s1'][0]['samples']
  assert first['said'].startswith('rubric: ')
  assert all('said' not in sample for sample in others)


def test_no_text_leaves_its_block(tmp_path):
  text = (
    '</script><!--<script><img src=x onerror=alert(1)>&amp;\u2028\x00\ud800'
  )
  folder = _folder(tmp_path / 'x', [_row(1, response=text, task_id=text)])
  page, blocks, _ = _write(folder, tmp_path / 'x.html')
  assert blocks['r0s1'][0]['samples'][0]['response'] == text
  assert '<img' not in page and '<!--' not in page
  # Those of data, and the one that is run.
  assert page.count('</script>') == len(blocks) + 1


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(tmp_path):
  page, _, _ = _write(_folder(tmp_path / 'x', []), tmp_path / 'x.html')
  script = re.search(r'<script>(.*)</script>', page, re.DOTALL)[1]
  style = re.search(r'<style>(.*?)</style>', page, re.DOTALL)[1]
  digests = [
    base64.b64encode(hashlib.sha256(x.encode()).digest()).decode()
    for x in (script, style)
  ]
  policy = re.search(r'Security-Policy" content="([^"]*)"', page)[1]
  assert policy == (
    f"default-src 'none'; script-src 'sha256-{digests[0]}'; style-src "
    f"'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
  )


def test_a_long_run_fits_and_the_page_says_what_is_missing(tmp_path):
  rows = [_row(step, response='x' * 20_000) for step in range(1, 41)]
  folder = _folder(tmp_path / 'x', rows, range(1, 41))
  _, blocks, notes = _write(folder, tmp_path / 'x.html', max_megabytes=0.2)
  assert (tmp_path / 'x.html').stat().st_size <= 200_000
  (run,) = blocks['index']['runs']
  assert run['steps'][0] == 1 and run['steps'][-1] == 40
  assert 3 <= len(run['steps']) < 40
  assert notes == blocks['index']['notes']
  assert f'{len(run["steps"])} of 40 steps' in notes[0]
  assert run['series']['gate/mean'][0] == list(range(1, 41))
  _, blocks, _ = _write(folder, tmp_path / 'y.html', max_steps=4)
  assert blocks['index']['runs'][0]['steps'] == [1, 14, 27, 40]


def test_a_curve_of_many_points_keeps_its_ends(tmp_path):
  # Of 2,004 steps every third, and the last one.
  folder = _folder(tmp_path / 'x', [], range(1, 2005))
  rows = (folder / 'metrics.jsonl').read_text().splitlines()
  rows[4] = json.dumps(json.loads(rows[4]) | {'eval/own/accuracy': 0.5})
  (folder / 'metrics.jsonl').write_text('\n'.join([*rows, '']))
  _, blocks, _ = _write(folder, tmp_path / 'x.html')
  series = blocks['index']['runs'][0]['series']
  steps, values = series['gate/mean']
  assert steps == [*range(1, 2005, 3), 2004]
  assert values[-1] == 250.5
  assert series['eval/own/accuracy'] == [[5], [0.5]]


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
  places = [tmp_path / cell / 'seed_1' for cell in ('awpo', 'grpo')]
  for place in places:
    place.parent.mkdir()
    _folder(place, [])
  names = [str(place) for place in places]
  runs = reading.read_runs(names)
  assert [(run.name, run.cell) for run in runs] == [(x, x) for x in names]
  monkeypatch.chdir(places[0])
  (run,) = reading.read_runs(['.'])
  assert run.name == 'seed_1'


def test_an_archive_without_the_flags_of_its_run_is_named(tmp_path):
  folder = _folder(tmp_path / 'x', [])
  (folder / 'archive').mkdir()
  (folder / 'archive' / rollout_archive.INDEX_FILE).write_text('')
  with pytest.raises(FileNotFoundError, match=r'run\.flags'):
    reading.read_run(folder)


def test_a_text_larger_than_the_page_is_cut(tmp_path):
  folder = _folder(tmp_path / 'x', [_row(1, response='x' * 1_000_000)])
  _, blocks, notes = _write(folder, tmp_path / 'x.html', max_megabytes=0.3)
  response = blocks['r0s1'][0]['samples'][0]['response']
  assert response == 'x' * 100_000 + '\n[900000 more characters]'
  assert 'cut to 100,000 characters' in notes[0]


def test_the_archive_gives_the_advantages_of_the_runs_own_flags(tmp_path):
  folder = examples.carried_run()
  _, blocks, _ = _write(folder, tmp_path / 'x.html', max_steps=1)
  archive = rollout_archive.open_archive(folder)
  step = archive.steps[-1]
  rollout = archive.rollout(step)
  made = replay.advantages(replay.variant(folder), rollout)
  groups = blocks[f'r0s{step}']
  for key, wanted in (
    ('advantage', made.advantages),
    ('outcome_advantage', made.outcome_advantages),
    ('outcome', rollout.rewards.outcome),
  ):
    got = [[x[key] for x in group['samples']] for group in groups]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
  np.testing.assert_allclose([x['gate'] for x in groups], made.gate, rtol=1e-6)
  shown = groups[0]['samples'][0]['tokens']
  mask = rollout.completions.mask[0, 0]
  assert shown['pieces'] == [
    f'[{x}]' for x in rollout.completions.tokens[0, 0][mask]
  ]
  np.testing.assert_allclose(
    shown['entropy'], rollout.completions.entropy[0, 0][mask], rtol=6e-3
  )
  # Nothing was computed of the trainer's own, and nothing is claimed.
  assert 'log_ratio' not in shown


class _Drifted(rollout_archive.Archive):
  """An archive whose trainer finds every token 1.15 times as likely."""

  def rollout(self, step):
    rollout = super().rollout(step)
    logprobs = rollout.completions.logprobs + np.float32(np.log(1.15))
    return dataclasses.replace(rollout, trainer_logprobs=logprobs)


def test_a_ratio_is_held_to_the_radius_of_its_own_group():
  folder = examples.carried_run()
  kept = rollout_archive.open_archive(folder)
  kept.__class__ = _Drifted
  config = replay.variant(folder, '--clip=linear', '--clip_scope=group')
  step = kept.steps[-1]
  groups = tokens.Tokens(kept, config, None).joined(step, [])
  met = set()
  for group in groups:
    # 1.15 is outside of 1 + (0.2 - 0.1 w) where the gate w is above 1/2.
    outside = group['gate'] > 0.5
    for answer in group['samples']:
      positive = answer['advantage'] > 0
      told = answer['tokens']
      wanted = [int(outside and positive and x) for x in told['policy']]
      assert told['clipped'] == wanted
      # log(1.15) is what the trainer has more than the sampler.
      gaps = [x for x in told['log_ratio'] if x is not None]
      np.testing.assert_allclose(gaps, 0.14, rtol=6e-3)
      met.add((outside, positive))
  assert met == {(True, True), (True, False), (False, True), (False, False)}


def test_a_ratio_is_held_to_the_upper_radius_of_its_own_sample():
  folder = examples.carried_run()
  kept = rollout_archive.open_archive(folder)
  kept.__class__ = _Drifted
  flags = ('--clip=fixed', '--clip_min=0.1', '--clip_max=0.1')
  upper = ('--clip_high=adaptive', '--clip_high_delta=0.06')
  config = replay.variant(folder, *flags, *upper)
  step = kept.steps[-1]
  rollout = kept.rollout(step)
  groups = tokens.Tokens(kept, config, None).joined(step, [])
  answers = [answer for group in groups for answer in group['samples']]
  advantages = np.float64([answer['advantage'] for answer in answers])
  assert np.all(rollout.rewards.outcome_valid)
  normed = (advantages - advantages.mean()) / advantages.std(ddof=1)
  # 1.15 > 1 + 0.1 + 0.06 Phi(A) where Phi(A) < 5/6, which is Phi(0.967).
  outside = (advantages > 0) & (normed < 0.967)
  assert 0 < outside.sum() < (advantages > 0).sum()
  for answer, wanted in zip(answers, outside, strict=True):
    told = answer['tokens']
    assert told['clipped'] == [int(wanted and x) for x in told['policy']]


@pytest.mark.parametrize('read', [reading.read_run, reading.read_grid])
def test_another_folder_is_named(tmp_path, read):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    read(tmp_path)


def test_runs_of_a_cell_have_its_name(tmp_path):
  for cell in ('grpo', 'awpo'):
    (tmp_path / 'cells' / cell).mkdir(parents=True)
    for seed in (1, 2):
      _folder(tmp_path / 'cells' / cell / f'seed_{seed}', [])
  runs = reading.read_grid(tmp_path)
  assert [(run.cell, run.name) for run in runs] == [
    ('awpo', 'awpo, seed 1'),
    ('awpo', 'awpo, seed 2'),
    ('grpo', 'grpo, seed 1'),
    ('grpo', 'grpo, seed 2'),
  ]
  # The order of a grid that has ended is that of its pictures.
  lines = ['cell,seed,status', 'grpo,1,done', 'grpo,2,done', 'awpo,1,done']
  (tmp_path / 'runs.csv').write_text('\n'.join(lines))
  runs = reading.read_grid(tmp_path)
  assert [run.cell for run in runs] == ['grpo', 'grpo', 'awpo', 'awpo']
