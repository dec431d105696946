"""What the rubric knows of English: words, names, numbers, and their order."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_WORD = re.compile(r'\d+(?:\.\d+)?|[^\W\d_]+')
SENTENCE_END = re.compile(r'[.!?](?:\s|$)|\n')
_THOUSANDS = re.compile(r'(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])')


def word_set(text: str) -> frozenset[str]:
  """The words of a list in a text."""
  return frozenset(text.split())


DETERMINERS = word_set('the a an its their my your our every')
PREPOSITIONS = word_set('of in for with from by at on into')
MODALS = word_set('can could should would will must may')
BE = word_set('is are was were')
VERBS = MODALS | BE | word_set('be been has have had do does did')
JOINS = word_set('and or but if because so')
SUBJECTS = word_set('i you he she it they we')
POINTERS = word_set('this that these those there which who what when where how')
FUNCTION_WORDS = (
  DETERMINERS | PREPOSITIONS | VERBS | JOINS | SUBJECTS | POINTERS
) | word_set(
  'to as not no than then also any all some each only just while since about '
  'them his her him me us s t'
)
# Content words that every request and every thought may have.
COMMON = FUNCTION_WORDS | word_set(
  'user users request requests tool tools function functions call calls use '
  'using want wants need needs please like help find give get know let me '
  'provide parameter parameters okay information could tell'
)
_NUMBERS = {
  word: str(number)
  for number, word in enumerate(
    ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight')
  )
}
# Words of a class, and words that English does not put behind them. `to is` and
# `from is` stay: a thought may spell out parameters of these names.
_IS = word_set('is are')
_NEVER_AFTER = (
  (DETERMINERS, FUNCTION_WORDS - word_set('all not only no')),
  (PREPOSITIONS, PREPOSITIONS | VERBS - _IS | JOINS | word_set('i he they we')),
  (
    word_set('to'),
    PREPOSITIONS | MODALS | JOINS | word_set('to was were i they we'),
  ),
  (MODALS, DETERMINERS | PREPOSITIONS | VERBS - word_set('be have do')),
  (BE, MODALS | BE | word_set('do does did has have had')),
  (SUBJECTS - word_set('it you'), DETERMINERS | PREPOSITIONS | SUBJECTS),
  (JOINS, word_set('and or but of')),
)
_ASKS_FOR_MORE = DETERMINERS | PREPOSITIONS | MODALS | JOINS | {'to'}


def last_request(user: str) -> str:
  """Text of the last `<user>` turn, or everything where there is none."""
  _, opened, rest = user.rpartition('<user>')
  return rest.partition('</user>')[0] if opened else user


def leaves(value: Any) -> Iterator[str]:
  """Strings and numbers of a JSON value, as text."""
  if isinstance(value, Mapping):
    value = list(value.values())
  if isinstance(value, list):
    for item in value:
      yield from leaves(item)
  elif value is not None and not isinstance(value, bool):
    yield str(value)


def facts(text: str) -> list[str]:
  """Words of the `names`, numbers among them."""
  return [word for name in names(text) for word in name]


def names(text: str) -> list[list[str]]:
  """Capitalised words that do not open a sentence, and numbers, as `words`.

  Neighbours without a mark between them are one name.
  """
  found: list[list[str]] = []
  starts, goes_on = True, False
  for token in text.split():
    bare = token.lstrip('"\'(*`')
    counts = bare[:1].isdigit() or (bare[:1].isupper() and not starts)
    if counts:
      if not (goes_on and bare == token):
        found.append([])
      found[-1] += [word for word in words(bare) if word not in COMMON]
    goes_on = counts and token[-1].isalnum()
    starts = token.rstrip('"\')*`')[-1:] in '.!?:'
  return found


def tokens(text: str) -> list[str]:
  """Words and numbers as written; a comma between thousands is left out."""
  return _WORD.findall(join_thousands(text))


def join_thousands(text: str) -> str:
  """Numbers without the commas between their thousands."""
  return _THOUSANDS.sub(lambda match: match[0].replace(',', ''), text)


def words(text: str) -> list[str]:
  """`tokens`, each as `normal` writes it."""
  return [normal(token) for token in tokens(text)]


def normal(token: str) -> str:
  """Lower case, no plural s, numbers without idle zeros: `Five`, 5.0 -> 5."""
  if token[0].isdigit():
    if '.' in token:
      token = token.rstrip('0').rstrip('.')
    return token.lstrip('0') or '0'
  word = token.lower()
  if word in COMMON:
    return word
  if len(word) > 3 and word.endswith('s') and not word.endswith('ss'):
    word = word[:-1]
  return _NUMBERS.get(word, word)


def ngrams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
  """Every `size` neighbouring words."""
  return zip(*(words[start:] for start in range(size)), strict=False)


def ramp(value: float, *, zero: float, one: float) -> float:
  """Linear from 0 at `zero` to 1 at `one`, and level outside."""
  return min(1.0, max(0.0, (value - zero) / (one - zero)))


def order(thought: str) -> float:
  """Whether function words and sentence marks stand where English puts them.

  1 - 3 f, f the share of faults among the places looked at (`_faults`), times
  0.25 + 0.75 p, p the share of function words over 20 %, at most 1: a list of
  key words is not prose.
  """
  tokens = thought.split()
  cores = [token.strip('.,;:!?"\'()*`').lower() for token in tokens]
  places = faults = 0
  pairs = itertools.pairwise(zip(tokens, cores, strict=True))
  for (left, a), (right, b) in pairs:
    for fault in _faults(left, a, right, b):
      places += 1
      faults += fault
  share = sum(core in FUNCTION_WORDS for core in cores) / len(cores)
  prose = 0.25 + 0.75 * min(1.0, share / 0.2)
  fault_share = faults / places if places else 0.0
  return max(0.0, 1.0 - 3.0 * fault_share) * prose


def _faults(left: str, a: str, right: str, b: str) -> Iterator[bool]:
  """For each rule that applies to two neighbours: is it broken?"""
  end = left.rstrip('"\')*`')[-1:]
  if end in ('.', '!', '?'):
    if b in FUNCTION_WORDS:
      yield right[:1].islower()
  elif b in FUNCTION_WORDS and b != 'i' and right[:1].isupper():
    yield left[-1:].isalnum() or left[-1:] == ','
  if a in _ASKS_FOR_MORE:
    yield end in ('.', '!', '?', ',', ';')
  for words, after in _NEVER_AFTER:
    if a in words:
      yield b in after
