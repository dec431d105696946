"""The outcome reward of ToolRL (arXiv:2504.13958), default settings.

  R_out = format + correctness,  format in {0, 1},  correctness in [-3, 3]

The original scorer's own numbers, to the last bit: values are compared as
parsed JSON with Python's `==` (1 == 1.0 == True; strings exactly), the calls
are those after the first `<tool_call>` wherever it stands, and a perfect list
of calls has full correctness under a wrong format. A call without parameters
(absent, null or an empty string) where the reference calls that tool has the
worst correctness, unless all calls are written as in the reference. Reference
answers are read behind their `</think>`: a rationale may mention the tags.
"""

import collections
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax import types
from awpo_jax.rollout.rewards import generators
from awpo_jax.rollout.text import tool_calls

WORST, BEST = -3.0, 3.0


class Outcome(NamedTuple):
  """Both parts of the outcome reward.

  Attributes:
    format: 1 where the answer has the layout of the reference, else 0.
    correctness: in [-3, 3] where calls are expected, else 0.
  """

  format: float
  correctness: float

  @property
  def total(self) -> float:
    return self.format + self.correctness


def outcome_reward(response: str, ground_truth: str) -> Outcome:
  """Scores one answer against the reference answer.

  Args:
    response: model output, anything; what breaks the bounds of `tool_calls`
      cannot be parsed and has the worst correctness.
    ground_truth: reference answer in RLLA's layout.

  Returns:
    The outcome.

  Raises:
    ValueError: the calls of the *reference* cannot be read.
  """
  response = response.strip()
  truth = tool_calls.strip_thought(ground_truth)
  return Outcome(
    format=float(_has_format(response, truth)),
    correctness=_correctness(response, truth),
  )


def has_layout(response: str) -> bool:
  """Whether an answer is a thought and then calls, a reply, or both."""
  response = response.strip()
  return any(
    _has_format(response, truth)
    for truth in ('<tool_call>', '<response>', '<tool_call><response>')
  )


def outcome_bounds(ground_truth: str) -> tuple[float, float]:
  """Worst and best total: (-3, 4) where a call is expected, else (0, 1)."""
  if tool_calls.has_call(ground_truth):
    return WORST, BEST + 1.0
  return 0.0, 1.0


def _is_solved(response: str, outcome: Outcome, best: float) -> bool:
  """Whether the outcome is the best one and no unwanted call is made.

  A call counts behind the thought and, where it can be read, inside it (the
  format of a reply does not look there). What is longer than can be parsed is
  never solved.
  """
  if len(response) > tool_calls.MAX_CHARS or outcome.total < best:
    return False
  return best > 1.0 or not _makes_call(response)


def toolrl(response: str, task: types.Task) -> types.Score:
  """`outcome_reward` as a `types.Reward`, and whether the task is solved."""
  outcome = outcome_reward(response, generators.reference(response, task))
  worst, best = outcome_bounds(task.ground_truth)
  return types.Score(
    value=outcome.total,
    minimum=worst,
    maximum=best,
    parts={'format': outcome.format, 'correctness': outcome.correctness},
    solved=_is_solved(response, outcome, best),
  )


REWARDS: dict[str, types.Reward] = {'toolrl': toolrl}


def _has_format(response: str, truth: str) -> bool:
  r"""Whether the answer has the sections of the reference.

  The same as these patterns, tags counted, in linear time:

    ^<think>.*?</think>$                                           neither
    ^<think>.*?</think>\n<response>.*?</response>$                 reply
    ^<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>$           calls
    ^<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>\n<response>.*?</response>$
  """
  reply, calls = '<response>' in truth, '<tool_call>' in truth
  seams = {
    (False, False): ('<think>', '</think>'),
    (True, False): ('<think>', '</think>\n<response>', '</response>'),
    (False, True): ('<think>', '</think>\n<tool_call>\n', '\n</tool_call>'),
    (True, True): (
      '<think>',
      '</think>\n<tool_call>\n',
      '\n</tool_call>\n<response>',
      '</response>',
    ),
  }[reply, calls]
  tags = ['response'] * reply + ['tool_call'] * calls
  once = all(
    response.count(f'<{tag}>') == 1 == response.count(f'</{tag}>')
    for tag in tags
  )
  return once and _is_joined(response, seams)


