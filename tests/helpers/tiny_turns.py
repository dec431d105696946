"""A data set and an environment whose episodes have turns with any policy.

The user says something after each answer without a call, three times in all:
a policy that has learnt nothing but to stop has episodes of several turns.
"""

from collections.abc import Sequence

from awpo_jax import types
from awpo_jax.rollout.environments import protocol
from tests.helpers import tiny_dataset

TURNS, SFT_STEPS = 3, 12


class Environment:
  """Says `a` or `b` after each answer until there were `TURNS`."""

  def reset(self, task):
    return {'said': [], 'word': task.scenario['word']}

  def step(self, state, calls):
    after = {**state, 'said': [*state['said'], state['word']]}
    done = len(after['said']) >= TURNS
    observed = () if done else (protocol.Observation('user', state['word']),)
    return protocol.Step(after, observed, done)

  def outcome(self, task, state, turns):
    even = [ord(x) % 2 == 0 for turn in turns for x in turn.text]
    share = sum(even) / max(len(even), 1)
    return types.Score(
      2 * share - 1, -1, 1, {'turns': float(len(turns))}, solved=share > 0.9
    )


def environment(limits):
  """For `--environment`."""
  del limits
  return Environment()


def _with_scenario(task, index):
  return types.Task(
    task.task_id,
    task.system,
    task.user,
    (),
    'b',
    task.kind,
    {'word': 'ab'[index % 2]},
  )


class _Tasks(Sequence):
  def __init__(self, tasks):
    self._tasks = tasks

  def __len__(self):
    return len(self._tasks)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    return _with_scenario(self._tasks[index], index)


def load(*, seed, data=None) -> types.Dataset:
  """The tiny data set with scenarios; demonstrations have two turns."""
  tiny = tiny_dataset.load(seed=seed, data=data)
  return types.Dataset(
    demonstrations=[
      types.Demonstration(
        _with_scenario(shown.task, i),
        'bd',
        further=(types.Exchange((('user', 'ab'[i % 2]),), 'd'),),
      )
      for i, shown in enumerate(tiny.demonstrations)
    ],
    train=_Tasks(tiny.train),
    evals={name: _Tasks(tasks)[:] for name, tasks in tiny.evals.items()},
  )


def judge(requests) -> list[float | None]:
  """Shorter is better; no score for an empty turn."""
  return [1 / (1 + len(r.response)) if r.response else None for r in requests]


FLAGS = (
  f'--dataset={__name__}:load',
  f'--environment={__name__}:environment',
  f'--judge={__name__}:judge',
  '--reward=toolrl',
  '--response_buckets=48,96',
  '--observation_tokens=32',
  f'--max_turns={TURNS}',
  f'--sft_steps={SFT_STEPS}',
  '--kl_coef=0.01',
)
