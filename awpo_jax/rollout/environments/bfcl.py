"""BFCL's multi-turn scenarios: simulators, turns of the user, the check.

The simulators come with the package `bfcl-eval`. It pins old versions of many
libraries that they do not need, so it is installed without them:

    pip install --no-deps bfcl-eval && pip install mpmath

A task's scenario holds `classes`, `config` and `long_context` (of
`bfcl_tools`), `requests` (what the user says, turn by turn), `added` (turn, as
text -> names of tools on offer from there on), and `truth`: for each turn of
the user the right calls, `[name, parameters]` each.
"""

import ast
import functools
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from awpo_jax import types
from awpo_jax.reporting import json_text
from awpo_jax.rollout.environments import (
  bfcl_tools,
  outcomes,
  protocol,
  sandbox,
)
from awpo_jax.rollout.text import tool_calls

MAX_STEPS = 20
"""Steps within a turn of the user; one more ends the episode."""

_FACTORY = 'awpo_jax.rollout.environments.bfcl_tools:make'
_SYNTAX_NOTE = ' Note that the provided function is in Python 3 syntax.'


class MissingPackage(ValueError):
  """`bfcl-eval` is not installed; says how to install it."""


def package_folder() -> pathlib.Path:
  """Where `bfcl_eval` lies; raises `MissingPackage` where it does not."""
  found = [
    importlib.util.find_spec(name) for name in (bfcl_tools.PACKAGE, 'mpmath')
  ]
  if None in found or not found[0].origin:  # type: ignore[union-attr]
    raise MissingPackage(
      'The simulated APIs of BFCL come with the packages bfcl-eval and mpmath, '
      'which are not both installed: pip install --no-deps bfcl-eval && pip '
      'install mpmath'
    )
  return pathlib.Path(found[0].origin).parent  # type: ignore[union-attr]


@functools.cache
def docs_of(class_name: str) -> Mapping[str, Mapping[str, Any]]:
  """Documentation of a class's methods as the package has it, by name."""
  file = (
    package_folder()
    / 'data'
    / 'multi_turn_func_doc'
    / f'{bfcl_tools.MODULES[class_name]}.json'
  )
  lines = file.read_text(encoding='utf-8').split('\n')
  docs = [json.loads(line) for line in lines if line.strip()]
  return {doc['name']: doc for doc in docs}


@functools.cache
def documented(class_name: str) -> Mapping[str, types.Tool]:
  """The documented methods of a class as tools, by name."""
  return {
    name: types.Tool(
      name,
      doc['description'] + _SYNTAX_NOTE,
      doc['parameters']['properties'],
      tuple(doc['parameters']['required']),
    )
    for name, doc in docs_of(class_name).items()
  }


def tools_of(classes: Sequence[str]) -> dict[str, types.Tool]:
  """All documented methods of several classes, by name."""
  return {
    name: tool
    for class_name in classes
    for name, tool in documented(class_name).items()
  }


def parse_call(
  text: str, tools: Mapping[str, types.Tool]
) -> tool_calls.ToolCall:
  """Reads a reference call such as `cd(folder='x')`; never evaluates it.

  Args:
    text: of the data set.
    tools: whose parameters name the positional arguments.

  Raises:
    ValueError: it is no call of literals to one of the tools.
  """
  try:
    node = ast.parse(text.strip(), mode='eval').body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
      raise ValueError('no call of a plain name')
    names = list(tools[node.func.id].parameters)[: len(node.args)]
    values = zip(names, node.args, strict=True)
    parameters = {name: ast.literal_eval(value) for name, value in values}
    for keyword in node.keywords:
      if keyword.arg is None:
        raise ValueError('a `**`')
      parameters[keyword.arg] = ast.literal_eval(keyword.value)
    json_text.check(parameters)  # 1e999 is a literal, too.
  except (KeyError, SyntaxError, ValueError) as error:
    raise ValueError(f'reference call {text[:200]!r}: {error}') from error
  return tool_calls.ToolCall(node.func.id, parameters)


class Verdict(NamedTuple):
  """What the check of a row says.

  Attributes:
    passed: turns of the user that are right, from the first on.
    reason: why the next one is not; '' where all are right.
    error_type: upstream's name of that; None where all are right.
  """

  passed: int
  reason: str
  error_type: str | None = None


