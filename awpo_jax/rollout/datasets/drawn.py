"""Tasks that are drawn on demand, practically without end."""

import abc
import dataclasses
from collections.abc import Sequence

from awpo_jax import types


@dataclasses.dataclass(frozen=True)
class DrawnTasks(Sequence[types.Task]):
  """Item i is a pure function of the attributes and i.

  Attributes:
    name: of the sequence; sequences of different names are independent.
    seed: of the sequence.
    length: number of tasks.
  """

  name: str
  seed: int
  length: int = 2**31 - 1

  @abc.abstractmethod
  def draw(self, index: int) -> types.Task:
    """The task at `index`, from 0 and below the length."""

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(self.length))]
    if not -self.length <= index < self.length:
      raise IndexError(f'task {index} of {self.length}')
    return self.draw(index % self.length)
