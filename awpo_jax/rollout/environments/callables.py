"""Python functions as tools: schemas from type hints, calls in workers.

    def add(a: int, b: int) -> int:
      '''Adds.

      Args:
        a: one number.
        b: the other.
      '''
      return a + b

    def environment(limits):  # --environment=mine:environment
      return callables.CallablesEnvironment([add], limits)

`tools_of([add])` gives the tools that a task offers. A coroutine function
(`async def`) is awaited in its worker, within the same limits. A call names its
arguments, and its result is one value: generators, classes, and functions with
`*args`, `**kwargs` or positional-only parameters are refused.
"""

import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from awpo_jax import types
from awpo_jax.rollout.environments import outcomes, protocol, sandbox
from awpo_jax.rollout.text import json_schemas, tool_calls

Function: TypeAlias = Callable[..., Any]

_LIMITS = sandbox.Limits()
_FACTORY = 'awpo_jax.rollout.environments.worker:functions_by_name'


def tools_of(functions: Sequence[Function]) -> tuple[types.Tool, ...]:
  """The tools that functions are, as prompts offer them.

  A parameter with a default is optional. The default is shown as JSON: 3, true,
  null for `None`; one that JSON cannot hold is not shown.

  Raises:
    ValueError: a function is of a kind that a call cannot use, or lacks its
      docstring, a type hint, or the description of an argument; names it.
  """
  return tuple(map(_tool, functions))


def _tool(function: Function) -> types.Tool:
  import transformers.utils

  parameters = _parameters(function)
  try:
    schema = transformers.utils.get_json_schema(function)['function']
  # Several of its own types and `ValueError`, by what is missing.
  except Exception as error:
    raise ValueError(
      f'{_name(function)} cannot be a tool: {error} Give it a docstring with '
      'an `Args:` section and a type hint for each argument.'
    ) from error
  specs = {
    name: {**spec, **_default(parameters[name])}
    for name, spec in schema['parameters']['properties'].items()
  }
  required = [
    name
    for name, x in parameters.items()
    if x.default is inspect.Parameter.empty
  ]
  return types.Tool(
    schema['name'],
    schema['description'],
    # An optional one whose default is not shown says so by itself.
    json_schemas.marked(specs, required),
  )


_UNNAMED = {
  inspect.Parameter.POSITIONAL_ONLY: 'a positional-only parameter',
  inspect.Parameter.VAR_POSITIONAL: 'a parameter for any number of arguments',
  inspect.Parameter.VAR_KEYWORD: 'a parameter for arguments of any name',
}


def _parameters(function: Function) -> Mapping[str, inspect.Parameter]:
  """Parameters of a function by name; refuses what a call cannot pass."""
  problem = ''
  if inspect.isclass(function):
    problem = 'it is a class; give a function that makes what the call is for.'
  elif inspect.isgeneratorfunction(function):
    problem = 'it is a generator function; return one value, such as a list.'
  elif inspect.isasyncgenfunction(function):
    problem = 'it is an asynchronous generator; return one value instead.'
  try:
    parameters = inspect.signature(function).parameters
  except (TypeError, ValueError) as error:
    problem = problem or f'it has no signature: {error}.'
  else:
    for name, parameter in parameters.items():
      if parameter.kind in _UNNAMED:
        problem = problem or (
          f'{name!r} is {_UNNAMED[parameter.kind]}, and a call names its '
          'arguments: wrap it in a function whose parameters have names.'
        )
  if problem:
    raise ValueError(f'{_name(function)} cannot be a tool: {problem}')
  return parameters


def _default(parameter: inspect.Parameter) -> dict[str, Any]:
  """`default` as JSON; nothing where there is none, or none that JSON has.

  Null must be a value that the parameter may have.
  """
  value = parameter.default
  try:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    shown = json.loads(text)
  except (TypeError, ValueError, RecursionError):
    return {}
  same = list(value) if isinstance(value, tuple) else value
  if shown is None:
    return {'default': None, 'nullable': True}
  return {'default': shown} if shown == same else {}


def _name(function: Function) -> str:
  return getattr(function, '__qualname__', repr(function))


def import_path(function: Function) -> str:
  """`package.module:name` of a function, by which a worker finds it.

  Raises:
    ValueError: a worker would not find it, or find another one.
  """
  module = getattr(function, '__module__', None)
  path = f'{module}:{_name(function)}'
  try:
    if module == '__main__':
      raise ImportError('it is defined in the script that is run')
    found = pkgutil.resolve_name(path)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      f'{_name(function)} cannot be a tool: workers import it as {path}, but '
      f'{error}. Define it at the top of a module.'
    ) from error
  if found is not function:
    raise ValueError(f'{path} is another function than the one given.')
  return path


class CallablesEnvironment:
  """Functions without state: each call stands for itself.

  An episode ends with the first turn without a call. Its outcome asks for the
  results of the calls in `task.references`, each as often as there, and for a
  reply at the end; a reward of one's own may ask for more.
  """

  def __init__(
    self,
    functions: Sequence[Function],
    limits: sandbox.Limits = _LIMITS,
  ):
    self.tools = tools_of(functions)
    paths = {
      tool.name: import_path(function)
      for tool, function in zip(self.tools, functions, strict=True)
    }
    if len(paths) < len(functions):
      raise ValueError('Two functions have the same name: a call names one.')
    self._program = sandbox.Program(_FACTORY, {'functions': paths})
    self._paths: Mapping[str, str] = paths
    self._pool = sandbox.Pool(limits)

  def reset(self, task: types.Task) -> protocol.State:
    return {'offered': [tool.name for tool in task.tools], 'log': []}

  def step(
    self, state: protocol.State, calls: Sequence[tool_calls.ToolCall]
  ) -> protocol.Step:
    texts = self._run(state['offered'], calls)
    log = [
      {'name': name, 'parameters': parameters, 'result': text}
      for (name, parameters), text in zip(calls, texts, strict=True)
    ]
    return protocol.Step(
      state={**state, 'log': [*state['log'], *log]},
      observations=tuple(protocol.Observation('obs', text) for text in texts),
      done=not calls,
    )

  def _run(self, offered, calls) -> list[str]:
    """A result for each call; what is not on offer does not run."""
    texts: list[str] = []
    for call in calls:
      if call.name in offered and call.name in self._paths:
        ran = self._pool.run(self._program, (), [call], stateless=True)
        texts += ran.texts
      else:
        texts.append(outcomes.not_offered(call.name))
    return texts

  def outcome(
    self,
    task: types.Task,
    state: protocol.State,
    turns: Sequence[protocol.Turn],
  ) -> types.Score:
    gold = [
      call
      for text in task.references
      for call in outcomes.reference_calls(text, task)
    ]
    expected = self._run([tool.name for tool in task.tools], gold)
    results = [entry['result'] for entry in state['log']]
    share = outcomes.share_contained(results, expected)
    replied = bool(turns) and not turns[-1].calls
    return outcomes.score(turns, (share + replied) / 2)

  def close(self) -> None:
    """Ends the workers."""
    self._pool.close()
