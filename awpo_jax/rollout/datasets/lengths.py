"""Parts of a data set that are not too long."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from awpo_jax import types

# N tasks, and N demonstrations of them or None -> bool[N].
Fits = Callable[
  [Sequence[types.Task], Sequence[types.Demonstration] | None], np.ndarray
]


def sift(
  dataset: types.Dataset, fits: Fits, *, by_answer: Collection[str]
) -> types.Dataset:
  """The part of a data set that fits.

  Args:
    dataset: all of it is read.
    fits: says whether tasks fit, or tasks with the answers to them.
    by_answer: `train` and names of evaluation sets whose reference answer has
      to fit, too; a demonstration always has to.
  """

  def kept(name: str, tasks: Sequence[types.Task]) -> list[types.Task]:
    references = [types.Demonstration(x, x.ground_truth) for x in tasks]
    fit = fits(tasks, references if name in by_answer else None)
    return list(itertools.compress(tasks, fit))

  shown = dataset.demonstrations
  fit = fits([x.task for x in shown], shown)
  return types.Dataset(
    demonstrations=list(itertools.compress(shown, fit)),
    train=kept('train', dataset.train),
    evals={name: kept(name, tasks) for name, tasks in dataset.evals.items()},
  )


def counts(dataset: types.Dataset) -> Mapping[str, int]:
  """Number of demonstrations, of train prompts, and of each set's tasks."""
  return {
    'demonstrations': len(dataset.demonstrations),
    'train': len(dataset.train),
    **{name: len(tasks) for name, tasks in dataset.evals.items()},
  }


def left_out(before: types.Dataset, after: types.Dataset) -> str:
  """How much of a data set is no longer there, as text."""
  first, last = counts(before), counts(after)
  held_out = sum(first[name] - last[name] for name in before.evals)
  return (
    f'{first["demonstrations"] - last["demonstrations"]} demonstrations, '
    f'{first["train"] - last["train"]} prompts, {held_out} held-out tasks'
  )
