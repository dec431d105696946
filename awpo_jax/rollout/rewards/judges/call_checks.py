"""Counts of an answer's calls against schema, request and thought.

Nothing here reads the gold answer, and nothing understands: a value that the
request holds for another purpose, or the wrong one of two tools that are
described alike, passes. All is linear in the texts but for products with
`MAX_PARAMETERS`.
"""

import bisect
import calendar
import collections
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from awpo_jax import types
from awpo_jax.rollout.rewards.judges import english
from awpo_jax.rollout.text import chat_template, tool_calls

MAX_PARAMETERS = 64
"""Parameters whose stated values are looked for in a thought, at most."""
MAX_NAME = 64
"""Characters of a parameter's name that are looked for."""

QUOTED = 0.1
"""What a value of its schema's default's type counts, if not of the type."""

# JSON's names of types and what else data sets write; other names take any.
_KINDS: Mapping[str, tuple[type, ...]] = {
  'string': (str,),
  'date': (str,),
  'time': (str,),
  'datetime': (str,),
  'integer': (int,),
  'number': (int, float),
  'float': (int, float),
  'boolean': (bool,),
  'array': (list,),
  'object': (dict,),
  'null': (type(None),),
}
_MISSING = object()
_MONTHS = {
  name.lower(): str(number)
  for names in (calendar.month_name, calendar.month_abbr)
  for number, name in enumerate(names)
  if name
}
_PERCENT = re.compile(r'(\d{1,9}(?:\.\d{1,9})?) ?(?:%|percent)')
_TOKEN = re.compile(r'\d+(?:\.\d+)?|[^\W\d_]+|[=:"\'\[.!?;\n]')
_LINKS = english.word_set('= : is be to as equal equals')
_FILLERS = english.word_set('parameter value argument field should must set')
_OPENING = frozenset('"\'[')
_STOPS = frozenset('.!?;\n')
_NO = english.word_set('not never no cannot t without nor')
_USES = english.word_set('call use invoke choose pick select')
_RIGHT = english.word_set('right correct true valid accurate sense')
_WRONG = english.word_set('wrong incorrect untrue nonsense mistaken invalid')
_ITSELF = english.word_set(
  'this that these those it all everything above reasoning thought i'
)
_DENIES = english.word_set('none no not nothing never no t neither hardly')
_IS = english.BE | english.word_set('am seem seems isn aren wasn does doesn')


def faults(
  calls: Sequence[tool_calls.ToolCall], tools: Sequence[types.Tool]
) -> float:
  """Breaches of the offered tools' schemas, at least 0.

  One for a call of a tool that is not on offer; else one for each parameter
  that is unknown, missing though required, or of a wrong type or none of its
  `enum`. A parameter is required where
  `chat_template.tool_schemas` says so and it has
  no default. A wrong type that the schema's own default has counts `QUOTED`:
  many data sets describe a number by `"default": ""`, leave it out, and quote
  some of its values.
  """
  by_name = {tool.name: tool for tool in tools}
  schemas = {
    schema['function']['name']: schema['function']['parameters']
    for schema in chat_template.tool_schemas(tools)
  }
  found = 0.0
  for name, parameters in calls:
    if name not in schemas:
      found += 1.0
      continue
    own, specs = by_name[name].parameters, schemas[name]['properties']
    required = {x for x in schemas[name]['required'] if 'default' not in own[x]}
    found += len(required - parameters.keys())
    for key, value in parameters.items():
      if key not in own:
        found += 1.0
      elif value is not None or key in required:
        found += _misfit(value, {**own[key], **specs[key]})
  return found


def _misfit(value: Any, spec: Mapping[str, Any]) -> float:
  """0 where a value has the type of its parameter, 1 or `QUOTED` where not."""
  members, default = spec.get('enum'), spec.get('default', _MISSING)
  if isinstance(members, list) and members:
    return float(value not in members and value != default)
  kinds = spec.get('type')
  if any(
    _is(value, x) for x in (kinds if isinstance(kinds, list) else [kinds])
  ):
    return 0.0
  return QUOTED if type(value) is type(default) else 1.0


