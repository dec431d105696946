"""The quickstart's tools made to run: results, effects, tools that fail.

Results are drawn, not computed, by a hash of the call: what counts is that the
next call, or the reply, uses them. A task's scenario holds

    seed      of the results
    held_out  whether results come from the held-out values
    busy      tool -> how often it must be tried before it works
    closed    tools that never work
    effects   the calls that should have worked in the end, [name, parameters]
    tried     the calls of closed tools that should have been tried, likewise
    reply     what the last answer must say, and
    never     what it must not say; null for nothing
"""

import collections
import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from awpo_jax import types
from awpo_jax.rollout.environments import outcomes, protocol, quickstart_values
from awpo_jax.rollout.environments import quickstart_tools as tables
from awpo_jax.rollout.text import tool_calls

BUSY, CLOSED = 'busy', 'closed'

_JSON_TYPES: Mapping[str, type | tuple[type, ...]] = {
  'string': str,
  'enum': str,
  'date': str,
  'integer': int,
  'float': (int, float),
  'list': list,
}
_RESULTS: Mapping[str, quickstart_values.Argument] = {
  'call_person': quickstart_values.Argument('result', 'string', source='topic'),
  'find_recipe': quickstart_values.Argument('result', 'string', source='food'),
  **{
    name: quickstart_values.Argument('result', 'float')
    for name in ('book_hotel', 'convert_dollars', 'compute_tip')
  },
}
"""What tools return where it is not an integer."""
_INTEGER = quickstart_values.Argument('result', 'integer')


def result(
  call: tool_calls.ToolCall, *, seed: int, held_out: bool
) -> quickstart_values.Value:
  """What a call returns once its tool works; the same for the same call."""
  text = json.dumps([seed, *call], sort_keys=True)
  argument = _RESULTS.get(call.name, _INTEGER)
  return quickstart_values.draw(
    random.Random(f'result/{text}'), argument, held_out=held_out
  )


class QuickstartEnvironment:
  """One request of the user; a turn without a call ends the episode."""

  def __init__(self, limits: object = None):
    del limits  # Nothing here takes time or memory.

  def reset(self, task: types.Task) -> protocol.State:
    scenario = task.scenario
    return {
      'offered': [tool.name for tool in task.tools],
      'seed': scenario['seed'],
      'held_out': scenario['held_out'],
      'busy': dict(scenario['busy']),
      'closed': list(scenario['closed']),
      'effects': [],
      'tried': [],
    }

  def step(
    self, state: protocol.State, calls: Sequence[tool_calls.ToolCall]
  ) -> protocol.Step:
    after = {
      **state,
      'busy': dict(state['busy']),
      'effects': list(state['effects']),
      'tried': list(state['tried']),
    }
    observations = tuple(
      protocol.Observation('obs', json.dumps(_run(after, call)))
      for call in calls
    )
    return protocol.Step(after, observations, not calls)

  def outcome(
    self,
    task: types.Task,
    state: protocol.State,
    turns: Sequence[protocol.Turn],
  ) -> types.Score:
    made, wanted = (
      [*parts['effects'], *parts['tried']] for parts in (state, task.scenario)
    )
    effects = _overlap(made, wanted)
    replied = _replied(turns, task.scenario['reply'], task.scenario['never'])
    return outcomes.score(
      turns, (effects + replied) / 2, {'effects': effects, 'replied': replied}
    )


def _run(state: dict[str, Any], call: tool_calls.ToolCall) -> dict[str, Any]:
  """Result of a call; `state` is the copy that it takes effect on."""
  if call.name not in state['offered'] or call.name not in tables.BY_NAME:
    return {'error': 'no such tool'}
  if not _fits(call):
    return {'error': 'wrong arguments'}
  written = [call.name, dict(call.parameters)]
  if call.name in state['closed']:
    if written not in state['tried']:  # Once more does no harm.
      state['tried'].append(written)
    return {'error': CLOSED}
  if state['busy'].get(call.name, 0) > 0:
    state['busy'][call.name] -= 1
    return {'error': BUSY}
  state['effects'].append(written)
  value = result(call, seed=state['seed'], held_out=state['held_out'])
  return {'result': value}


def _fits(call: tool_calls.ToolCall) -> bool:
  """Whether names and types of the parameters are those of the tool."""
  arguments = tables.BY_NAME[call.name].arguments
  if set(call.parameters) != {argument.name for argument in arguments}:
    return False
  return all(
    isinstance(call.parameters[one.name], _JSON_TYPES[one.type])
    and not isinstance(call.parameters[one.name], bool)
    for one in arguments
  )


def _overlap(made: Sequence[Any], wanted: Sequence[Any]) -> float:
  """|made and wanted| / |made or wanted| as multisets; 1 if both are empty."""
  counts = [
    collections.Counter(json.dumps(call, sort_keys=True) for call in calls)
    for calls in (made, wanted)
  ]
  union = (counts[0] | counts[1]).total()
  return (counts[0] & counts[1]).total() / union if union else 1.0


def _replied(
  turns: Sequence[protocol.Turn], wanted: str, never: str | None
) -> float:
  """1 where the episode ends with a reply that says what it must."""
  if not turns or turns[-1].calls:
    return 0.0
  answer = tool_calls.parse(turns[-1].text)
  if isinstance(answer, tool_calls.ParseFailure) or answer.response is None:
    return 0.0
  says = _says(answer.response, wanted)
  return float(says and not (never and _says(answer.response, never)))


def _says(text: str, words: str) -> bool:
  """Whether a text holds the words, not as a part of longer ones."""
  return bool(re.search(rf'(?<![\w.]){re.escape(words)}(?!\w|\.\d)', text))
