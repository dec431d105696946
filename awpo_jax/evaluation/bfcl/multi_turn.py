"""BFCL's multi-turn rows: how they are asked, step by step, and scored.

Turns and calls are those of `environments/bfcl.py`, and so is the check. Facts
of upstream's loop and of ToolRL's prompts: `shared/scoring.md`, 1.1 and 1.5.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from awpo_jax import types
from awpo_jax.evaluation import call_parsing
from awpo_jax.evaluation import items as items_lib
from awpo_jax.evaluation.bfcl import prompts
from awpo_jax.rollout.datasets.bfcl import episodes, rows
from awpo_jax.rollout.environments import bfcl, protocol, sandbox
from awpo_jax.rollout.text import chat_template, conversations, tool_calls

REQUEST = (
  'Make the one or more tool calls that this needs. There may be several '
  'rounds of calls: plan them. If no tool applies, say so in the response.'
)
"""Appended to what the user says, as ToolRL does for this benchmark."""
AGAIN = (
  'If that is all that was asked for, answer directly. If not, make further '
  'calls.'
)
"""Said by the user after the results of calls, likewise."""
UNFINISHED = 'multi_turn:inference_error'
"""Error of an episode that a prompt without room has ended."""

# Results are compared whole, and a slow machine is not the model's mistake.
LIMITS = sandbox.Limits(seconds=60.0, chars=1 << 22)

# Turns so far -> what is to be answered next.
_Talk = Callable[[Sequence[protocol.Turn]], conversations.Conversation]
_Decode = Callable[[str], Any]


def item(
  row: rows.Row, style: chat_template.Style, environment: bfcl.BfclEnvironment
) -> items_lib.Item:
  """A multi-turn row.

  Args:
    row: of `rows.MULTI_TURN`.
    style: of the prompts, see `benchmarks.Source`.
    environment: where its calls run.

  Raises:
    ValueError: the row is not as BFCL has it.
  """
  template = style.prompt_style == 'template'
  task = episodes.task(row, docs_in_text=not template)
  if template:
    talk: _Talk = functools.partial(_template_talk, row, task)
    decode: _Decode = call_parsing.decode_template
  else:
    talk = functools.partial(_rlla_talk, task, style.prompt_style)
    decode = call_parsing.decode_rlla
  gold = _gold(task)
  return items_lib.Item(
    row_id=row.row_id,
    category=row.category,
    task=dataclasses.replace(
      task, user=_rlla_user(task, ()), ground_truth=gold[0]
    ),
    talk=talk(()),
    score=functools.partial(_score, environment, task, decode),
    gold=gold,
    expected=list(row.ground_truth),
    start=functools.partial(_episode, environment, task, talk, decode),
  )


def _gold(task: types.Task) -> tuple[str, ...]:
  """The right calls of each turn in one step, and then a reply."""
  answers = []
  for turn in task.scenario['truth']:
    if turn:
      calls = [tool_calls.ToolCall(*call) for call in turn]
      answers.append(tool_calls.render_answer('The ground truth.', calls))
    answers.append(tool_calls.render_answer('That is all.', response='Done.'))
  return tuple(answers)


def calls_of(decoded: Any) -> tuple[tool_calls.ToolCall, ...]:
  """Calls that run; none where the parameters of one are not an object.

  Parameters may be JSON in a string, as upstream has it, or nothing.
  """
  calls = []
  for call in decoded or ():
    for name, given in call.items():
      parameters = tool_calls.arguments(given)
      if not isinstance(parameters, dict):
        return ()
      calls.append(tool_calls.ToolCall(name, parameters))
  return tuple(calls)


def _episode(
  environment: bfcl.BfclEnvironment,
  task: types.Task,
  talk: _Talk,
  decode: _Decode,
) -> items_lib.Episode:
  state, turns, done = environment.reset(task), list[protocol.Turn](), False
  while not done:
    text = yield talk(turns)
    calls = calls_of(decode(text))
    state, observations, done = environment.step(state, calls)
    turns.append(protocol.Turn(text, calls, observations))


def _score(environment, task, decode, texts: Sequence[str], sample: int):
  """Runs the answers again, which may stem from an earlier start."""
  del sample
  state, replies, decoded = environment.reset(task), [], []
  done = False
  for text in texts:
    calls = calls_of(decode(text))
    state, observations, done = environment.step(state, calls)
    replies.append(tuple((x.role, x.text) for x in observations))
    decoded.append([{name: parameters} for name, parameters in calls])
  by_turn = _by_turn(decoded)
  if not done:
    reason = 'a prompt had no room'
    return items_lib.Result(False, UNFINISHED, by_turn, reason, tuple(replies))
  verdict = environment.verdict(task, state)
  return items_lib.Result(
    verdict.error_type is None,
    verdict.error_type,
    by_turn,
    verdict.reason,
    tuple(replies),
  )


def _by_turn(decoded: Sequence[list[Any]]) -> list[list[list[Any]]]:
  """The calls of each answer, by turns of the user: one without ends it."""
  turns: list[list[list[Any]]] = [[]]
  for number, calls in enumerate(decoded, start=1):
    turns[-1].append(calls)
    if not calls and number < len(decoded):
      turns.append([])
  return turns


def call_text(call: tool_calls.ToolCall) -> str:
  """A call in Python's syntax, as upstream shows it."""
  values = (f'{name}={value!r}' for name, value in call.parameters.items())
  return f'{call.name}({",".join(values)})'


def _rlla_talk(
  task: types.Task, prompt_style: str, turns: Sequence[protocol.Turn]
) -> conversations.Conversation:
  shown = dataclasses.replace(task, user=_rlla_user(task, turns))
  return items_lib.task_talk(shown, prompt_style)


def _rlla_user(task: types.Task, turns: Sequence[protocol.Turn]) -> str:
  """The dialogue in one message, as ToolRL writes it."""
  history = ['**Dialogue Records History**']

  def say(text: str) -> None:
    history.append(f'<user> {text}\n{REQUEST} </user>')

  say(task.scenario['requests'][0])
  for turn in turns:
    history.append(turn.text)
    if not turn.calls:
      say(turn.observations[0].text)
      continue
    for call, result in zip(turn.calls, turn.observations, strict=True):
      history.append(
        f'<obs> The tool call {call_text(call)} has been made. It returned: '
        f'{result.text} </obs>'
      )
  if turns and turns[-1].calls:
    history.append(f'<user> {AGAIN} </user>')
  return '\n'.join(history)


def _template_talk(
  row: rows.Row, task: types.Task, turns: Sequence[protocol.Turn]
) -> conversations.Conversation:
  """Messages, with the tools that are on offer by now as JSON schemas."""
  messages = [{'role': 'user', 'content': task.scenario['requests'][0]}]
  offered, reached = [tool.name for tool in task.tools], 0
  for turn in turns:
    messages.append({'role': 'assistant', 'content': turn.text})
    if not turn.calls:
      reached += 1
      offered += row.missed_function.get(reached, ())
      messages.append({'role': 'user', 'content': turn.observations[0].text})
      continue
    messages += [
      {'role': 'tool', 'name': call.name, 'content': result.text}
      for call, result in zip(turn.calls, turn.observations, strict=True)
    ]
  docs = {
    name: doc
    for class_name in row.involved_classes
    for name, doc in bfcl.docs_of(class_name).items()
  }
  schemas = tuple(prompts.schema(docs[name], row.category) for name in offered)
  return conversations.Conversation(tuple(messages), schemas)
