"""The data set of several turns: drawn from seeds, habits where they belong."""

import pytest

from awpo_jax.rollout.datasets.quickstart import episodes
from awpo_jax.rollout.environments import episodes as episodes_lib
from awpo_jax.rollout.environments import (
  protocol,
  quickstart,
  quickstart_tools,
  quickstart_values,
)
from awpo_jax.rollout.rewards import scoring
from awpo_jax.rollout.text import tool_calls


@pytest.fixture(scope='module')
def dataset():
  return episodes.load(seed=3)


def solved(demonstration):
  environment, task = quickstart.QuickstartEnvironment(), demonstration.task
  texts = [demonstration.response, *(x.response for x in demonstration.further)]
  state, turns = environment.reset(task), []
  for index, text in enumerate(texts):
    calls = tool_calls.parse(text).calls
    step = environment.step(state, calls)
    state = step.state
    if index < len(texts) - 1:  # What is shown is what comes back.
      shown = demonstration.further[index].observations
      assert tuple(map(tuple, step.observations)) == shown
    turns.append(protocol.Turn(text, calls, step.observations))
  return environment.outcome(task, state, turns).solved


def test_the_same_seed_gives_the_same(dataset):
  again = episodes.load(seed=3)
  assert again.demonstrations == dataset.demonstrations
  assert again.train[10**6] == dataset.train[10**6]
  assert episodes.load(seed=4).train[0] != dataset.train[0]


def test_habits(dataset):
  shown = dataset.demonstrations
  assert len(shown) == 1000
  for kind, share in episodes.HABITS.items():
    of_kind = [solved(x) for x in shown if x.task.kind == kind]
    assert len(of_kind) > 200
    assert abs(1 - sum(of_kind) / len(of_kind) - share) < 0.1


def test_references_solve_held_out_tasks(dataset):
  environment = quickstart.QuickstartEnvironment()
  assert len(dataset.evals['values']) == 256
  for task in [*dataset.evals['values'], *dataset.train[:256]]:
    shown = episodes_lib.demonstrate(environment, task, task.references)
    assert solved(shown), task.task_id
    # A closed tool too must have been tried.
    assert scoring.wants_call(task)


def test_values_and_results_are_held_out(dataset):
  def scalars(task):
    for text in task.references:
      for call in tool_calls.parse(text).calls:
        for one in quickstart_tools.BY_NAME[call.name].arguments:
          value = call.parameters[one.name]
          if one.type == 'enum':
            continue
          for item in value if isinstance(value, list) else [value]:
            yield one, item

  for tasks, held_out in (
    (dataset.train[:200], False),
    (dataset.evals['values'], True),
  ):
    for task in tasks:
      for one, item in scalars(task):
        if one.source in ('product',):
          continue  # A recipe's food is bought as a product.
        kind = {'list': 'integer'}.get(one.type, one.type)
        if isinstance(item, str) and one.type == 'list':
          kind = 'food'
        source = one.source or kind
        assert quickstart_values.is_held_out(source, item) == held_out, (
          task.task_id,
          one.name,
          item,
        )


def test_links_name_arguments():
  for link in episodes.LINKS:
    second = quickstart_tools.BY_NAME[link.second]
    names = {argument.name for argument in second.arguments}
    assert link.argument in names and link.first in quickstart_tools.BY_NAME
    for phrasing in link.phrasings:
      others = dict.fromkeys(names - {link.argument}, 'x')
      assert 'x' in phrasing.format(**others) or not others


def test_files_are_refused():
  with pytest.raises(ValueError, match='--data=x'):
    episodes.load(seed=0, data='x')
