"""README.md and the pages of docs/, taken apart for the tests."""

import dataclasses
import functools
import pathlib
import re

from tests.helpers import whole_runs

ROOT = whole_runs.ROOT
_FENCE = re.compile(r'^```([^\n]*)\n(.*?)^```\n', re.M | re.S)
_SPAN = re.compile(r'`([^`]+)`')
_LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')
_SCRIPT = re.compile(r'\S+\.py')


@dataclasses.dataclass(frozen=True)
class Page:
  """A page of Markdown.

  Attributes:
    path: of the file, from the root.
    text: all of it.
  """

  path: str
  text: str

  @functools.cached_property
  def blocks(self) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return _FENCE.findall(self.text)

  @functools.cached_property
  def prose(self) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub('', self.text)

  @functools.cached_property
  def spans(self) -> list[str]:
    """What stands between backticks, a line break as a space."""
    return [' '.join(span.split()) for span in _SPAN.findall(self.prose)]

  @functools.cached_property
  def links(self) -> list[str]:
    """Targets of links and pictures."""
    return _LINK.findall(self.prose)

  @functools.cached_property
  def anchors(self) -> set[str]:
    """Of each heading, as a link may name it."""
    headings = re.findall(r'^#+ (.*)$', self.prose, re.M)
    return {
      re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
      for heading in headings
    }

  def commands(self) -> list[tuple[str, list[str]]]:
    """Program and arguments of each command that runs a Python file."""
    lines = [line for _, text in self.blocks for line in text.splitlines()]
    found = []
    for command in [*lines, *self.spans]:
      for part in command.split(' && '):
        words = part.split()
        runs = 'python' in part.split('.py')[0]
        script = next((x for x in words if _SCRIPT.fullmatch(x)), None)
        if runs and script:
          found.append((script, words[words.index(script) + 1 :]))
    return found

  def tables(self, header: str) -> list[list[str]]:
    """Rows of cells of the tables under a header; no cell holds a bar."""
    parts = self.text.split(f'\n| {header} |\n')[1:]
    lines = [
      line for part in parts for line in part.split('\n\n')[0].splitlines()[1:]
    ]
    return [[x.strip() for x in line.split('|')[1:-1]] for line in lines]

  def example(self, name: str) -> str:
    """The Python module of that name."""
    (found,) = (x for _, x in self.blocks if x.startswith(f'# {name}\n'))
    return found


def _read(path: pathlib.Path) -> Page:
  return Page(str(path.relative_to(ROOT)), path.read_text('utf-8'))


def pages() -> dict[str, Page]:
  """Path -> page: README.md, and all of docs/."""
  files = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
  return {page.path: page for page in map(_read, files)}


PAGES = pages()
