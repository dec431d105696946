"""A reward, a judge and a data set of one's own, ten lines each.

--reward=tests.plugins_example:right_tool
--judge=tests.plugins_example:brevity
--dataset=tests.plugins_example:two_sums
"""

import re

from awpo_jax import types

SUMS = (('1 + 2?', '{"a": 1, "b": 2}'), ('30 + 4?', '{"a": 30, "b": 4}'))


def right_tool(response: str, task: types.Task) -> types.Score:
  """1 where the answer's first call names the right tool, else 0."""
  wanted = re.search(r'"name": "(\w+)"', task.ground_truth)
  called = re.search(r'"name": "(\w+)"', response)
  right = called is not None and called[1] == wanted[1]
  return types.Score(float(right), minimum=0.0, maximum=1.0, parts={})


def brevity(requests) -> list[float | None]:
  """1 for an empty answer, 0 from 200 characters on."""
  return [max(0.0, 1 - len(each.response) / 200) for each in requests]


def two_sums(*, seed, data=None) -> types.Dataset:
  """Two sums to work out with a tool; nothing is drawn or read."""
  add = types.Tool('add', 'Adds two numbers.', {'a': {}, 'b': {}})
  answer = '<tool_call>\n{"name": "add", "parameters": %s}\n</tool_call>'
  tasks = [
    types.Task(
      f'sum_{i}', 'Call add(a, b).', user, (add,), answer % args, 'sum'
    )
    for i, (user, args) in enumerate(SUMS)
  ]
  shown = [types.Demonstration(task, task.ground_truth) for task in tasks]
  return types.Dataset(demonstrations=shown, train=tasks, evals={'sums': tasks})
