"""A judge of the reasoning that needs no model: fixed counts on the thought.

  total = (0.4 relevance + 0.3 tools + 0.3 grounding)
          * order * originality * variety * modesty * support * length

All parts lie in [0, 1]. The sum asks whether the thought is about this request
and explains this answer; the factors take away what is not reasoning: shuffled
words, a copied prompt, repetition, praise of itself, invented facts. Counts of
words can be gamed by who knows them; the rubric is a cheap stand-in for a judge
model, for tests and small runs. It reads English, and never the gold answer.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from awpo_jax import types
from awpo_jax.rollout import tool_calls

MAX_CHARS = 1 << 15

_WORD = re.compile(r'\d+(?:\.\d+)?|[^\W\d_]+')
_SENTENCE_END = re.compile(r'[.!?](?:\s|$)|\n')


def _set(text: str) -> frozenset[str]:
  return frozenset(text.split())


_DETERMINERS = _set('the a an its their my your our every')
_PREPOSITIONS = _set('of in for with from by at on into')
_MODALS = _set('can could should would will must may')
_BE = _set('is are was were')
_VERBS = _MODALS | _BE | _set('be been has have had do does did')
_JOINS = _set('and or but if because so')
_SUBJECTS = _set('i you he she it they we')
_POINTERS = _set('this that these those there which who what when where how')
FUNCTION_WORDS = (
  _DETERMINERS | _PREPOSITIONS | _VERBS | _JOINS | _SUBJECTS | _POINTERS
) | _set(
  'to as not no than then also any all some each only just while since about '
  'them his her him me us s t'
)
# Words of a class, and words that English does not put behind them. `to is` and
# `from is` stay: a thought may spell out parameters of these names.
_IS = _set('is are')
_NEVER_AFTER = (
  (_DETERMINERS, FUNCTION_WORDS - _set('all not only no')),
  (_PREPOSITIONS, _PREPOSITIONS | _VERBS - _IS | _JOINS | _set('i he they we')),
  (
    _set('to'),
    _PREPOSITIONS | _MODALS | _JOINS | _set('to was were i they we'),
  ),
  (_MODALS, _DETERMINERS | _PREPOSITIONS | _VERBS - _set('be have do')),
  (_BE, _MODALS | _BE | _set('do does did has have had')),
  (_SUBJECTS - _set('it you'), _DETERMINERS | _PREPOSITIONS | _SUBJECTS),
  (_JOINS, _set('and or but of')),
)
_ASKS_FOR_MORE = _DETERMINERS | _PREPOSITIONS | _MODALS | _JOINS | {'to'}
# Content words that every request and every thought may have.
_COMMON = FUNCTION_WORDS | _set(
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
_REASONING = _set('reasoning thought thinking rationale judge grader')
_PRAISE = _set(
  'perfect perfectly excellent flawless brilliant outstanding impeccable '
  'correct good great best sound full high maximum maximal optimal superb'
)
_WHY_NO_CALL = _set(
  'no none not cannot missing lacks lack without unavailable unrelated already '
  'directly instead ask answer clarify specify incomplete unclear neither'
)
_ABOUT_TOOLS = _set('tool tools function functions parameter parameters call')


class Rubric(NamedTuple):
  """Parts of a thought's score, each in [0, 1].

  Attributes:
    relevance: content words of the last request that the thought takes up.
    tools: the called tools are named, others are not; without a call: the
      thought says why none is made.
    grounding: argument values stand in the thought and in the dialogue; without
      a call: the thought prepares the reply.
    order: words follow each other as in English prose.
    originality: the thought does not copy the prompt.
    variety: the thought does not repeat itself.
    modesty: sentences that do not praise the reasoning itself.
    support: names and numbers of the thought stand in prompt or answer.
    length: neither a few words nor endless.
  """

  relevance: float
  tools: float
  grounding: float
  order: float
  originality: float
  variety: float
  modesty: float
  support: float
  length: float

  @property
  def total(self) -> float:
    content = 0.4 * self.relevance + 0.3 * self.tools + 0.3 * self.grounding
    manner = self.order * self.originality * self.variety * self.modesty
    return content * manner * self.support * self.length


NO_THOUGHT = Rubric(*[0.0] * len(Rubric._fields))


def rubric(requests: Sequence[types.JudgeRequest]) -> list[float]:
  """The rubric's total of each answer, as a `types.Judge`."""
  return [score_thought(*request).total for request in requests]


