"""What README.md and docs/ show of one's own parts works, in tiny runs."""

import ast
import importlib
import json
import re

import numpy as np
import pytest

from awpo_jax import types
from awpo_jax.ops import estimators
from awpo_jax.rollout.environments import episodes, sandbox
from tests.helpers import documents, tiny_dataset, whole_runs

PAGES = documents.PAGES
METRICS = PAGES['docs/metrics.md']


def _write(folder, page, *names):
  for name in names:
    (folder / name).write_text(PAGES[page].example(name))


def _run(tmp_path, cache, program, *flags):
  """A tiny run of a program beside which the modules lie; its folder."""
  folder = tmp_path / 'runs' / 'x'
  folder.parent.mkdir()
  done = whole_runs.forked(
    tiny_dataset.flags(
      folder, cache, '--sft_steps=1', '--rl_steps=1', '--cpu_devices=1', *flags
    ),
    tmp_path,
    program=str(program),
    environment={'PYTHONPATH': str(tmp_path)},
  )
  assert done.returncode == 0, done.stderr
  _check_metrics(folder)
  return folder


def _sampled(folder):
  rows = whole_runs.rows(folder, 'transcripts.jsonl')
  return [row for row in rows if 'set' not in row]


def _documented():
  """Names in the first column of the tables of metrics, as patterns."""
  text, _, _ = METRICS.text.partition('\n## My reward')
  cells = re.findall(r'^\| ([^|]*) \|', text, re.M)
  names = [name for cell in cells for name in re.findall('`([^`]+)`', cell)]
  assert len(names) > 50
  return [re.sub(r'<\w+>', r'[\\w-]+', name) for name in names]


def _check_metrics(folder):
  known = [name for name in _documented() if name != r'reward/[\w-]+']
  found = {name for row in whole_runs.rows(folder) for name in row}
  own = {'reward/called', 'reward/length'}
  for name in found - own:
    assert any(re.fullmatch(x, name) for x in known), f'{name} is not explained'


@pytest.mark.parametrize('name', dict.fromkeys(_documented()))
def test_an_explained_metric_is_written_somewhere(name):
  last = re.escape(name.replace(r'[\w-]+', '').strip('/').rpartition('/')[2])
  pattern = re.compile(rf"""['/]{last}['/]""")
  files = (documents.ROOT / 'awpo_jax').rglob('*.py')
  assert any(pattern.search(file.read_text()) for file in files)


def test_symptoms_are_of_explained_metrics():
  _, _, text = METRICS.text.partition('\n## My reward')
  # What a section is about stands in its first line.
  measures = re.findall(r'^### .*\n\n(.*)$', text, re.M)
  names = [name for line in measures for name in re.findall('`([^`]+)`', line)]
  assert len(names) > 10
  known = re.findall('`([^`]+)`', METRICS.text.partition('\n## My')[0])
  assert [x for x in names if x not in known and x[:2] != '--'] == []


def test_one_of_ones_own_has_five_lines():
  tree = ast.parse(PAGES['README.md'].example('mine.py'))
  functions = [x for x in tree.body if isinstance(x, ast.FunctionDef)]
  assert {'reward', 'judge', 'environment', 'median'} <= {
    x.name for x in functions
  }
  assert all(x.end_lineno - x.lineno < 5 for x in functions)


@pytest.fixture
def own_modules(tmp_path, monkeypatch):
  """The folder of modules of one's own; the dict is as it was afterwards."""
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(estimators.ESTIMATORS, 'median', None)
  return tmp_path


def test_the_readmes_program(own_modules, cache, monkeypatch):
  _write(own_modules, 'README.md', 'mine.py')
  folder = _run(
    own_modules,
    cache,
    own_modules / 'mine.py',
    '--reward=mine:reward',
    '--judge=mine:judge',
    '--estimator=median',
    '--gate=none',
    '--difficulty=none',
    '--archive',
  )
  assert '--estimator=median' in (folder / 'run.flags').read_text()
  sampled = _sampled(folder)
  assert len(sampled) == 16
  for row in sampled:
    words = len(row['response'].split())
    assert row['outcome'] == float('<tool_call>' in row['response'])
    assert row['reasoning'] == (np.float32(words / 100) if words else None)
  _environment_of_the_readme(importlib.import_module('mine'))
  # The rollouts it kept are what docs/analysis.md reads.
  monkeypatch.chdir(own_modules)
  (block,) = (
    text
    for language, text in PAGES['docs/analysis.md'].blocks
    if language == 'python'
  )
  exec(compile(block, 'analysis.md', 'exec'), {})


def _environment_of_the_readme(mine):
  environment = mine.environment(sandbox.Limits())
  call = (
    '<think> a </think>\n<tool_call>\n'
    '{"name": "today", "parameters": {}}\n</tool_call>'
  )
  reply = '<think> a </think>\n<response> b </response>'
  task = types.Task(
    *('t0', 's', 'u', environment.tools, reply, 'k'), references=(call, reply)
  )
  assert _played(environment, task) == mine.today()


def _played(environment, task):
  """What the first call of the reference returns; the episode is solved."""
  episode = episodes.replay(environment, task, task.references)
  assert environment.outcome(task, episode.state, episode.turns).solved
  environment.close()
  return episode.turns[0].observations[0].text


def test_reward_judge_data_and_gate(tmp_path, cache):
  _write(tmp_path, 'docs/rewards.md', 'mine.py')
  _write(tmp_path, 'docs/data.md', 'mydata.py')
  _write(tmp_path, 'docs/algorithms.md', 'gated.py')
  folder = _run(
    tmp_path,
    cache,
    tmp_path / 'gated.py',
    '--dataset=mydata:dataset',
    '--reward=mine:reward',
    '--judge=mine:judge',
    '--gate=quarter',
    '--trust=none',
    '--prompt_buckets=64',
    '--response_buckets=64',
  )
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary['accuracy_by_kind'].keys() == {'single'}
  sampled = _sampled(folder)
  assert len(sampled) == 16 and {row['task_id'] for row in sampled} == {'t0'}
  for row in sampled:
    assert row['outcome'] in (0, 1)
    words = len(row['response'].split())
    assert row['reasoning'] == (np.float32(words / 100) if words else None)
  last = whole_runs.rows(folder)[-1]
  assert last['reward/called'] == np.mean([row['outcome'] for row in sampled])
  assert last['gate/mean'] == pytest.approx(0.25)


def test_tools_that_run(own_modules, cache):
  _write(own_modules, 'docs/environments.md', 'tools.py')
  folder = _run(
    own_modules,
    cache,
    whole_runs.TRAIN,
    '--dataset=tools:dataset',
    '--environment=tools:environment',
    '--reward=toolrl',
    '--judge=rubric',
    '--vocab_size=1024',
    '--prompt_buckets=512',
    '--response_buckets=192',
    '--observation_tokens=32',
  )
  assert all(row['episode']['turns'] for row in _sampled(folder))
  tools = importlib.import_module('tools')
  data = tools.dataset(seed=0)
  environment = tools.environment(sandbox.Limits())
  assert _played(environment, data.train[0]) == '5'
  # The demonstration is what the tools return.
  (shown,) = data.demonstrations
  assert shown.further[0].observations == (('obs', '5'),)
