"""A judge of the reasoning without a model: it counts and understands nothing.

  total = (0.2 + 0.8 (0.4 relevance + 0.3 tools + 0.3 grounding))
          * order * originality * variety * modesty * support * length
          * schema * evidence * coverage * fit * consistency

All parts lie in [0, 1]. The sum asks whether the thought is about this request
and explains this answer. The factors of the second line take away what is not
reasoning: shuffled words, a copied prompt, repetition, praise of itself,
invented facts. Those of the third take away what is not consistent: calls that
break the schemas on offer or hold what nobody asked for, and thoughts that say
other than the calls do (`call_checks`). It reads English, never the gold
answer, and is a stand-in for a judge model, for tests and small runs.

What it can tell was measured, see docs/rewards.md: of the quickstart's answers
a solved one scores higher than one that is not in 91% of pairs. Measure it on
yours: `experiments/judge.py --label=solved`.

What it cannot tell: whether a thought is reasoning at all. A template that
repeats the request and spells out whatever call follows scores high if the call
breaks no rule; a value that the request holds for something else, a call too
few, or the wrong one of two tools described alike is seldom seen; nor is a
contradiction in other words than those looked for. The counts can
be gamed: a policy trained on the score learns to please the rubric.
"""

import json
import math
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import call_checks, english
from awpo_jax.rollout.text import tool_calls

MAX_CHARS = 1 << 15

# Of a thought that says nothing of its answer, and the rest that it can earn.
_LEAST, _CONTENT = 0.2, 0.8
# What each breach of a schema, and each contradiction, leaves of the score.
_FAULT = 0.3

NOTE = (
  'reasoning is the score of --judge=rubric: it counts words and checks calls, '
  'and cannot tell whether a thought is reasoning.'
)
"""What to say where the score is shown."""

_REASONING = english.word_set(
  'reasoning thought thinking rationale judge grader'
)
_PRAISE = english.word_set(
  'perfect perfectly excellent flawless brilliant outstanding impeccable '
  'correct good great best sound full high maximum maximal optimal superb'
)
_WHY_NO_CALL = english.word_set(
  'no none not cannot missing lacks lack without unavailable unrelated already '
  'directly instead ask answer clarify specify incomplete unclear neither'
)
_ABOUT_TOOLS = english.word_set(
  'tool tools function functions parameter parameters call'
)


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
    schema: 0.3 to the number of `call_checks.faults`; 0.3 without an answer.
    evidence: half lost where no argument value has a source.
    coverage: half lost where the arguments hold no number of the request.
    fit: half lost where other offered tools answer to the request alone.
    consistency: 0.3 to the number of `call_checks.contradictions`.
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
  schema: float
  evidence: float
  coverage: float
  fit: float
  consistency: float

  @property
  def total(self) -> float:
    about = 0.4 * self.relevance + 0.3 * self.tools + 0.3 * self.grounding
    return (_LEAST + _CONTENT * about) * math.prod(self[3:])


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
  words = english.words(thought) if len(thought) <= MAX_CHARS else []
  if not words:
    return NO_THOUGHT
  user = user[-MAX_CHARS:]
  answer = tool_calls.parse(response)
  if isinstance(answer, tool_calls.ParseFailure):
    answer = tool_calls.Answer(thought, (), None)
  tool_words = english.words(_tool_text(tools))
  user_words = english.words(user)
  request = english.last_request(user)
  said = set(words)
  known = {*user_words, *tool_words, *english.words(_answer_text(answer))}
  return Rubric(
    relevance=relevance(said, request),
    tools=tool_choice(words, tools, answer),
    grounding=grounding(said, set(user_words), answer),
    order=english.order(thought),
    originality=originality(words, (user_words, tool_words)),
    variety=variety(words),
    modesty=modesty(thought),
    support=support(thought, known),
    length=length(len(words)),
    schema=_FAULT ** _faults(answer, tools),
    evidence=0.5 + 0.5 * call_checks.evidence(answer.calls, user, tools),
    coverage=0.5 + 0.5 * call_checks.coverage(answer.calls, request),
    fit=0.5 + 0.5 * call_checks.fit(answer.calls, request, tools),
    consistency=_FAULT ** call_checks.contradictions(thought, answer, tools),
  )


def _faults(answer: tool_calls.Answer, tools: Sequence[types.Tool]) -> float:
  if not answer.calls and answer.response is None:
    return 1.0
  return call_checks.faults(answer.calls, tools)


def relevance(said: Set[str], request: str) -> float:
  """1 - (1 - c)^2, c the share of the request's content words in the thought.

  Capitalised words and numbers, the rare words of a request, count twice.
  """
  weights: dict[str, float] = {}
  for position, token in enumerate(english.tokens(request)):
    word = english.normal(token)
    if word not in english.COMMON:
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
  named = call_checks.named_tools(f' {" ".join(words)} ', tools)
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
    reply = set(english.words(answer.response or '')) - english.FUNCTION_WORDS
    return min(1.0, len(reply & said) / len(reply) / 0.5) if reply else 0.0
  shares = []
  for value in english.leaves([call.parameters for call in answer.calls]):
    words = set(english.words(value))
    if words:
      both = len(words & said & dialogue)
      shares.append((0.6 * len(words & said) + 0.4 * both) / len(words))
  return sum(shares) / len(shares) if shares else 1.0


def originality(
  words: Sequence[str], sources: Iterable[Sequence[str]]
) -> float:
  """1 up to 20 % of the word 5-grams copied from a source, 0 from 70 %."""
  size = min(5, len(words))
  copied = set().union(*(english.ngrams(source, size) for source in sources))
  grams = list(english.ngrams(words, size))
  share = sum(gram in copied for gram in grams) / len(grams)
  return english.ramp(share, zero=0.7, one=0.2)


def variety(words: Sequence[str]) -> float:
  """1 from 80 % different word 3-grams on, 0 up to 50 %."""
  grams = list(english.ngrams(words, min(3, len(words))))
  return english.ramp(len(set(grams)) / len(grams), zero=0.5, one=0.8)


def modesty(thought: str) -> float:
  """Share of sentences that do not call the reasoning good."""
  sentences = [
    set(english.words(part)) for part in english.SENTENCE_END.split(thought)
  ]
  sentences = [sentence for sentence in sentences if sentence]
  praising = sum(
    bool(sentence & _REASONING and sentence & _PRAISE) for sentence in sentences
  )
  return 1.0 - praising / max(len(sentences), 1)


def support(thought: str, known: Set[str]) -> float:
  """0.5 + 0.5 the share of the thought's names and numbers that are known.

  Names are capitalised words within a sentence.
  """
  facts = english.facts(thought)
  if not facts:
    return 1.0
  return 0.5 + 0.5 * sum(word in known for word in facts) / len(facts)


def length(words: int) -> float:
  """Rises from 1/2 to 1 at 8 words, falls from 600 to 0 at 1200.

  What is short may be right: it loses by what it does not say.
  """
  return min(
    english.ramp(words, zero=-8, one=8), english.ramp(words, zero=1200, one=600)
  )


def _tool_text(tools: Sequence[types.Tool]) -> str:
  """Names, descriptions and parameters, in the order of the prompt."""
  lines = []
  for tool in tools:
    parameters = json.dumps(dict(tool.parameters), default=str)
    lines.append(f'{tool.name}\n{tool.description}\n{parameters}')
  return '\n'.join(lines)[:MAX_CHARS]


def _answer_text(answer: tool_calls.Answer) -> str:
  values = english.leaves([call.parameters for call in answer.calls])
  return ' '.join((*values, (answer.response or '')[:MAX_CHARS]))