def _is_joined(text: str, seams: Sequence[str]) -> bool:
  """Whether text is `seams` in order, anything between, start to end."""
  first, *middle, last = seams
  if not text.startswith(first):
    return False
  position = len(first)
  for seam in middle:
    found = text.find(seam, position)
    if found < 0:
      return False
    position = found + len(seam)
  return text.endswith(last, position)


def _correctness(response: str, truth: str) -> float:
  if '<tool_call>' not in truth:
    return 0.0
  gold = _reference_calls(truth)
  predicted = _first_calls(response)
  if predicted is None:
    return WORST
  if predicted == _written_calls(truth):
    return BEST  # Whatever they lack, they lack it alike.
  score = _similarity_of_calls(gold, predicted)
  best = 1.0 + sum(1.0 + len(call['parameters']) for call in gold)
  return (BEST - WORST) * score / best + WORST


@functools.lru_cache(maxsize=4096)
def _reference_calls(truth: str) -> list[Any]:
  calls = tool_calls.parse_calls(tool_calls.section(truth, 'tool_call') or '')
  if isinstance(calls, tool_calls.ParseFailure):
    raise ValueError(
      f'cannot read the calls of the reference answer: {calls.reason}; its '
      f'<tool_call> must hold one JSON object per line: {truth[:200]!r}'
    )
  return [call._asdict() for call in calls]


@functools.lru_cache(maxsize=4096)
def _written_calls(truth: str) -> Any:
  """The calls of a reference that can be read, as they stand in it."""
  return tool_calls.parse_json_lines(
    tool_calls.section(truth, 'tool_call') or ''
  )


def _first_calls(response: str) -> list[dict[str, Any]] | None:
  """Calls behind the first `<tool_call>`; None if they cannot be read."""
  if '<tool_call>' not in response or '</tool_call>' not in response:
    return None
  # Up to whichever tag is next: a second opening one also ends the block.
  block = response.split('<tool_call>', 2)[1].split('</tool_call>', 1)[0]
  calls = tool_calls.parse_json_lines(block)
  if isinstance(calls, tool_calls.ParseFailure):
    return None
  for call in calls:
    if not isinstance(call, dict) or 'name' not in call:
      return None
    if not isinstance(call['name'], Hashable):
      return None
  return calls


def _similarity_of_calls(
  gold: Sequence[Mapping[str, Any]], predicted: Sequence[Mapping[str, Any]]
) -> float:
  """Names alike, plus the best unused call of its name for each gold call."""
  names = {call['name'] for call in gold}
  for call in predicted:
    if call['name'] in names and not isinstance(call.get('parameters'), dict):
      return 0.0
  score = _overlap(
    [call['name'] for call in gold], [call['name'] for call in predicted]
  )
  unused = list(predicted)
  for call in gold:
    rivals = [rival for rival in unused if rival['name'] == call['name']]
    values = [_similarity(call['parameters'], r['parameters']) for r in rivals]
    best = max(values, default=0.0)
    if best > 0.0:
      chosen = rivals[values.index(best)]
      unused = [rival for rival in unused if rival is not chosen]
      score += best
  return score


def _similarity(gold: Mapping[str, Any], predicted: Mapping[str, Any]) -> float:
  """Overlap of the parameter names plus the number of equal values."""
  equal = sum(
    1.0 for key in gold if key in predicted and predicted[key] == gold[key]
  )
  return _overlap(list(gold), list(predicted)) + equal


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
  """|A and B| / |A or B| of multisets; 1 for equal lists, 0 if one is empty."""
  if first == second:
    return 1.0
  both = collections.Counter(first) & collections.Counter(second)
  common = both.total()
  return common / (len(first) + len(second) - common) if common else 0.0


def _makes_call(response: str) -> bool:
  # Behind the first `</think>`, with which the thought ends for the format.
  if '<tool_call>' in response.partition('</think>')[2]:
    return True
  return any(
    not isinstance(tool_calls.parse_calls(block), tool_calls.ParseFailure)
    for block in tool_calls.sections(response, 'tool_call')
  )