def score_thought(
  user: str, tools: Sequence[types.Tool], response: str
) -> Rubric:
  """Scores the text inside `<think>` of one answer.

  Args:
    user: the dialogue in RLLA's layout, or a bare request.
    tools: the offered tools.
    response: model output, anything. Linear time; nothing is scored that has
      no closed thought or one of more than `MAX_CHARS` characters.

  Returns:
    The parts; all 0 where there is no thought.
  """
  thought = tool_calls.section(response, 'think') or ''
  words = _words(thought) if len(thought) <= MAX_CHARS else []
  if not words:
    return NO_THOUGHT
  user = user[-MAX_CHARS:]
  answer = tool_calls.parse(response)
  if isinstance(answer, tool_calls.ParseFailure):
    answer = tool_calls.Answer(thought, (), None)
  tool_words = _words(_tool_text(tools))
  user_words = _words(user)
  said = set(words)
  known = {*user_words, *tool_words, *_words(_answer_text(answer))}
  return Rubric(
    relevance=relevance(said, _last_request(user)),
    tools=tool_choice(words, tools, answer),
    grounding=grounding(said, set(user_words), answer),
    order=order(thought),
    originality=originality(words, (user_words, tool_words)),
    variety=variety(words),
    modesty=modesty(thought),
    support=support(thought, known),
    length=length(len(words)),
  )


def relevance(said: Set[str], request: str) -> float:
  """1 - (1 - c)^2, c the share of the request's content words in the thought.

  Capitalised words and numbers, the rare words of a request, count twice.
  """
  weights: dict[str, float] = {}
  for position, token in enumerate(_tokens(request)):
    word = _normal(token)
    if word not in _COMMON:
      rare = token[0].isdigit() or (position > 0 and token[0].isupper())
      weights[word] = max(weights.get(word, 0.0), 2.0 if rare else 1.0)
  if not weights:
    return 1.0
  covered = sum(weight for word, weight in weights.items() if word in said)
  return 1.0 - (1.0 - covered / sum(weights.values())) ** 2


def tool_choice(
  words: Sequence[str], tools: Sequence[types.Tool], answer: tool_calls.Answer
) -> float:
  """Whether the thought names the tools that the answer calls.

  With calls: the share of them named, times 0.8 + 0.2 the share of the named
  ones called (to weigh up others is fine, to list them all is not reasoning).
  Without: half for a word of why, half for speaking of tools at all.
  """
  text = f' {" ".join(words)} '
  named = {
    tool.name for tool in tools if f' {" ".join(_words(tool.name))} ' in text
  }
  called = {call.name for call in answer.calls}
  if called:
    right = len(called & named)
    precision = right / max(len(named), 1)
    return right / len(called) * (0.8 + 0.2 * precision)
  if answer.response is None:
    return 0.0
  said = set(words)
  about_tools = bool(named or said & _ABOUT_TOOLS)
  return 0.5 * bool(said & _WHY_NO_CALL) + 0.5 * about_tools


def grounding(
  said: Set[str], dialogue: Set[str], answer: tool_calls.Answer
) -> float:
  """Mean over argument values: 0.6 for the thought, 0.4 for the dialogue.

  A value's share is that of its words; true, false and null have no evidence
  and are left out. The dialogue counts only for what the thought has. Without
  a call: the share of the reply's content words in the thought, 50 % is enough.
  """
  if not answer.calls:
    reply = set(_words(answer.response or '')) - FUNCTION_WORDS
    return min(1.0, len(reply & said) / len(reply) / 0.5) if reply else 0.0
  shares = []
  for value in _leaves([call.parameters for call in answer.calls]):
    words = set(_words(value))
    if words:
      both = len(words & said & dialogue)
      shares.append((0.6 * len(words & said) + 0.4 * both) / len(words))
  return sum(shares) / len(shares) if shares else 1.0


