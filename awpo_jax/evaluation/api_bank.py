"""API-Bank, scored as ToolRL does: is any predicted call the expected one?"""

from collections.abc import Mapping
from typing import Any

from awpo_jax.evaluation import call_parsing
from awpo_jax.rollout.text import tool_calls


def is_correct(text: str, answer: tool_calls.ToolCall) -> bool:
  """Whether a reply holds the expected call.

  Read are, after the thought, the JSON lines between the last `<tool_call>` and
  the next `</tool_call>`, all of them where there are no tags. An object
  without a name or parameters counts as the parameters of the expected tool;
  parameters that are null or an empty string are none. What is no object ends
  the reading, with what was found so far.

  Args:
    text: model output, anything.
    answer: the expected call; names and values must be equal, letter by letter.
  """
  return any(
    call.get('name') == answer.name
    and call.get('parameters') == dict(answer.parameters)
    for call in predicted_calls(text, answer.name)
  )


def predicted_calls(text: str, name: str) -> list[Mapping[str, Any]]:
  """The calls that `is_correct` compares; `name` is the expected tool's."""
  text = tool_calls.strip_thought(text)
  block = text.rpartition('<tool_call>')[2].partition('</tool_call>')[0]
  calls: list[Mapping[str, Any]] = []
  for value in call_parsing.parse_lines(block):
    if not isinstance(value, dict):
      break
    whole = {'name', 'parameters'} <= set(value)
    call = value if whole else {'name': name, 'parameters': value}
    calls.append(tool_calls.filled(call))
  return calls


def error_type(text: str, answer: tool_calls.ToolCall) -> str | None:
  """What is wrong with a reply, for the breakdown; None where it is correct.

  The names are ours: upstream only counts.
  """
  if is_correct(text, answer):
    return None
  calls = predicted_calls(text, answer.name)
  if not calls:
    return 'no_call'
  same = [call for call in calls if call['name'] == answer.name]
  if not same:
    return 'wrong_name'
  parameters = [call['parameters'] for call in same]
  if any(
    isinstance(x, dict) and set(x) == set(answer.parameters) for x in parameters
  ):
    return 'wrong_value'
  return 'wrong_parameters'
