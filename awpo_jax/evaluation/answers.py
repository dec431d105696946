"""The answers to a benchmark: asked in batches, appended on disk as they come.

A later start reads them again and asks for the rest, in batches of prompts of
like length.
"""

import collections
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from awpo_jax.evaluation import items as items_lib
from awpo_jax.reporting import file_locks, json_text
from awpo_jax.rollout.text import conversations, templates


class Key(NamedTuple):
  """Which answer: of a row, and the number of the sample."""

  row_id: str
  sample: int


class Answers:
  """The answers of a benchmark, one JSON object a line.

  Attributes:
    texts: what was answered, by key; several texts where a row asked again,
      none where it could not be asked.
    seconds: that generating the stored answers took.
    tokens: that the stored answers have.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the stored answers; a line that a killed process tore is removed.

    Raises:
      ValueError: the file holds something else, and its line is named; or
        another evaluation has it open.
    """
    self._path = path
    self.texts: dict[Key, tuple[str, ...]] = {}
    self.seconds = self.tokens = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = path.open('ab+')
    # Let go of when the process ends, however it ends.
    if not file_locks.try_lock(self._file, fcntl.flock):
      self._file.close()
      raise ValueError(
        f'{path}: another evaluation is writing here; wait for its end, or '
        'name another --output_dir.'
      )
    self._read()

  def close(self) -> None:
    """Lets others write."""
    self._file.close()

  def _read(self) -> None:
    whole = 0
    self._file.seek(0)
    for number, line in enumerate(self._file, start=1):
      if not line.endswith(b'\n'):
        self._file.truncate(whole)
        break
      whole += len(line)
      self._take(_parse(line, f'{self._path}:{number}'))

  def _take(self, stored: '_Stored') -> None:
    self.texts[stored.key] = stored.texts
    self.seconds += stored.seconds
    self.tokens += stored.tokens

  def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes answers down before it returns.

    Args:
      rows: with `id`, `sample`, `answers`, `seconds` that they took and
        `tokens` that they have.
    """
    lines = ''.join(json_text.dumps(row) + '\n' for row in rows)
    self._file.write(lines.encode())
    self._file.flush()
    os.fsync(self._file.fileno())
    for row in rows:
      self._take(_stored(row))


class _Stored(NamedTuple):
  """A line of the file; the attributes of `Answers` say what it holds."""

  key: Key
  texts: tuple[str, ...]
  seconds: float
  tokens: float


def _stored(row: Mapping[str, Any]) -> _Stored:
  return _Stored(
    Key(str(row['id']), int(row['sample'])),
    tuple(str(text) for text in row['answers']),
    float(row['seconds']),
    float(row['tokens']),
  )


def _parse(line: bytes, where: str) -> _Stored:
  try:
    return _stored(json.loads(line))
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{where}: not an answer ({error}); remove the line, and it is generated '
      'again.'
    ) from error


def read(path: pathlib.Path) -> dict[Key, tuple[str, ...]]:
  """The texts of `Answers`, of a file that may still be written to.

  Nothing is changed: a line that is not written to its end is left out.

  Raises:
    ValueError: the file holds something else, and its line is named.
    OSError: it cannot be read.
  """
  texts = {}
  with path.open('rb') as file:
    for number, line in enumerate(file, start=1):
      if line.endswith(b'\n'):
        stored = _parse(line, f'{path}:{number}')
        texts[stored.key] = stored.texts
  return texts


class Reply(NamedTuple):
  """An answer and how many tokens it has."""

  text: str
  tokens: int


# A conversation -> i32[S]; None where it does not fit.
Encode: TypeAlias = Callable[[conversations.Conversation], np.ndarray | None]
# A conversation -> what its prompt holds of the answer.
Opened: TypeAlias = Callable[[conversations.Conversation], str]
# P prompts, i32[P, G] ids of their samples -> replies [P][G].
Generate: TypeAlias = Callable[
  [Sequence[np.ndarray], np.ndarray], list[list[Reply]]
]


@dataclasses.dataclass
class _Running:
  """An episode that waits for answers, of one or more samples at once."""

  item: items_lib.Item
  samples: tuple[int, ...]
  episode: items_lib.Episode
  prompt: np.ndarray | None
  opened: str
  answers: list[list[Reply]] = dataclasses.field(default_factory=list)
  seconds: float = 0.0


def ask(
  items: Sequence[items_lib.Item],
  answers: Answers,
  *,
  samples: int,
  encode: Encode,
  generate: Generate,
  bucket: Callable[[int], int],
  batch: int,
  advance: Callable[[int], None] = lambda rows: None,
  opened: Opened = lambda talk: '',
) -> None:
  """Asks every row that has no answer yet, and writes the answers down.

  Prompts of one bucket share a batch, whatever their category; multi-turn rows
  of a category advance together. All samples of a single-turn row are drawn
  from one reading of it. What
  is drawn for a row depends on nothing else: neither on its batch nor on what
  was answered before a kill. A row that cannot be asked, as its prompt is too
  long, has no answer, which is written down as well.

  Args:
    items: rows.
    answers: those there are already; new ones are added batch by batch.
    samples: answers of each row.
    encode: a conversation's tokens.
    generate: a batch's replies.
    bucket: of a prompt's length.
    batch: prompts in a batch at most.
    advance: called with a number of answers just finished.
    opened: what a conversation's prompt holds of the answer, of
      `templates.opened`; the answers are completed with it.
  """

  def prompt(talk):
    return encode(talk), opened(talk)

  groups = collections.defaultdict(list)
  for item in items:
    groups[item.category if item.multi_turn else None].append(item)
  for chosen in groups.values():
    running = [
      each for item in chosen for each in _begin(item, answers, samples, prompt)
    ]
    while running:
      rest = []
      for part in _batches(running, bucket, batch):
        rest += _step(part, answers, prompt, generate, advance)
      running = rest


def _begin(item, answers, samples: int, prompt) -> list[_Running]:
  missing = [
    g for g in range(samples) if Key(item.row_id, g) not in answers.texts
  ]
  groups = [(g,) for g in missing] if item.multi_turn else [tuple(missing)]
  started = []
  for group in groups:
    if group:
      episode = item.episode()
      started.append(_Running(item, group, episode, *prompt(next(episode))))
  return started


def _batches(running, bucket, size: int) -> list[list[_Running]]:
  groups = collections.defaultdict(list)
  for each in running:
    length = None if each.prompt is None else bucket(len(each.prompt))
    groups[length, len(each.samples)].append(each)
  return [
    group[start : start + size]
    for _, group in sorted(
      groups.items(), key=lambda pair: (pair[0][0] or 0, pair[0][1])
    )
    for start in range(0, len(group), size)
  ]


def _step(part, answers, prompt, generate, advance) -> list[_Running]:
  """Answers a batch; returns the rows that ask again."""
  begun = time.perf_counter()
  asked = [(each, each.prompt) for each in part if each.prompt is not None]
  if asked:
    ids = np.array(
      [
        [sample_id(x.item.row_id, g, len(x.answers)) for g in x.samples]
        for x, _ in asked
      ],
      np.int32,
    )
    replies = generate([tokens for _, tokens in asked], ids)
    for (each, _), group in zip(asked, replies, strict=True):
      each.answers.append(
        [
          x._replace(text=templates.complete(each.opened, x.text))
          for x in group
        ]
      )
  over: list[_Running] = []
  rest: list[_Running] = []
  for each in part:
    again = each.prompt is not None and _asks_again(each, prompt)
    (rest if again else over).append(each)
  for each in part:  # Their share, tools that ran included.
    each.seconds += (time.perf_counter() - begun) / len(part)
  answers.append([row for each in over for row in _rows(each)])
  advance(sum(len(each.samples) for each in over))
  return rest


def _asks_again(each: _Running, prompt) -> bool:
  try:
    # Of several samples, one reply stands for all: the row asks once.
    talk = each.episode.send(each.answers[-1][0].text)
  except StopIteration:
    return False
  each.prompt, each.opened = prompt(talk)
  return True


def _rows(each: _Running) -> list[dict]:
  texts = [[turn[g] for turn in each.answers] for g in range(len(each.samples))]
  return [
    {
      'id': each.item.row_id,
      'sample': sample,
      'answers': [reply.text for reply in replies],
      'seconds': each.seconds / len(each.samples),
      'tokens': sum(reply.tokens for reply in replies),
    }
    for sample, replies in zip(each.samples, texts, strict=True)
  ]


def sample_id(row_id: str, sample: int, turn: int) -> int:
  """What an answer's draws are made from: facts alone, in [0, 2^31)."""
  digest = hashlib.sha256(f'{row_id}/{sample}/{turn}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1