def check(
  pool: sandbox.Pool,
  scenario: Mapping[str, Any],
  turns: Sequence[Sequence[tool_calls.ToolCall]],
) -> Verdict:
  """State and response check, turn by turn, on two sets of simulators.

  Args:
    pool: runs both.
    scenario: of the task.
    turns: the calls that were made in each turn of the user.

  Returns:
    The verdict of BFCL's own checker: after each turn in which calls are
    expected all public attributes agree, and the results of the right calls
    are among all results so far.
  """
  truth = scenario['truth']
  if len(turns) != len(truth):
    reason = f'{len(turns)} turns instead of {len(truth)}'
    return Verdict(0, reason, 'multi_turn:force_terminated')
  program = program_of(scenario)
  # A program of its own: the workers keep what its calls have led to as well.
  other = program._replace(scenario={**program.scenario, 'truth': True})
  results: list[str] = []
  made: tuple[tool_calls.ToolCall, ...] = ()
  right: tuple[tool_calls.ToolCall, ...] = ()
  for turn, (calls, expected) in enumerate(zip(turns, truth, strict=True)):
    ran = pool.run(program, made, calls, inspect=True)
    gold = [tool_calls.ToolCall(*call) for call in expected]
    wanted = pool.run(other, right, gold, inspect=True)
    made, right = ran.history, wanted.history
    results += ran.texts
    if not gold:
      continue
    if not calls:
      return Verdict(turn, 'no call', 'multi_turn:empty_turn_model_response')
    for name, state in wanted.state.items():
      if ran.state is None or ran.state[name] != state:
        reason = f'another state of {name}'
        return Verdict(turn, reason, 'multi_turn:instance_state_mismatch')
    if outcomes.share_contained(results, wanted.texts) < 1:
      reason = 'a result is missing'
      return Verdict(turn, reason, 'multi_turn:execution_response_mismatch')
  return Verdict(len(truth), '')


def program_of(scenario: Mapping[str, Any]) -> sandbox.Program:
  """The tools of a scenario as a worker makes them."""
  parts = ('classes', 'config', 'long_context')
  return sandbox.Program(_FACTORY, {key: scenario[key] for key in parts})


class BfclEnvironment:
  """Episodes on BFCL's simulators, with several turns of the user.

  A turn of the model without a call ends the user's turn; the last one ends
  the episode, and so does one step more than `MAX_STEPS` within a turn.
  """

  def __init__(self, limits: sandbox.Limits, *, only_offered: bool = True):
    """Starts nothing yet; raises `MissingPackage`.

    Args:
      limits: of what calls may take.
      only_offered: whether a tool runs only where its documentation has been
        shown; the leaderboard runs every public method of the classes.
    """
    package_folder()
    self._pool = sandbox.Pool(limits)
    self._only_offered = only_offered

  def reset(self, task: types.Task) -> protocol.State:
    scenario = task.scenario
    return {
      'scenario': {
        key: scenario[key]
        for key in ('classes', 'config', 'long_context', 'requests', 'added')
      },
      'offered': [tool.name for tool in task.tools],
      'history': [],
      'turns': [[]],
      'steps': 0,
      'stopped': False,
    }

  def step(
    self, state: protocol.State, calls: Sequence[tool_calls.ToolCall]
  ) -> protocol.Step:
    if not calls:
      return self._next_request(state)
    runs = [
      call.name in state['offered'] or not self._only_offered for call in calls
    ]
    offered = [call for call, on in zip(calls, runs, strict=True) if on]
    history = [tool_calls.ToolCall(*call) for call in state['history']]
    ran = self._pool.run(program_of(state['scenario']), history, offered)
    texts = iter(ran.texts)
    observations = tuple(
      protocol.Observation(
        'obs', next(texts) if on else outcomes.not_offered(call.name)
      )
      for call, on in zip(calls, runs, strict=True)
    )
    stopped = state['steps'] + 1 > MAX_STEPS
    *before, turn = state['turns']
    after = {
      **state,
      'history': [list(call) for call in ran.history],
      'turns': [*before, [*turn, *map(list, ran.history[len(history) :])]],
      'steps': state['steps'] + 1,
      'stopped': stopped,
    }
    return protocol.Step(after, observations, stopped)

  def _next_request(self, state: protocol.State) -> protocol.Step:
    """What the user says next, with the tools that come on offer there."""
    turn = len(state['turns'])
    scenario = state['scenario']
    if turn >= len(scenario['requests']):
      return protocol.Step(state, (), True)
    added = scenario['added'].get(str(turn), [])
    after = {
      **state,
      'turns': [*state['turns'], []],
      'steps': 0,
      'offered': [*state['offered'], *added],
    }
    said = protocol.Observation('user', scenario['requests'][turn])
    return protocol.Step(after, (said,), False)

  def outcome(
    self,
    task: types.Task,
    state: protocol.State,
    turns: Sequence[protocol.Turn],
  ) -> types.Score:
    truth = task.scenario['truth']
    made = _made(state)
    reached = len(made)
    made += [[] for _ in range(len(truth) - reached)]
    passed = check(self._pool, task.scenario, made).passed
    # A turn that the episode never came to is not passed by doing nothing.
    return outcomes.score(turns, min(passed, reached) / len(truth))

  def verdict(self, task: types.Task, state: protocol.State) -> Verdict:
    """The result of BFCL's own checker for a finished episode."""
    return check(self._pool, task.scenario, _made(state))

  def close(self) -> None:
    """Ends the workers."""
    self._pool.close()


def _made(state: protocol.State) -> list[list[tool_calls.ToolCall]]:
  """The calls of each turn of the user."""
  return [
    [tool_calls.ToolCall(*call) for call in turn] for turn in state['turns']
  ]