def order(thought: str) -> float:
  """Whether function words and sentence marks stand where English puts them.

  1 - 3 f, f the share of faults among the places looked at (`_faults`), times
  the share of function words over 20 %, at most 1: a list of key words is not
  prose.
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
  fault_share = faults / places if places else 0.0
  return max(0.0, 1.0 - 3.0 * fault_share) * min(1.0, share / 0.2)


def originality(
  words: Sequence[str], sources: Iterable[Sequence[str]]
) -> float:
  """1 up to 20 % of the word 5-grams copied from a source, 0 from 70 %."""
  size = min(5, len(words))
  copied = set().union(*(_ngrams(source, size) for source in sources))
  grams = list(_ngrams(words, size))
  share = sum(gram in copied for gram in grams) / len(grams)
  return _ramp(share, zero=0.7, one=0.2)


def variety(words: Sequence[str]) -> float:
  """1 from 80 % different word 3-grams on, 0 up to 50 %."""
  grams = list(_ngrams(words, min(3, len(words))))
  return _ramp(len(set(grams)) / len(grams), zero=0.5, one=0.8)


def modesty(thought: str) -> float:
  """Share of sentences that do not call the reasoning good."""
  sentences = [set(_words(part)) for part in _SENTENCE_END.split(thought)]
  sentences = [sentence for sentence in sentences if sentence]
  praising = sum(
    bool(sentence & _REASONING and sentence & _PRAISE) for sentence in sentences
  )
  return 1.0 - praising / max(len(sentences), 1)


def support(thought: str, known: Set[str]) -> float:
  """0.5 + 0.5 the share of the thought's names and numbers that are known.

  Names are capitalised words within a sentence.
  """
  facts, starts = [], True
  for token in thought.split():
    bare = token.lstrip('"\'(*`')
    if bare[:1].isdigit() or (bare[:1].isupper() and not starts):
      facts.extend(_words(bare))
    starts = token.rstrip('"\')*`')[-1:] in '.!?:'
  facts = [word for word in facts if word not in _COMMON]
  if not facts:
    return 1.0
  return 0.5 + 0.5 * sum(word in known for word in facts) / len(facts)


def length(words: int) -> float:
  """Rises to 1 at 8 words, falls from 600 to 0 at 1200."""
  return min(_ramp(words, zero=0, one=8), _ramp(words, zero=1200, one=600))


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


def _last_request(user: str) -> str:
  """Text of the last `<user>` turn, or everything where there is none."""
  _, opened, rest = user.rpartition('<user>')
  return rest.partition('</user>')[0] if opened else user


def _tool_text(tools: Sequence[types.Tool]) -> str:
  """Names, descriptions and parameters, in the order of the prompt."""
  lines = []
  for tool in tools:
    parameters = json.dumps(dict(tool.parameters), default=str)
    lines.append(f'{tool.name}\n{tool.description}\n{parameters}')
  return '\n'.join(lines)[:MAX_CHARS]


def _answer_text(answer: tool_calls.Answer) -> str:
  values = _leaves([call.parameters for call in answer.calls])
  return ' '.join((*values, (answer.response or '')[:MAX_CHARS]))


def _leaves(value: Any) -> Iterator[str]:
  """Strings and numbers of a JSON value, as text."""
  if isinstance(value, Mapping):
    value = list(value.values())
  if isinstance(value, list):
    for item in value:
      yield from _leaves(item)
  elif value is not None and not isinstance(value, bool):
    yield str(value)


def _tokens(text: str) -> list[str]:
  return _WORD.findall(re.sub(r'(?<=\d),(?=\d{3})', '', text))


def _words(text: str) -> list[str]:
  return [_normal(token) for token in _tokens(text)]


def _normal(token: str) -> str:
  """Lower case, no plural s, numbers without idle zeros: `Five`, 5.0 -> 5."""
  if token[0].isdigit():
    if '.' in token:
      token = token.rstrip('0').rstrip('.')
    return token.lstrip('0') or '0'
  word = token.lower()
  if word in _COMMON:
    return word
  if len(word) > 3 and word.endswith('s') and not word.endswith('ss'):
    word = word[:-1]
  return _NUMBERS.get(word, word)


def _ngrams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
  return zip(*(words[start:] for start in range(size)), strict=False)


def _ramp(value: float, *, zero: float, one: float) -> float:
  return min(1.0, max(0.0, (value - zero) / (one - zero)))
