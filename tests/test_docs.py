"""README.md and docs/ name what is there, and say what each flag does."""

import configparser
import functools
import importlib
import json
import pathlib
import re
import tempfile

import pytest
import yaml

from awpo_jax.config import experiment as config_lib
from awpo_jax.evaluation import config as config_evaluation
from awpo_jax.evaluation import judge_agreement as agreement
from awpo_jax.reporting import curves
from awpo_jax.rollout.datasets import rlla
from tests.helpers import documents, whole_runs

ROOT, PAGES = documents.ROOT, documents.PAGES
README, INDEX = PAGES['README.md'], PAGES['docs/README.md']
QUICKSTART = '--flagfile=experiments/quickstart.flags'
EVERY_PAGE = pytest.mark.parametrize(
  'page', PAGES.values(), ids=lambda page: page.path
)
# First parts of paths that are here; a run's are not.
_TOPS = ('awpo_jax', 'experiments', 'tests', 'notebooks', 'docs')
_SUFFIXES = ('.py', '.flags', '.ipynb', '.json', '.txt', '.png')
_ELSEWHERE = ('runs', 'evaluations')
_PATH = re.compile(r'[\w.-]+(?:/[\w.-]+)*/?')
_SYMBOL = re.compile(r'([\w/]+\.py): (\w+)')


def test_readme_is_one_page():
  assert len(README.text) <= 8000


@pytest.mark.parametrize(
  'end',
  [
    f'python experiments/train.py {QUICKSTART}',
    'python -m pytest -q -n 2 --dist loadfile',
  ],
)
def test_one_line_sets_up_and_does_it(end):
  lines = [
    line
    for line in README.text.splitlines()
    if line.startswith('python3 -m venv .venv && ') and line.endswith(end)
  ]
  assert len(lines) == 1
  _, *steps = lines[0].split(' && ')
  # Nothing but the environment just made, whatever else is active.
  assert all(step.startswith('.venv/bin/') for step in steps)
  assert 'pip install' in steps[0]
  # Nothing else in a block of code sets up.
  assert README.text.count('python3 -m venv') == 2


# Links.


def _broken(page, pages=PAGES):
  """Links of a page that lead nowhere."""
  broken = []
  for link in page.links:
    if link.startswith(('http://', 'https://')):
      continue
    name, _, anchor = link.partition('#')
    folder = (ROOT / page.path).parent
    file = (folder / name).resolve() if name else ROOT / page.path
    target = str(file.relative_to(ROOT))
    known = target in pages and (not anchor or anchor in pages[target].anchors)
    if not known and (anchor or not file.exists()):
      broken.append(link)
  return broken


@EVERY_PAGE
def test_links_lead_somewhere(page):
  assert not _broken(page)


def test_a_broken_link_is_seen():
  page = documents.Page(
    'docs/x.md',
    '# Top: `--x`\n[a](y.md) [b](README.md) [c](README.md#no) [d](#top---x) '
    '![e](../no.png) [f](https://example.org/no)\n',
  )
  pages = {**PAGES, page.path: page}
  assert _broken(page, pages) == ['y.md', 'README.md#no', '../no.png']


@pytest.mark.parametrize('path', sorted({*PAGES} - {'README.md'}))
def test_a_page_is_linked_from_another(path):
  name = path.removeprefix('docs/')
  wanted = {'README.md': {path}, INDEX.path: {name}}
  linking = [
    other.path
    for other in PAGES.values()
    if other.path != path
    and {x.partition('#')[0] for x in other.links}
    & wanted.get(other.path, {name})
  ]
  assert linking
  assert path == INDEX.path or INDEX.path in linking


# Paths and functions.


def _words(page):
  """Words of code; of `--name=value` the value."""
  for code in [*page.spans, *(text for _, text in page.blocks)]:
    for word in code.split():
      yield word.rpartition('=')[2].rstrip(':,')


def _paths(page):
  """Words of code that are paths of the repository."""
  for word in _words(page):
    top, _, rest = word.partition('/')
    if not _PATH.fullmatch(word) or top in _ELSEWHERE or not rest:
      continue
    if top in _TOPS or word.endswith(_SUFFIXES):
      yield word


def _found(name):
  """Files of that name, for a message."""
  return [str(x.relative_to(ROOT)) for x in ROOT.glob(f'**/{name}')]


@EVERY_PAGE
def test_paths_are_there(page):
  missing = [
    f'{path} is not there; is it {_found(path.rstrip("/").split("/")[-1])}?'
    for path in _paths(page)
    if not ((ROOT / path).exists() or (ROOT / 'awpo_jax' / path).exists())
  ]
  assert not missing, '\n'.join(missing)


def _definitions(path):
  """Names that a file defines, in a test within a class, too."""
  names = re.findall(
    r'^ *(?:def|class) (\w+)|^(\w+)(?::[^=]*)? = ', path.read_text(), re.M
  )
  return {a or b for a, b in names}


def _symbols(page):
  found = [_SYMBOL.fullmatch(span) for span in page.spans]
  return [match.groups() for match in found if match]


def _is_there(path, name):
  """Whether a file of tests or of the package has that function."""
  if path.startswith('test_'):
    files = ROOT.glob(f'tests/**/{path}')
    return any(name in _definitions(file) for file in files)
  module = path.removesuffix('.py').replace('/', '.')
  return (ROOT / 'awpo_jax' / path).exists() and hasattr(
    importlib.import_module(f'awpo_jax.{module}'), name
  )


