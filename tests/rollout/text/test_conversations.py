"""What is said from outside is read, or refused with the place named."""

import dataclasses
import json

import pytest

from awpo_jax import types
from awpo_jax.rollout.text import chat_template, conversations, prompts

USER = {'role': 'user', 'content': 'Hi'}
TOOL = {
  'type': 'function',
  'function': {
    'name': 'f',
    'description': 'd',
    'parameters': {'type': 'object', 'properties': {'a': {'type': 'string'}}},
  },
}


def read(tmp_path, value, **options):
  file = tmp_path / 'chat.json'
  file.write_text(value if isinstance(value, str) else json.dumps(value))
  return conversations.read(file=str(file), **options)


def test_a_prompt_is_a_message_of_the_user():
  talk = conversations.read('Hi \n')
  assert talk == conversations.Conversation(
    ({'role': 'user', 'content': 'Hi \n'},)
  )
  talk = conversations.read('Hi', system='Be brief.')
  assert talk.messages == ({'role': 'system', 'content': 'Be brief.'}, USER)


def test_messages_and_tools_of_a_file(tmp_path):
  assert read(tmp_path, [USER]) == conversations.Conversation((USER,))
  talk = read(tmp_path, {'messages': [USER], 'tools': [TOOL]}, system='S')
  assert talk.messages == ({'role': 'system', 'content': 'S'}, USER)
  assert talk.tools == (TOOL,)
  # A tool without its wrapping.
  talk = read(tmp_path, {'messages': [USER], 'tools': [TOOL['function']]})
  assert talk.tools == (TOOL,)


def test_earlier_calls_have_their_arguments_as_objects(tmp_path):
  calls = [
    {'type': 'function', 'function': {'name': 'f', 'arguments': arguments}}
    for arguments in ('{"a": [1]}', {'a': [1]})
  ]
  talk = read(
    tmp_path,
    [
      USER,
      {'role': 'assistant', 'content': None, 'tool_calls': calls},
      {'role': 'tool', 'content': 'ok'},
    ],
  )
  _, turn, _ = talk.messages
  assert turn['content'] == ''
  assert [call['function']['arguments'] for call in turn['tool_calls']] == [
    {'a': [1]}
  ] * 2


@pytest.mark.parametrize('arguments', ['', ' ', None, 'null', '{}', {}, ...])
def test_an_earlier_call_without_arguments(tmp_path, arguments):
  function = {'name': 'now', 'arguments': arguments}
  if arguments is ...:
    del function['arguments']
  calls = [{'id': '1', 'type': 'function', 'function': function}]
  turn = {'role': 'assistant', 'content': None, 'tool_calls': calls}
  talk = read(tmp_path, [USER, turn, {'role': 'tool', 'content': '12:00'}])
  (got,) = talk.messages[1]['tool_calls']
  assert got == {**calls[0], 'function': {'name': 'now', 'arguments': {}}}


def call(arguments):
  return [USER | {'tool_calls': [{'function': {'name': 'f', **arguments}}]}]


def test_a_mark_before_the_json_and_tools_in_other_words(tmp_path):
  tool = {
    'name': 'f',
    'description': 'd',
    'parameters': {
      'type': 'dict',
      'properties': {
        'a': {'type': 'str'},
        'b': {'type': 'list[int]', 'required': False},
      },
    },
  }
  value = '\ufeff' + json.dumps({'messages': [USER], 'tools': [tool]})
  (schema,) = read(tmp_path, value).tools
  assert schema['function']['parameters'] == {
    'type': 'object',
    'properties': {
      'a': {'type': 'string'},
      'b': {'type': 'array', 'items': {'type': 'integer'}},
    },
    'required': ['a'],
  }
  talk = conversations.Conversation((USER,), (schema,))
  system = conversations.in_style(talk, chat_template.Style('rlla')).messages[0]
  (listed,) = prompts.parse_tools(system['content'])
  assert chat_template.tool_schemas([listed]) == [schema]


