"""API-Bank's equality of calls, by hand."""

import json

import pytest

from awpo_jax.evaluation import api_bank
from awpo_jax.rollout.text import tool_calls

ANSWER = tool_calls.ToolCall('Find', {'city': 'Oslo', 'day': '1'})
RIGHT = json.dumps({'name': 'Find', 'parameters': dict(ANSWER.parameters)})
OTHER = '{"name": "Other", "parameters": {}}'


@pytest.mark.parametrize(
  ('text', 'error'),
  [
    (f'<tool_call>\n{RIGHT}\n</tool_call>', None),
    (RIGHT, None),
    # Any one suffices, also after lines that are none.
    (f'<tool_call>\nwords\n{OTHER}\n{RIGHT}\n</tool_call>', None),
    ('<tool_call>{"day": "1", "city": "Oslo"}</tool_call>', None),
    # Only the last section is read.
    (f'<tool_call>{RIGHT}</tool_call><tool_call></tool_call>', 'no_call'),
    # What is no object ends the reading.
    (f'<tool_call>\n{RIGHT}\n5\n</tool_call>', None),
    (f'<tool_call>\n5\n{RIGHT}\n</tool_call>', 'no_call'),
    (f'<tool_call>\n["name"]\n{RIGHT}\n</tool_call>', 'no_call'),
    (f'<tool_call>{OTHER}</tool_call>', 'wrong_name'),
    (RIGHT.replace('Find', 'find'), 'wrong_name'),
    (RIGHT.replace('Oslo', 'oslo'), 'wrong_value'),
    (RIGHT.replace('"1"', '1'), 'wrong_value'),
    ('{"city": "Oslo"}', 'wrong_parameters'),
    ('{"name": "Find", "parameters": 5}', 'wrong_parameters'),
    ('', 'no_call'),
    # What a thought weighs is no answer.
    (f'<think> {OTHER} or\n{RIGHT} </think>\n', 'no_call'),
    (f'<think> <tool_call>{RIGHT}</tool_call> </think> Yes.', 'no_call'),
    (f'<tool_call>{RIGHT}</tool_call> </think> Yes.', 'no_call'),
    (f'<think> <tool_call>{RIGHT}</tool_call>', 'no_call'),
    (f'<think> <tool_call>{OTHER}</tool_call> </think>\n{RIGHT}', None),
    (
      f'<think> x </think><think> <tool_call>{OTHER}</tool_call> </think>\n'
      f'<tool_call>\n{RIGHT}\n</tool_call>',
      None,
    ),
  ],
)
def test_by_hand(text, error):
  assert api_bank.is_correct(text, ANSWER) == (error is None)
  assert api_bank.error_type(text, ANSWER) == error


@pytest.mark.parametrize('given', ['null', '""', '{}'])
def test_a_call_without_parameters(given):
  text = f'<tool_call>{{"name": "Now", "parameters": {given}}}</tool_call>'
  assert api_bank.is_correct(text, tool_calls.ToolCall('Now', {}))
  assert api_bank.error_type(text, ANSWER) == 'wrong_name'
