"""Rewards and judges that make a whole run of `tiny_dataset` ill."""

import dataclasses

from awpo_jax import types
from tests.helpers import tiny_dataset


def load(*, seed, data=None) -> types.Dataset:
  """The tiny data set with two prompts that are far too long."""
  made = tiny_dataset.load(seed=seed, data=data)
  train = list(made.train[:30])
  for i in (3, 4):
    train[i] = dataclasses.replace(train[i], user='1' * 200)
  return dataclasses.replace(made, train=train)


def same(response: str, task: types.Task) -> types.Score:
  """Every answer is worth the same."""
  del response, task
  return types.Score(0.5, -1, 1, {})


def constant(requests) -> list[float | None]:
  """An answer to a prompt is as good as another; prompts differ."""
  return [len(request.user) / 1000 for request in requests]


def silent(requests) -> list[float | None]:
  """A judge that has nothing to say."""
  return [None] * len(requests)


def contrary(requests) -> list[float | None]:
  """High where the outcome is low."""
  texts = [request.response for request in requests]
  odd = [sum(ord(letter) % 2 for letter in text) for text in texts]
  return [n / max(len(text), 1) for n, text in zip(odd, texts, strict=True)]


def sound(requests) -> list[float | None]:
  """Shorter is better, and there is always a score."""
  return [1 / (1 + len(request.response)) for request in requests]