def _is(value: Any, kind: Any) -> bool:
  accepted = _KINDS.get(kind) if isinstance(kind, str) else None
  if accepted is None:
    return True
  if isinstance(value, bool):  # An int to Python, not to JSON.
    return bool in accepted
  if kind == 'integer' and isinstance(value, float):
    return value.is_integer()
  return isinstance(value, accepted)


def evidence(
  calls: Sequence[tool_calls.ToolCall],
  dialogue: str,
  tools: Sequence[types.Tool],
) -> float:
  """Mean over argument values of the share of their words with a source.

  Sources are the dialogue and what the schema says of the parameter. Derived
  from the dialogue are numbers of months, percents as shares, and beginnings of
  words of two letters or more (`fr` of French). A member of an `enum` has no
  evidence where the last request names another member and not this one. True,
  false and null need none; 1 without values.
  """
  known = set(english.words(dialogue))
  known |= {_MONTHS[word] for word in known & _MONTHS.keys()}
  known |= {_as_share(number) for number in _PERCENT.findall(dialogue)}
  ordered = sorted(known)
  asked = set(english.words(english.last_request(dialogue)))
  by_name = {tool.name: tool.parameters for tool in tools}
  shares = []
  for name, parameters in calls:
    specs = by_name.get(name, {})
    for key, given in parameters.items():
      spec = specs.get(key, {})
      if _asked_otherwise(given, spec.get('enum'), asked):
        shares.append(0.0)
        continue
      described = set(english.words(str(dict(spec))))
      for value in english.leaves(given):
        words = set(english.words(value))
        if words:
          sourced = sum(
            word in described or _begins(word, known, ordered) for word in words
          )
          shares.append(sourced / len(words))
  return sum(shares) / len(shares) if shares else 1.0


def _begins(word: str, known: Set[str], ordered: Sequence[str]) -> bool:
  if word in known:
    return True
  if len(word) < 2 or not word.isalpha():
    return False
  at = bisect.bisect_left(ordered, word)
  return at < len(ordered) and ordered[at].startswith(word)


def _as_share(word: str) -> str:
  """`4.5` of a percentage as `0.045`; other words as they are."""
  if not word[0].isdecimal() or len(word) > 18:
    return word
  return english.normal(f'{float(word) / 100:.12g}')


def _asked_otherwise(value: Any, members: Any, asked: Set[str]) -> bool:
  if not (isinstance(value, str) and isinstance(members, list)):
    return False
  named = [
    member
    for member in members
    if (words := set(english.words(str(member)))) and words <= asked
  ]
  return bool(named) and value in members and value not in named


def coverage(calls: Sequence[tool_calls.ToolCall], request: str) -> float:
  """Share of what the request says exactly that the arguments hold.

  That is its numbers, and the names of several words that the arguments hold
  some of: a name left out whole may say where or why rather than what. 1 where
  nothing is called.
  """
  values = english.leaves([call.parameters for call in calls])
  held = {word for value in values for word in english.words(value)}
  wanted = {word for word in english.words(request) if word[0].isdigit()}
  for name in english.names(request):
    if held & set(name):
      wanted |= set(name)
  if not calls or not wanted:
    return 1.0
  return len(wanted & held) / len(wanted)


def fit(
  calls: Sequence[tool_calls.ToolCall],
  request: str,
  tools: Sequence[types.Tool],
) -> float:
  """How well the called tools answer to the request, among those on offer.

  A tool answers to the words that the request shares with its name, its
  description and its parameters' names; a word weighs log(1 + n / d), d of the
  n tools having it. 1 where each called tool answers at least as well as every
  other one, else the ratio of the least called to the best other one.
  """
  asked = set(english.words(request)) - english.COMMON
  about = {tool.name: _about(tool) & asked for tool in tools}
  having = collections.Counter(word for has in about.values() for word in has)
  answers = {
    name: sum(math.log(1.0 + len(about) / having[word]) for word in has)
    for name, has in about.items()
  }
  called = {call.name for call in calls} & answers.keys()
  others = [value for name, value in answers.items() if name not in called]
  best = max(others, default=0.0)
  if not called or best <= 0.0:
    return 1.0
  return min(1.0, min(answers[name] for name in called) / best)


def _about(tool: types.Tool) -> set[str]:
  spaced = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', tool.name)
  return set(
    english.words(f'{spaced} {tool.description} {" ".join(tool.parameters)}')
  )