WRONG = {
  'not JSON': '[{]',
  'expected a list of messages': '"Hi"',
  '"tools" alone': {'messages': [USER], 'temperature': 1},
  '"messages" is no list, or an empty one': [],
  'is no list, or': {'tools': [TOOL]},
  'message 1 is no object': [USER, 'Hi'],
  "message 0: role 'human' is none of system, user": [{'role': 'human'}],
  'message 0: "content" is no text': [{'role': 'user', 'content': [1]}],
  'message 0: "content" is empty': [{'role': 'user', 'content': ' \n'}],
  'last message is by the assistant': [
    USER,
    {'role': 'assistant', 'content': 'a'},
  ],
  '"tools" is no list': {'messages': [USER], 'tools': TOOL},
  'tool 1: expected': {'messages': [USER], 'tools': [TOOL, {'x': 1}]},
  '"tool_calls" is no list': [USER | {'tool_calls': {'a': 1}}],
  'without "function"': [USER | {'tool_calls': [{'name': 'f'}]}],
  '"arguments" of f are not JSON': call({'arguments': '{'}),
  '"arguments" of f: no object': call({'arguments': '[1]'}),
  'not JSON: NaN is not JSON': '[{"role": "user", "content": NaN}]',
  'not JSON: 1e999 is larger': '[{"role": "user", "x": 1e999}]',
  '"parameters" of f: no object': {
    'messages': [USER],
    'tools': [{'name': 'f', 'parameters': 'none'}],
  },
}


@pytest.mark.parametrize('problem', WRONG)
def test_what_is_no_conversation_is_refused(tmp_path, problem):
  with pytest.raises(ValueError, match='--messages=.*chat.json') as error:
    read(tmp_path, WRONG[problem])
  assert problem in str(error.value)


def test_flags_that_contradict_each_other(tmp_path):
  for arguments in ({}, {'prompt': 'a', 'file': 'b'}):
    with pytest.raises(ValueError, match='either --prompt or --messages'):
      conversations.read(**arguments)
  with pytest.raises(ValueError, match='--prompt is empty'):
    conversations.read(' ')
  with pytest.raises(FileNotFoundError, match='--messages=no.json: no such'):
    conversations.read(file='no.json')
  both = [{'role': 'system', 'content': 'S'}, USER]
  with pytest.raises(ValueError, match='begins with a system message'):
    read(tmp_path, both, system='T')


def test_tools_in_a_short_system_text():
  tool = types.Tool('f', 'd', {'a': {'type': 'string'}})
  talk = conversations.Conversation((USER,), (TOOL,))
  got = conversations.in_style(talk, chat_template.Style('short'))
  task = types.Task(
    't',
    'long system text',
    '**Dialogue Records History**\n<user> Hi </user>',
    (tool,),
    '',
    'k',
  )
  messages, tools = prompts.conversation(task, 'short')
  assert list(got.messages) == messages and not tools and not got.tools
  system = messages[0]['content']
  assert prompts.parse_tools(system) == (tool,)
  assert len(system) < len(prompts.rlla_system([tool])) / 2
  bare = dataclasses.replace(task, tools=())
  assert prompts.conversation(bare, 'short')[0][0]['content'] == task.system


def test_tools_for_a_policy_of_rllas_style():
  talk = conversations.Conversation((USER,), (TOOL,))
  assert conversations.in_style(talk, chat_template.Style('template')) is talk
  got = conversations.in_style(talk, chat_template.Style('rlla'))
  tool = types.Tool('f', 'd', {'a': {'type': 'string'}})
  assert got.tools == ()
  assert prompts.parse_tools(got.messages[0]['content']) == (tool,)
  assert got.messages[1]['content'] == (
    '**Dialogue Records History**\n<user> Hi </user>'
  )
  plain = conversations.Conversation((USER,))
  assert conversations.in_style(plain, chat_template.Style('rlla')) is plain
  longer = conversations.Conversation((USER, USER), (TOOL,))
  with pytest.raises(ValueError, match='takes one user message'):
    conversations.in_style(longer, chat_template.Style('rlla'))
