"""The data sets of training and evaluation, by name.

Start with `quickstart/tasks.py` for what a data set is, or with `rlla.py` for
one that is read from files; `DATASETS` below lists the values of `--dataset`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping

from awpo_jax import types
from awpo_jax.rollout import plugins
from awpo_jax.rollout.datasets import rlla, seal_tools
from awpo_jax.rollout.datasets.bfcl import episodes
from awpo_jax.rollout.datasets.gym import tasks as gym
from awpo_jax.rollout.datasets.links import tasks as links_lib
from awpo_jax.rollout.datasets.quickstart import episodes as episodes_lib
from awpo_jax.rollout.datasets.quickstart import tasks as tasks_lib

DATASETS = {
  'bfcl': episodes.load,
  'links': links_lib.load,
  'quickstart': tasks_lib.load,
  'quickstart_hard': tasks_lib.load_hard,
  'quickstart_turns': episodes_lib.load,
  'reasoning_gym': gym.load,
  'rlla': rlla.load,
  'seal_tools': seal_tools.load,
  'seal_tools_compact': seal_tools.load_compact,
}
"""Choices of `--dataset`: `load(*, seed, data)` gives a `types.Dataset`."""

WITH_SPEC = {
  'links': links_lib.load,
  'quickstart_hard': tasks_lib.load_hard,
  'reasoning_gym': gym.load,
}
"""Those that also read what follows their name and a colon, as `spec`."""

_ENDLESS = 10**7


def load(
  spec: str,
  *,
  seed: int,
  data: str | None = None,
  skipped: list[str] | None = None,
) -> types.Dataset:
  """The data set, or the mixture, that `--dataset` and `--data` name.

  Args:
    spec: a key of `DATASETS` or `package.module:function` of the same
      signature; or several, separated by commas. What follows
      `reasoning_gym:` may be several names, too.
    seed: of everything drawn.
    data: handed on as it is; with several data sets as many places, separated
      by commas, one each (empty for one that reads no files).
    skipped: collects what is wrong with bad rows, which are then left out;
      None: the first one raises. Handed on to what takes it.

  Returns:
    The data set; of several, `merge`'s.

  Raises:
    ValueError: an unknown name, another number of places than of data sets, or
      what the data sets themselves refuse.
  """
  names = _names(spec)
  places = [data] if len(names) == 1 else (data or '').split(',')
  if len(places) != len(names) or len(set(names)) != len(names):
    raise ValueError(
      f'--dataset={spec} --data={data}: expected different data sets and as '
      'many places, separated by commas (empty for one that reads no files)'
    )
  loaded = {}
  for name, place in zip(names, places, strict=True):
    function = _function(name)
    takes = 'skipped' in inspect.signature(function).parameters
    options = {'skipped': skipped} if takes else {}
    loaded[name] = function(seed=seed, data=place or None, **options)
  return loaded[spec] if len(names) == 1 else merge(loaded)


def _names(spec: str) -> list[str]:
  """The data sets; a generator's name behind a comma is part of the one before.

  So `reasoning_gym:gcd,lcm,rlla` is two data sets.
  """
  names: list[str] = []
  for part in spec.split(','):
    known = part in DATASETS or ':' in part
    if names and not known and names[-1].startswith('reasoning_gym:'):
      names[-1] += f',{part}'
    else:
      names.append(part)
  return names


def _function(name: str) -> Callable[..., types.Dataset]:
  """What loads one data set."""
  head, colon, spec = name.partition(':')
  if colon and head in WITH_SPEC:
    return functools.partial(WITH_SPEC[head], spec=spec)
  return plugins.load(name, DATASETS, flag='dataset')


def merge(datasets: Mapping[str, types.Dataset]) -> types.Dataset:
  """One after another; an eval set is named `<data set>_<eval set>`.

  Raises:
    ValueError: one is too long to be listed, so that the others would drown.
  """
  for name, dataset in datasets.items():
    if len(dataset.train) > _ENDLESS:
      raise ValueError(
        f'{name}: {len(dataset.train):,} training prompts cannot be mixed with '
        'others, which would hardly ever be drawn; train on it alone'
      )
  parts = datasets.values()
  return types.Dataset(
    demonstrations=[d for part in parts for d in part.demonstrations],
    train=[task for part in parts for task in part.train],
    evals={
      f'{name}_{split}': tasks
      for name, part in datasets.items()
      for split, tasks in part.evals.items()
    },
  )