def _elsewhere(path, name):
  """Files that do have it, for a message."""
  top = 'tests' if path.startswith('test_') else 'awpo_jax'
  return [
    str(file.relative_to(ROOT))
    for file in ROOT.glob(f'{top}/**/*.py')
    if name in _definitions(file)
  ]


@EVERY_PAGE
def test_functions_and_tests_are_there(page):
  missing = [
    f'no {name} in {path}; there is one in {_elsewhere(path, name)}'
    for path, name in _symbols(page)
    if not _is_there(path, name)
  ]
  assert not missing, '\n'.join(missing)


def test_the_tables_were_read():
  rows = README.tables('what | function | test')
  assert len(rows) == 9
  for row in rows:
    spans = re.findall('`([^`]+)`', ' '.join(row[1:]))
    assert len(spans) == 2 and all(map(_SYMBOL.fullmatch, spans)), row


# Commands and flags.


@functools.cache
def _flags_of(script):
  """Names of the flags that a program of experiments/ defines."""
  with tempfile.TemporaryDirectory() as folder:
    done = whole_runs.forked(
      ['--helpfull'],
      pathlib.Path(folder),
      program=script,
      environment={'PYTHONPATH': str((ROOT / script).parent)},
    )
  names = re.findall(r'^ +(?:-\w,)?--(?:\[no\])?(\w+)', done.stdout, re.M)
  assert names, done.stderr
  return frozenset(names)


def _programs(script):
  """The program whose flags a command takes; None: not one of ours."""
  if script.startswith('experiments/'):
    return script
  # One's own programs are `train.py` with something registered.
  return 'experiments/train.py' if '/' not in script else None


@EVERY_PAGE
def test_commands_have_the_flags_they_give(page):
  for script, words in page.commands():
    program = _programs(script)
    if program is None:
      continue
    given = {
      word[2:].partition('=')[0] for word in words if word.startswith('--')
    }
    unknown = given - _flags_of(program) - {'help'}
    assert not unknown, f'{script} has no {unknown}'


PROGRAMS = sorted(
  {
    program
    for page in PAGES.values()
    for script, _ in page.commands()
    if (program := _programs(script))
  }
)


@EVERY_PAGE
def test_flags_in_prose_are_flags(page):
  known = frozenset().union(*map(_flags_of, PROGRAMS)) | {'help'}
  for span in page.spans:
    if span.startswith('--'):
      given = {x[2:].partition('=')[0] for x in span.split() if x[:2] == '--'}
      assert given <= known, f'`{span}`: no flag {given - known}'


@EVERY_PAGE
def test_commands_parse(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  parsers = {
    'experiments/train.py': config_lib.parse,
    'experiments/evaluate.py': config_evaluation.parse,
  }
  for script, words in page.commands():
    if script in parsers and any('=' in word for word in words):
      parsers[script]([word.strip('`') for word in words])


ABLATIONS = [
  flags
  for row in PAGES['docs/awpo.md'].tables('ablation | flags')
  for flags in re.findall('`([^`]+)`', row[-1])
]


@pytest.mark.parametrize('flags', ['', *dict.fromkeys(ABLATIONS)])
def test_an_ablation_is_the_quickstart_with_other_flags(flags, monkeypatch):
  monkeypatch.chdir(ROOT)
  plain = config_lib.parse([QUICKSTART])
  changed = config_lib.parse([QUICKSTART, *flags.split()])
  assert (changed != plain) == bool(flags)
  assert len(ABLATIONS) >= 10


def _explanations():
  """All that explains flags: prose, and the comments of flags files."""
  comments = [
    line
    for file in ROOT.glob('experiments/**/*.flags')
    for line in file.read_text().splitlines()
    if line.startswith('#')
  ]
  return '\n'.join([*(page.prose for page in PAGES.values()), *comments])


def test_every_flag_is_explained():
  explained = set(re.findall(r'--(\w+)', _explanations()))
  flags = config_lib.to_dict(config_lib.Config())
  missing = [name for name in flags if name not in explained]
  assert len(flags) > 100 and not missing, missing


def test_every_flags_file_is_named():
  named = {word for page in PAGES.values() for word in _words(page)}
  missing = []
  for file in ROOT.glob('experiments/**/*.flags'):
    path = str(file.relative_to(ROOT))
    known = {path, file.name} if '/algorithms/' in path else {path}
    missing += [] if known & named else [path]
  assert not missing, f'no page names {missing}'


# Other formats, metrics, citation.


def test_examples_of_files_can_be_read(tmp_path):
  blocks = dict(
    block
    for page in PAGES.values()
    for block in page.blocks
    if block[0].startswith('json')
  )
  for text in blocks.values():
    json.loads(text)
  rows = tmp_path / 'rows.jsonl'
  rows.write_text(blocks['json rlla'])
  (task,) = rlla.read_tasks(str(rows))
  assert task.kind == 'single' and [x.name for x in task.tools] == ['add']
  rows.write_text(blocks['json transcript'])
  (row,) = agreement.read_transcripts(rows)
  assert row.label == 1 and row.request.tools[0].name == 'add'


def test_what_is_plotted_is_explained():
  text = PAGES['docs/metrics.md'].text
  for names in curves.PANELS.values():
    for name in names:
      assert f'`{name.replace("*", "<set>")}`' in text


def test_the_citation_is_that_of_the_package():
  cff = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  assert cff['version'] == setup['metadata']['version']
  assert cff['license'] == setup['metadata']['license']
  assert {'cff-version', 'message', 'title', 'authors'} <= cff.keys()
  (paper,) = cff['references']
  assert paper['url'] in README.text and paper['authors']
