"""Names, the links between them, and both as text.

Every name has a link of each kind. A *path* goes from a start along links of
one kind; all other links of its names lead to decoys, and those of decoys lead
to decoys. So a walk with one wrong link can always be continued, and never ends
where the path does.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

KINDS = ('red', 'blue', 'green')
"""The kinds of links, of which one is asked for."""
DECOYS = 4
"""Decoys of the longest path; shorter ones have more, in place of names."""

# Two syllables, which no tokenizer of ours joins: what a model learns of names
# it can only learn of their syllables.
_FIRST = tuple(a + b for a in 'bdfklmnprt' for b in 'ao')
_SECOND = tuple(a + b for a in 'ghjpqstvwz' for b in 'iu')
_HELD_OUT = 4  # of the second syllables of each first one

_FACT = '{} {} {} / '
_QUESTION = 'From {} follow {} {} times.'
_NAME = r'[a-z]{2}_[a-z]{2}'
_KIND = '|'.join(KINDS)
_FACT_PATTERN = re.compile(rf'({_NAME}) ({_KIND}) ({_NAME}) / ')
_QUESTION_PATTERN = re.compile(
  rf'From ({_NAME}) follow ({_KIND}) ([1-9][0-9]?) times\.'
)
_MAX_CHARS = 1 << 14

Links = Mapping[tuple[str, str], str]
"""(Name, kind) -> name."""


class Riddle(NamedTuple):
  """What a request holds.

  Attributes:
    links: all facts.
    start: the name to begin with.
    kind: of the links to follow.
    length: how many of them, k.
  """

  links: Links
  start: str
  kind: str
  length: int

  def path(self) -> tuple[str, ...] | None:
    """The k names after the start; None where a link is missing."""
    names = []
    name = self.start
    for _ in range(self.length):
      following = self.links.get((name, self.kind))
      if following is None:
        return None
      names.append(following)
      name = following
    return tuple(names)


def draw(
  rng: random.Random, *, count: int, largest: int, held_out: bool
) -> Riddle:
  """Draws a riddle of `largest` + 1 + DECOYS names, a fact of each kind.

  Args:
    rng: consumed.
    count: links of the path, k, from 1 to `largest`.
    largest: of the riddles that are to have as many facts.
    held_out: whether all names, or none, are held out.
  """
  names = draw_names(rng, largest + 1 + DECOYS, held_out=held_out)
  path, decoys = names[: count + 1], names[count + 1 :]
  kind = rng.choice(KINDS)
  links: dict[tuple[str, str], str] = {}
  for name in names:
    others = [decoy for decoy in decoys if decoy != name]
    targets = rng.sample(others, len(KINDS))
    links |= {(name, k): x for k, x in zip(KINDS, targets, strict=True)}
  for here, there in zip(path, path[1:], strict=False):
    links[here, kind] = there
  return Riddle(links, path[0], kind, count)


def draw_names(
  rng: random.Random, count: int, *, held_out: bool
) -> tuple[str, ...]:
  """Names that share no syllable, so that each is known by either of its own.

  Args:
    rng: consumed.
    count: at most 16, so that few draws are in vain.
    held_out: whether their syllables stand together in held-out names only.
  """
  while True:
    unused = list(range(len(_SECOND)))
    names = []
    for first in rng.sample(range(len(_FIRST)), len(_FIRST)):
      free = [x for x in unused if is_held_out(first, x) == held_out]
      if free:
        second = rng.choice(free)
        unused.remove(second)
        names.append(f'{_FIRST[first]}_{_SECOND[second]}')
    if len(names) >= count:
      return tuple(names[:count])


def is_held_out(first: int, second: int) -> bool:
  """Whether syllables of these numbers make a held-out name."""
  return (second - first) % len(_SECOND) < _HELD_OUT


def request_text(rng: random.Random, riddle: Riddle) -> str:
  """The facts in random order, and what is asked."""
  facts = [_FACT.format(*source, to) for source, to in riddle.links.items()]
  rng.shuffle(facts)
  question = _QUESTION.format(riddle.start, riddle.kind, riddle.length)
  return ''.join(facts) + question


def read(text: str) -> Riddle | None:
  """The riddle of a text that `request_text` wrote, anything around it.

  Args:
    text: anything; one that is too long or says of a link two things is no
      riddle.

  Returns:
    The riddle, None where there is none or its path has a gap.
  """
  if len(text) > _MAX_CHARS:
    return None
  questions = _QUESTION_PATTERN.findall(text)
  if len(questions) != 1:
    return None
  start, kind, count = questions[0]
  links: dict[tuple[str, str], str] = {}
  for here, by, there in _FACT_PATTERN.findall(text):
    if links.setdefault((here, by), there) != there:
      return None
  riddle = Riddle(links, start, kind, int(count))
  return riddle if riddle.path() else None


def thought_text(start: str, hops: Sequence[tuple[str, str]]) -> str:
  """A walk in words: each kind and the name that it leads to."""
  return ' '.join((start, *(f'{kind} {name}' for kind, name in hops), 'done'))