def contradictions(
  thought: str, answer: tool_calls.Answer, tools: Sequence[types.Tool]
) -> int:
  """How often the thought contradicts what the answer does.

  One each: it names offered tools and none of the called ones; it denies a
  called tool (`do not call X`); it states a parameter (`city is Paris`, `city:
  "Paris"`) only with names or numbers that no call has for it; it takes itself
  back (`retracts`).
  """
  text = f' {" ".join(english.words(thought))} '
  named = named_tools(text, tools)
  called = {call.name for call in answer.calls}
  other = bool(called and named and not called & named)
  denied = any(_denied(_phrase(name), text) for name in called & named)
  misstated = sum(_misstated(thought, answer.calls))
  return other + denied + misstated + retracts(thought)


def named_tools(text: str, tools: Sequence[types.Tool]) -> set[str]:
  """Names of the tools that a text names; its `english.words`, in blanks."""
  return {tool.name for tool in tools if _phrase(tool.name) in text}


def _phrase(name: str) -> str:
  return f' {" ".join(english.words(name))} '


def _denied(phrase: str, text: str) -> bool:
  """Whether the last mention follows `not call`, `never use` or the like."""
  before = set(text[: text.rindex(phrase)].split()[-3:])
  return bool(_NO & before) and bool(_USES & before)


def _misstated(
  thought: str, calls: Sequence[tool_calls.ToolCall]
) -> Iterator[bool]:
  """For each parameter that the thought states: True if no statement agrees."""
  values: dict[tuple[str, ...], set[str]] = {}
  for call in calls:
    for key, value in call.parameters.items():
      name = tuple(english.words(key[:MAX_NAME]))
      words = english.words(json.dumps(value, ensure_ascii=False))
      if name and words and (name in values or len(values) < MAX_PARAMETERS):
        values.setdefault(name, set()).update(words)
  agree: dict[tuple[str, ...], bool] = {}
  for name, word in _statements(thought, values.keys()):
    same = {word, _MONTHS.get(word, word), _as_share(word)} & values[name]
    agree[name] = agree.get(name, False) or bool(same)
  return (not agrees for agrees in agree.values())


def _statements(
  thought: str, names: Set[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], str]]:
  """Names of parameters with the first word of the values stated for them.

  Only what is quoted, capitalised or a number counts as a value.
  """
  tokens = _TOKEN.findall(english.join_thousands(thought))
  words = [english.normal(token) for token in tokens]
  by_first: dict[str, list[tuple[str, ...]]] = {}
  for name in names:
    by_first.setdefault(name[0], []).append(name)
  for start, word in enumerate(words):
    for name in by_first.get(word, ()):
      at = start + len(name)
      if tuple(words[start:at]) != name:
        continue
      value = _value_after(tokens[at : at + 8])
      if value is not None:
        yield name, value


def _value_after(tokens: Sequence[str]) -> str | None:
  """`Paris` of `should be set to "Paris"`; None where no value is stated."""
  linked = quoted = False
  for token in tokens:
    word = english.normal(token)
    if token in _OPENING:
      quoted |= linked
    elif word in _LINKS:
      linked = True
    elif token in _STOPS:
      return None
    elif word not in _FILLERS:
      is_value = quoted or token[0].isdigit() or token[0].isupper()
      return word if linked and is_value else None
  return None


def retracts(thought: str) -> bool:
  """Whether a sentence of the thought takes the thought back.

  It says of `this`, `that`, `it`, `all` or the reasoning that it is not right
  (`none of this is right`, `this is not correct`), or that it is wrong (`that
  is nonsense`): pointer, verb, denial and judgement within six words.
  """
  for sentence in english.SENTENCE_END.split(thought):
    words = english.words(sentence)
    for at, word in enumerate(words):
      if word not in _RIGHT and word not in _WRONG:
        continue
      before = set(words[max(0, at - 5) : at])
      # `no sign that these are wrong`: a denial reaches far.
      reach = 5 if word in _RIGHT else 8
      denied = bool(_DENIES & set(words[max(0, at - reach) : at]))
      if _IS & before and _ITSELF & before and denied == (word in _RIGHT):
        return True
  return False
